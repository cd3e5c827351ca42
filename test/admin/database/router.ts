import { once } from "node:events";
import { connect, createServer, type Socket } from "node:net";

import { deserialize, type Document, serialize } from "bson";

/** A command as it came over the wire. */
export interface Command extends Document {
  readonly $db: string;
}

/** Answers a command; undefined passes it on to the real server. */
export type Answer = (command: Command, name: string) => Document | undefined | Promise<Document | undefined>;

/** A server that speaks MongoDB's wire protocol. */
export interface Router extends AsyncDisposable {
  readonly uri: string;
  /** What came, without what keeps connections alive. */
  readonly commands: readonly Command[];
}

/** Changes what the real server has answered. */
type Rewrite = (reply: Document) => Document;

const opReply = 1;
const opQuery = 2004;
const opMsg = 2013;

/**
 * Opens the router of a sharded cluster, as far as its clients can tell: it says in its hello that it is one, gives the answers
 * that `answer` has for commands of clusters, and passes everything else on to a real server, whose replies about indexes it puts into
 * the form that a router has. Messages are those of the wire protocol: OP_MSG, and the OP_QUERY of a first hello.
 */
export async function openRouter(uri: string, answer: Answer): Promise<Router> {
  const target = new URL(uri);
  const sockets = new Set<Socket>();
  const commands: Command[] = [];
  const server = createServer((near) => {
    const far = connect(Number(target.port), target.hostname);
    const rewrites = new Map<number, Rewrite>();
    for (const [one, other] of [
      [near, far],
      [far, near],
    ] as const) {
      sockets.add(one);
      // Whoever uses the connection sees it end; why does not matter here.
      one.on("error", () => other.destroy());
      one.on("close", () => {
        sockets.delete(one);
        other.destroy();
      });
    }
    onMessages(near, (message) => void received(message));
    onMessages(far, (message) => near.write(rewritten(message)));

    const received = async (message: Buffer): Promise<void> => {
      const id = message.readInt32LE(4);
      const code = message.readInt32LE(12);
      if (code === opQuery) rewrites.set(id, asRouter);
      if (code !== opMsg) return void far.write(message);
      const command = commandOf(message);
      const [name = ""] = Object.keys(command);
      if (/^(?:hello|ismaster)$/i.test(name)) rewrites.set(id, asRouter);
      else commands.push(command);
      if (name === "createIndexes") rewrites.set(id, ofShard);
      const reply = await answer(command, name);
      if (reply === undefined) far.write(message);
      else near.write(framed(reply, id));
    };

    const rewritten = (message: Buffer): Buffer => {
      const rewrite = rewrites.get(message.readInt32LE(8));
      if (rewrite === undefined) return message;
      rewrites.delete(message.readInt32LE(8));
      // After the header: the flags and a byte for the kind of section, or what a reply of old has before its document.
      const start = message.readInt32LE(12) === opReply ? 36 : 21;
      const body = serialize(rewrite(deserialize(message.subarray(start), { promoteValues: false })));
      const whole = Buffer.concat([message.subarray(0, start), body]);
      whole.writeInt32LE(whole.byteLength, 0);
      return whole;
    };
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("no port");
  const through = new URL(uri);
  through.hostname = "127.0.0.1";
  through.port = String(address.port);
  return {
    uri: through.href,
    commands,
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, "close");
    },
  };
}

/** Calls with each whole message: the first four bytes are its length. */
function onMessages(socket: Socket, call: (message: Buffer) => void): void {
  let pending = Buffer.alloc(0);
  socket.on("data", (bytes: Buffer) => {
    pending = Buffer.concat([pending, bytes]);
    while (pending.byteLength >= 4 && pending.byteLength >= pending.readInt32LE(0)) {
      const length = pending.readInt32LE(0);
      call(pending.subarray(0, length));
      pending = pending.subarray(length);
    }
  });
}

/** The body of an OP_MSG, which the driver sends as the first section. */
function commandOf(message: Buffer): Command {
  const start = 21;
  const length = message.readInt32LE(start);
  return deserialize(message.subarray(start, start + length)) as Command; // what the driver sends names its database
}

let sent = 0;

function framed(reply: Document, responseTo: number): Buffer {
  const body = serialize(reply);
  const head = Buffer.alloc(21);
  head.writeInt32LE(head.byteLength + body.byteLength, 0);
  head.writeInt32LE(++sent, 4);
  head.writeInt32LE(responseTo, 8);
  head.writeInt32LE(opMsg, 12);
  return Buffer.concat([head, body]);
}

/** A hello as a router says it: nothing of a replica set, and nothing that its client could wait on for news. */
const asRouter: Rewrite = (hello) => {
  const ofMembers =
    /^(?:setName|setVersion|hosts|passives|arbiters|primary|me|secondary|electionId|lastWrite|topologyVersion)$/;
  const rest = Object.entries(hello).filter(([name]) => !ofMembers.test(name));
  return { ...Object.fromEntries(rest), msg: "isdbgrid" };
};

/** What a shard has answered, as its router tells it. */
const ofShard: Rewrite = (reply) => {
  const { ok, numIndexesBefore, numIndexesAfter, note } = reply as Record<string, unknown>;
  if (numIndexesBefore === undefined) return reply;
  const own = { numIndexesBefore, numIndexesAfter, ...(note !== undefined && { note }), ok };
  return { raw: { "shard01/mongo1:27018,mongo2:27018": own }, ok };
};
