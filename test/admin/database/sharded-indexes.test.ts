import { type Document, Long } from "bson";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";

import { JobState } from "../../../gen/lucid/admin/v1/backup_service_pb.ts";
import { IndexKeyType } from "../../../gen/lucid/admin/v1/collection_index_pb.ts";
import { CollectionType } from "../../../gen/lucid/admin/v1/collection_pb.ts";
import type { WatchIndexBuildResponse } from "../../../gen/lucid/admin/v1/database_admin_service_pb.ts";
import { refusalOf } from "../../repository/support.ts";
import { patient } from "../../support/app.ts";
import { type ShardedApp, shardedApp, done } from "./cluster.ts";
import { adminApp, collectionName } from "./support.ts";

const { ASCENDING } = IndexKeyType;
const by = (field: string, type: IndexKeyType = ASCENDING) => ({ field, type });

let service: ShardedApp;
beforeAll(async () => {
  service = await shardedApp();
});
beforeEach(() => service.reset());
afterAll(() => service?.[Symbol.asyncDispose]());

/** Reads events until one satisfies `is`. */
async function eventWhere(
  buildId: string,
  is: (event: WatchIndexBuildResponse) => boolean,
): Promise<WatchIndexBuildResponse> {
  for await (const event of service.admin.watchIndexBuild({ buildId })) if (is(event)) return event;
  throw new Error("The watch ended");
}

const isOver = ({ state }: WatchIndexBuildResponse) => state !== JobState.PENDING && state !== JobState.RUNNING;

test("an index that takes long is built with progress as the shards tell it", async () => {
  const { admin, database, db } = service;
  const collection = collectionName();
  await db.collection(collection).insertOne({ n: 1 });
  const seen = Promise.withResolvers<undefined>();
  service.also = (command, name) => {
    if (name === "createIndexes" && command.$db === database) return seen.promise;
    if (!JSON.stringify(command["pipeline"] ?? "").includes("$currentOp")) return undefined;
    const operation = {
      type: "op",
      op: "command",
      ns: `${database}.${collection}`,
      command: { createIndexes: collection, indexes: [{ key: { n: 1 }, name: "n_1" }], $db: database },
    };
    const msg = "Index Build: scanning collection Index Build: scanning collection";
    const shard = (done_: number) => ({
      ...operation,
      msg: `${msg}: ${done_}/1000 ${done_ / 10}%`,
      progress: { done: done_, total: 1000 },
    });
    return done({ cursor: { id: Long.ZERO, ns: "admin.$cmd.aggregate", firstBatch: [shard(300), shard(700)] } });
  };
  const { build } = await admin.createIndex({ database, collection, definition: { keys: [by("n")] } });
  const buildId = build?.buildId ?? "";
  const event = await eventWhere(buildId, ({ progress }) => (progress?.totalCount ?? 0n) > 0n);
  expect(event.progress).toMatchObject({
    phase: "scanning collection",
    doneCount: 1000n,
    totalCount: 2000n,
    percent: 40,
  });
  seen.resolve(undefined);
  expect((await eventWhere(buildId, isOver)).state).toBe(JobState.SUCCEEDED);
  expect((await db.collection(collection).indexes()).map(({ name }) => name)).toEqual(["_id_", "n_1"]);
});

test("what shards say of a collection is told as a whole", async () => {
  const { admin, database, db } = service;
  const collection = collectionName();
  await db.createCollection(collection);
  service.also = (command, name) => {
    if (name !== "validate" || command.$db !== database) return undefined;
    const shard = (valid: boolean, nrecords: number) => ({
      ...{ ns: `${database}.${collection}`, valid, nrecords, nInvalidDocuments: valid ? 0 : 1, warnings: [] },
      ...{ errors: valid ? [] : ["something of a document"], keysPerIndex: { _id_: nrecords, n_1: nrecords } },
      indexDetails: { _id_: { valid: true }, n_1: { valid } },
    });
    return done({ raw: { shard01: shard(true, 3), shard02: shard(false, 4) }, valid: false });
  };
  expect(await admin.validateCollection({ database, collection })).toMatchObject({
    ...{ valid: false, documentCount: 7n, invalidDocumentCount: 1n, errorCount: 1n, warningCount: 0n },
    indexes: [
      { index: "_id_", valid: true, keyCount: 7n },
      { index: "n_1", valid: false, keyCount: 7n },
    ],
  });
});

test("an index that is listed without a collation is tried out as one that compares by bytes", async () => {
  const { admin, database, db } = service;
  const collection = collectionName();
  await db.createCollection(collection, { collation: { locale: "en", strength: 2 } });
  service.also = (command, name) => {
    if (name !== "listIndexes" || command.$db !== database) return undefined;
    const listed = { v: 2, key: { n: 1 }, name: "n_1" };
    return done({ cursor: { id: Long.ZERO, ns: `${database}.${collection}`, firstBatch: [listed] } });
  };
  const definition = { index: "n as people sort", keys: [by("n")] };
  const planned = await admin.createIndex({ database, collection, definition, validateOnly: true });
  expect(planned.index?.definition).toMatchObject(definition);
});

