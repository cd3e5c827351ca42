import type { MongoClient } from "mongodb";

import type { SearchStore } from "../../src/stores/search.ts";

/** Databases of a benchmark's own: dropped now, since a run that was broken off may have left them, and again when it ends. */
export async function throwawayDatabases(client: MongoClient, names: readonly string[]): Promise<AsyncDisposable> {
  const drop = async (): Promise<void> => {
    for (const name of names) await client.db(name).dropDatabase();
  };
  await drop();
  return { [Symbol.asyncDispose]: drop };
}

/** The same of search indices. */
export async function throwawayIndices({ client }: SearchStore, prefix: string): Promise<AsyncDisposable> {
  const remove = async (): Promise<void> => {
    // Elasticsearch deletes nothing by a pattern.
    const there = await client.indices.get({ index: `${prefix}*` });
    for (const index of Object.keys(there)) await client.indices.delete({ index });
  };
  await remove();
  return { [Symbol.asyncDispose]: remove };
}
