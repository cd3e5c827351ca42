import { once } from "node:events";
import { connect, createServer, type Socket } from "node:net";

/** A way to a store that can be cut off and mended. */
export interface Wire extends AsyncDisposable {
  /** Connection string that leads through here. */
  readonly uri: string;
  /** Breaks every connection and refuses new ones. */
  cut(): void;
  mend(): void;
  /** Holds the answer to a request that has `text` in it until `release` is called. */
  holdAnswerTo(text: string): { release(): void };
  /** Resolves when a connection was refused since the last cut. */
  refused(): Promise<void>;
}

/** Opens a way to the server that `uri` names. */
export async function cuttable(uri: string): Promise<Wire> {
  const target = new URL(uri);
  const sockets = new Set<Socket>();
  let refusal: PromiseWithResolvers<void> | undefined;
  let held: { readonly text: string; readonly answers: Set<Socket> } | undefined;
  const server = createServer((near) => {
    if (refusal !== undefined) {
      refusal.resolve();
      near.destroy();
      return;
    }
    const far = connect(Number(target.port), target.hostname);
    near.on("data", (request: Buffer) => {
      if (held === undefined || !request.includes(held.text)) return;
      far.pause();
      held.answers.add(far);
    });
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
      one.pipe(other);
    }
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("no port");
  const through = new URL(uri);
  through.hostname = "127.0.0.1";
  through.port = String(address.port);
  const cut = (): void => {
    refusal = Promise.withResolvers();
    for (const socket of sockets) socket.destroy();
  };
  return {
    uri: through.href,
    cut,
    mend() {
      refusal = undefined;
    },
    holdAnswerTo(text) {
      const answers = new Set<Socket>();
      held = { text, answers };
      return {
        release() {
          held = undefined;
          for (const answer of answers) answer.resume();
        },
      };
    },
    async refused() {
      await refusal?.promise;
    },
    async [Symbol.asyncDispose]() {
      cut();
      server.close();
      await once(server, "close");
    },
  };
}