test.for([20, 166])("a time series that has to keep its name, by %i, is told before anything is done", async (code) => {
  const { admin, database, db } = service;
  const [collection, newCollection] = [collectionName(), collectionName()];
  await db.createCollection(collection, { timeseries: { timeField: "at" } });
  service.also = (_, name) => (name === "renameCollection" ? { ok: 0, code, errmsg: "cannot rename it" } : undefined);
  for (const validateOnly of [true, false]) {
    const renaming = admin.renameCollection({ database, collection, newCollection, validateOnly });
    expect(await refusalOf(renaming)).toMatchObject({
      ...{ code: "FailedPrecondition", reason: "MONGODB_FEATURE_MISSING", metadata: { collection } },
    });
  }
  // A server that stands still for a while does not remove what was tried the first time.
  let refused = 0;
  service.also = ({ drop }) => {
    if (!String(drop).startsWith("trial_") || String(drop).endsWith("-renamed") || ++refused > 2) return undefined;
    return { ok: 0, code: 50, codeName: "MaxTimeMSExpired", errmsg: "operation exceeded time limit" };
  };
  // Where the server would make a plain collection of it, it keeps its name as well.
  const renaming = admin.renameCollection({ database, collection, newCollection });
  const renamed = await renaming.then(
    (response) => response.collection?.type,
    async () => (await refusalOf(renaming)).reason,
  );
  expect(renamed).toBeOneOf([CollectionType.TIME_SERIES, "MONGODB_FEATURE_MISSING"]);
  expect(refused).toBeGreaterThan(2);
  const left = await service.system.listCollections({ name: /^trial_/ }, { nameOnly: true }).toArray();
  expect(left).toEqual([]);
});

test("the deadline of a call is that of the server, too", async () => {
  const { admin, database, db } = service;
  await db.collection("limited").insertOne({ n: 1 });
  const limited: Document[] = [];
  service.also = (command, name) => {
    if (command.$db === database && ["aggregate", "validate", "drop"].includes(name)) limited.push(command);
    return undefined;
  };
  const at = { database, collection: "limited" };
  const options = { timeoutMs: 150_000 };
  await admin.countDocuments({ ...at, filter: { n: 1 } }, options);
  await admin.validateCollection(at, options);
  await admin.dropCollection({ ...at, confirmCollection: "limited" }, options);
  expect(limited.map((command) => Object.keys(command)[0])).toEqual(["aggregate", "validate", "aggregate", "drop"]);
  for (const { maxTimeMS } of limited) {
    expect(maxTimeMS).toBeGreaterThan(0);
    expect(maxTimeMS).toBeLessThanOrEqual(150_000);
  }
});

test("a build goes on in another replica where its own stops, and nothing is given up", async () => {
  await using first = await adminApp({ LUCID_MONGODB_URI: patient(service.router.uri) });
  const { database, systemDatabase } = first.app.config.mongodb;
  const names = { LUCID_MONGODB_DATABASE: database, LUCID_MONGODB_SYSTEM_DATABASE: systemDatabase };
  const begun = Promise.withResolvers<void>();
  service.also = (command, name) => {
    if (command.$db !== database || name !== "createIndexes" || command["createIndexes"] !== "moved") return undefined;
    begun.resolve();
    return new Promise(() => {});
  };
  await first.domain.collection("moved").insertOne({ n: 1 });
  const made = await first.admin.createIndex({ collection: "moved", definition: { keys: [by("n")] } });
  await begun.promise;
  await using second = await adminApp(names);
  const draining = first.app.drain(0);
  const events = await Array.fromAsync(second.admin.watchIndexBuild({ buildId: made.build?.buildId ?? "" }));
  expect(events.at(-1)?.state).toBe(JobState.SUCCEEDED);
  await draining;
  expect(service.sentBy("dropIndexes").filter(({ dropIndexes }) => dropIndexes === "moved")).toEqual([]);
  expect((await first.domain.collection("moved").indexes()).map(({ name }) => name)).toEqual(["_id_", "n_1"]);
});

