import { reasonOf } from "../errors.ts";
import { translateStoreError } from "../stores/errors.ts";
import { pause } from "../stores/waiting.ts";

/** How long a store may be away, and waits between two looks for it, in milliseconds. */
const awayMs = 15 * 60_000;
const retryMs = { first: 500, last: 5000 };
const awayReasons: ReadonlySet<string> = new Set(["STORE_UNAVAILABLE", "STORE_BUSY", "DEADLINE_EXCEEDED"]);

/**
 * Does what may be begun again, and begins it again where a store was away. Fails as it did where it has not got on for a quarter
 * of an hour; `gotOnMs` says when it did, by `performance.now()`. `passing` are reasons besides of failures that pass.
 */
export async function patiently<T>(
  run: () => Promise<T>,
  {
    signal,
    gotOnMs,
    passing = [],
  }: { readonly signal: AbortSignal; readonly gotOnMs: () => number; readonly passing?: readonly string[] },
): Promise<T> {
  for (let waitMs = retryMs.first; ; waitMs = Math.min(retryMs.last, waitMs * 2)) {
    try {
      return await run();
    } catch (error) {
      const reason = reasonOf(translateStoreError(error))?.reason ?? "";
      const mayPass = awayReasons.has(reason) || passing.includes(reason);
      if (!mayPass || signal.aborted || performance.now() - gotOnMs() > awayMs) throw error;
    }
    await pause(waitMs, signal);
    signal.throwIfAborted();
  }
}
