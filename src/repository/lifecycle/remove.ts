import type { Document } from "bson";
import type { Db, Filter, ObjectId } from "mongodb";

import { Store } from "../../../gen/lucid/admin/v1/common_pb.ts";
import { auditKey } from "../../schema/audited-call.ts";
import { purgedIdKey, purgeKey } from "../../schema/entity.ts";
import { sum } from "../../schema/expressions.ts";
import type { Copies } from "./copies.ts";
import type { StoredKind } from "./stored-kinds.ts";
import type { Tally } from "./tally.ts";

/** What removing needs. */
export interface RemovalWork {
  readonly db: Pick<Db, "collection">;
  readonly copies: Copies;
  readonly tally: Tally;
  readonly signal: AbortSignal;
  /** Called after every step. */
  readonly stepped: () => void;
}

/** What one statement may take. */
const limits = { maxTimeMS: 60_000 };
/** Documents that are removed together; more where nothing goes with them. */
const batchSizes = { usual: 100, plain: 1000 };
/** Documents that may wait before the rest is left to a later run. */
const mostHeld = 1000;

/** Documents without a record that the audit log has not taken up: it would be lost with them. */
const isLogged = { [`${auditKey}.0`]: { $exists: false } };

/**
 * Removes the documents that a filter finds, with their parts and copies. The order makes every step one that may be repeated:
 * a document is marked, so that nobody undeletes it any more; its copies and parts go; then it goes itself, and with it what
 * finds it. What still carries a record for the audit log stays. Returns how many stay.
 */
export async function removeAll(kind: StoredKind, filter: Filter<Document>, work: RemovalWork): Promise<number> {
  const { db, tally, signal, stepped } = work;
  const collection = db.collection(kind.name);
  const isPlain = kind.parts.length === 0 && !kind.isDeletedSoftly && !hasCopies(kind);
  const limit = isPlain ? batchSizes.plain : batchSizes.usual;
  const held: ObjectId[] = [];
  while (held.length <= mostHeld) {
    signal.throwIfAborted();
    const more = { $and: [filter, isLogged, ...(held.length > 0 ? [{ _id: { $nin: held } }] : [])] };
    const found = await collection.find(more, { projection: fieldsOf(kind), limit, ...limits }).toArray();
    if (found.length === 0) break;
    held.push(...(await removeBatch(kind, { filter, found }, work)));
    stepped();
  }
  const left = await collection.countDocuments(filter, limits);
  if (left > 0) tally.add({ store: Store.MONGODB, name: kind.name }, { held: left });
  return left;
}

/** Removes documents; returns the ids of those that stay because something waits. */
async function removeBatch(
  kind: StoredKind,
  { filter, found }: { readonly filter: Filter<Document>; readonly found: readonly Document[] },
  work: RemovalWork,
): Promise<ObjectId[]> {
  const { db, copies, tally, signal } = work;
  const collection = db.collection(kind.name);
  const marked = kind.isDeletedSoftly ? await mark(kind, { $and: [filter, among(found)] }, work) : found;
  await copies.remove(kind, marked, tally, signal);
  const rest = await withoutParts(kind, marked, work);
  const { deletedCount } = await collection.deleteMany(
    { ...among(rest), ...isLogged, ...(kind.isDeletedSoftly && { [purgeKey]: { $exists: true } }) },
    limits,
  );
  tally.add({ store: Store.MONGODB, name: kind.name }, { done: deletedCount });
  // Whoever read a document before it went may have stored a copy of it after that. What comes later than this expires.
  if (deletedCount > 0) await copies.remove(kind, rest, tally, signal);
  if (deletedCount === marked.length) return [];
  const left = await collection.find(among(marked), { projection: { _id: 1 }, ...limits }).toArray();
  return left.map(({ _id }) => _id);
}

/** Marks documents: they are deleted from now on, and cannot be undeleted. Returns those that are marked. */
export async function mark(
  kind: StoredKind,
  filter: Filter<Document>,
  { db }: Pick<RemovalWork, "db">,
): Promise<Document[]> {
  const collection = db.collection(kind.name);
  const found = await collection.find(filter, { projection: { _id: 1 }, ...limits }).toArray();
  const now = new Date();
  const set = {
    [purgeKey]: now,
    ...(kind.id !== undefined && { [purgedIdKey]: `$${kind.id}` }),
    deleted_at: { $ifNull: ["$deleted_at", now] },
    ...(kind.hasRevision && { revision: sum("$revision", 1n) }),
  };
  await collection.updateMany({ $and: [filter, among(found), { [purgeKey]: null }] }, [{ $set: set }], limits);
  const marked = { ...among(found), [purgeKey]: { $exists: true } };
  return collection.find(marked, { projection: fieldsOf(kind), ...limits }).toArray();
}

/** Removes the parts of documents; returns the documents of which no part is left. */
async function withoutParts(kind: StoredKind, documents: readonly Document[], work: RemovalWork): Promise<Document[]> {
  let rest = [...documents];
  for (const { kind: part, key } of kind.parts) {
    const values = rest.map((document): unknown => document[key]).filter((value) => value !== undefined);
    if (values.length === 0) continue;
    const filter = { [key]: { $in: values } };
    if ((await removeAll(part, filter, work)) === 0) continue;
    const waiting = new Set(await work.db.collection(part.name).distinct(key, filter, limits));
    rest = rest.filter((document) => !waiting.has(document[key]));
  }
  return rest;
}

/** Counts the documents that a filter finds, and those of their parts that `isCounted` lets through. */
export async function countAll(
  kind: StoredKind,
  filter: Filter<Document>,
  work: Omit<RemovalWork, "copies" | "stepped">,
  isCounted: (part: StoredKind) => boolean = () => true,
): Promise<void> {
  const { db, tally, signal } = work;
  const collection = db.collection(kind.name);
  signal.throwIfAborted();
  const found = await collection.countDocuments(filter, { ...limits, signal });
  if (found > 0) tally.add({ store: Store.MONGODB, name: kind.name }, { found });
  const parts = kind.parts.filter(({ kind: part }) => isCounted(part));
  if (found === 0 || parts.length === 0) return;
  let batch: Document[] = [];
  const countParts = async () => {
    for (const { kind: part, key } of parts) {
      const values = batch.map((document): unknown => document[key]).filter((value) => value !== undefined);
      await countAll(part, { [key]: { $in: values } }, work, isCounted);
    }
    batch = [];
  };
  for await (const document of collection.find(filter, { projection: fieldsOf(kind), ...limits, signal })) {
    batch.push(document);
    if (batch.length === batchSizes.plain) await countParts();
  }
  await countParts();
}

function among(documents: readonly Document[]): Document {
  return { _id: { $in: documents.map(({ _id }): unknown => _id) } };
}

function hasCopies({ lifecycle }: StoredKind): boolean {
  return lifecycle.cacheKeys.length > 0 || lifecycle.searchDocument !== "";
}

/** The fields by which parts and copies are found. */
function fieldsOf({ parts, lifecycle }: StoredKind): Record<string, 1> {
  const templates = [...lifecycle.cacheKeys, lifecycle.searchDocument].join(" ");
  const names = [
    ...parts.map(({ key }) => key),
    ...Array.from(templates.matchAll(/\{(\w+)\}/g), ([, name = ""]) => name),
  ];
  return { _id: 1, ...Object.fromEntries(names.map((name) => [name, 1 as const])) };
}
