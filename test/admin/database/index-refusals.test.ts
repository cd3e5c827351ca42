import { afterAll, beforeAll, expect, test } from "vitest";

import { JobState } from "../../../gen/lucid/admin/v1/backup_service_pb.ts";
import { IndexKeyType } from "../../../gen/lucid/admin/v1/collection_index_pb.ts";
import { refusalOf } from "../../repository/support.ts";
import { build, by, type Definition, eventsOf, indexesOf, newCollection } from "./index-support.ts";
import { type AdminApp, adminApp, collectionName } from "./support.ts";

let service: AdminApp;
beforeAll(async () => {
  service = await adminApp();
});
afterAll(() => service[Symbol.asyncDispose]());

const { DESCENDING, TEXT } = IndexKeyType;

test("an index that another one excludes is a conflict that is named, before anything is done", async () => {
  const { admin, database, db } = service;
  const collection = await newCollection(service);
  await db.collection(collection).createIndex({ n: 1 }, { name: "first" });
  for (const definition of [
    { index: "first", keys: [by("other")] },
    { index: "first", keys: [by("n")], unique: true },
    { index: "second", keys: [by("n")] },
  ]) {
    for (const validateOnly of [true, false]) {
      expect(await refusalOf(admin.createIndex({ database, collection, definition, validateOnly }))).toMatchObject({
        code: "FailedPrecondition",
        reason: "INDEX_CONFLICT",
        metadata: { database, collection, index: definition.index },
      });
    }
  }
  expect(await indexesOf(service, collection)).toEqual(["_id_", "first"]);
  const { builds } = await admin.listIndexBuilds({ pageSize: 1 });
  expect(builds.filter((each) => each.collection === collection)).toEqual([]);
});

test("documents that do not let an index be unique end its build, and are not told", async () => {
  const collection = await newCollection(service, [{ n: "a secret" }, { n: "a secret" }]);
  const last = await build(service, collection, { keys: [by("n")], unique: true });
  expect(last).toMatchObject({ state: JobState.FAILED, error: { reason: "INDEX_DUPLICATE_VALUES" } });
  expect(JSON.stringify(last?.error)).not.toContain("a secret");
  expect(await indexesOf(service, collection)).toEqual(["_id_"]);
});

test("what the service itself needs of indexes stays as it is", async () => {
  const { admin, domain, app } = service;
  await admin.ensureCollections({ collections: ["users", "authentication"] });
  const made = await admin.ensureIndexes({ collections: ["users"] });
  if (made.build !== undefined) await eventsOf(service, made.build.buildId);
  const names = { collection: "users", index: "email_1" };
  const { indexes } = await admin.listIndexes({ collection: "users" });
  expect(indexes.filter((each) => !each.protected)).toEqual([]);
  const protectedIndex = [
    () => admin.dropIndex({ ...names, confirmIndex: "email_1" }),
    () => admin.dropIndex({ ...names, validateOnly: true }),
    () => admin.updateIndex({ ...names, hidden: true }),
    () => admin.createIndex({ collection: "users", definition: { index: "email_1", keys: [by("x")] } }),
    () => admin.createIndex({ collection: "users", definition: { index: "mine", keys: [by("email")] } }),
  ];
  for (const call of protectedIndex) {
    expect(await refusalOf(call())).toMatchObject({ code: "FailedPrecondition", reason: "INDEX_PROTECTED" });
  }
  const harmful = [
    () => admin.createIndex({ collection: "users", definition: { keys: [by("status")], unique: true } }),
    () => admin.createIndex({ collection: "users", definition: { keys: [by("x")], expireAfterSeconds: 1 } }),
    () =>
      admin.createIndex({
        collection: "authentication",
        definition: { keys: [by("x")], partialFilter: { password_hash: { $gt: "m" } } },
      }),
  ];
  for (const call of harmful) {
    expect(await refusalOf(call())).toMatchObject({ code: "FailedPrecondition", reason: "COLLECTION_PROTECTED" });
  }
  // One more that harms nothing is theirs.
  const mine = await admin.createIndex({ collection: "users", definition: { keys: [by("profile.city")] } });
  await eventsOf(service, mine.build?.buildId ?? "");
  await admin.dropIndex({ collection: "users", index: "profile.city_1", confirmIndex: "profile.city_1" });
  expect((await domain.collection("users").indexes()).length).toBe(indexes.length);
  const { systemDatabase } = app.config.mongodb;
  for (const database of ["admin", "local", systemDatabase]) {
    const at = { database, collection: "jobs" };
    for (const call of [
      () => admin.listIndexes(at),
      () => admin.createIndex({ ...at, definition: { keys: [by("x")] } }),
      () => admin.dropIndex({ ...at, index: "x_1", confirmIndex: "x_1" }),
      () => admin.updateIndex({ ...at, index: "x_1", hidden: true }),
      () => admin.getIndexStatistics(at),
      () => admin.reindexCollection({ ...at, confirmCollection: "jobs" }),
    ]) {
      expect(await refusalOf(call())).toMatchObject({ reason: "DATABASE_PROTECTED" });
    }
  }
});

