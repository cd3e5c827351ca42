import type { Client } from "@connectrpc/connect";
import { type Document, Long, Timestamp } from "bson";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";

import { JobState } from "../../../gen/lucid/admin/v1/backup_service_pb.ts";
import { IndexKeyType } from "../../../gen/lucid/admin/v1/collection_index_pb.ts";
import {
  DatabaseAdminService,
  type WatchIndexBuildResponse,
} from "../../../gen/lucid/admin/v1/database_admin_service_pb.ts";
import { AuditLogService } from "../../../gen/lucid/repository/v1/audit_log_service_pb.ts";
import { refusalOf } from "../../repository/support.ts";
import { storeAddresses } from "../../support/stores.ts";
import { type Command, openRouter, type Router } from "./router.ts";
import { type AdminApp, adminApp, collectionName } from "./support.ts";

const { ASCENDING, DESCENDING, HASHED, TEXT } = IndexKeyType;
const by = (field: string, type: IndexKeyType = ASCENDING) => ({ field, type });

/** What of a request says how a collection is spread. */
interface ShardKey {
  readonly key: ReturnType<typeof by>[];
  readonly unique?: boolean;
  readonly initialChunkCount?: number;
}

type Admin = Client<typeof DatabaseAdminService>;

test("a MongoDB that is not sharded says so", async () => {
  await using service = await adminApp();
  const { admin, overHttp, database, db } = service;
  await db.createCollection("a");
  const request = { database, collection: "a", key: [by("n")] };
  const calls: ((client: Admin) => Promise<unknown>)[] = [
    (client) => client.getShardingStatus({}),
    (client) => client.enableSharding({ database }),
    (client) => client.enableSharding({ database, validateOnly: true }),
    (client) => client.shardCollection(request),
    (client) => client.shardCollection({ ...request, validateOnly: true }),
    (client) => client.getBalancerStatus({}),
    (client) => client.startBalancer({}),
    (client) => client.stopBalancer({}),
    (client) => client.stopBalancer({ validateOnly: true }),
  ];
  for (const client of [admin, overHttp]) {
    for (const call of calls) {
      expect(await refusalOf(call(client))).toMatchObject({
        code: "FailedPrecondition",
        reason: "MONGODB_NOT_SHARDED",
      });
    }
  }
});

/** What a cluster of two shards answers, in the shapes of MongoDB's manual. */
class Cluster {
  balancer = "full";
  readonly databases: Document[] = [
    { _id: "admin", primary: "config", partitioned: true },
    { _id: "shop", primary: "shard01", partitioned: false, version: { lastMod: 1 } },
  ];
  readonly collections: Document[] = [
    { _id: "config.system.sessions", key: { _id: 1 }, unique: false, noBalance: false },
    { _id: "shop.orders", key: { customer: 1, _id: 1 }, unique: false, noBalance: true, lastmod: new Date(0) },
    { _id: "shop.pinned", key: { _id: 1 }, unique: false, unsplittable: true },
    { _id: "shop.gone", dropped: true, lastmod: new Date(0) },
  ];

  answer(command: Command, name: string): Document | undefined {
    const { $db } = command;
    if ($db === "config") return this.#config(command, name);
    if ($db !== "admin") return undefined;
    switch (name) {
      case "serverStatus":
        if (command["sharding"] !== 1) return undefined;
        return done({ sharding: { configsvrConnectionString: "csrs/cfg1:27019,cfg2:27019", maxChunkSizeInBytes: 1 } });
      case "listShards":
        return done({
          shards: [
            { _id: "shard02", host: "shard02/mongo3:27018", state: 1, draining: true, topologyTime: new Timestamp(1n) },
            { _id: "shard01", host: "shard01/mongo1:27018,mongo2:27018", state: 1, tags: ["EU", "hot"] },
          ],
        });
      case "balancerStatus":
        return done({ mode: this.balancer, inBalancerRound: false, numBalancerRounds: Long.fromNumber(1143) });
      case "balancerStart":
      case "balancerStop":
        this.balancer = name === "balancerStart" ? "full" : "off";
        return done({});
      case "enableSharding":
        this.databases.push({ _id: command["enableSharding"], primary: "shard02" });
        return done({});
      case "shardCollection":
        return this.#shard(command);
      default:
        return undefined;
    }
  }

