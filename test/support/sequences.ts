import type fc from "fast-check";

/** Sequences that properties of state machines and counters are to be tried with; 0 for what a usual run has time for. */
const asked = Number(process.env["LUCID_TEST_SEQUENCES"] ?? 0);

type Runs = Pick<fc.Parameters<unknown>, "numRuns" | "endOnFailure" | "seed">;

/** How often a property is tried, where each try holds a number of sequences that go on side by side. */
export function runs(usual: Runs, inEach = 1): Runs {
  if (asked === 0) return usual;
  // What is asked for is done, however long it takes, and with other cases each time.
  const { endOnFailure = false } = usual;
  return { endOnFailure, numRuns: Math.ceil(asked / inEach) };
}

/**
 * Leaves out the tries of a property that would begin so many milliseconds after the first one: a busy machine does fewer. What
 * fast-check's own limit breaks off goes on behind the test, and where that is the first try, the property has failed.
 */
export function begunIn<A extends unknown[]>(limitMs: number, predicate: (...values: A) => Promise<void>) {
  let endMs: number | undefined;
  return async (...values: A): Promise<void> => {
    const nowMs = performance.now();
    endMs ??= nowMs + limitMs;
    if (asked > 0 || nowMs <= endMs) await predicate(...values);
  };
}

/** How long a test of such properties may take, in milliseconds: no less than any other. */
export function within(usualMs = 240_000): number {
  return asked === 0 ? usualMs : 4 * 3_600_000;
}
