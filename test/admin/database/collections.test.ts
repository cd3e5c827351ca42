import type { JsonObject } from "@bufbuild/protobuf";
import { afterAll, beforeAll, expect, test } from "vitest";

import {
  CollectionType,
  TimeSeriesGranularity,
  ValidationAction,
  ValidationLevel,
} from "../../../gen/lucid/admin/v1/collection_pb.ts";
import { EnsuredState } from "../../../gen/lucid/admin/v1/monitoring_service_pb.ts";
import { storedMessages } from "../../../src/repository/collections.ts";
import { collectionOf } from "../../../src/schema/collection.ts";
import { refusalOf } from "../../repository/support.ts";
import { type AdminApp, adminApp, collectionName } from "./support.ts";

let service: AdminApp;
beforeAll(async () => {
  service = await adminApp();
});
afterAll(() => service[Symbol.asyncDispose]());

test("a collection is made as it is described, and told so on both listeners", async () => {
  const { admin, overHttp, database, db } = service;
  const collection = collectionName();
  const described = {
    validator: { $jsonSchema: { required: ["n"], properties: { n: { bsonType: "int", minimum: 1 } } } },
    validationLevel: ValidationLevel.MODERATE,
    validationAction: ValidationAction.ERROR,
    collation: { locale: "de", strength: 2, caseLevel: false, numericOrdering: true },
  };
  const made = await admin.createCollection({ database, collection, ...described });
  expect(made.collection).toMatchObject({
    database,
    collection,
    type: CollectionType.COLLECTION,
    protected: false,
    ...described,
  });
  expect((await overHttp.getCollection({ database, collection })).collection).toEqual(made.collection);
  await db.collection(collection).insertOne({ n: 1 });
  await expect(db.collection(collection).insertOne({ n: "x" })).rejects.toMatchObject({ code: 121 });

  const capped = collectionName();
  const limits = { maxBytes: 8192n, maxDocuments: 2n };
  const second = await admin.createCollection({ database, collection: capped, capped: limits });
  expect(second.collection).toMatchObject({ capped: limits });

  const series = collectionName();
  const timeSeries = { timeField: "at", metaField: "of", granularity: TimeSeriesGranularity.HOURS };
  const request = { database, collection: series, timeSeries, expireAfterSeconds: 3600n };
  expect((await admin.createCollection(request)).collection).toMatchObject({
    type: CollectionType.TIME_SERIES,
    timeSeries,
    expireAfterSeconds: 3600n,
  });
});

test("views and time series are listed for what they are, page by page, by name", async () => {
  const { admin, app } = service;
  const database = app.databaseName();
  const db = app.mongodb.db(database);
  const names = ["a", "b", "c.d", "series", "view"];
  for (const name of names.slice(0, 3)) await db.collection(name).insertOne({ name });
  await db.createCollection("series", { timeseries: { timeField: "at" } });
  await db.createCollection("view", { viewOn: "a", pipeline: [{ $match: { n: { $gt: new Date(0) } } }] });

  const found: string[] = [];
  let pageToken = "";
  do {
    const page = await admin.listCollections({ database, pageSize: 2, pageToken });
    found.push(...page.collections.map(({ collection }) => collection));
    pageToken = page.nextPageToken;
    // What comes before the page, and what goes, moves nothing.
    await db.createCollection("0", {}).catch(() => undefined);
  } while (pageToken !== "");
  expect(found).toEqual(names);

  const { collections } = await admin.listCollections({ database, nameContains: "e" });
  expect(collections.map(({ collection, type }) => [collection, type])).toEqual([
    ["series", CollectionType.TIME_SERIES],
    ["view", CollectionType.VIEW],
  ]);
  expect(collections[1]).toMatchObject({ view: { sourceCollection: "a", pipeline: [] } });
  expect(collections[1]?.sizes).toBeUndefined();
  const view = await admin.getCollection({ database, collection: "view" });
  expect(view.collection?.view?.pipeline).toEqual([{ $match: { n: { $gt: { $date: "1970-01-01T00:00:00Z" } } } }]);
  for (const [type, expected] of [
    [CollectionType.VIEW, ["view"]],
    [CollectionType.TIME_SERIES, ["series"]],
    [CollectionType.COLLECTION, ["0", "a", "b", "c.d"]],
  ] as const) {
    const some = await admin.listCollections({ database, type });
    expect(some.collections.map(({ collection }) => collection)).toEqual(expected);
  }
  expect((await admin.listCollections({ database, nameContains: ".*" })).collections).toEqual([]);
  const first = await admin.listCollections({ database, pageSize: 1 });
  expect(first.collections[0]).toMatchObject({ sizes: { documentCount: 0n, indexCount: 1 } });
  const other = admin.listCollections({ database, pageSize: 1, pageToken: first.nextPageToken, nameContains: "a" });
  expect(await refusalOf(other)).toMatchObject({ code: "InvalidArgument", reason: "PAGE_TOKEN_INVALID" });
  expect((await admin.listCollections({ database: `${database}_none` })).collections).toEqual([]);
});