test.for<[string, Definition, string]>([
  ["no key", { keys: [] }, "definition.keys"],
  ["too many keys", { keys: Array.from({ length: 33 }, (_, n) => by(`f${n}`)) }, "definition.keys"],
  ["a field twice", { keys: [by("a"), by("a", DESCENDING)] }, "definition.keys"],
  ["a field without a name", { keys: [by("")] }, "definition.keys[0].field"],
  ["a NUL in a field", { keys: [by("a\0")] }, "definition.keys[0].field"],
  ["an unknown kind", { keys: [by("a", 99 as IndexKeyType)] }, "definition.keys[0].type"],
  ["the name of the index on _id", { index: "_id_", keys: [by("a")] }, "definition.index"],
  ["the name that stands for all", { index: "*", keys: [by("a")] }, "definition.index"],
  ["sparse and partial", { keys: [by("a")], sparse: true, partialFilter: { a: 1 } }, "definition.sparse"],
  ["two keys that expire", { keys: [by("a"), by("b")], expireAfterSeconds: 1 }, "definition.expire_after_seconds"],
  ["words that expire", { keys: [by("a", TEXT)], expireAfterSeconds: 1 }, "definition.expire_after_seconds"],
  ["a time before now", { keys: [by("a")], expireAfterSeconds: -1 }, "definition.expire_after_seconds"],
  ["JavaScript", { keys: [by("a")], partialFilter: { $where: "1" } }, "definition.partial_filter"],
  ["a strange language", { keys: [by("a")], collation: { locale: "../x" } }, "definition.collation.locale"],
])("an index with %s is refused", async ([, definition, field]) => {
  const { admin, overHttp, database } = service;
  const collection = "refused";
  await service.db.collection(collection).updateOne({}, { $set: { a: 1 } }, { upsert: true });
  for (const client of [admin, overHttp]) {
    const call = client.createIndex({ database, collection, definition });
    expect(await refusalOf(call)).toMatchObject({ code: "InvalidArgument", reason: "BAD_REQUEST", fields: [field] });
  }
  expect(await indexesOf(service, collection)).toEqual(["_id_"]);
});

test("a definition that only the server knows to be wrong is told without its words", async () => {
  const { admin, database } = service;
  const collection = await newCollection(service);
  const filter = { keys: [by("a")], partialFilter: { a: { $nothing: "a secret" } } };
  const refusal = await refusalOf(admin.createIndex({ database, collection, definition: filter }));
  expect(["INDEX_DEFINITION_INVALID", "INDEX_NOT_POSSIBLE"]).toContain(refusal.reason);
  expect(JSON.stringify(refusal)).not.toContain("secret");
});

test("a view has no indexes, and what is not there has none either", async () => {
  const { admin, database, db } = service;
  const view = collectionName();
  await db.createCollection(view, { viewOn: "any", pipeline: [] });
  for (const [collection, reason] of [
    [view, "COLLECTION_IS_VIEW"],
    ["none", "COLLECTION_NOT_FOUND"],
  ] as const) {
    const at = { database, collection };
    for (const call of [
      () => admin.listIndexes(at),
      () => admin.getIndex({ ...at, index: "_id_" }),
      () => admin.createIndex({ ...at, definition: { keys: [by("a")] } }),
      () => admin.createIndex({ ...at, definition: { keys: [by("a")] }, validateOnly: true }),
      () => admin.updateIndex({ ...at, index: "a_1", hidden: true }),
      () => admin.dropIndex({ ...at, index: "a_1", confirmIndex: "a_1" }),
      () => admin.getIndexStatistics(at),
      () => admin.reindexCollection({ ...at, confirmCollection: collection }),
    ]) {
      expect(await refusalOf(call())).toMatchObject({ reason });
    }
  }
});
