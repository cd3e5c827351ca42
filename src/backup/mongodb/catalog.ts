import { type Db, type MongoClient, MongoServerError } from "mongodb";

import type { Selection } from "../../../gen/lucid/admin/v1/backup_service_pb.ts";
import { serverDatabases } from "../../stores/mongodb.ts";
import { serverCode, hasCode } from "./errors.ts";
import { rawDocuments } from "./raw-batches.ts";
import { documentIn, elementOf, elementsOf, textIn, valueBytes } from "./raw-bson.ts";

/** What a namespace is, as listCollections says it. */
export type CollectionKind = "collection" | "timeseries" | "view";

/** A collection, a time series or a view, as a server lists it. */
export interface ListedCollection {
  readonly database: string;
  readonly collection: string;
  readonly kind: CollectionKind;
  /** Its options, a BSON document. */
  readonly options: Uint8Array;
  /** 16 bytes; none for a view. */
  readonly uuid: Uint8Array;
}

/** Most databases that are listed. A server with more is not one that this was made for. */
const mostDatabases = 100_000;

const emptyDocument = Uint8Array.of(5, 0, 0, 0, 0);

/** Which namespaces a backup is about. */
export interface Namespaces {
  /** The databases, where they are named. */
  readonly databases: readonly string[] | undefined;
  holdsDatabase(database: string): boolean;
  holds(database: string, collection: string): boolean;
}

/** Reads a selection; what the servers and the service keep for themselves is never in it. */
export function namespacesOf({ mongodbNamespaces }: Selection, excluded: readonly string[]): Namespaces {
  const own = new Set([...serverDatabases, ...excluded]);
  const whole = new Set(mongodbNamespaces.filter((namespace) => !namespace.includes(".")));
  const single = new Set(mongodbNamespaces.filter((namespace) => namespace.includes(".")));
  const databases = new Set([
    ...whole,
    ...Array.from(single, (namespace) => namespace.slice(0, namespace.indexOf("."))),
  ]);
  const all = mongodbNamespaces.length === 0;
  const holdsDatabase = (database: string): boolean => !own.has(database) && (all || databases.has(database));
  return {
    databases: all ? undefined : [...databases].filter((database) => !own.has(database)),
    holdsDatabase,
    holds(database, collection) {
      if (!holdsDatabase(database) || collection.startsWith("system.")) return false;
      return all || whole.has(database) || single.has(`${database}.${collection}`);
    },
  };
}

/** What of the selected namespaces is there, in the order of their names. */
export async function listSelected(client: MongoClient, namespaces: Namespaces): Promise<ListedCollection[]> {
  const found: ListedCollection[] = [];
  for (const database of namespaces.databases ?? (await databaseNames(client))) {
    if (!namespaces.holdsDatabase(database)) continue;
    for (const listed of await listCollections(client.db(database))) {
      if (namespaces.holds(database, listed.collection)) found.push(listed);
    }
  }
  return found.toSorted((one, other) => compareNames(nameOf(one), nameOf(other)));
}

/** The namespace of a collection. */
export function nameOf({ database, collection }: { readonly database: string; readonly collection: string }): string {
  return `${database}.${collection}`;
}

function compareNames(one: string, other: string): number {
  if (one === other) return 0;
  return one < other ? -1 : 1;
}

/** Names of the databases of a server. */
export async function databaseNames(client: MongoClient): Promise<string[]> {
  const { databases } = await client.db("admin").admin().listDatabases({ nameOnly: true });
  if (databases.length > mostDatabases) throw new Error(`There are ${databases.length} databases`);
  return databases.map(({ name }) => name);
}

/** All collections of a database. */
export async function listCollections(db: Db): Promise<ListedCollection[]> {
  const listed: ListedCollection[] = [];
  for await (const entry of rawDocuments(db, { listCollections: 1 })) {
    const kind = textIn(entry, "type") ?? "collection";
    if (kind !== "collection" && kind !== "timeseries" && kind !== "view") continue;
    listed.push({
      database: db.databaseName,
      collection: textIn(entry, "name") ?? "",
      kind,
      options: documentIn(entry, "options") ?? emptyDocument,
      uuid: uuidOf(documentIn(entry, "info")),
    });
  }
  return listed;
}

/** The indexes of a collection, a BSON document each; none where the collection is gone or is a view. */
export async function listIndexes(db: Db, collection: string): Promise<Uint8Array[]> {
  try {
    return await Array.fromAsync(rawDocuments(db, { listIndexes: collection }));
  } catch (error) {
    if (hasCode(error, serverCode.namespaceNotFound) || hasCode(error, serverCode.commandNotSupportedOnView)) return [];
    throw error;
  }
}

function uuidOf(info: Uint8Array | undefined): Uint8Array {
  const element = info === undefined ? undefined : elementOf(info, "uuid");
  // A binary value: length, subtype, bytes.
  return info === undefined || element === undefined ? new Uint8Array(0) : valueBytes(info, element).subarray(5);
}

/** Whether the options of a collection name a field that is true. */
export function hasOption(options: Uint8Array, name: string): boolean {
  for (const element of elementsOf(options)) {
    if (element.name !== name) continue;
    const value = valueBytes(options, element);
    return value.some((byte) => byte !== 0);
  }
  return false;
}

/** Whether a collection keeps only its newest documents. */
export function isCapped({ options }: ListedCollection): boolean {
  return hasOption(options, "capped");
}

/** Name of the collection that holds a time series' data on servers that have one. */
export function bucketsOf(collection: string): string {
  return `system.buckets.${collection}`;
}

/** Whether a time series is stored in such a collection. */
export async function hasBuckets(db: Db, collection: string): Promise<boolean> {
  const found = await db.listCollections({ name: bucketsOf(collection) }, { nameOnly: true }).toArray();
  return found.length > 0;
}

/** About how many documents there are, quickly. */
export async function countOf(db: Db, collection: string): Promise<number> {
  try {
    return await db.collection(collection).estimatedDocumentCount();
  } catch (error) {
    if (error instanceof MongoServerError && !hasCode(error, serverCode.namespaceNotFound)) throw error;
    return 0;
  }
}