test("a build that somebody stops says so, and makes no collection that was dropped", async () => {
  await using busy = await adminApp({ LUCID_MONGODB_URI: patient(service.router.uri), LUCID_JOB_CONCURRENCY: "1" });
  const { admin, database, db } = busy;
  const [begun, dropped] = [Promise.withResolvers<void>(), Promise.withResolvers<Document>()];
  service.also = (command, name) => {
    if (command.$db !== database || name !== "createIndexes") return undefined;
    begun.resolve();
    return dropped.promise;
  };
  await db.collection("gone").insertOne({ n: 1 });
  const definitions = [{ keys: [by("n")] }, { keys: [by("m")] }];
  const buildIds = [];
  for (const definition of definitions) {
    const { build } = await admin.createIndex({ database, collection: "gone", definition });
    buildIds.push(build?.buildId ?? "");
  }
  await begun.promise;
  await admin.dropCollection({ database, collection: "gone", confirmCollection: "gone" });
  dropped.resolve({ ok: 0, errmsg: "collection dropped", code: 276, codeName: "IndexBuildAborted" });
  const reasons = [];
  for (const buildId of buildIds) {
    const last = (await Array.fromAsync(admin.watchIndexBuild({ buildId }))).at(-1);
    reasons.push([last?.state, last?.error?.reason]);
  }
  expect(reasons).toEqual([
    [JobState.FAILED, "INDEX_BUILD_STOPPED"],
    [JobState.FAILED, "COLLECTION_NOT_FOUND"],
  ]);
  expect(await db.listCollections({ name: "gone" }).toArray()).toEqual([]);
});

test("an index that is being built is given up where its job is cancelled", async () => {
  const { admin, database, db } = service;
  const collection = collectionName();
  await db.collection(collection).insertOne({ n: 1 });
  const [begun, ended] = [Promise.withResolvers<void>(), Promise.withResolvers<Document>()];
  service.also = (command, name) => {
    if (command.$db !== database) return undefined;
    if (name === "createIndexes") {
      begun.resolve();
      return ended.promise;
    }
    if (name !== "dropIndexes") return undefined;
    ended.resolve({ ok: 0, errmsg: "Index build failed", code: 276, codeName: "IndexBuildAborted" });
    return done({ nIndexesWas: 1 });
  };
  const { build } = await admin.createIndex({ database, collection, definition: { keys: [by("n")] } });
  const buildId = build?.buildId ?? "";
  await begun.promise;
  await admin.cancelIndexBuild({ buildId });
  expect((await eventWhere(buildId, (event) => isOver(event) && event.state !== JobState.CANCELLING)).state).toBe(
    JobState.CANCELLED,
  );
  expect(service.sentBy("dropIndexes")).toEqual([{ dropIndexes: collection, index: "n_1" }]);
});

test("a collection is indexed anew where the server has that, and only there", async () => {
  const { admin, database, db } = service;
  const collection = collectionName();
  await db.collection(collection).insertOne({ n: 1 });
  const request = { database, collection, confirmCollection: collection };
  service.also = (_, name) => {
    const errmsg = "reIndex is only allowed on a standalone mongod instance.";
    return name === "reIndex" ? { ok: 0, errmsg, code: 20, codeName: "IllegalOperation" } : undefined;
  };
  expect(await refusalOf(admin.reindexCollection(request))).toMatchObject({
    code: "FailedPrecondition",
    reason: "MONGODB_FEATURE_MISSING",
    metadata: { database, collection, server_code: "20" },
  });
  service.also = (_, name) => (name === "reIndex" ? done({ nIndexesWas: 1, nIndexes: 1, indexes: [] }) : undefined);
  expect((await admin.reindexCollection({ ...request, validateOnly: true })).build).toBeUndefined();
  const { build } = await admin.reindexCollection(request);
  const buildId = build?.buildId ?? "";
  expect((await eventWhere(buildId, isOver)).state).toBe(JobState.SUCCEEDED);
  expect(service.sentBy("reIndex").at(-1)).toEqual({ reIndex: collection });
  expect(await service.recordsOf("ReindexCollection")).toContain(`IndexBuild ${buildId} OK`);
});

test("an index is hidden and shown where the server does what it says", async () => {
  const { admin, database, db } = service;
  const collection = collectionName();
  await db.collection(collection).createIndex({ n: 1 });
  let hidden = false;
  service.also = (command, name) => {
    if (command.$db !== database) return undefined;
    if (name === "collMod") {
      const before = hidden;
      hidden = (command["index"] as { hidden: boolean }).hidden;
      return done({ hidden_old: before, hidden_new: hidden });
    }
    if (name !== "listIndexes") return undefined;
    const listed = [
      { v: 2, key: { _id: 1 }, name: "_id_" },
      { v: 2, key: { n: 1 }, name: "n_1", ...(hidden && { hidden }) },
    ];
    return done({ cursor: { id: Long.ZERO, ns: `${database}.${collection}`, firstBatch: listed } });
  };
  for (const wanted of [true, true, false]) {
    const { index } = await admin.updateIndex({ database, collection, index: "n_1", hidden: wanted });
    expect(index?.definition?.hidden).toBe(wanted);
  }
  expect(service.sentBy("collMod").at(-1)).toEqual({ collMod: collection, index: { name: "n_1", hidden: false } });
  expect(await service.recordsOf("UpdateIndex")).toContain(`CollectionIndex ${database}.${collection}/n_1 OK`);
});
