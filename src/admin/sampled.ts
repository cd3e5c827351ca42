import { abortable } from "../stores/waiting.ts";

/** Gives what was sampled no longer than `maxAgeMs` ago, or samples now. Throws the signal's reason when that aborts. */
export type Sampled<T> = (options: { readonly maxAgeMs: number; readonly signal: AbortSignal }) => Promise<T>;

/**
 * Shares samples among all who ask: at most one is being taken, however many wait for it. `take` must have an end of its own;
 * it goes on when those who wait give up. A failure is told to those who waited and not kept.
 */
export function sampled<T>(take: () => Promise<T>): Sampled<T> {
  let running: Promise<T> | undefined;
  let last: { readonly value: T; readonly takenMs: number } | undefined;
  const start = (): Promise<T> => {
    const takenMs = performance.now();
    const sample = take().then(
      (value) => {
        last = { value, takenMs };
        running = undefined;
        return value;
      },
      (error: unknown) => {
        running = undefined;
        throw error;
      },
    );
    return sample;
  };
  return async ({ maxAgeMs, signal }) => {
    signal.throwIfAborted();
    if (last !== undefined && performance.now() - last.takenMs <= maxAgeMs) return last.value;
    return abortable((running ??= start()), signal);
  };
}
