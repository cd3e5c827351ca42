/** How many files are read or compared at once. */
const atOnce = 16;

/**
 * Works on items, some at a time, in their order; gives the results. A failure is thrown when all that was begun has ended, so that
 * nothing goes on in a directory that its opener closes then.
 */
export async function inGroups<T, R>(items: readonly T[], work: (item: T) => Promise<R>): Promise<R[]> {
  const results: R[] = [];
  for (let from = 0; from < items.length; from += atOnce) {
    results.push(...(await allOf(items.slice(from, from + atOnce).map(work))));
  }
  return results;
}

/** The same of what has been begun. */
export async function allOf<R>(pieces: readonly Promise<R>[]): Promise<R[]> {
  const outcomes = await Promise.allSettled(pieces);
  return outcomes.map((outcome) => {
    if (outcome.status === "rejected") throw outcome.reason;
    return outcome.value;
  });
}