  #shard({ shardCollection: _id, key, unique }: Command): Document {
    // In the words of a server; `wrong` are fields that no index begins with.
    if ("wrong" in (key as object)) {
      const errmsg = "Please create an index that starts with the proposed shard key before sharding the collection. ";
      return { ok: 0, errmsg, code: 72, codeName: "InvalidOptions" };
    }
    if ("taken" in (key as object)) {
      const errmsg = `sharding already enabled for collection ${String(_id)} with options { a secret }`;
      return { ok: 0, errmsg, code: 23, codeName: "AlreadyInitialized" };
    }
    this.collections.push({ _id, key, unique: unique === true, noBalance: false });
    return done({ collectionsharded: _id });
  }

  #config({ find, filter, limit }: Command, name: string): Document | undefined {
    if (name !== "find") return undefined;
    const all = find === "databases" ? this.databases : this.collections;
    const { _id, dropped } = filter as Document;
    const range = (_id ?? {}) as { $gte?: string; $lt?: string };
    const found = all
      .filter((each) => _id === undefined || each["_id"] === _id || isWithin(String(each["_id"]), range))
      .filter((each) => dropped === undefined || (each["dropped"] !== true && each["key"] !== undefined))
      .toSorted((one, other) => (String(one["_id"]) < String(other["_id"]) ? -1 : 1));
    return done({ cursor: { id: Long.ZERO, ns: `config.${String(find)}`, firstBatch: found.slice(0, Number(limit)) } });
  }
}

function isWithin(id: string, { $gte, $lt }: { $gte?: string; $lt?: string }): boolean {
  return $gte !== undefined && $lt !== undefined && id >= $gte && id < $lt;
}

function done(reply: Document): Document {
  return { ...reply, ok: 1, $clusterTime: { clusterTime: new Timestamp(1n) } };
}

