import type { DescMessage } from "@bufbuild/protobuf";
import type { Document } from "bson";
import { type Collection, type Db, type IndexDescriptionInfo, MongoServerError } from "mongodb";

import { collectionOf, type StoredIndex } from "./collection.ts";
import { isDuplicate } from "./create-once.ts";
import { validatorOf } from "./validator.ts";

/** How one thing that a collection must have stands. */
export interface Ensured {
  /** Name of the index, or `validator`. */
  readonly name: string;
  /** `conflicting`: something else is there under that name or with these keys, or the data do not allow it; left as it is. */
  readonly state: "waiting" | "building" | "created" | "existing" | "conflicting";
  /** Why it is conflicting. */
  readonly problem?: string;
}

/** Sees to it that a collection is there, with its validator and indexes. Several replicas may do so at once. */
export interface CollectionKeeper {
  readonly name: string;
  /** How everything stands that it must have. */
  report(): readonly Ensured[];
  /** Whether a write is safe: the validator and the unique indexes are there, or something conflicts with them. */
  isSafe(): boolean;
  /**
   * Makes writes safe, and of a small collection everything there is to make. What conflicts is reported and left alone; fails
   * only where MongoDB does, and may then be repeated. Asks for nothing more once `signal` aborts.
   */
  prepare(signal: AbortSignal): Promise<void>;
  /** Makes what is still missing: indexes of a large collection that no write waits for. May be repeated as well. */
  finish(signal: AbortSignal): Promise<void>;
}

/** What a collection must have. */
export interface WantedCollection {
  readonly name: string;
  readonly indexes: readonly StoredIndex[];
  readonly validator?: Document;
}

/** What the collection of a message must have: what it declares, and `more` indexes. */
export function wantedCollection(schema: DescMessage, more: readonly StoredIndex[] = []): WantedCollection {
  const { name, indexes } = collectionOf(schema);
  return { name, indexes: [...indexes, ...more], validator: validatorOf(schema) };
}

/** What a collection's validator is called beside its indexes. */
const validatorName = "validator";

/**
 * How a collection stands now beside what it must have. Changes nothing: what is missing, or would be changed, is `waiting`.
 */
export async function standingOf(
  db: Db,
  { name, indexes, validator }: WantedCollection,
  options: StandingOptions,
): Promise<Ensured[]> {
  const info = await infoOf(db, name, options);
  if (info !== undefined && info.type !== "collection") {
    const names = [...(validator === undefined ? [] : [validatorName]), ...indexes.map((index) => index.name)];
    return names.map((each) => ({ name: each, state: "conflicting", problem: occupied(info.type) }));
  }
  const found = info === undefined ? [] : await indexesOf(db.collection(name), options);
  const validated = isSame(info?.options?.["validator"], validator) ? "existing" : "waiting";
  return [
    ...(validator === undefined ? [] : [{ name: validatorName, state: validated } as const]),
    ...indexes.map((index) => compare(index, found) ?? ({ name: index.name, state: "waiting" } as const)),
  ];
}

/** How long looking may take. */
interface StandingOptions {
  readonly maxTimeMS?: number;
  readonly signal?: AbortSignal;
}

/** How long making indexes may take. Reads and writes go on meanwhile. */
const buildMs = 6 * 3_600_000;

/** Codes of what says that an index cannot be made beside those that are there. */
const conflicts = new Set<unknown>([85, 86]);

/** A collection of up to `smallDocuments` gets all its indexes at once. */
export function collectionKeeper(
  db: Db,
  { name, indexes, validator }: WantedCollection,
  { smallDocuments }: { readonly smallDocuments: number },
): CollectionKeeper {
  const collection = db.collection(name);
  const names = [...(validator === undefined ? [] : [validatorName]), ...indexes.map((index) => index.name)];
  const states = new Map<string, Ensured>(names.map((each) => [each, { name: each, state: "waiting" }]));
  const note = (ensured: Ensured): void => void states.set(ensured.name, ensured);
  const open = (): StoredIndex[] =>
    indexes.filter((index) => ["waiting", "building"].includes(states.get(index.name)?.state ?? ""));
  let safe = false;

  const build = async (wanted: readonly StoredIndex[], signal: AbortSignal): Promise<void> => {
    if (wanted.length === 0) return;
    signal.throwIfAborted();
    for (const index of wanted) note({ name: index.name, state: "building" });
    try {
      // All of them together: the server reads the collection once.
      await collection.createIndexes(wanted.map(specOf), { maxTimeMS: buildMs });
      for (const index of wanted) note({ name: index.name, state: "created" });
    } catch (error) {
      const problem = problemOf(error);
      const [only] = wanted;
      if (wanted.length === 1 && only !== undefined) return note({ name: only.name, state: "conflicting", problem });
      // The server does not say which of them, and has made none.
      for (const index of wanted) await build([index], signal);
    }
  };

  return {
    name,
    report: () => [...states.values()],
    isSafe: () => safe,

    async prepare(signal) {
      signal.throwIfAborted();
      if (validator !== undefined) note(await ensureValidator(db, name, validator));
      const found = await indexesOf(collection);
      for (const index of open()) {
        const known = compare(index, found);
        if (known !== undefined) note(known);
      }
      const isSmall = open().length > 0 && (await collection.estimatedDocumentCount()) <= smallDocuments;
      await build(
        open().filter((index) => isSmall || index.unique),
        signal,
      );
      safe = true;
    },

    finish: (signal) => build(open(), signal),
  };
}

