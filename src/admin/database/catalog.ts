import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { type CollectionInfo, type Db, type Document, MongoServerError } from "mongodb";

import {
  type Collation,
  type Collection,
  CollectionSchema,
  type CollectionSizesSchema,
  CollectionType,
  TimeSeriesGranularity,
  ValidationAction,
  ValidationLevel,
} from "../../../gen/lucid/admin/v1/collection_pb.ts";
import { jsonOf } from "./expressions.ts";
import { collectionNotFound, type NamedCollection, type NamedDatabase } from "./names.ts";
import { isView } from "./refusals.ts";

/** How long looking may take. */
export interface LookOptions {
  readonly maxTimeMS?: number;
  readonly signal: AbortSignal;
}

/** What a collection is. */
export function typeOf({ type, options }: CollectionInfo): CollectionType {
  if (type === "view") return CollectionType.VIEW;
  return options?.["timeseries"] === undefined ? CollectionType.COLLECTION : CollectionType.TIME_SERIES;
}

/** Names of what a database has of a type, or of all types, in their order. */
export async function listNames({ db }: NamedDatabase, type: CollectionType, options: LookOptions): Promise<string[]> {
  // Servers look at names and types alone where they are asked for no more.
  const { filter, nameOnly } = filters.get(type) ?? anything;
  const names: string[] = [];
  for await (const { name } of db.listCollections(filter, { nameOnly, ...options })) {
    // What the server keeps of views and time series.
    if (!name.startsWith("system.")) names.push(name);
  }
  return names.toSorted();
}

const anything = { filter: {}, nameOnly: true };

// One of the servers that speak this protocol calls a time series a collection.
const filters: ReadonlyMap<CollectionType, { readonly filter: Document; readonly nameOnly: boolean }> = new Map([
  [CollectionType.VIEW, { filter: { type: "view" }, nameOnly: true }],
  [
    CollectionType.COLLECTION,
    { filter: { type: "collection", "options.timeseries": { $exists: false } }, nameOnly: false },
  ],
  [CollectionType.TIME_SERIES, { filter: { "options.timeseries": { $exists: true } }, nameOnly: false }],
]);

/** What is there of these names, in their order. */
export async function findInfos(
  { db }: NamedDatabase,
  names: readonly string[],
  options: LookOptions,
): Promise<CollectionInfo[]> {
  if (names.length === 0) return [];
  const filter = { name: { $in: [...names] } };
  const found = await db.listCollections(filter, { nameOnly: false, ...options }).toArray();
  return found.toSorted((one, other) => (one.name < other.name ? -1 : 1));
}

export async function findInfo(at: NamedCollection, options: LookOptions): Promise<CollectionInfo | undefined> {
  const [found] = await findInfos(at, [at.collection], options);
  return found;
}

/** Fails with `COLLECTION_NOT_FOUND`. */
export async function requireInfo(at: NamedCollection, options: LookOptions): Promise<CollectionInfo> {
  const found = await findInfo(at, options);
  if (found === undefined) throw collectionNotFound(at);
  return found;
}

/** The same for what holds documents; fails with `COLLECTION_IS_VIEW` too. */
export async function requireStored(at: NamedCollection, options: LookOptions): Promise<CollectionInfo> {
  const found = await requireInfo(at, options);
  if (found.type === "view") throw isView(at);
  return found;
}

/** All that is told of a collection. */
export async function describe(at: NamedCollection, info: CollectionInfo, options: LookOptions): Promise<Collection> {
  const { validator, viewOn, pipeline } = info.options ?? {};
  const told = await summarise(at, info, options);
  if (validator !== undefined && Object.keys(validator as object).length > 0)
    told.validator = jsonOf(validator as Document);
  if (viewOn !== undefined && told.view !== undefined) {
    told.view.pipeline = ((pipeline ?? []) as Document[]).map(jsonOf);
  }
  return told;
}