test("a collection is dropped only where its name is said twice", async () => {
  const { admin, database, db } = service;
  const collection = collectionName();
  await db.collection(collection).insertMany([{ n: 1 }, { n: 2 }]);
  const planned = await admin.dropCollection({ database, collection, validateOnly: true });
  expect(planned.collection).toMatchObject({ collection, sizes: { documentCount: 2n } });
  for (const confirmCollection of ["", `${collection}x`, collection.toUpperCase()]) {
    expect(await refusalOf(admin.dropCollection({ database, collection, confirmCollection }))).toMatchObject({
      code: "FailedPrecondition",
      reason: "CONFIRMATION_MISMATCH",
      metadata: { name: collection },
      fields: ["confirm_collection"],
    });
  }
  expect(await db.collection(collection).countDocuments()).toBe(2);
  const dropped = await admin.dropCollection({ database, collection, confirmCollection: collection });
  expect(dropped.collection).toEqual(planned.collection);
  expect(await db.listCollections({ name: collection }).toArray()).toEqual([]);
  expect(await refusalOf(admin.dropCollection({ database, collection, confirmCollection: collection }))).toMatchObject({
    code: "NotFound",
    reason: "COLLECTION_NOT_FOUND",
    metadata: { database, collection },
  });
});

test("a collection that has the new name goes only where that is asked for and its name is said twice", async () => {
  const { admin, database, db } = service;
  const [collection, newCollection] = [collectionName(), collectionName()];
  await db.collection(collection).insertOne({ n: 1 });
  await db.collection(newCollection).insertMany([{ n: 1 }, { n: 2 }]);
  const names = { database, collection, newCollection };
  expect(await refusalOf(admin.renameCollection(names))).toMatchObject({
    code: "AlreadyExists",
    reason: "COLLECTION_ALREADY_EXISTS",
    metadata: { collection: newCollection },
  });
  expect(await refusalOf(admin.renameCollection({ ...names, dropTarget: true }))).toMatchObject({
    reason: "CONFIRMATION_MISMATCH",
    fields: ["confirm_new_collection"],
  });
  const planned = await admin.renameCollection({ ...names, dropTarget: true, validateOnly: true });
  expect(planned).toMatchObject({ dropped: { collection: newCollection, sizes: { documentCount: 2n } } });
  expect(planned.collection).toBeUndefined();
  const request = { ...names, dropTarget: true, confirmNewCollection: newCollection };
  expect(await admin.renameCollection(request)).toMatchObject({
    collection: { collection: newCollection, sizes: { documentCount: 1n } },
    dropped: { collection: newCollection },
  });
  expect(await refusalOf(admin.renameCollection(request))).toMatchObject({
    code: "NotFound",
    metadata: { collection },
  });
  expect(await refusalOf(admin.renameCollection({ database, collection, newCollection: collection }))).toMatchObject({
    reason: "BAD_REQUEST",
    fields: ["new_collection"],
  });
  const view = collectionName();
  await db.createCollection(view, { viewOn: newCollection, pipeline: [] });
  for (const change of [
    { database, collection: view, newCollection: collection },
    { database, collection: newCollection, newCollection: view, dropTarget: true, confirmNewCollection: view },
  ]) {
    expect(await refusalOf(admin.renameCollection(change))).toMatchObject({
      code: "FailedPrecondition",
      reason: "COLLECTION_IS_VIEW",
      metadata: { collection: view },
    });
  }
});

