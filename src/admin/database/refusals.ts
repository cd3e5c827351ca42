import { MongoServerError } from "mongodb";

import { fail, type Reason } from "../../errors.ts";
import { translateStoreError } from "../../stores/errors.ts";
import { collectionAlreadyExists, collectionNotFound, indexNotFound, type NamedCollection } from "./names.ts";

/** Codes of MongoDB's `error_codes.yml`. */
const codes = {
  collectionMissing: 26,
  collectionThere: 48,
  isView: 166,
  indexMissing: 27,
  illegalOperation: 20,
  // AlreadyInitialized.
  alreadySharded: 23,
  // CommandNotFound and CommandNotSupported.
  lacking: new Set<unknown>([59, 115]),
  // BadValue, FailedToParse, TypeMismatch, InvalidOptions, InvalidNamespace, InvalidPipelineOperator, and
  // InvalidIndexSpecificationOption.
  invalid: new Set<unknown>([2, 9, 14, 72, 73, 168, 197]),
} as const;

/** What a command is about. */
interface About {
  /** The collection; none where it is about the server, or a database. */
  readonly at?: NamedCollection;
  /** The collection that a name clash is about, where it is another one. */
  readonly target?: NamedCollection;
  /** The reason for options or expressions that the server does not take; `STORE_REFUSED` where the caller gave none. */
  readonly invalid?: Reason;
  /** The index that it is about. */
  readonly index?: string;
  /** Whether only a server that is no replica set's has the command; others know it, and call it illegal. */
  readonly onlyAlone?: boolean;
  /** Whether it is about a time series: most servers take one for a view over what holds its documents. */
  readonly isTimeSeries?: boolean;
  /** Whether it spreads a collection over shards. */
  readonly shards?: boolean;
}

/**
 * Runs a command, and tells what the server refuses as a failure of ours: so the audit log learns what has not happened. The
 * server's own words are left out, since they repeat names, values and documents.
 */
export async function told<T>(about: About, command: () => Promise<T>): Promise<T> {
  try {
    return await command();
  } catch (error) {
    throw commandFailure(error, about);
  }
}

function commandFailure(error: unknown, about: About): unknown {
  const { at, target = at, invalid = "STORE_REFUSED", index } = about;
  const translated = translateStoreError(error);
  if (!(error instanceof MongoServerError)) return translated;
  const { code, codeName } = error;
  const isNoneOfIts = about.isTimeSeries === true && (code === codes.isView || code === codes.illegalOperation);
  const named = codeName === undefined ? {} : { server_code_name: codeName };
  const metadata = {
    store: "mongodb",
    ...(at !== undefined && { database: at.database, collection: at.collection }),
    ...(index !== undefined && { index }),
    server_code: String(code),
    ...named,
  };
  if (isNoneOfIts) {
    return fail("MONGODB_FEATURE_MISSING", "This MongoDB cannot do that to a time series", { metadata, cause: error });
  }
  if (at !== undefined && target !== undefined) {
    if (code === codes.collectionMissing) return collectionNotFound(at, error);
    if (code === codes.collectionThere) return collectionAlreadyExists(target, error);
    if (code === codes.isView) return isView(at, error);
    if (code === codes.indexMissing && index !== undefined) return indexNotFound(at, index, error);
  }
  const [reason, message] = (index === undefined ? undefined : indexRefusals.get(code)) ?? [];
  if (reason !== undefined && message !== undefined) return fail(reason, message, { metadata, cause: error });
  if (about.shards === true && code === codes.alreadySharded) {
    return fail("COLLECTION_ALREADY_SHARDED", "The collection is sharded by another key", { metadata, cause: error });
  }
  if (codes.lacking.has(code) || (about.onlyAlone === true && code === codes.illegalOperation)) {
    return fail("MONGODB_FEATURE_MISSING", "This MongoDB does not have the command", { metadata, cause: error });
  }
  // Parsers have numbers of their own for what they do not take; whatever else has one is translated.
  if (codes.invalid.has(code) || translated === error) {
    return fail(invalid, "MongoDB does not take what was asked for", { metadata, cause: error });
  }
  return translated;
}

const conflict = "Another index has that name, or these keys in a way that excludes this one";

const indexRefusals: ReadonlyMap<unknown, readonly [Reason, string]> = new Map<unknown, readonly [Reason, string]>([
  [67, ["INDEX_NOT_POSSIBLE", "This MongoDB, or this collection, cannot have such an index"]],
  [85, ["INDEX_CONFLICT", conflict]],
  [86, ["INDEX_CONFLICT", conflict]],
  [276, ["INDEX_BUILD_STOPPED", "Somebody has dropped the index or its collection while it was being built"]],
  [11_000, ["INDEX_DUPLICATE_VALUES", "Documents hold the same values"]],
]);

/** For a server that does not do to a time series what it does to other collections. */
export function timeSeriesStays({ database, collection }: Pick<NamedCollection, "database" | "collection">): Error {
  return fail("MONGODB_FEATURE_MISSING", "This MongoDB cannot do that to a time series", {
    metadata: { database, collection },
  });
}

/** For what only something that holds documents has. */
export function isView(
  { database, collection }: Pick<NamedCollection, "database" | "collection">,
  cause?: unknown,
): Error {
  return fail("COLLECTION_IS_VIEW", `${collection} is a view`, { metadata: { database, collection }, cause });
}