/** The same without what may be long. */
export async function summarise(at: NamedCollection, info: CollectionInfo, options: LookOptions): Promise<Collection> {
  const { database, collection, isProtected } = at;
  const type = typeOf(info);
  const set = info.options ?? {};
  const hasValidator = set["validator"] !== undefined;
  const sizes = type === CollectionType.VIEW ? undefined : await sizesOf(at.db, collection, options);
  return create(CollectionSchema, {
    database,
    collection,
    type,
    protected: isProtected,
    ...(sizes && { sizes }),
    ...(set["capped"] === true && {
      capped: { maxBytes: whole(set["size"]), maxDocuments: whole(set["max"]) },
    }),
    ...(hasValidator && {
      validationLevel: levels.get(set["validationLevel"]) ?? ValidationLevel.STRICT,
      validationAction: actions.get(set["validationAction"]) ?? ValidationAction.ERROR,
    }),
    ...(set["collation"] !== undefined && { collation: collationOf(set["collation"] as Document) }),
    ...(set["timeseries"] !== undefined && { timeSeries: timeSeriesOf(set["timeseries"] as Document) }),
    ...(set["viewOn"] !== undefined && { view: { sourceCollection: String(set["viewOn"]) } }),
    expireAfterSeconds: whole(set["expireAfterSeconds"]),
    clustered: set["clusteredIndex"] !== undefined,
  });
}

/** Shards have sizes of their own. */
async function sizesOf(
  db: Db,
  collection: string,
  options: LookOptions,
): Promise<MessageInitShape<typeof CollectionSizesSchema> | undefined> {
  const total = { documentCount: 0n, dataBytes: 0n, storageBytes: 0n, indexBytes: 0n, indexCount: 0 };
  let found: { storageStats?: Document }[];
  try {
    const stages = [{ $collStats: { storageStats: {} } }];
    found = await db.collection(collection).aggregate<{ storageStats?: Document }>(stages, options).toArray();
  } catch (error) {
    if (error instanceof MongoServerError && error.code === 26) return undefined; // it was dropped meanwhile
    throw error;
  }
  for (const { storageStats = {} } of found) {
    const { bucketCount } = (storageStats["timeseries"] ?? {}) as Document;
    total.documentCount += whole(storageStats["count"] ?? bucketCount);
    total.dataBytes += whole(storageStats["size"]);
    total.storageBytes += whole(storageStats["storageSize"]);
    total.indexBytes += whole(storageStats["totalIndexSize"]);
    // Each shard has all indexes.
    total.indexCount = Math.max(total.indexCount, Number(storageStats["nindexes"] ?? 0));
  }
  return total;
}

/** What a command was answered: behind a router each shard answers for itself. */
export function answersOf(reply: Document): readonly Document[] {
  return Object.values((reply["raw"] ?? { all: reply }) as Record<string, Document>);
}

/** A number of the server's, which may be of any kind, as a whole one; 0 where there is none. */
export function whole(value: unknown): bigint {
  const number = Number(value ?? 0);
  return Number.isFinite(number) ? BigInt(Math.trunc(number)) : 0n;
}

export function collationOf(collation: Document) {
  return {
    locale: String(collation["locale"]),
    strength: Number(collation["strength"] ?? 0),
    caseLevel: collation["caseLevel"] === true,
    numericOrdering: collation["numericOrdering"] === true,
  };
}

/** The same as the server takes it. */
export function serverCollation({ locale, strength, caseLevel, numericOrdering }: Collation) {
  return {
    locale,
    ...(strength > 0 && { strength }),
    ...(caseLevel && { caseLevel }),
    ...(numericOrdering && { numericOrdering }),
  };
}

function timeSeriesOf({ timeField, metaField, granularity }: Document) {
  return {
    timeField: String(timeField),
    metaField: String(metaField ?? ""),
    granularity: granularities.get(granularity) ?? TimeSeriesGranularity.UNSPECIFIED,
  };
}

const levels = new Map<unknown, ValidationLevel>([
  ["strict", ValidationLevel.STRICT],
  ["moderate", ValidationLevel.MODERATE],
  ["off", ValidationLevel.OFF],
]);

const actions = new Map<unknown, ValidationAction>([
  ["error", ValidationAction.ERROR],
  ["warn", ValidationAction.WARN],
  ["errorAndLog", ValidationAction.ERROR_AND_LOG],
]);

const granularities = new Map<unknown, TimeSeriesGranularity>([
  ["seconds", TimeSeriesGranularity.SECONDS],
  ["minutes", TimeSeriesGranularity.MINUTES],
  ["hours", TimeSeriesGranularity.HOURS],
]);

/** What the server calls one of these. */
export const serverWord = {
  level: wordsOf(levels),
  action: wordsOf(actions),
  granularity: wordsOf(granularities),
};

function wordsOf<E>(map: ReadonlyMap<unknown, E>): (value: E) => string | undefined {
  const words = new Map([...map].map(([word, value]) => [value, String(word)] as const));
  return (value) => words.get(value);
}
