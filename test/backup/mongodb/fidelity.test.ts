import {
  Binary,
  BSON,
  BSONRegExp,
  Code,
  type Db,
  Decimal128,
  type Document,
  Double,
  Int32,
  Long,
  MaxKey,
  MinKey,
  ObjectId,
  Timestamp,
  UUID,
} from "mongodb";
import { afterAll, beforeAll, expect, test, vi } from "vitest";

import { startMongodb } from "../../../local/mongodb.ts";
import type { Server } from "../../../local/server.ts";
import { namedStores } from "../../../local/stores.ts";
import { insertRaw } from "../../../src/backup/mongodb/raw-writes.ts";
import { rawContent, restore, rig, take } from "./harness.ts";
import { memoryStreams } from "./memory.ts";

// A server of their own: a standstill of the local one, with a lock that nobody gave back, was seen while these ran beside other
// tests. One that the environment names is used as it is.
let server: Server | undefined;
beforeAll(async () => {
  if (namedStores(process.env).mongodbUri === undefined) server = await startMongodb();
});
afterAll(async () => server?.[Symbol.asyncDispose]());

// Servers that look documents up slowly take their time.
vi.setConfig({ testTimeout: 180_000 });

interface Any extends Document {
  _id: number | string;
}

/** Puts documents there in bytes: a driver would not send all of these as they are. */
async function put(db: Db, name: string, documents: readonly (Document | Uint8Array)[]): Promise<void> {
  const bytes = documents.map((document) => (document instanceof Uint8Array ? document : BSON.serialize(document)));
  for (const one of bytes) expect(await insertRaw(db, name, [one])).toEqual([]);
}

/** A document with a number of that bit pattern. */
function double(id: string, hex: string): Buffer {
  const document = Buffer.from(BSON.serialize({ _id: id, value: new Double(1) }));
  Buffer.from(hex, "hex").copy(document, document.length - 9);
  return document;
}

function decimal(id: string, hex: string): Buffer {
  const document = Buffer.from(BSON.serialize({ _id: id, value: Decimal128.fromString("1") }));
  Buffer.from(hex, "hex").copy(document, document.length - 17);
  return document;
}

function nested(levels: number): Document {
  let document: Document = { deepest: true };
  for (let level = 1; level < levels; level++) document = { level: document };
  return document;
}

const values: readonly (Document | Uint8Array)[] = [
  { _id: "int32", value: new Int32(-1) },
  { _id: "int64", values: [Long.MAX_VALUE, Long.MIN_VALUE, Long.fromNumber(1)] },
  { _id: "doubles", values: [new Double(1), new Double(-0), new Double(Infinity), new Double(5e-324)] },
  double("quiet NaN", "000000000000f87f"),
  double("NaN with payload", "01000000000cf87f"),
  double("negative NaN", "0d0000000000f8ff"),
  {
    _id: "decimals",
    values: ["1", "1.0", "1.000", "1E+6144", "0E-6176", "-0", "NaN", "Infinity"].map((text) =>
      Decimal128.fromString(text),
    ),
  },
  decimal("decimal NaN with payload", "0100000000000000000000000000007c"),
  decimal("decimal beyond canonical", "ffffffffffffffffffffffffffff6f6c"),
  {
    _id: "timestamps",
    first: new Timestamp(0n),
    list: [new Timestamp(0n), new Timestamp(Long.MAX_UNSIGNED_VALUE.toBigInt())],
  },
  { _id: "binaries", values: [0, 1, 2, 3, 5, 6, 8, 128, 255].map((type) => new Binary(Buffer.from("bytes"), type)) },
  { _id: "uuid", value: new UUID("01234567-89ab-4cde-8f01-23456789abcd"), empty: new Binary(Buffer.alloc(0), 0) },
  {
    _id: "others",
    id: new ObjectId("0123456789abcdef01234567"),
    no: null,
    yes: true,
    min: new MinKey(),
    max: new MaxKey(),
  },
  { _id: "dates", values: [new Date(0), new Date(-1), new Date("9999-12-31T23:59:59.999Z")] },
  {
    _id: "text",
    values: ["", "\0 in it", "\u{1F600}", "e\u0301"],
    code: new Code("f()"),
    scoped: new Code("f()", { x: 1 }),
  },
  { _id: "expressions", values: [new BSONRegExp("^a.*$", "imx"), new BSONRegExp("")] },
  { _id: "names", "": 1, "a.b": { "c.d": 1 }, $set: 1, "0": [{ $x: 1 }], "white space": 1, ü: 1 },
  { _id: "shapes", empty: {}, none: [], arrays: [[], [[1], []], {}] },
  { _id: "deep", ...nested(98) },
];

