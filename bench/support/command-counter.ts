import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";

import { BSON } from "mongodb";

/** Commands of one kind that have passed. */
export interface Passed {
  readonly count: number;
  /** Of the messages that carried them. */
  readonly bytes: number;
}

/** Stands between a client and a server of MongoDB, passes everything on as it is, and counts the commands. */
export interface CommandCounter extends AsyncDisposable {
  /** The server's own, but for the address. */
  readonly uri: string;
  /** What has passed since this was asked last, by command and collection: `find users`. */
  taken(): ReadonlyMap<string, Passed>;
}

/**
 * Counts what goes to one server without TLS. On the wire and not by the driver's command monitoring: that would have to be switched on
 * in the service, and the driver deserialises every reply once more for it.
 */
export async function commandCounter(uri: string): Promise<CommandCounter> {
  const { hostname, port } = new URL(uri);
  let passed = new Map<string, Passed>();
  const count = (message: Buffer): void => {
    const kind = kindOf(message);
    if (kind === undefined) return;
    const before = passed.get(kind) ?? { count: 0, bytes: 0 };
    passed.set(kind, { count: before.count + 1, bytes: before.bytes + message.length });
  };
  const sockets = new Set<Socket>();
  const server = createServer((client) => {
    const upstream = connect(Number(port), hostname);
    for (const [socket, other] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      sockets.add(socket.setNoDelay(true));
      socket.pipe(other);
      socket.on("error", () => other.destroy());
      socket.once("close", () => {
        sockets.delete(socket);
        other.destroy();
      });
    }
    client.on("data", eachMessage(count));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const own = new URL(uri);
  own.hostname = "127.0.0.1";
  own.port = String((server.address() as AddressInfo).port); // it listens on TCP
  return {
    uri: own.href,
    taken() {
      const taken = passed;
      passed = new Map();
      return taken;
    },
    async [Symbol.asyncDispose]() {
      const closed = once(server, "close");
      server.close();
      for (const socket of sockets) socket.destroy();
      await closed;
    },
  };
}

/** Cuts what arrives into messages, each of which begins with its length. */
function eachMessage(take: (message: Buffer) => void): (part: Buffer) => void {
  let waiting = Buffer.alloc(0);
  return (part) => {
    waiting = Buffer.concat([waiting, part]);
    while (waiting.length >= 4 && waiting.length >= waiting.readInt32LE(0)) {
      const length = waiting.readInt32LE(0);
      take(waiting.subarray(0, length));
      waiting = waiting.subarray(length);
    }
  };
}

const opMsg = 2013;

/** What keeps a connection and tells how the server is. */
const unasked = new Set(["hello", "ismaster", "isMaster", "ping", "endSessions", "serverStatus", "buildInfo"]);

/** The first element of a command's document is its name with the collection. */
function kindOf(message: Buffer): string | undefined {
  const sectionAt = 20; // behind the header and the flags
  if (message.readInt32LE(12) !== opMsg || message[sectionAt] !== 0) return undefined;
  const document = message.subarray(sectionAt + 1, sectionAt + 1 + message.readInt32LE(sectionAt + 1));
  const [[name, collection] = []] = Object.entries(BSON.deserialize(document));
  return name === undefined || unasked.has(name) ? undefined : `${name} ${String(collection)}`;
}
