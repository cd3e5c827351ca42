import type { JsonObject } from "@bufbuild/protobuf";
import { afterAll, beforeAll, expect, test } from "vitest";

import { IndexKeyType } from "../../../gen/lucid/admin/v1/collection_index_pb.ts";
import {
  CollectionType,
  TimeSeriesGranularity,
  ValidationAction,
  ValidationLevel,
} from "../../../gen/lucid/admin/v1/collection_pb.ts";
import { DatabaseAdminService } from "../../../gen/lucid/admin/v1/database_admin_service_pb.ts";
import { EnsuredState } from "../../../gen/lucid/admin/v1/monitoring_service_pb.ts";
import { storedMessages } from "../../../src/repository/collections.ts";
import { collectionOf } from "../../../src/schema/collection.ts";
import { refusalOf } from "../../repository/support.ts";
import { testApp } from "../../support/app.ts";
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

/** A filter that is nested so deep. */
function nested(levels: number): JsonObject {
  let filter: JsonObject = { n: 1 };
  for (let level = 2; level < levels; level += 2) filter = { $and: [filter] };
  return filter;
}

test.for<[string, JsonObject]>([
  ["$where", { $where: "sleep(1000)" }],
  ["code in $where", { $where: { $code: "sleep(1000)" } }],
  ["$where within", { $or: [{ n: 1 }, { $nor: [{ $where: "1" }] }] }],
  ["$function", { $expr: { $function: { body: "function() {}", args: [], lang: "js" } } }],
  ["$accumulator", { $expr: { $accumulator: {} } }],
  ["code as a value", { n: { $code: "1", $scope: {} } }],
  ["too deep", nested(40)],
  ["too large", { n: { $in: ["x".repeat(70_000)] } }],
  ["no id", { _id: { $oid: "nothing" } }],
  ["no number", { n: { $numberDecimal: "nothing" } }],
  ["a value alone", { $oid: "0123456789abcdef01234567" }],
])("a filter with %s is refused before the server sees it", async ([, filter]) => {
  const { admin, database, db } = service;
  await db.collection("filtered").updateOne({ _id: 1 as never }, { $set: { n: 1 } }, { upsert: true });
  const call = () => admin.countDocuments({ database, collection: "filtered", filter });
  expect(await refusalOf(call())).toMatchObject({ code: "InvalidArgument", reason: "BAD_REQUEST", fields: ["filter"] });
  const create = () => admin.createCollection({ database, collection: "new", validator: { ...filter } });
  if (JSON.stringify(filter).length < 70_000) {
    expect(await refusalOf(create())).toMatchObject({ reason: "BAD_REQUEST", fields: ["validator"] });
  }
});

test("what only the server knows to be wrong is told without its words", async () => {
  const { admin, database, db } = service;
  const collection = collectionName();
  await db.collection(collection).insertOne({ n: "a secret" });
  for (const filter of [{ n: { $nothing: "a secret" } }, { $nothing: 1 }, { n: { $regex: "(" } }]) {
    expect(await refusalOf(admin.countDocuments({ database, collection, filter }))).toMatchObject({
      code: "InvalidArgument",
      reason: "COLLECTION_FILTER_INVALID",
      metadata: { store: "mongodb", database, collection, server_code: expect.stringMatching(/^\d+$/) as string },
    });
  }
  for (const validateOnly of [true, false]) {
    const wrong = { database, collection: collectionName(), validator: { $nothing: 1 }, validateOnly };
    expect(await refusalOf(admin.createCollection(wrong))).toMatchObject({
      code: "InvalidArgument",
      reason: "COLLECTION_DEFINITION_INVALID",
      metadata: { collection: wrong.collection },
    });
  }
});

test("what is only validated leaves nothing behind", async () => {
  const { admin, database, db, system } = service;
  const collection = collectionName();
  // What a process that died has left.
  const left = "trial_00000000-0000-7000-8000-000000000000";
  await system.createCollection(left);
  const made = await admin.createCollection({ database, collection, validator: { n: 1 }, validateOnly: true });
  expect(made.collection).toBeUndefined();
  expect(await db.listCollections({ name: collection }).toArray()).toEqual([]);
  const trials = await system.listCollections({}, { nameOnly: true }).toArray();
  expect(trials.filter(({ name }) => name.startsWith("trial_"))).toEqual([]);
});

