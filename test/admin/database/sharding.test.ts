import type { Client } from "@connectrpc/connect";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";

import { IndexKeyType } from "../../../gen/lucid/admin/v1/collection_index_pb.ts";
import type { DatabaseAdminService } from "../../../gen/lucid/admin/v1/database_admin_service_pb.ts";
import { refusalOf } from "../../repository/support.ts";
import { type ShardedApp, shardedApp } from "./cluster.ts";
import { adminApp, collectionName } from "./support.ts";

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

let service: ShardedApp;
beforeAll(async () => {
  service = await shardedApp();
});
beforeEach(() => service.reset());
afterAll(() => service?.[Symbol.asyncDispose]());

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
  const before = service.router.commands.length;
  expect((await admin.enableSharding({ database, validateOnly: true })).database).toBeUndefined();
  const request = { database, collection, key: [by("n", HASHED)], initialChunkCount: 4 };
  expect((await admin.shardCollection({ ...request, validateOnly: true })).collection).toBeUndefined();
  const sent = service.router.commands.slice(before).map((command) => Object.keys(command)[0]);
  expect(sent).not.toContain("enableSharding");
  expect(sent).not.toContain("shardCollection");

  expect((await admin.enableSharding({ database })).database).toMatchObject({ database, primaryShard: "shard02" });
  expect(service.sentBy("enableSharding").at(-1)).toEqual({ enableSharding: database });
  expect(await service.recordsOf("EnableSharding")).toEqual([`ShardedDatabase ${database} OK`]);

  const made = await admin.shardCollection(request);
  expect(made.collection).toMatchObject({ collection, key: [by("n", HASHED)], balanced: true, unique: false });
  expect(service.sentBy("shardCollection")).toEqual([
    { shardCollection: path, key: { n: "hashed" }, numInitialChunks: 4, collation: { locale: "simple" } },
  ]);
  expect(await admin.shardCollection(request)).toEqual(made);
  expect(await admin.shardCollection({ ...request, validateOnly: true })).toEqual(made);
  expect(service.sentBy("shardCollection")).toHaveLength(1);
  expect(await service.recordsOf("ShardCollection")).toEqual([`Collection ${path} OK`]);
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
  expect(service.sentBy("shardCollection").at(-1)).toMatchObject({ key: { a: 1, b: 1 }, unique: true });
});

test("what a cluster refuses is told as a reason, without its words, and changes nothing in the log", async () => {
  const { admin, database, db } = service;
  const collection = collectionName();
  await db.createCollection(collection);
  const records = await service.recordsOf("ShardCollection");
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
  const told = (await service.recordsOf("ShardCollection")).slice(0, -records.length || undefined);
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
  expect(service.sentBy("balancerStop")).toEqual([]);
  expect((await admin.stopBalancer({})).balancer).toMatchObject({ enabled: false });
  expect((await overHttp.getBalancerStatus({})).balancer).toMatchObject({ enabled: false, roundCount: 1143n });
  expect((await overHttp.startBalancer({})).balancer).toMatchObject({ enabled: true });
  expect(service.sentBy("balancerStop")).toEqual([{ balancerStop: 1 }]);
  expect(service.sentBy("balancerStart")).toEqual([{ balancerStart: 1 }]);
  expect(await service.recordsOf("StopBalancer")).toEqual(["Balancer balancer OK"]);
  expect(await service.recordsOf("StartBalancer")).toEqual(["Balancer balancer OK"]);
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
