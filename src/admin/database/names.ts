import type { Db, MongoClient } from "mongodb";

import { CollectionIndexSchema } from "../../../gen/lucid/admin/v1/collection_index_pb.ts";
import { CollectionSchema } from "../../../gen/lucid/admin/v1/collection_pb.ts";
import { fail } from "../../errors.ts";
import { badRequest } from "../../schema/refusals.ts";
import { serverDatabases } from "../../stores/mongodb.ts";

/** A database that operators may look after. */
export interface NamedDatabase {
  readonly db: Db;
  readonly database: string;
  /** Whether the service stores the domain in it. */
  readonly isDomain: boolean;
}

/** A collection of such a database, which need not be there. */
export interface NamedCollection extends NamedDatabase {
  readonly collection: string;
  /** How the audit log and failures call it. */
  readonly path: string;
  /** Whether the service stores documents of the domain in it. */
  readonly isProtected: boolean;
}

/** Finds out what names in requests mean. No name leads to a database of the server's or of the service's own. */
export interface Names {
  /** The domain's where `database` is empty. Fails with `DATABASE_PROTECTED`. */
  database(database: string): NamedDatabase;
  /** The same for a collection; `field` is what the request calls it. Fails with `BAD_REQUEST` where the names are too long together. */
  collection(at: { readonly database: string; readonly collection: string }, field?: string): NamedCollection;
}

export interface NamesOptions {
  readonly client: MongoClient;
  readonly domainDatabase: string;
  readonly systemDatabase: string;
  /** Names of the collections that the service stores the domain in. */
  readonly standard: ReadonlySet<string>;
}

/** What the server takes for a database and a collection with a dot between. */
const mostBytes = 255;

export function namesOf({ client, domainDatabase, systemDatabase, standard }: NamesOptions): Names {
  // Servers hold two databases whose names differ in case only to be the same, and refuse the second.
  const own = new Set([...serverDatabases, systemDatabase.toLowerCase()]);

  const named = (asked: string): NamedDatabase => {
    const database = asked === "" ? domainDatabase : asked;
    if (own.has(database.toLowerCase())) {
      throw fail("DATABASE_PROTECTED", `The database ${database} is not for operators`, { metadata: { database } });
    }
    return { db: client.db(database), database, isDomain: database.toLowerCase() === domainDatabase.toLowerCase() };
  };

  return {
    database: named,
    collection({ database: asked, collection }, field = "collection") {
      const place = named(asked);
      const path = `${place.database}.${collection}`;
      if (Buffer.byteLength(path) > mostBytes) {
        throw badRequest({ field, description: `must take at most ${mostBytes} bytes together with its database` });
      }
      return { ...place, collection, path, isProtected: place.isDomain && standard.has(collection) };
    },
  };
}

/** What of a collection the audit log speaks of. */
export function collectionResource({ path }: Pick<NamedCollection, "path">) {
  return { type: CollectionSchema.name, name: path };
}

/** Fails with `COLLECTION_PROTECTED` for a collection that the service needs as it is. */
export function requireUnprotected({ isProtected, database, collection }: NamedCollection): void {
  if (!isProtected) return;
  throw fail("COLLECTION_PROTECTED", `The service itself needs the collection ${collection}`, {
    metadata: { database, collection },
  });
}

/** Fails with `CONFIRMATION_MISMATCH` where a field does not repeat the name of what goes. */
export function requireConfirmed(field: string, confirmation: string, name: string): void {
  if (confirmation === name) return;
  throw fail("CONFIRMATION_MISMATCH", "The confirmation is not the name of what goes", {
    metadata: { name },
    fields: [{ field, description: "must repeat the name of what goes" }],
  });
}

export function collectionNotFound(
  { database, collection, path }: Omit<NamedCollection, "db">,
  cause?: unknown,
): Error {
  return fail("COLLECTION_NOT_FOUND", `There is no collection ${collection} in the database ${database}`, {
    metadata: { database, collection },
    resource: { type: CollectionSchema.typeName, name: path },
    cause,
  });
}

export function collectionAlreadyExists(
  { database, collection, path }: Omit<NamedCollection, "db">,
  cause?: unknown,
): Error {
  return fail("COLLECTION_ALREADY_EXISTS", `There is a collection ${collection} in the database ${database} already`, {
    metadata: { database, collection },
    resource: { type: CollectionSchema.typeName, name: path },
    cause,
  });
}

/** What of an index the audit log speaks of. */
export function indexResource({ path }: NamedCollection, index: string) {
  return { type: CollectionIndexSchema.name, name: `${path}/${index}` };
}

export function indexNotFound({ database, collection, path }: NamedCollection, index: string, cause?: unknown): Error {
  return fail("INDEX_NOT_FOUND", `The collection ${collection} has no index ${index}`, {
    metadata: { database, collection, index },
    resource: { type: CollectionIndexSchema.typeName, name: `${path}/${index}` },
    cause,
  });
}
