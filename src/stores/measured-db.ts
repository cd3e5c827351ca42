import { type AbstractCursor, type Collection, type Db, MongoServerError } from "mongodb";

import type { LatencyRecorder } from "./latency.ts";

/**
 * Operations of a collection that are one statement. The driver makes others of them, and they are measured as what they are made
 * of: `findOne` is a `find`, `countDocuments` an `aggregate`, `insertMany` a `bulkWrite`.
 */
const statements = [
  "insertOne",
  "updateOne",
  "updateMany",
  "replaceOne",
  "deleteOne",
  "deleteMany",
  "findOneAndUpdate",
  "findOneAndReplace",
  "findOneAndDelete",
  "bulkWrite",
  "distinct",
  "estimatedDocumentCount",
] as const satisfies readonly (keyof Collection)[];

/**
 * Gives `db` collections that record their latencies as a caller sees them: with the wait for a server and a connection, and
 * with the driver's retry. This and not command monitoring, for which the driver deserialises every reply, and not a hook in
 * its connections, which are not public. Change streams are not measured: they wait for what may not come.
 */
export function measured(db: Db, latency: LatencyRecorder): Db {
  const open = db.collection.bind(db);
  // The parameters are the original's; the cast only gives the type parameter back.
  db.collection = ((name, options) => measuredCollection(open(name, options), latency)) as Db["collection"];
  const command = db.command.bind(db);
  db.command = (what, options) =>
    latency.time("mongodb", Object.keys(what)[0] ?? "command", () => command(what, options), isFailure);
  return db;
}

function measuredCollection(collection: Collection, latency: LatencyRecorder): Collection {
  for (const name of statements) {
    // Each of them takes what it takes and returns a promise.
    const statement = collection[name].bind(collection) as (...args: unknown[]) => Promise<unknown>;
    const timed = (...args: unknown[]) => latency.time("mongodb", name, () => statement(...args), isFailure);
    Object.defineProperty(collection, name, { value: timed });
  }
  for (const name of ["find", "aggregate"] as const) {
    const open = collection[name].bind(collection) as (...args: unknown[]) => AbstractCursor<unknown>;
    Object.defineProperty(collection, name, {
      value: (...args: unknown[]) => measuredCursor(open(...args), name, latency),
    });
  }
  return collection;
}

/** Every way to iterate a cursor goes through `next`; only those calls that find no document in memory ask the server. */
function measuredCursor<C extends AbstractCursor<unknown>>(cursor: C, name: string, latency: LatencyRecorder): C {
  const next = cursor.next.bind(cursor);
  let operation = name;
  cursor.next = () => {
    if (cursor.bufferedCount() > 0 || cursor.closed) return next();
    const current = operation;
    operation = "getMore";
    return latency.time("mongodb", current, next, isFailure);
  };
  return cursor;
}

/** A duplicate key, and a document that its validator refuses, are the caller's mistakes. */
function isFailure(error: unknown): boolean {
  return !(error instanceof MongoServerError && (error.code === 11_000 || error.code === 121));
}