const ids: readonly unknown[] = [
  new MinKey(),
  null,
  new Int32(1),
  new Double(1.5),
  Long.fromNumber(2),
  Decimal128.fromString("3.10"),
  "text",
  "",
  {},
  { b: 1, a: { "1": 1, "0": 2 } },
  { a: { "1": 1, "0": 2 }, b: 1 },
  new Binary(Buffer.from("x"), 0),
  new Binary(Buffer.from("y"), 128),
  new UUID("01234567-89ab-4cde-8f01-23456789abcd"),
  new ObjectId("0123456789abcdef01234567"),
  false,
  true,
  new Date(0),
  new Timestamp(1n),
  new MaxKey(),
];

test("every value comes back, to the last bit", async () => {
  await using here = await rig(server?.uri);
  const [db, restored] = [here.database(), here.database()];
  await put(db, "values", values);
  await put(db, "large", [
    { _id: 1, text: "x".repeat(15_900_000) },
    { _id: 2 },
    { _id: 3, bytes: Buffer.alloc(9_000_000, 7) },
  ]);
  const streams = memoryStreams();
  const { units } = await take(here, [db.databaseName], streams, {
    // What is changed while it is read comes back as the change left it.
    async begun() {
      for (const { _id } of await db
        .collection<Any>("values")
        .find({}, { projection: { _id: 1 } })
        .toArray()) {
        await db.collection<Any>("values").updateOne({ _id }, { $set: { changed: true } });
      }
      await db.collection<Any>("large").updateOne({ _id: 1 }, { $set: { changed: { at: "the end" } } });
      await db.collection<Any>("large").replaceOne({ _id: 2 }, { text: "y".repeat(15_900_000) });
    },
  });
  const report = await restore(here, units, streams, { renames: [[db.databaseName, restored.databaseName]] });
  expect(report.map(({ equal, remark }) => [equal, remark])).toEqual([
    [true, ""],
    [true, ""],
  ]);
  expect(await rawContent(restored, "values")).toEqual(await rawContent(db, "values"));
  expect(await rawContent(restored, "large")).toEqual(await rawContent(db, "large"));
});

test("`_id`s of all types are read in parts, and none is lost", async () => {
  await using here = await rig(server?.uri);
  const [db, restored] = [here.database(), here.database()];
  await put(
    db,
    "mixed",
    ids.map((_id) => ({ _id })),
  );
  await put(
    db,
    "mixed",
    Array.from({ length: 400 }, (_, index) => ({
      _id: [index + 10, `text ${index}`, { is: index }, new Date(index + 1)][index % 4],
    })),
  );
  const streams = memoryStreams();
  const { units } = await take(here, [`${db.databaseName}.mixed`], streams, { partDocuments: 50 });
  const [unit] = units;
  expect(unit?.streams.length).toBeGreaterThan(1);
  expect(Number(unit?.recordCount)).toBe(ids.length + 400);
  const report = await restore(here, units, streams, {
    renames: [[`${db.databaseName}.mixed`, `${restored.databaseName}.other`]],
  });
  expect(report).toMatchObject([
    { equal: true, expectedItems: BigInt(ids.length + 400), writtenItems: BigInt(ids.length + 400) },
  ]);
  expect(await rawContent(restored, "other")).toEqual(await rawContent(db, "mixed"));
});

/** What a server says of a database's collections and indexes, without its own ids. */
async function definitionsOf(db: Db): Promise<unknown> {
  const listed = await db.listCollections().toArray();
  const definitions: unknown[] = [];
  for (const one of listed.toSorted((first, second) => (first.name < second.name ? -1 : 1))) {
    const { name, type, options } = one as { name: string; type: string; options: Document };
    const indexes = type === "view" ? [] : await db.collection(name).indexes();
    definitions.push({ name, type, options, indexes: indexes.map(({ ns: _, ...index }) => index) });
  }
  return definitions;
}

/** Whether a server can be told when documents of a clustered collection expire after it was made. */
async function canLetExpire(db: Db): Promise<boolean> {
  await db.createCollection("clustered", { clusteredIndex: { key: { _id: 1 }, unique: true } });
  await db.command({ collMod: "clustered", expireAfterSeconds: 1000 });
  const [listed] = await db.listCollections({ name: "clustered" }).toArray();
  return listed !== undefined && "options" in listed && listed.options?.["expireAfterSeconds"] !== undefined;
}

