/**
 * The results of what has been begun. A failure is thrown when all of it has ended, so that nothing goes on in a directory that its
 * opener closes then.
 */
export async function allOf<R>(pieces: readonly Promise<R>[]): Promise<R[]> {
  const outcomes = await Promise.allSettled(pieces);
  return outcomes.map((outcome) => {
    if (outcome.status === "rejected") throw outcome.reason;
    return outcome.value;
  });
}
