import { mkdtemp, rm } from "node:fs/promises";
import { join } from "node:path";

import type { MongoClient } from "mongodb";

import { localPath } from "../../local/project.ts";
import { forgetFolder, noteFolder } from "../../local/registry.ts";
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

/** A folder of a benchmark's own, which goes with it, however it is ended. */
export async function throwawayFolder(name: string): Promise<AsyncDisposable & { readonly path: string }> {
  const path = await mkdtemp(join(localPath("throwaway"), `${name}-`));
  noteFolder(path);
  return {
    path,
    async [Symbol.asyncDispose]() {
      await rm(path, { recursive: true, force: true });
      forgetFolder(path);
    },
  };
}
