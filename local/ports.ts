import { createServer } from "node:net";

// Below the range that systems hand to outgoing connections (32768 or 49152 and up): a store that is stopped and started
// again must find its port free, and an outgoing connection may not take it in between.
const LOWEST = 20_000;
const HIGHEST = 31_999;

/** Says whether a server can listen there now. */
export async function isFree(port: number, host = "127.0.0.1"): Promise<boolean> {
  const server = createServer();
  const { promise, resolve } = Promise.withResolvers<boolean>();
  server.once("error", () => resolve(false));
  server.listen({ port, host, exclusive: true }, () => server.close(() => resolve(true)));
  return promise;
}

/** Finds a port of 127.0.0.1 that is free now. Someone may take it before it is used: who starts a server there tries again. */
export async function freePort(): Promise<number> {
  for (let attempt = 0; attempt < 100; attempt++) {
    const port = LOWEST + Math.floor(Math.random() * (HIGHEST - LOWEST + 1));
    if (await isFree(port)) return port;
  }
  throw new Error("No free port was found on 127.0.0.1");
}
