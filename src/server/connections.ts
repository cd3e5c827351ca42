import { constants, type ServerHttp2Session } from "node:http2";

/** How long a client gets to show that it has read what it was told last, before its connection is cut. */
export const farewellMs = 1000;

/** The largest id of a stream: every stream that is on its way is still welcome. */
const anyStream = 2 ** 31 - 1;

/**
 * Asks a client to leave: first says that the connection ends, then, when a ping has shown that the client knows, which stream
 * was the last. In one step, calls that the client had sent meanwhile would be lost. The connection closes with its last call.
 */
export function goAway(session: ServerHttp2Session, why: string): void {
  if (session.closed || session.destroyed) return;
  session.goaway(constants.NGHTTP2_NO_ERROR, anyStream, Buffer.from(why));
  const timer = setTimeout(() => session.close(), farewellMs);
  const close = () => {
    clearTimeout(timer);
    session.close();
  };
  session.once("close", close);
  // False where too many pings are on their way; the timer closes it then.
  session.ping(close);
}

/** Whether `done` was within `ms`. */
export function settled(done: Promise<unknown>, ms: number): Promise<boolean> {
  return new Promise((resolve) => {
    const timer = setTimeout(() => resolve(false), ms);
    void done.finally(() => {
      clearTimeout(timer);
      resolve(true);
    });
  });
}
