import type { Document } from "bson";
import type { Collection, Filter } from "mongodb";

import { auditKey } from "../../schema/audited-call.ts";
import { callTime } from "../../schema/call-options.ts";
import type { StoredIndex } from "../../schema/collection.ts";
import type { CarriedRecord } from "./record.ts";

const idKey = `${auditKey}.audit_id`;

/** What every collection has whose documents carry records: those that wait are found, and hardly any do at a time. */
export const carrierIndex: StoredIndex = {
  name: `${idKey}_1`,
  key: new Map([[idKey, 1]]),
  unique: false,
  partialFilterExpression: { [idKey]: { $exists: true } },
};

/** Which of these records wait in the documents that the keys find. */
export async function waitingIn(
  collection: Collection,
  keys: readonly Document[],
  auditIds: ReadonlySet<string>,
): Promise<Set<string>> {
  // From the primary: what it does not show is not there.
  const options = { projection: { [idKey]: 1 }, readPreference: "primary", ...callTime } as const;
  const found = await collection.find(oneOf(keys), options).toArray();
  const ids = found.flatMap((document) => recordsIn(document).map(({ audit_id }) => audit_id));
  return new Set(ids.filter((id) => auditIds.has(id)));
}

/** Documents with records that were made before `auditId`: the process that was to move them is slow or dead. */
export async function stale(collection: Collection, auditId: string, limit: number): Promise<Document[]> {
  const options = { projection: { [auditKey]: 1 }, limit, readPreference: "primary", ...callTime } as const;
  return collection.find({ [idKey]: { $lt: auditId } }, options).toArray();
}

/** The records that a document carries. */
export function recordsIn(document: Document): CarriedRecord[] {
  // Nothing but `auditRecord` writes there.
  return (document[auditKey] ?? []) as CarriedRecord[];
}

/** Takes records that are in the log from the documents that the keys find. Touches nothing else of these, not even `revision`. */
export async function takeFrom(
  collection: Collection,
  keys: readonly Document[],
  auditIds: readonly string[],
): Promise<void> {
  const input = { $ifNull: [`$${auditKey}`, []] };
  const others = { $filter: { input, cond: { $not: [{ $in: ["$$this.audit_id", auditIds] }] } } };
  await collection.updateMany(
    oneOf(keys),
    [
      { $set: { [auditKey]: others } },
      { $set: { [auditKey]: { $cond: [{ $eq: [`$${auditKey}`, []] }, "$$REMOVE", `$${auditKey}`] } } },
    ],
    callTime,
  );
}

/** A filter for what one of the keys finds. */
function oneOf(keys: readonly Document[]): Filter<Document> {
  const [field, ...more] = Object.keys(keys[0] ?? {});
  if (field === undefined) return { _id: { $in: [] } };
  const isSame = more.length === 0 && keys.every((key) => field in key && Object.keys(key).length === 1);
  return isSame ? { [field]: { $in: keys.map((key) => key[field] as unknown) } } : { $or: [...keys] };
}