test("collections come back with their options and indexes", async ({ annotate }) => {
  await using here = await rig(server?.uri);
  const [db, restored] = [here.database(), here.database()];
  const letsExpire = await canLetExpire(here.database());
  if (!letsExpire) await annotate("This server's collMod does not change when documents of a collection expire");
  const validator = { $jsonSchema: { required: ["name"], properties: { name: { bsonType: "string" } } } };
  await db.collection("strict").insertMany([{ name: 5 }, { name: "right" }]);
  await db.command({ collMod: "strict", validator, validationLevel: "moderate", validationAction: "error" });
  await db.createCollection("capped", { capped: true, size: 100_000, max: 50 });
  await db.collection("capped").insertMany(Array.from({ length: 60 }, (_, index) => ({ index })));
  await db.createCollection("collated", { collation: { locale: "de", strength: 2 } });
  await db.collection("collated").insertMany([{ x: "ä" }, { x: "A" }]);
  await db.createCollection("clustered", {
    clusteredIndex: { key: { _id: 1 }, unique: true },
    ...(letsExpire && { expireAfterSeconds: 1 }),
  });
  await db.collection<Any>("clustered").insertMany([{ _id: 2 }, { _id: 1 }]);
  await db.createCollection("series", { timeseries: { timeField: "at", metaField: "of", granularity: "minutes" } });
  await db.collection("series").insertMany(
    Array.from({ length: 100 }, (_, index) => ({
      at: new Date(index * 60_000),
      of: { sensor: index % 3 },
      value: index,
    })),
  );
  await db.createCollection("empty");
  await db.createCollection("seen", { viewOn: "strict", pipeline: [{ $match: { name: "right" } }] });
  await db.createCollection("a_view_of_a_view", { viewOn: "seen", pipeline: [{ $project: { name: 1 } }] });
  await db
    .collection("strict")
    .createIndexes([
      { key: { b: 1, "0": -1, a: 1 }, name: "in order" },
      { key: { unique: 1 }, unique: true, sparse: true },
      { key: { partial: 1 }, partialFilterExpression: { partial: { $gt: 5 } } },
      { key: { hidden: 1 }, hidden: true },
      { key: { at: 1 }, expireAfterSeconds: 3600 },
      { key: { collated: 1 }, collation: { locale: "fr", strength: 1 } },
      { key: { "any.$**": 1 } },
      { key: { place: "2dsphere" } },
    ]);
  const streams = memoryStreams();
  const { units } = await take(here, [db.databaseName], streams);
  const report = await restore(here, units, streams, { renames: [[db.databaseName, restored.databaseName]] });
  expect(report.filter(({ equal }) => equal !== true)).toEqual([]);
  expect(await definitionsOf(restored)).toEqual(await definitionsOf(db));
  for (const name of ["strict", "capped", "collated", "clustered", "series", "a_view_of_a_view"]) {
    expect(await rawContent(restored, name)).toEqual(await rawContent(db, name));
  }
  const order = async (of: Db): Promise<unknown[]> =>
    (await of.collection("capped").find().toArray()).map(({ index }) => index);
  expect(await order(restored)).toEqual(await order(db));
});

test("what others let expire is there until it has been compared, and expires then", async () => {
  await using here = await rig(server?.uri);
  const [db, restored] = [here.database(), here.database()];
  await db.collection("old").insertMany(Array.from({ length: 50 }, () => ({ at: new Date(0) })));
  const streams = memoryStreams();
  const { units } = await take(here, [db.databaseName], streams, {
    read: async () => {
      await db.collection("old").createIndex({ at: 1 }, { expireAfterSeconds: 1_000_000_000 });
    },
  });
  const report = await restore(here, units, streams, { renames: [[db.databaseName, restored.databaseName]] });
  expect(report).toMatchObject([{ equal: true, equalItems: 50n }]);
  expect(await restored.collection("old").indexes()).toMatchObject([
    { name: "_id_" },
    { expireAfterSeconds: 1_000_000_000 },
  ]);
});

test("fields come back in their order, also where one was removed and set again before the document was read", async () => {
  await using here = await rig(server?.uri);
  const [db, restored] = [here.database(), here.database()];
  const documents = db.collection<Any>("ordered");
  await documents.insertMany([1, 2].map((_id) => ({ _id, a: 1, b: 1 })));
  const streams = memoryStreams();
  const { units } = await take(here, [db.databaseName], streams, {
    async begun() {
      await documents.updateMany({}, { $unset: { a: 1 } });
      await documents.updateMany({}, { $set: { a: 1 } });
      await documents.updateMany({}, { $set: { c: 1 } });
      await documents.deleteOne({ _id: 2 });
    },
  });
  await restore(here, units, streams, { renames: [[db.databaseName, restored.databaseName]] });
  expect(Object.keys((await restored.collection<Any>("ordered").findOne({ _id: 1 })) ?? {})).toEqual([
    "_id",
    "b",
    "a",
    "c",
  ]);
  expect(await rawContent(restored, "ordered")).toEqual(await rawContent(db, "ordered"));
});
