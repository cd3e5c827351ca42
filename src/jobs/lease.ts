import { performance } from "node:perf_hooks";

/** This process's view of a lease that it holds. */
export interface HeldLease extends Disposable {
  /** Aborted with what `lostError` makes no later than the lease expires in the store. */
  readonly signal: AbortSignal;
  /** Runs a statement that prolongs the lease; undefined means that the lease was not held any more. Throws what `lostError` makes. */
  use<T>(statement: () => Promise<T | undefined>): Promise<T>;
}

/** Watches over a lease that was taken by a statement sent at `sentMs` of `performance.now()`. */
export function heldLease(lostError: () => Error, { leaseMs, sentMs }: { leaseMs: number; sentMs: number }): HeldLease {
  const lost = new AbortController();
  const lose = (): void => lost.abort(lostError());
  let endMs: number;
  let timer: NodeJS.Timeout | undefined;
  prolong(sentMs);

  /** The server counts from when it ran the statement, this process from when it sent it: it ends here first. */
  function prolong(fromMs: number): void {
    clearTimeout(timer);
    endMs = fromMs + leaseMs;
    timer = setTimeout(lose, Math.max(0, endMs - performance.now()));
    timer.unref();
  }

  function assertHeld(): void {
    // After a stall of the whole process this runs before the timer does.
    if (performance.now() >= endMs) lose();
    lost.signal.throwIfAborted();
  }

  return {
    signal: lost.signal,
    async use(statement) {
      assertHeld();
      const fromMs = performance.now();
      const answer = await statement();
      if (answer === undefined) lose();
      assertHeld();
      prolong(fromMs);
      // `lose` above made this unreachable for undefined.
      return answer as NonNullable<typeof answer>;
    },
    [Symbol.dispose]() {
      clearTimeout(timer);
    },
  };
}
