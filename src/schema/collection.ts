import { type DescMessage, getOption } from "@bufbuild/protobuf";
import type { Document } from "bson";
import { type Collection, type Db, type IndexDescriptionInfo, MongoServerError } from "mongodb";

import { collection as collectionOption, type Index } from "../../gen/lucid/options/v1/options_pb.ts";
import { validatorOf } from "./validator.ts";

/** Where the id of a call that created a document is kept, beside it. */
export const requestIdKey = "_request.id";

/** An index as MongoDB makes it. */
export interface StoredIndex {
  readonly name: string;
  readonly key: ReadonlyMap<string, 1 | -1>;
  readonly unique: boolean;
  readonly partialFilterExpression?: Document;
  readonly expireAfterSeconds?: number;
}

/** The collection that a message says it is stored in. Throws where it says none: that is a bug. */
export function collectionOf(schema: DescMessage): { readonly name: string; readonly indexes: readonly StoredIndex[] } {
  const { name, indexes, keepsRequestId } = getOption(schema, collectionOption);
  if (name === "") throw new Error(`${schema.typeName} is stored in no collection`);
  const declared = indexes.map(storedIndex);
  const requestId: StoredIndex = {
    name: `${requestIdKey}_1`,
    key: new Map([[requestIdKey, 1]]),
    unique: true,
    partialFilterExpression: { [requestIdKey]: { $exists: true } },
  };
  return { name, indexes: keepsRequestId ? [...declared, requestId] : declared };
}

function storedIndex(index: Index): StoredIndex {
  const key = new Map(
    index.keys.map((text): [string, 1 | -1] => (text.startsWith("-") ? [text.slice(1), -1] : [text, 1])),
  );
  const present = index.presentOnly ? [...key.keys()].map((field) => [field, { $exists: true }]) : [];
  // An absent field equals null; a partial index cannot ask for absence otherwise.
  const live = index.liveOnly ? [["deleted_at", null]] : [];
  const isTrue = index.trueOnly === "" ? [] : [[index.trueOnly, true]];
  const absent = index.absent === "" ? [] : [[index.absent, null]];
  const filter = [...present, ...isTrue, ...absent, ...live];
  return {
    name: [...key].map(([field, direction]) => `${field}_${direction}`).join("_"),
    key,
    unique: index.unique,
    ...(filter.length > 0 && { partialFilterExpression: Object.fromEntries(filter) as Document }),
    ...(index.expireAfterSeconds !== undefined && { expireAfterSeconds: index.expireAfterSeconds }),
  };
}

/** What was found or done about one thing that a collection must have. */
export interface Ensured {
  /** Name of the index, or `validator`. */
  readonly name: string;
  /** `conflicting`: something else is there under that name or with these keys, or the data do not allow it; left as it is. */
  readonly state: "created" | "existing" | "conflicting";
  /** Why it is conflicting, as the server says it. */
  readonly problem?: string;
}

/** How long making one index may take; a replica that comes later finds it. */
const indexMs = 600_000;

/** Codes of what says that an index cannot be made beside what is there. */
const conflicts = new Set<unknown>([85, 86, 11_000]);

/**
 * Sees to it that a message's collection is there with its validator and indexes. May be repeated, also by several replicas at
 * once. What conflicts is reported and left alone; fails only where MongoDB does.
 */
export async function ensureCollection(db: Db, schema: DescMessage): Promise<readonly Ensured[]> {
  const { name, indexes } = collectionOf(schema);
  const validator = await ensureValidator(db, name, validatorOf(schema));
  return [validator, ...(await ensureIndexes(db.collection(name), indexes))];
}

async function ensureValidator(db: Db, name: string, validator: Document): Promise<Ensured> {
  // Documents that are there already may be changed even where they do not fit.
  const options = { validator, validationLevel: "moderate", validationAction: "error" } as const;
  try {
    await db.createCollection(name, options);
    return { name: "validator", state: "created" };
  } catch (error) {
    if (!(error instanceof MongoServerError) || error.code !== 48) throw error; // it is there
  }
  const [found] = await db.listCollections({ name }, { nameOnly: false }).toArray();
  if (isSame(found?.options?.["validator"], validator)) return { name: "validator", state: "existing" };
  await db.command({ collMod: name, ...options });
  return { name: "validator", state: "created" };
}

/** Sees to it that a collection has these indexes; for collections that another message describes. */
export async function ensureIndexes(collection: Collection, indexes: readonly StoredIndex[]): Promise<Ensured[]> {
  const found = await indexesOf(collection);
  const ensured: Ensured[] = [];
  // One after the other: each scans the collection, and a server has better things to do.
  for (const index of indexes) ensured.push(await ensureIndex(collection, index, found));
  return ensured;
}

async function indexesOf(collection: Collection): Promise<IndexDescriptionInfo[]> {
  try {
    return await collection.indexes();
  } catch (error) {
    if (error instanceof MongoServerError && error.code === 26) return []; // there is no such collection
    throw error;
  }
}

async function ensureIndex(
  collection: Collection,
  index: StoredIndex,
  found: readonly IndexDescriptionInfo[],
): Promise<Ensured> {
  const { name, key, ...options } = index;
  if (found.some((other) => isSameIndex(other, index))) return { name, state: "existing" };
  const clash = found.find((other) => other.name === name || isSame(other.key, Object.fromEntries(key)));
  if (clash !== undefined) {
    return { name, state: "conflicting", problem: `Index ${String(clash.name)} has other keys or options` };
  }
  try {
    await collection.createIndex(new Map(key), { name, ...options, maxTimeMS: indexMs });
    return { name, state: "created" };
  } catch (error) {
    if (!(error instanceof MongoServerError) || !conflicts.has(error.code)) throw error;
    // A duplicate's own text holds what is in the documents.
    const problem = error.code === 11_000 ? "Documents hold the same values" : error.message;
    return { name, state: "conflicting", problem };
  }
}

function isSameIndex(other: IndexDescriptionInfo, index: StoredIndex): boolean {
  return (
    isSame(other.key, Object.fromEntries(index.key)) &&
    (other.unique ?? false) === index.unique &&
    isSame(other["partialFilterExpression"], index.partialFilterExpression) &&
    other.expireAfterSeconds === index.expireAfterSeconds
  );
}

/** Whether two plain documents are the same, the order of their names included, as it matters to indexes. */
function isSame(left: unknown, right: unknown): boolean {
  return JSON.stringify(left) === JSON.stringify(right);
}