test("documents are counted: all, about all, and by filters in extended JSON", async () => {
  const { admin, overHttp, database, db } = service;
  const collection = collectionName();
  const large = 2n ** 62n;
  await db.collection(collection).insertMany([{ n: 1 }, { n: large, at: new Date(5) }, { n: "x", at: new Date(9) }]);
  const count = async (filter: JsonObject) =>
    Number((await admin.countDocuments({ database, collection, filter })).count);
  expect((await overHttp.countDocuments({ database, collection })).count).toBe(3n);
  expect((await overHttp.countDocuments({ database, collection, estimated: true })).count).toBe(3n);
  expect(await count({})).toBe(3);
  expect(await count({ n: 1 })).toBe(1);
  expect(await count({ n: { $numberLong: String(large) } })).toBe(1);
  expect(await count({ n: { $numberLong: String(large + 1n) } })).toBe(0);
  expect(await count({ at: { $gte: { $date: "1970-01-01T00:00:00.006Z" } } })).toBe(1);
  expect(await count({ $or: [{ n: { $regex: "^X", $options: "i" } }, { n: { $lt: 2 } }] })).toBe(2);
  expect(await count({ $expr: { $eq: ["$n", 1] } })).toBe(1);
});

test("a collection is validated", async () => {
  const { admin, database, db } = service;
  const collection = collectionName();
  await db.collection(collection).insertMany([{ n: 1 }, { n: 2 }]);
  await db.collection(collection).createIndex({ n: 1 });
  for (const full of [false, true]) {
    expect(await admin.validateCollection({ database, collection, full })).toMatchObject({
      valid: true,
      documentCount: 2n,
      invalidDocumentCount: 0n,
      errorCount: 0n,
      indexes: [
        { index: "_id_", valid: true, keyCount: 2n },
        { index: "n_1", valid: true, keyCount: 2n },
      ],
    });
  }
  const view = collectionName();
  await db.createCollection(view, { viewOn: collection, pipeline: [] });
  expect(await refusalOf(admin.validateCollection({ database, collection: view }))).toMatchObject({
    code: "FailedPrecondition",
    reason: "COLLECTION_IS_VIEW",
  });
  for (const call of [
    () => admin.validateCollection({ database, collection: "none" }),
    () => admin.countDocuments({ database, collection: "none" }),
    () => admin.getCollection({ database, collection: "none" }),
  ]) {
    expect(await refusalOf(call())).toMatchObject({ code: "NotFound", reason: "COLLECTION_NOT_FOUND" });
  }
});

test("the collections of the domain are planned, made and found", async () => {
  await using fresh = await adminApp();
  const { admin, domain } = fresh;
  const names = storedMessages.map((schema) => collectionOf(schema).name);
  const statesOf = async (validateOnly: boolean, asked: string[] = []) => {
    const { collections } = await admin.ensureCollections({ validateOnly, collections: asked });
    return collections.map(({ collection, things }) => [
      collection,
      ...things.map(({ name, state }) => `${name} ${state}`),
    ]);
  };
  const all = (state: EnsuredState) => names.map((name) => [name, `validator ${state}`]);
  expect(await statesOf(true)).toEqual(all(EnsuredState.WAITING));
  expect(await domain.listCollections().toArray()).toEqual([]);
  await domain.createCollection("users", {});
  await domain.createCollection("wallets", { viewOn: "users", pipeline: [] });
  expect(await statesOf(false, ["users", "wallets"])).toEqual([
    ["users", `validator ${EnsuredState.CREATED}`],
    ["wallets", `validator ${EnsuredState.CONFLICTING}`],
  ]);
  await admin.dropCollection({ collection: "wallets", confirmCollection: "wallets" });
  await statesOf(false);
  for (const validateOnly of [true, false]) expect(await statesOf(validateOnly)).toEqual(all(EnsuredState.EXISTING));
  const [users] = await domain.listCollections({ name: "users" }, { nameOnly: false }).toArray();
  expect(users?.options?.["validator"]).toHaveProperty("$jsonSchema");
  expect(await refusalOf(admin.ensureCollections({ collections: ["users", "nothing"] }))).toMatchObject({
    code: "NotFound",
    reason: "COLLECTION_NOT_FOUND",
    metadata: { collection: "nothing" },
  });
});
