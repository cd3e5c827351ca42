/**
 * Waits for all of several pieces of work. The first failure stops the others through `stop`, and is thrown when all of them
 * have ended, so that nothing goes on behind the back of who cleans up.
 */
export async function together<T>(pieces: readonly Promise<T>[], stop: AbortController): Promise<T[]> {
  const failures: unknown[] = [];
  const results: T[] = [];
  const ended = pieces.map(async (piece, index) => {
    try {
      results[index] = await piece;
    } catch (error) {
      failures.push(error);
      stop.abort(error);
    }
  });
  await Promise.all(ended);
  if (failures.length > 0) throw failures[0];
  return results;
}

/** Works on `items`, which may come as they are needed, at most `atOnce` at a time, in the same manner. */
export async function each<T>(
  items: Iterable<T> | AsyncGenerator<T>,
  { atOnce, stop }: { readonly atOnce: number; readonly stop: AbortController },
  work: (item: T) => Promise<void>,
): Promise<void> {
  // It is shared: each item goes to one worker, also where several ask a generator at once.
  const rest = Symbol.iterator in items ? Iterator.from(items) : items;
  const worker = async (): Promise<void> => {
    for (let next = await rest.next(); next.done !== true && !stop.signal.aborted; next = await rest.next()) {
      await work(next.value);
    }
  };
  await together(Array.from({ length: atOnce }, worker), stop);
}