function specOf({ name, key, ...options }: StoredIndex) {
  return { name, key: new Map(key), ...options };
}

/** Why an index cannot be made; throws what is no such thing. */
function problemOf(error: unknown): string {
  if (!(error instanceof MongoServerError) || !(conflicts.has(error.code) || isDuplicate(error))) throw error;
  // A duplicate's own text holds what is in the documents.
  return isDuplicate(error) ? "Documents hold the same values" : error.message;
}

/** Makes a collection with its validator, or gives one that is there the validator. Several replicas may do so at once. */
export async function ensureValidator(
  db: Db,
  name: string,
  validator: Document,
  limits: { readonly maxTimeMS?: number } = {},
): Promise<Ensured> {
  // Documents that are there already may be changed even where they do not fit.
  const options = { validator, validationLevel: "moderate", validationAction: "error" } as const;
  // Looked at first: servers since 7.0 take it for success where the same collection is there.
  let found = await infoOf(db, name, limits);
  if (found === undefined) {
    try {
      await db.createCollection(name, { ...options, ...limits });
      return { name: validatorName, state: "created" };
    } catch (error) {
      if (!(error instanceof MongoServerError) || error.code !== 48) throw error; // another replica was faster
      found = await infoOf(db, name, limits);
    }
  }
  if (found !== undefined && found.type !== "collection") {
    return { name: validatorName, state: "conflicting", problem: occupied(found.type) };
  }
  if (isSame(found?.options?.["validator"], validator)) return { name: validatorName, state: "existing" };
  await db.command({ collMod: name, ...options, ...limits });
  return { name: validatorName, state: "created" };
}

async function infoOf(db: Db, name: string, options: StandingOptions) {
  const [found] = await db.listCollections({ name }, { nameOnly: false, ...options }).toArray();
  return found;
}

function occupied(type = "view"): string {
  return `Something of that name is a ${type === "timeseries" ? "time series" : type}`;
}

async function indexesOf(collection: Collection, options: StandingOptions = {}): Promise<IndexDescriptionInfo[]> {
  try {
    return await collection.indexes(options);
  } catch (error) {
    if (error instanceof MongoServerError && error.code === 26) return []; // there is no such collection
    throw error;
  }
}

/** How an index stands beside those that are there; undefined where it is missing. */
function compare(index: StoredIndex, found: readonly IndexDescriptionInfo[]): Ensured | undefined {
  const { name, key } = index;
  if (found.some((other) => isIndex(other, index))) return { name, state: "existing" };
  // One for other rules of comparing text may stand beside it, under another name.
  const isAlike = (other: IndexDescriptionInfo) =>
    isSame(other.key, Object.fromEntries(key)) && other["collation"] === undefined;
  const clash = found.find((other) => other.name === name || isAlike(other));
  if (clash === undefined) return undefined;
  return { name, state: "conflicting", problem: `Index ${String(clash.name)} has other keys or options` };
}

/** Whether an index that is listed is the one that a collection must have. */
export function isIndex(
  other: Omit<IndexDescriptionInfo, "key"> & { readonly key: object },
  index: StoredIndex,
): boolean {
  return (
    isSame(other.key, Object.fromEntries(index.key)) &&
    (other.unique ?? false) === index.unique &&
    // Such ones serve none of our lists, or not for all documents.
    other["collation"] === undefined &&
    other["hidden"] !== true &&
    other["sparse"] !== true &&
    isSame(other["partialFilterExpression"], index.partialFilterExpression) &&
    other.expireAfterSeconds === index.expireAfterSeconds
  );
}

/** Whether two plain documents are the same, the order of their names included, as it matters to indexes. */
function isSame(left: unknown, right: unknown): boolean {
  return JSON.stringify(left) === JSON.stringify(right);
}
