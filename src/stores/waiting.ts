/**
 * Settles as `promise` does, or rejects with the signal's reason once that is aborted. For what takes no signal of its own; the
 * work behind `promise` goes on, so it must have an end of its own.
 */
export async function abortable<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  const { promise: aborted, reject } = Promise.withResolvers<never>();
  const abort = (): void => reject(signal.reason);
  signal.addEventListener("abort", abort, { once: true });
  if (signal.aborted) abort();
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    signal.removeEventListener("abort", abort);
  }
}

/** Resolves after `ms`, when `signal` aborts, or when what was put into `wakers` is called. */
export function pause(ms: number, signal: AbortSignal, wakers?: Set<() => void>): Promise<void> {
  return new Promise((resolve) => {
    const end = (): void => {
      clearTimeout(timer);
      signal.removeEventListener("abort", end);
      wakers?.delete(end);
      resolve();
    };
    // A timer holds 2^31-1 ms at most, and warns of what is below nothing.
    const timer = setTimeout(end, Math.min(Math.max(0, ms), 2 ** 31 - 1));
    signal.addEventListener("abort", end, { once: true });
    wakers?.add(end);
    if (signal.aborted) end();
  });
}
