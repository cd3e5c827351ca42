import type { Db } from "mongodb";

import type { MongodbCollection } from "../../../gen/lucid/backup/v1/manifest_pb.ts";
import { fail } from "../../errors.ts";
import { listCollections, listIndexes, type ListedCollection } from "./catalog.ts";
import { hasCode, serverCode } from "./errors.ts";
import { orderedDocument } from "./ordered.ts";
import { documentIn, elementOf, elementsOf, hasName, sameBytes, textIn, valueBytes } from "./raw-bson.ts";

/** What makes a server delete documents by itself: a restore puts it in place when it has compared all. */
const expiry = "expireAfterSeconds";

/** Parts of what servers list that are not told to them when a collection is made. */
const listedOnly = new Set(["uuid", "autoIndexId", "idIndex"]);

/** Parts of an index that are about the server that it was on, or that servers no longer know. */
const ofServer = new Set(["ns", "background"]);

/** Options that say what documents may be in a collection; the only ones that can be put back on one that is there. */
const validation = ["validator", "validationLevel", "validationAction"] as const;

/** Makes a collection or a time series. Documents do not expire from it yet. */
export async function createCollection(db: Db, name: string, { options }: MongodbCollection): Promise<void> {
  const command = new Map<string, unknown>([["create", name]]);
  for (const [option, value] of orderedDocument(options)) {
    if (!listedOnly.has(option) && option !== expiry) command.set(option, value);
  }
  await run(db, command);
}

/** Makes a view of `viewOn`. */
export async function createView(db: Db, name: string, viewOn: string, { options }: MongodbCollection): Promise<void> {
  const command = new Map<string, unknown>([["create", name]]);
  for (const [option, value] of orderedDocument(options)) if (!listedOnly.has(option)) command.set(option, value);
  command.set("viewOn", viewOn);
  await run(db, command);
}

/** Name of the collection that a view is of. */
export function viewedBy({ options }: MongodbCollection): string {
  return textIn(options, "viewOn") ?? "";
}

/** Which indexes are built: those that only help to find documents, or those by which documents expire. */
export type IndexSort = "lasting" | "expiring";

/**
 * Builds indexes. Where one of the same name or form is there already, it stays; says which ones these are where they differ.
 * Fails with `RESTORE_REFUSED` where the documents do not let an index be unique.
 */
export async function createIndexes(
  db: Db,
  name: string,
  { indexes }: MongodbCollection,
  sort: IndexSort,
): Promise<string[]> {
  const left: string[] = [];
  for (const index of indexes) {
    if (isIdIndex(index) || (sort === "expiring") !== hasName(index, expiry)) continue;
    const specification = orderedDocument(index);
    for (const part of ofServer) specification.delete(part);
    const indexName = textIn(index, "name") ?? "";
    try {
      // One by one: the server would build none where it refuses one.
      await run(
        db,
        new Map<string, unknown>([
          ["createIndexes", name],
          ["indexes", [specification]],
        ]),
      );
    } catch (error) {
      if (hasCode(error, serverCode.duplicateKey)) {
        const metadata = { namespace: `${db.databaseName}.${name}`, index: indexName };
        throw fail("RESTORE_REFUSED", `Documents of ${metadata.namespace} do not fit its index ${indexName}`, {
          metadata,
          cause: error,
        });
      }
      const { indexOptionsConflict, indexKeySpecsConflict } = serverCode;
      if (!hasCode(error, indexOptionsConflict) && !hasCode(error, indexKeySpecsConflict)) throw error;
      left.push(indexName);
    }
  }
  return left;
}

/** Lets documents of a time series or a clustered collection expire, where they did. */
export async function letExpire(db: Db, name: string, { options }: MongodbCollection): Promise<void> {
  if (!hasName(options, expiry)) return;
  await run(
    db,
    new Map<string, unknown>([
      ["collMod", name],
      [expiry, orderedDocument(options).get(expiry)],
    ]),
  );
}

/** Puts back what some servers lose of a collection that is renamed. */
export async function repairValidation(db: Db, name: string, { options }: MongodbCollection): Promise<void> {
  const there = await listedCollection(db, name);
  const lost = validation.filter((option) => hasName(options, option) && !hasName(there?.options ?? options, option));
  if (lost.length === 0) return;
  const values = orderedDocument(options);
  await run(
    db,
    new Map<string, unknown>([["collMod", name], ...lost.map((option) => [option, values.get(option)] as const)]),
  );
}

/** Names of options and indexes that differ from the backup's. Empty where all are as they were. */
export async function differences(db: Db, name: string, expected: MongodbCollection): Promise<string[]> {
  const there = await listedCollection(db, name);
  if (there === undefined) return ["it is not there"];
  const differing: string[] = [];
  for (const element of elementsOf(expected.options)) {
    if (listedOnly.has(element.name) || (expected.kind === "view" && element.name === "viewOn")) continue;
    const found = elementOf(there.options, element.name);
    if (found === undefined || !sameBytes(valueBytes(there.options, found), valueBytes(expected.options, element))) {
      differing.push(`option ${element.name}`);
    }
  }
  if (expected.kind === "view") return differing;
  const found = new Map((await listIndexes(db, name)).map((index) => [textIn(index, "name"), index]));
  for (const index of expected.indexes) {
    const indexName = textIn(index, "name");
    const other = found.get(indexName);
    if (!isIdIndex(index) && (other === undefined || !sameIndex(index, other))) differing.push(`index ${indexName}`);
  }
  return differing;
}

function sameIndex(one: Uint8Array, other: Uint8Array): boolean {
  const partsOf = (index: Uint8Array): string[] =>
    Array.from(elementsOf(index))
      .filter(({ name }) => !ofServer.has(name))
      .map(({ start, end }) => Buffer.from(index.subarray(start, end)).toString("hex"))
      .toSorted();
  return partsOf(one).join() === partsOf(other).join();
}

async function listedCollection(db: Db, name: string): Promise<ListedCollection | undefined> {
  return (await listCollections(db)).find(({ collection }) => collection === name);
}

/** The index that every collection has, also as the one that a clustered collection is kept in. */
function isIdIndex(index: Uint8Array): boolean {
  const key = documentIn(index, "key");
  const names = key === undefined ? [] : Array.from(elementsOf(key), ({ name }) => name);
  return names.length === 1 && names[0] === "_id" && (textIn(index, "name") === "_id_" || hasName(index, "clustered"));
}

async function run(db: Db, command: ReadonlyMap<string, unknown>): Promise<void> {
  // An object keeps this order: the first name is that of a command and does not look like a number.
  await db.command(Object.fromEntries(command));
}
