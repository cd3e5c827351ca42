import type { Document } from "mongodb";

import type { LookOptions } from "./catalog.ts";
import type { IndexSpec } from "./definitions.ts";
import { indexNotFound, type NamedCollection } from "./names.ts";
import { told } from "./refusals.ts";

/** The index that every collection has, but for clustered ones and time series. */
export const idIndex = "_id_";

/** The indexes of a collection as the server lists them. */
export async function listSpecs(at: NamedCollection, options: LookOptions): Promise<IndexSpec[]> {
  const { db, collection } = at;
  const found: Document[] = await told({ at }, () => db.collection(collection).listIndexes(options).toArray());
  return found.map(({ name, key, ...rest }) => ({
    ...rest,
    name: String(name),
    key: new Map(Object.entries(key as object)),
  }));
}

/** Fails with `INDEX_NOT_FOUND`. */
export async function requireSpec(at: NamedCollection, index: string, options: LookOptions): Promise<IndexSpec> {
  const found = (await listSpecs(at, options)).find(({ name }) => name === index);
  if (found === undefined) throw indexNotFound(at, index);
  return found;
}
