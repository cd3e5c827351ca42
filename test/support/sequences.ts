import type fc from "fast-check";

/** Sequences that properties of state machines and counters are to be tried with; 0 for what a usual run has time for. */
const asked = Number(process.env["LUCID_TEST_SEQUENCES"] ?? 0);

type Runs = Pick<
  fc.Parameters<unknown>,
  "numRuns" | "interruptAfterTimeLimit" | "markInterruptAsFailure" | "endOnFailure" | "seed"
>;

/** How often a property is tried, where each try holds a number of sequences that go on side by side. */
export function runs(usual: Runs, inEach = 1): Runs {
  if (asked === 0) return usual;
  // What is asked for is done, however long it takes, and with other cases each time.
  const { endOnFailure = false } = usual;
  return { endOnFailure, numRuns: Math.ceil(asked / inEach) };
}

/** How long a test of such properties may take, in milliseconds. */
export function within(usualMs: number): number {
  return asked === 0 ? usualMs : 4 * 3_600_000;
}
