import { fromBinary } from "@bufbuild/protobuf";
import type { ConnectError, Interceptor } from "@connectrpc/connect";

import { fail } from "../../errors.ts";
import { encodedBytes } from "../../schema/encoded.ts";

/** Ends calls whose handlers do not end them, so that a drain has an end and callers know that they may call again. */
export interface Interruption {
  /** To be the outermost one. */
  readonly interceptor: Interceptor;
  /** Ends all calls, and those to come. */
  interrupt(): void;
}

/** What the caller of an interrupted call is told; a watch is a call that streams to its caller. */
export function interrupted(isWatch: boolean): ConnectError {
  return isWatch
    ? fail("WATCH_INTERRUPTED", "The watch was interrupted; watch again to go on")
    : fail("DRAINING", "The service is stopping; call again");
}

export function interruption(): Interruption {
  /** What ends each wait of a call for its handler. */
  const waits = new Set<() => void>();
  let hasBegun = false;

  const unlessInterrupted = <T>(run: () => Promise<T>, isWatch: boolean): Promise<T> =>
    new Promise((resolve, reject) => {
      const interrupt = () => reject(interrupted(isWatch));
      if (hasBegun) {
        interrupt();
        return;
      }
      waits.add(interrupt);
      const done = () => waits.delete(interrupt);
      run().then(resolve, reject).finally(done);
    });

  async function* watched<T>(messages: AsyncIterable<T>, isWatch: boolean): AsyncGenerator<T, undefined> {
    const iterator = messages[Symbol.asyncIterator]();
    try {
      for (;;) {
        // The next message is asked for when there is room for it.
        const { done, value } = await unlessInterrupted(() => iterator.next(), isWatch);
        if (done === true) return;
        yield value;
      }
    } finally {
      // Not awaited, since a handler that hangs would hold this up too.
      void iterator.return?.();
    }
  }

  return {
    interceptor: (next) => async (request) => {
      const response = await unlessInterrupted(() => next(request), false);
      if (!response.stream) return response;
      const isWatch = request.method.methodKind !== "client_streaming";
      return { ...response, message: watched(response.message, isWatch) };
    },
    interrupt() {
      hasBegun = true;
      for (const interrupt of waits) interrupt();
    },
  };
}

/** The innermost interceptor where messages are not only sent as protobuf: decodes what a handler has as bytes. */
export const decoding: Interceptor = (next) => async (request) => {
  const response = await next(request);
  if (response.stream) return response;
  const bytes = encodedBytes(response.message);
  return bytes === undefined ? response : { ...response, message: fromBinary(response.method.output, bytes) };
};
