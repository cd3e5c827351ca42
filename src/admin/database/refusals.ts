import { MongoServerError } from "mongodb";

import { fail, type Reason } from "../../errors.ts";
import { translateStoreError } from "../../stores/errors.ts";
import { collectionAlreadyExists, collectionNotFound, type NamedCollection } from "./names.ts";

/** Codes of MongoDB's `error_codes.yml`. */
const codes = {
  collectionMissing: 26,
  collectionThere: 48,
  isView: 166,
  // CommandNotFound and CommandNotSupported.
  lacking: new Set<unknown>([59, 115]),
  // BadValue, FailedToParse, TypeMismatch, InvalidOptions, InvalidNamespace, InvalidPipelineOperator, …
  invalid: new Set<unknown>([2, 9, 14, 72, 73, 168]),
} as const;

/** What a command is about. */
interface About {
  readonly at: NamedCollection;
  /** The collection that a name clash is about, where it is another one. */
  readonly target?: NamedCollection;
  /** The reason for options or expressions that the server does not take; `STORE_REFUSED` where the caller gave none. */
  readonly invalid?: Reason;
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

function commandFailure(error: unknown, { at, target = at, invalid = "STORE_REFUSED" }: About): unknown {
  const translated = translateStoreError(error);
  if (!(error instanceof MongoServerError)) return translated;
  const { code, codeName } = error;
  const { database, collection } = at;
  const named = codeName === undefined ? {} : { server_code_name: codeName };
  const metadata = { store: "mongodb", database, collection, server_code: String(code), ...named };
  if (code === codes.collectionMissing) return collectionNotFound(at, error);
  if (code === codes.collectionThere) return collectionAlreadyExists(target, error);
  if (code === codes.isView) return isView(at, error);
  if (codes.lacking.has(code)) {
    return fail("MONGODB_FEATURE_MISSING", "This MongoDB does not have the command", { metadata, cause: error });
  }
  // Parsers have numbers of their own for what they do not take; whatever else has one is translated.
  if (codes.invalid.has(code) || translated === error) {
    return fail(invalid, "MongoDB does not take what was asked for", { metadata, cause: error });
  }
  return translated;
}

/** For what only something that holds documents has. */
export function isView(
  { database, collection }: Pick<NamedCollection, "database" | "collection">,
  cause?: unknown,
): Error {
  return fail("COLLECTION_IS_VIEW", `${collection} is a view`, { metadata: { database, collection }, cause });
}
