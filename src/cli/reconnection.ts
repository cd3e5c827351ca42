import { setTimeout as sleep } from "node:timers/promises";

/** The tries of a command to reach a service that has gone, which may come back after a moment or after minutes. */
export interface Reconnection {
  /** How many came to nothing since it was last heard from. */
  readonly failures: number;
  /** How long ago the first of them was, in milliseconds. */
  readonly lostMs: number;
  /** To be called whenever it is heard from. */
  heard(): void;
  /** Waits before the next try, longer each time. Throws where `signal` aborts. */
  wait(signal: AbortSignal): Promise<void>;
}

/** Half a minute of tries: for a command whose output somebody waits for. */
export const mostTries = 10;

const waitMs = { first: 100, last: 5000 };

export function reconnection(): Reconnection {
  let failures = 0;
  let lostAtMs = 0;
  return {
    get failures() {
      return failures;
    },
    get lostMs() {
      return failures === 0 ? 0 : performance.now() - lostAtMs;
    },
    heard() {
      failures = 0;
    },
    async wait(signal) {
      if (failures === 0) lostAtMs = performance.now();
      const ms = Math.min(waitMs.last, waitMs.first * 2 ** failures);
      failures++;
      await sleep(ms, undefined, { signal });
    },
  };
}
