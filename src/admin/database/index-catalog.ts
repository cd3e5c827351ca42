import type { MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import type { Document } from "mongodb";

import type { CollectionIndexStatisticsSchema } from "../../../gen/lucid/admin/v1/collection_index_pb.ts";
import { type LookOptions, whole } from "./catalog.ts";
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

/** Sizes over all shards, and uses of the members that answered. */
export async function statisticsOf(
  { db, collection }: NamedCollection,
  options: LookOptions,
): Promise<MessageInitShape<typeof CollectionIndexStatisticsSchema>[]> {
  const of = db.collection(collection);
  const stats = await of.aggregate([{ $collStats: { storageStats: {} } }], options).toArray();
  const uses = await of.aggregate([{ $indexStats: {} }], options).toArray();
  const sizes = new Map<string, bigint>();
  for (const { storageStats } of stats as { storageStats?: { indexSizes?: Record<string, number> } }[]) {
    for (const [index, bytes] of Object.entries(storageStats?.indexSizes ?? {})) {
      sizes.set(index, (sizes.get(index) ?? 0n) + whole(bytes));
    }
  }
  const counts = new Map<string, { operationCount: bigint; since: Date | undefined }>();
  for (const { name, accesses } of uses as { name: string; accesses?: { ops?: unknown; since?: Date | null } }[]) {
    const before = counts.get(name);
    const times = [before?.since, accesses?.since ?? undefined].filter((time) => time !== undefined);
    const since = times.toSorted((one, other) => other.getTime() - one.getTime())[0];
    counts.set(name, { operationCount: (before?.operationCount ?? 0n) + whole(accesses?.ops), since });
  }
  const found = new Set([...counts.keys(), ...sizes.keys()]);
  return [...found].map((index) => {
    const { operationCount = 0n, since } = counts.get(index) ?? {};
    const sizeBytes = sizes.get(index) ?? 0n;
    return { index, sizeBytes, operationCount, ...(since && { sinceTime: timestampFromDate(since) }) };
  });
}