test("options that exclude each other are refused", async () => {
  const { admin, database } = service;
  const collection = "excluded";
  const timeSeries = { timeField: "at" };
  for (const [request, fields] of [
    [{ timeSeries, capped: { maxBytes: 4096n } }, ["capped"]],
    [{ timeSeries, validator: { n: 1 }, validationLevel: ValidationLevel.OFF }, ["validator", "validation_level"]],
    [{ expireAfterSeconds: 1n }, ["expire_after_seconds"]],
    [{ timeSeries: { timeField: "$at" } }, ["time_series.time_field"]],
    [{ timeSeries: { timeField: "a.b", metaField: "\0" } }, ["time_series.time_field", "time_series.meta_field"]],
  ] as const) {
    const call = () => admin.createCollection({ database, collection, ...request });
    expect(await refusalOf(call())).toMatchObject({ reason: "BAD_REQUEST", fields });
  }
  await service.db.collection(collection).insertOne({});
  for (const [call, field] of [
    [() => admin.countDocuments({ database, collection, estimated: true, filter: { n: 1 } }), "estimated"],
    [() => admin.validateCollection({ database, collection, full: true, background: true }), "background"],
  ] as const) {
    expect(await refusalOf(call())).toMatchObject({ reason: "BAD_REQUEST", fields: [field] });
  }
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

test("what the service itself needs cannot be reached", async () => {
  const { admin, app, system, domain } = service;
  const { systemDatabase } = app.config.mongodb;
  await system.collection("jobs").insertOne({ _id: "probe" as never });
  for (const database of ["admin", "config", "local", "LOCAL", systemDatabase, systemDatabase.toUpperCase()]) {
    const names = { database, collection: "jobs" };
    for (const call of [
      () => admin.listCollections({ database }),
      () => admin.getCollection(names),
      () => admin.createCollection(names),
      () => admin.dropCollection({ ...names, confirmCollection: "jobs" }),
      () => admin.renameCollection({ ...names, newCollection: "other" }),
      () => admin.countDocuments(names),
      () => admin.validateCollection(names),
    ]) {
      expect(await refusalOf(call())).toMatchObject({
        code: "FailedPrecondition",
        reason: "DATABASE_PROTECTED",
        metadata: { database },
      });
    }
  }
  expect(await system.collection("jobs").countDocuments({ _id: "probe" as never })).toBe(1);

  await admin.ensureCollections({ collections: ["users"] });
  await domain.collection("mine").insertOne({});
  for (const database of ["", app.config.mongodb.database]) {
    for (const call of [
      () => admin.createCollection({ database, collection: "wallets" }),
      () => admin.dropCollection({ database, collection: "users", confirmCollection: "users" }),
      () => admin.dropCollection({ database, collection: "users", validateOnly: true }),
      () => admin.renameCollection({ database, collection: "users", newCollection: "other" }),
      () =>
        admin.renameCollection({
          database,
          collection: "mine",
          newCollection: "users",
          dropTarget: true,
          confirmNewCollection: "users",
        }),
    ]) {
      expect(await refusalOf(call())).toMatchObject({ code: "FailedPrecondition", reason: "COLLECTION_PROTECTED" });
    }
  }
  const { collections } = await admin.listCollections({});
  expect(collections.find(({ collection }) => collection === "users")?.protected).toBe(true);
  expect(collections.find(({ collection }) => collection === "mine")?.protected).toBe(false);
  // A name of the domain's is free elsewhere.
  const { database } = service;
  await admin.createCollection({ database, collection: "users" });
  await admin.dropCollection({ database, collection: "users", confirmCollection: "users" });
});

test("counts tell nothing of secrets", async () => {
  const { admin } = service;
  await admin.ensureCollections({});
  const secretive = ["authentication", "encryption_keys", "api_keys", "auth_tokens", "wallet_secrets"];
  const names = storedMessages.map((schema) => collectionOf(schema).name);
  for (const collection of secretive.filter((name) => names.includes(name))) {
    const call = () => admin.countDocuments({ collection, filter: { password_hash: { $regex: "^a" } } });
    expect(await refusalOf(call()), collection).toMatchObject({
      code: "FailedPrecondition",
      reason: "COLLECTION_PROTECTED",
    });
    expect((await admin.countDocuments({ collection })).count).toBe(0n);
  }
  // What a restore has put elsewhere is as secret.
  await service.db.collection("authentication").insertOne({ password_hash: "abc" });
  const copy = { database: service.database, collection: "authentication" };
  expect(await refusalOf(admin.countDocuments({ ...copy, filter: { password_hash: "abc" } }))).toMatchObject({
    reason: "COLLECTION_PROTECTED",
  });
  expect(await refusalOf(admin.renameCollection({ ...copy, newCollection: "other" }))).toMatchObject({
    reason: "COLLECTION_PROTECTED",
  });
  expect((await admin.countDocuments(copy)).count).toBe(1n);
  expect((await admin.countDocuments({ collection: "users", filter: { username: "x" } })).count).toBe(0n);
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

/** Names that no server takes, or that lead elsewhere. */
const hostile = ["", "$cmd", "a$b", "a\0b", ".a", "system.users", "system.views", "x".repeat(254), "é".repeat(127)];

test.for(hostile)("a collection cannot be called %j", async (collection) => {
  const { admin, overHttp, database } = service;
  for (const client of [admin, overHttp]) {
    for (const call of [
      () => client.getCollection({ database, collection }),
      () => client.createCollection({ database, collection }),
      () => client.dropCollection({ database, collection, confirmCollection: collection.slice(0, 100) }),
      () => client.countDocuments({ database, collection }),
      () => client.validateCollection({ database, collection }),
    ]) {
      expect(await refusalOf(call())).toMatchObject({ reason: "BAD_REQUEST", fields: ["collection"] });
    }
    const rename = client.renameCollection({ database, collection: "a", newCollection: collection });
    expect(await refusalOf(rename)).toMatchObject({ reason: "BAD_REQUEST", fields: ["new_collection"] });
  }
});

test("a name that is too long with its database is refused, and a strange one is only a name", async () => {
  const { admin, database, db } = service;
  const long = "x".repeat(255 - database.length);
  expect(await refusalOf(admin.getCollection({ database, collection: long }))).toMatchObject({
    reason: "BAD_REQUEST",
    fields: ["collection"],
  });
  for (const collection of ["*", "a/../../etc", "__proto__", "\u202E\u0001\r\n", '{"gt":""}', "a..b "]) {
    await admin.createCollection({ database, collection });
    expect((await admin.getCollection({ database, collection })).collection?.collection).toBe(collection);
    expect(await db.listCollections({ name: collection }).toArray()).toHaveLength(1);
    await admin.dropCollection({ database, collection, confirmCollection: collection });
  }
});

test.for(["a.b", "a/b", "a b", "$a", "\0", "x".repeat(64), "é".repeat(32), 'a"b', "a*"])(
  "a database cannot be called %j",
  async (database) => {
    const { admin } = service;
    for (const call of [
      () => admin.listCollections({ database }),
      () => admin.createCollection({ database, collection: "a" }),
      () => admin.dropCollection({ database, collection: "a", confirmCollection: "a" }),
    ]) {
      expect(await refusalOf(call())).toMatchObject({ reason: "BAD_REQUEST", fields: ["database"] });
    }
  },
);

test("a MongoDB that is away is told to be", async () => {
  await using away = await testApp({ LUCID_MONGODB_URI: "mongodb://127.0.0.1:9/?directConnection=true" });
  const admin = away.client(DatabaseAdminService);
  const at = { database: "any", collection: "any" };
  const definition = { keys: [{ field: "a", type: IndexKeyType.ASCENDING }] };
  const calls = [
    admin.listCollections({}),
    admin.getCollection(at),
    admin.createCollection(at),
    admin.dropCollection({ ...at, confirmCollection: "any" }),
    admin.renameCollection({ ...at, newCollection: "other" }),
    admin.countDocuments({ ...at, estimated: true }),
    admin.validateCollection(at),
    admin.ensureCollections({ validateOnly: true }),
    admin.ensureIndexes({ validateOnly: true }),
    admin.listIndexes(at),
    admin.createIndex({ ...at, definition }),
    admin.updateIndex({ ...at, index: "a_1", hidden: true }),
    admin.dropIndex({ ...at, index: "a_1", confirmIndex: "a_1" }),
    admin.getIndexStatistics(at),
    admin.getShardingStatus({}),
    admin.stopBalancer({}),
  ];
  for (const refusal of await Promise.all(calls.map(refusalOf))) {
    expect(refusal).toMatchObject({ code: "Unavailable", reason: "STORE_UNAVAILABLE", metadata: { store: "mongodb" } });
  }
});
