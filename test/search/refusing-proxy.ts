import { once } from "node:events";
import { createServer, type IncomingMessage, request, type ServerResponse } from "node:http";

/** What a server answers that refuses something. */
export interface Refusing {
  readonly status: number;
  readonly body: unknown;
}

/**
 * A server that refuses some requests, as `refuses` says by method and path, and passes the others on to the real one. What
 * `refuses` takes its time for is held back meanwhile, and arrives though its sender has gone.
 */
export interface RefusingProxy extends AsyncDisposable {
  readonly uri: string;
  refuses: (method: string, path: string) => Promise<Refusing | undefined> | Refusing | undefined;
  /** Whether the connection breaks in the middle of an answer. */
  breaks: (path: string) => boolean;
  /** Is told when the real server has answered what was passed on. */
  answered: (path: string) => void;
}

export async function refusingProxy(uri: string): Promise<RefusingProxy> {
  const answer = async (incoming: IncomingMessage, outgoing: ServerResponse): Promise<void> => {
    const { method = "", url = "", headers } = incoming;
    const body = Buffer.concat(await incoming.toArray());
    const refusing = await proxy.refuses(method, url);
    if (refusing !== undefined) {
      outgoing.writeHead(refusing.status, { "content-type": "application/json" }).end(JSON.stringify(refusing.body));
      return;
    }
    const onward = request(new URL(url, uri), { method, headers }, (answered) => {
      proxy.answered(url);
      if (proxy.breaks(url)) {
        outgoing.writeHead(answered.statusCode ?? 502, { "content-type": "application/json", "content-length": 1000 });
        answered.resume();
        outgoing.write("{", () => outgoing.destroy());
        return;
      }
      outgoing.writeHead(answered.statusCode ?? 502, answered.headers);
      answered.pipe(outgoing);
    });
    onward.on("error", () => outgoing.destroy());
    onward.end(body);
  };
  const server = createServer((incoming, outgoing) => {
    answer(incoming, outgoing).catch(() => outgoing.destroy());
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("no port");
  const proxy: RefusingProxy = {
    uri: `http://127.0.0.1:${address.port}`,
    refuses: () => undefined,
    breaks: () => false,
    answered: () => undefined,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      server.close();
      await once(server, "close");
    },
  };
  return proxy;
}
