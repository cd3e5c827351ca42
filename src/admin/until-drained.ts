import { fail } from "../errors.ts";

/**
 * Yields what `run` yields until its signal aborts: with the caller's own reason, or because the process drains, which a watcher
 * must not take for the end.
 */
export async function* untilDrained<T>(
  { signal, draining }: { readonly signal: AbortSignal; readonly draining: AbortSignal },
  run: (ending: AbortSignal) => AsyncIterable<T>,
): AsyncGenerator<T> {
  try {
    yield* run(AbortSignal.any([signal, draining]));
  } catch (error) {
    if (signal.aborted || !draining.aborted) throw error;
  }
  throw fail("WATCH_INTERRUPTED", "The watch was interrupted; watch again to go on", { retryAfterMs: 1000 });
}
