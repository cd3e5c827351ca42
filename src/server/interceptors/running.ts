import type { Interceptor } from "@connectrpc/connect";

import { settled } from "../connections.ts";

/** Where it is told that handlers do not end. */
interface WarningLog {
  warn(facts: object, message: string): void;
}

const leastMs = 1000;

/**
 * Knows which calls have handlers that still run. A caller may be gone, and its call answered, while the handler waits for a store;
 * what it does then, and the record of that, needs the stores and the audit log. Disposing this waits for all handlers.
 */
export interface RunningCalls extends AsyncDisposable {
  /** To be outside of all that does something after the handler. */
  readonly interceptor: Interceptor;
}

/** Handlers are waited for that long, but not less than a second. */
export function runningCalls({ waitMs, log }: { readonly waitMs: number; readonly log: WarningLog }): RunningCalls {
  let running = 0;
  let whenNone: (() => void) | undefined;
  const ended = (): void => {
    running -= 1;
    if (running === 0) whenNone?.();
  };

  async function* counted<T>(messages: AsyncIterable<T>): AsyncGenerator<T> {
    running += 1;
    try {
      yield* messages;
    } finally {
      ended();
    }
  }

  return {
    interceptor: (next) => async (request) => {
      running += 1;
      try {
        const response = await next(request);
        return response.stream ? { ...response, message: counted(response.message) } : response;
      } finally {
        ended();
      }
    },
    async [Symbol.asyncDispose]() {
      if (running === 0) return;
      const none = new Promise<void>((resolve) => (whenNone = resolve));
      if (await settled(none, Math.max(leastMs, waitMs))) return;
      log.warn({ calls: running }, "Calls that do not end are cut off from the stores");
    },
  };
}
