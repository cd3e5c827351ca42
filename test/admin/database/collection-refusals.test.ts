import type { JsonObject } from "@bufbuild/protobuf";
import { afterAll, beforeAll, expect, test } from "vitest";

import { IndexKeyType } from "../../../gen/lucid/admin/v1/collection_index_pb.ts";
import { ValidationLevel } from "../../../gen/lucid/admin/v1/collection_pb.ts";
import { DatabaseAdminService } from "../../../gen/lucid/admin/v1/database_admin_service_pb.ts";
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