describe("a sharded cluster", () => {
  let router: Router;
  let cluster: Cluster;
  let service: AdminApp;
  /** What else the router answers in a test. */
  let also: (command: Command, name: string) => Document | undefined | Promise<Document | undefined>;
  beforeAll(async () => {
    router = await openRouter(storeAddresses().mongodbUri, async (command, name) => {
      return (await also(command, name)) ?? cluster.answer(command, name);
    });
    cluster = new Cluster();
    also = () => undefined;
    service = await adminApp({ LUCID_MONGODB_URI: router.uri });
  });
  beforeEach(() => {
    cluster = new Cluster();
    also = () => undefined;
  });
  afterAll(async () => {
    await service[Symbol.asyncDispose]();
    await router[Symbol.asyncDispose]();
  });

  /** Commands of a name, without what every command has. */
  function sentBy(name: string): Document[] {
    const common = /^(?:lsid|\$|maxTimeMS|txnNumber|readPreference)/;
    return router.commands
      .filter((command) => Object.keys(command)[0] === name)
      .map((command) => Object.fromEntries(Object.entries(command).filter(([key]) => !common.test(key))));
  }

  /** What the audit log says of an rpc, the newest first. */
  async function recordsOf(rpc: string): Promise<string[]> {
    const audit = service.app.client(AuditLogService);
    const filter = { rpc: `${DatabaseAdminService.typeName}/${rpc}` };
    const { records } = await audit.listAuditRecords({ filter });
    return records.map(({ resource, outcome }) => `${resource?.type} ${resource?.name} ${outcome}`);
  }

  test("its shards, databases and collections are told", async () => {
    const { admin, overHttp } = service;
    const { status } = await admin.getShardingStatus({});
    expect(status).toMatchObject({
      configServers: "csrs/cfg1:27019,cfg2:27019",
      shards: [
        {
          shard: "shard01",
          hosts: "shard01/mongo1:27018,mongo2:27018",
          active: true,
          draining: false,
          zones: ["EU", "hot"],
        },
        { shard: "shard02", active: true, draining: true, zones: [] },
      ],
      databases: [
        {
          database: "shop",
          primaryShard: "shard01",
          collections: [{ collection: "orders", key: [by("customer"), by("_id")], unique: false, balanced: false }],
        },
      ],
      truncated: false,
      balancer: { enabled: true, balancing: false, roundCount: 1143n },
    });
    expect((await overHttp.getShardingStatus({})).status).toEqual(status);
  });

  test("databases and collections are sharded once, and nothing is sent where it is only validated", async () => {
    const { admin, database, db } = service;
    const collection = collectionName();
    await db.createCollection(collection);
    const path = `${database}.${collection}`;
    const before = router.commands.length;
    expect((await admin.enableSharding({ database, validateOnly: true })).database).toBeUndefined();
    const request = { database, collection, key: [by("n", HASHED)], initialChunkCount: 4 };
    expect((await admin.shardCollection({ ...request, validateOnly: true })).collection).toBeUndefined();
    const sent = router.commands.slice(before).map((command) => Object.keys(command)[0]);
    expect(sent).not.toContain("enableSharding");
    expect(sent).not.toContain("shardCollection");

    expect((await admin.enableSharding({ database })).database).toMatchObject({ database, primaryShard: "shard02" });
    expect(sentBy("enableSharding").at(-1)).toEqual({ enableSharding: database });
    expect(await recordsOf("EnableSharding")).toEqual([`ShardedDatabase ${database} OK`]);

    const made = await admin.shardCollection(request);
    expect(made.collection).toMatchObject({ collection, key: [by("n", HASHED)], balanced: true, unique: false });
    expect(sentBy("shardCollection")).toEqual([
      { shardCollection: path, key: { n: "hashed" }, numInitialChunks: 4, collation: { locale: "simple" } },
    ]);
    expect(await admin.shardCollection(request)).toEqual(made);
    expect(await admin.shardCollection({ ...request, validateOnly: true })).toEqual(made);
    expect(sentBy("shardCollection")).toHaveLength(1);
    expect(await recordsOf("ShardCollection")).toEqual([`Collection ${path} OK`]);
    expect((await admin.enableSharding({ database })).database?.collections).toEqual([made.collection]);

    for (const key of [[by("n")], [by("n", HASHED), by("m")]]) {
      const other = { database, collection, key };
      for (const validateOnly of [true, false]) {
        expect(await refusalOf(admin.shardCollection({ ...other, validateOnly }))).toMatchObject({
          code: "FailedPrecondition",
          reason: "COLLECTION_ALREADY_SHARDED",
          metadata: { database, collection },
        });
      }
    }
    const unique = collectionName();
    await db.createCollection(unique);
    const keys = [by("a"), by("b")];
    expect(
      (await admin.shardCollection({ database, collection: unique, key: keys, unique: true })).collection,
    ).toMatchObject({
      key: keys,
      unique: true,
    });
    expect(sentBy("shardCollection").at(-1)).toMatchObject({ key: { a: 1, b: 1 }, unique: true });
  });

  test("what a cluster refuses is told as a reason, without its words, and changes nothing in the log", async () => {
    const { admin, database, db } = service;
    const collection = collectionName();
    await db.createCollection(collection);
    const records = await recordsOf("ShardCollection");
    for (const [field, reason, server_code] of [
      ["wrong", "SHARD_KEY_NOT_POSSIBLE", "72"],
      ["taken", "COLLECTION_ALREADY_SHARDED", "23"],
    ] as const) {
      const refusal = await refusalOf(admin.shardCollection({ database, collection, key: [by(field)] }));
      expect(refusal).toMatchObject({
        code: "FailedPrecondition",
        reason,
        metadata: { database, collection, server_code },
      });
      expect(JSON.stringify(refusal)).not.toContain("secret");
    }
    const told = (await recordsOf("ShardCollection")).slice(0, -records.length || undefined);
    expect(told).toEqual([1, 2].map(() => `Collection ${database}.${collection} FAILED_PRECONDITION`));
    const view = collectionName();
    await db.createCollection(view, { viewOn: collection, pipeline: [] });
    for (const [name, reason] of [
      [view, "COLLECTION_IS_VIEW"],
      ["none", "COLLECTION_NOT_FOUND"],
    ] as const) {
      const call = admin.shardCollection({ database, collection: name, key: [by("n")] });
      expect(await refusalOf(call)).toMatchObject({ reason });
    }
    for (const own of ["config", "admin", service.app.config.mongodb.systemDatabase]) {
      expect(await refusalOf(admin.enableSharding({ database: own }))).toMatchObject({ reason: "DATABASE_PROTECTED" });
      const call = admin.shardCollection({ database: own, collection: "jobs", key: [by("n")] });
      expect(await refusalOf(call)).toMatchObject({ reason: "DATABASE_PROTECTED" });
    }
  });

  test("the balancer is stopped and started, and says what it does", async () => {
    const { admin, overHttp } = service;
    expect((await admin.stopBalancer({ validateOnly: true })).balancer?.enabled).toBe(true);
    expect(sentBy("balancerStop")).toEqual([]);
    expect((await admin.stopBalancer({})).balancer).toMatchObject({ enabled: false });
    expect((await overHttp.getBalancerStatus({})).balancer).toMatchObject({ enabled: false, roundCount: 1143n });
    expect((await overHttp.startBalancer({})).balancer).toMatchObject({ enabled: true });
    expect(sentBy("balancerStop")).toEqual([{ balancerStop: 1 }]);
    expect(sentBy("balancerStart")).toEqual([{ balancerStart: 1 }]);
    expect(await recordsOf("StopBalancer")).toEqual(["Balancer balancer OK"]);
    expect(await recordsOf("StartBalancer")).toEqual(["Balancer balancer OK"]);
  });

  test.for<[string, ShardKey, string]>([
    ["no key", { key: [] }, "key"],
    ["a field twice", { key: [by("a"), by("a", HASHED)] }, "key"],
    ["a descending key", { key: [by("a", DESCENDING)] }, "key"],
    ["words for a key", { key: [by("a", TEXT)] }, "key"],
    ["two hashed keys", { key: [by("a", HASHED), by("b", HASHED)] }, "key"],
    ["a unique hash", { key: [by("a", HASHED)], unique: true }, "unique"],
    ["chunks without a hash", { key: [by("a")], initialChunkCount: 2 }, "initial_chunk_count"],
    ["too many chunks", { key: [by("a", HASHED)], initialChunkCount: 8193 }, "initial_chunk_count"],
  ])("a key with %s is refused", async ([, request, field]) => {
    const { admin, database } = service;
    const call = admin.shardCollection({ database, collection: "a", ...request });
    expect(await refusalOf(call)).toMatchObject({ code: "InvalidArgument", reason: "BAD_REQUEST", fields: [field] });
  });

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
    also = (command, name) => {
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
    also = (command, name) => {
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
    also = (command, name) => {
      if (name !== "listIndexes" || command.$db !== database) return undefined;
      const listed = { v: 2, key: { n: 1 }, name: "n_1" };
      return done({ cursor: { id: Long.ZERO, ns: `${database}.${collection}`, firstBatch: [listed] } });
    };
    const definition = { index: "n as people sort", keys: [by("n")] };
    const planned = await admin.createIndex({ database, collection, definition, validateOnly: true });
    expect(planned.index?.definition).toMatchObject(definition);
  });

  test.for([20, 166])(
    "a time series that has to keep its name, by %i, is told before anything is done",
    async (code) => {
      const { admin, database, db } = service;
      const [collection, newCollection] = [collectionName(), collectionName()];
      await db.createCollection(collection, { timeseries: { timeField: "at" } });
      also = (_, name) => (name === "renameCollection" ? { ok: 0, code, errmsg: "cannot rename it" } : undefined);
      for (const validateOnly of [true, false]) {
        const renaming = admin.renameCollection({ database, collection, newCollection, validateOnly });
        expect(await refusalOf(renaming)).toMatchObject({
          ...{ code: "FailedPrecondition", reason: "MONGODB_FEATURE_MISSING", metadata: { collection } },
        });
      }
      also = () => undefined;
      const renamed = await admin.renameCollection({ database, collection, newCollection });
      expect(renamed).toMatchObject({ collection: { collection: newCollection } });
      const left = await service.system.listCollections({ name: /^trial_/ }, { nameOnly: true }).toArray();
      expect(left).toEqual([]);
    },
  );

  test("the deadline of a call is that of the server, too", async () => {
    const { admin, database, db } = service;
    await db.collection("limited").insertOne({ n: 1 });
    const limited: Document[] = [];
    also = (command, name) => {
      if (command.$db === database && ["aggregate", "validate", "drop"].includes(name)) limited.push(command);
      return undefined;
    };
    const at = { database, collection: "limited" };
    const options = { timeoutMs: 20_000 };
    await admin.countDocuments({ ...at, filter: { n: 1 } }, options);
    await admin.validateCollection(at, options);
    await admin.dropCollection({ ...at, confirmCollection: "limited" }, options);
    expect(limited.map((command) => Object.keys(command)[0])).toEqual(["aggregate", "validate", "aggregate", "drop"]);
    for (const { maxTimeMS } of limited) {
      expect(maxTimeMS).toBeGreaterThan(0);
      expect(maxTimeMS).toBeLessThanOrEqual(20_000);
    }
  });

  test("a build goes on in another replica where its own stops, and nothing is given up", async () => {
    await using first = await adminApp({ LUCID_MONGODB_URI: router.uri });
    const { database, systemDatabase } = first.app.config.mongodb;
    const names = { LUCID_MONGODB_DATABASE: database, LUCID_MONGODB_SYSTEM_DATABASE: systemDatabase };
    const begun = Promise.withResolvers<void>();
    also = (command, name) => {
      if (command.$db !== database || name !== "createIndexes" || command["createIndexes"] !== "moved")
        return undefined;
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
    expect(sentBy("dropIndexes").filter(({ dropIndexes }) => dropIndexes === "moved")).toEqual([]);
    expect((await first.domain.collection("moved").indexes()).map(({ name }) => name)).toEqual(["_id_", "n_1"]);
  });

  test("a build that somebody stops says so, and makes no collection that was dropped", async () => {
    await using busy = await adminApp({ LUCID_MONGODB_URI: router.uri, LUCID_JOB_CONCURRENCY: "1" });
    const { admin, database, db } = busy;
    const [begun, dropped] = [Promise.withResolvers<void>(), Promise.withResolvers<Document>()];
    also = (command, name) => {
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
    also = (command, name) => {
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
    expect(sentBy("dropIndexes")).toEqual([{ dropIndexes: collection, index: "n_1" }]);
  });

  test("a collection is indexed anew where the server has that, and only there", async () => {
    const { admin, database, db } = service;
    const collection = collectionName();
    await db.collection(collection).insertOne({ n: 1 });
    const request = { database, collection, confirmCollection: collection };
    also = (_, name) => {
      const errmsg = "reIndex is only allowed on a standalone mongod instance.";
      return name === "reIndex" ? { ok: 0, errmsg, code: 20, codeName: "IllegalOperation" } : undefined;
    };
    expect(await refusalOf(admin.reindexCollection(request))).toMatchObject({
      code: "FailedPrecondition",
      reason: "MONGODB_FEATURE_MISSING",
      metadata: { database, collection, server_code: "20" },
    });
    also = (_, name) => (name === "reIndex" ? done({ nIndexesWas: 1, nIndexes: 1, indexes: [] }) : undefined);
    expect((await admin.reindexCollection({ ...request, validateOnly: true })).build).toBeUndefined();
    const { build } = await admin.reindexCollection(request);
    const buildId = build?.buildId ?? "";
    expect((await eventWhere(buildId, isOver)).state).toBe(JobState.SUCCEEDED);
    expect(sentBy("reIndex").at(-1)).toEqual({ reIndex: collection });
    expect(await recordsOf("ReindexCollection")).toContain(`IndexBuild ${buildId} OK`);
  });

  test("an index is hidden and shown where the server does what it says", async () => {
    const { admin, database, db } = service;
    const collection = collectionName();
    await db.collection(collection).createIndex({ n: 1 });
    let hidden = false;
    also = (command, name) => {
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
    expect(sentBy("collMod").at(-1)).toEqual({ collMod: collection, index: { name: "n_1", hidden: false } });
    expect(await recordsOf("UpdateIndex")).toContain(`CollectionIndex ${database}.${collection}/n_1 OK`);
  });
});
