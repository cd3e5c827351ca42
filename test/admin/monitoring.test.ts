import { durationMs, timestampDate } from "@bufbuild/protobuf/wkt";
import { Code, createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { MongoClient } from "mongodb";
import { expect, test, vi } from "vitest";

import { BackupService } from "../../gen/lucid/admin/v1/backup_service_pb.ts";
import { Store } from "../../gen/lucid/admin/v1/common_pb.ts";
import { HealthStatus, MonitoringService } from "../../gen/lucid/admin/v1/monitoring_service_pb.ts";
import { startMongodb } from "../../local/mongodb.ts";
import { startRedis } from "../../local/redis.ts";
import { reasonOf } from "../../src/errors.ts";
import { openRedis } from "../../src/stores/redis.ts";
import { openSearch } from "../../src/stores/search.ts";
import { patient, type TestApp, testApp } from "../support/app.ts";
import { storeAddresses, uniqueName } from "../support/stores.ts";

/** A store that answers late is taken for one that is away, so it is asked again. */
const soon = { timeout: 60_000, interval: 500 };

const everyStore = [Store.MONGODB, Store.REDIS, Store.SEARCH];

test("health says of each store what it is, how it is and when it was asked", async () => {
  await using app = await testApp();
  const monitoring = app.client(MonitoringService);
  const before = Date.now();
  const isWell = async () => {
    const all = await monitoring.getHealth({});
    // A shared search server may have replicas that nobody takes, which makes it yellow.
    for (const store of all.stores) expect(store.status).not.toBe(HealthStatus.UNHEALTHY);
    return all;
  };
  const { status, stores } = await vi.waitFor(isWell, soon);
  expect(stores.map(({ store }) => store)).toEqual(everyStore);
  for (const store of stores) {
    expect(store.problem === "").toBe(store.status === HealthStatus.HEALTHY);
    expect(store.version).toMatch(/^\d+\.\d+/);
    expect(durationMs(store.latency ?? fault())).toBeLessThan(60_000);
    expect(timestampDate(store.checkTime ?? fault()).getTime()).toBeGreaterThanOrEqual(before);
  }
  expect(status).toBe(
    stores.every((store) => store.status === HealthStatus.HEALTHY) ? HealthStatus.HEALTHY : HealthStatus.DEGRADED,
  );
  const [mongodb, redis, search] = stores;
  expect(mongodb).toMatchObject({ product: "MongoDB", details: { role: "primary", change_streams: true } });
  expect(["Redis", "Valkey"]).toContain(redis?.product);
  expect(redis?.details).toMatchObject({ role: "primary", mode: "standalone" });
  expect(["Elasticsearch", "OpenSearch"]).toContain(search?.product);
  expect(["green", "yellow"]).toContain(search?.details?.["cluster_status"]);
  for (const [index, store] of everyStore.entries()) {
    const { product = "", version = "" } = stores[index] ?? {};
    const isTold = async () =>
      expect((await monitoring.getStoreHealth({ store })).health).toMatchObject({ store, product, version });
    await vi.waitFor(isTold, soon);
  }
});

/** Documents that the service itself has stored; it does so only ever more. */
async function ownDocuments(client: MongoClient, { config }: TestApp): Promise<bigint> {
  let count = 0;
  for (const name of [config.mongodb.database, config.mongodb.systemDatabase]) {
    for (const collection of await client.db(name).collections()) count += await collection.countDocuments();
  }
  return BigInt(count);
}

test("statistics count what was written", async () => {
  await using mongodb = await startMongodb();
  await using redis = await startRedis();
  await using app = await testApp({ LUCID_MONGODB_URI: patient(mongodb.uri), LUCID_REDIS_URI: redis.uri });
  await using data = await MongoClient.connect(mongodb.uri);
  await using cache = openRedis({ uri: redis.uri, mode: "single" });
  await using search = openSearch({ uri: storeAddresses().searchUri });
  const index = uniqueName();
  const keys = Array.from({ length: 40 }, (_, number) => `key${number}`);
  await data
    .db("first")
    .collection("counted")
    .insertMany(keys.map((key) => ({ key })));
  await data
    .db("second")
    .collection("counted")
    .insertMany(keys.map((key) => ({ key })));
  await cache.client.mset(keys.flatMap((key) => [key, "1"]));
  await cache.client.mget("key1", "key2", "key3", "other");
  // Nested documents are documents of their own inside the server.
  await search.client.indices.create({ index, mappings: { properties: { parts: { type: "nested" } } } });
  try {
    const operations = keys.flatMap((key) => [{ index: { _index: index } }, { key, parts: [{ n: 1 }, { n: 2 }] }]);
    await search.client.bulk({ refresh: true, operations });
    const monitoring = app.client(MonitoringService);
    const before = await ownDocuments(data, app);
    const areThere = async () => {
      const { stores } = await monitoring.getStats({});
      expect(stores.map(({ store, error }) => [store, error])).toEqual(everyStore.map((store) => [store, ""]));
      return stores;
    };
    const stores = await vi.waitFor(areThere, soon);
    const after = await ownDocuments(data, app);
    const [ofMongodb, ofRedis, ofSearch] = stores.map(({ stats }) => stats);
    if (ofMongodb?.case !== "mongodb" || ofRedis?.case !== "redis" || ofSearch?.case !== "search") fault();

    // The service keeps its own there too.
    expect(ofMongodb.value.documents).toBeGreaterThanOrEqual(80n + before);
    expect(ofMongodb.value.documents).toBeLessThanOrEqual(80n + after);
    expect(ofMongodb.value.databases).toBeGreaterThanOrEqual(2n);
    expect(ofMongodb.value.collections).toBeGreaterThanOrEqual(2n);
    expect(ofMongodb.value.dataBytes).toBeGreaterThan(80n * 20n);
    expect(ofMongodb.value.connections).toBeGreaterThanOrEqual(1n);
    expect(ofMongodb.value.operations["insert"]).toBeGreaterThanOrEqual(2n);
    expect(ofRedis.value).toMatchObject({ keys: 40n, hits: 3n, misses: 1n, hitRate: 0.75, maxMemoryBytes: 0n });
    expect(ofRedis.value.usedMemoryBytes).toBeGreaterThan(0n);
    expect(ofRedis.value.peakMemoryBytes).toBeGreaterThan(0n);
    expect(ofRedis.value.connections).toBeGreaterThanOrEqual(2n);
    // Other tests use the same server.
    expect(ofSearch.value.documents).toBeGreaterThanOrEqual(40n);
    expect(ofSearch.value.indices).toBeGreaterThanOrEqual(1n);
    expect(ofSearch.value.storageBytes).toBeGreaterThan(0n);
    expect(ofSearch.value.dataNodes).toBeGreaterThanOrEqual(1n);
    expect(ofSearch.value.activeShards).toBeGreaterThanOrEqual(1n);

    const chosen = await monitoring.getStats({ stores: [Store.REDIS] });
    expect(chosen.stores.map(({ store }) => store)).toEqual([Store.REDIS]);
  } finally {
    await search.client.indices.delete({ index });
  }
});

test("performance tells each unary call once, and only failures that are not the caller's", async () => {
  await using app = await testApp();
  const monitoring = app.http(MonitoringService);
  const backups = app.client(BackupService);
  const unknown = "00000000-0000-7000-8000-000000000000";
  // What is sent while the connection to Redis is being made is counted as a part of that.
  await monitoring.getHealth({});
  for (let call = 0; call < 5; call++) await monitoring.getStats({ stores: [Store.REDIS] });
  await expect(backups.getBackup({ backupId: unknown })).rejects.toMatchObject({ code: Code.NotFound });
  await expect(backups.getBackup({ backupId: "" })).rejects.toMatchObject({ code: Code.InvalidArgument });

  const { requests, stores, window } = await monitoring.getPerformance({});
  expect(durationMs(window ?? fault())).toBeLessThan(300_000);
  const found = new Map(requests.map((request) => [request.operation, request]));
  expect(found.get("lucid.admin.v1.MonitoringService/GetStats")).toMatchObject({ count: 5n, errors: 0n });
  expect(found.get("lucid.admin.v1.BackupService/GetBackup")).toMatchObject({ count: 2n, errors: 0n });
  for (const { p50, p90, p99, max } of requests) {
    const [lower, middle, upper, longest] = [p50, p90, p99, max].map((duration) => nanosecondsOf(duration));
    expect(lower).toBeGreaterThan(0n);
    expect(lower).toBeLessThanOrEqual(middle ?? 0n);
    expect(middle).toBeLessThanOrEqual(upper ?? 0n);
    expect(upper).toBeLessThanOrEqual(longest ?? 0n);
  }
  expect(stores.map(({ store }) => store)).toEqual(everyStore);
  expect(stores[1]?.operations.find(({ operation }) => operation === "info")?.count).toBeGreaterThanOrEqual(5n);
});

test("a watch of health starts at once, beats, and says that it was interrupted", async () => {
  await using app = await testApp();
  const events = app.client(MonitoringService).watchHealth({ heartbeatInterval: { seconds: 1n } });
  const watch = events[Symbol.asyncIterator]();
  const first = await watch.next();
  expect(first.value).toMatchObject({ heartbeat: false });
  expect(first.value?.stores.map(({ store }: { store: Store }) => store)).toEqual(everyStore);
  expect((await watch.next()).value).toMatchObject({ heartbeat: true, status: first.value?.status });
  const ending = (async () => {
    for (;;) if ((await watch.next()).done === true) throw new Error("ended quietly");
  })();
  const [end] = await Promise.allSettled([ending, app.drain(5000)]);
  if (end.status === "fulfilled") throw new Error("never ends");
  expect(end.reason).toMatchObject({ code: Code.Unavailable });
  expect(reasonOf(end.reason)?.reason).toBe("WATCH_INTERRUPTED");
});

test("a watch of statistics brings samples that get newer, and says that it was interrupted", async () => {
  await using app = await testApp();
  const request = { stores: [Store.REDIS], interval: { seconds: 1n } };
  const watch = app.http(MonitoringService).watchStats(request)[Symbol.asyncIterator]();
  const times: number[] = [];
  while (times.length < 3) {
    const { stores } = (await watch.next()).value ?? fault();
    expect(stores).toMatchObject([{ store: Store.REDIS, error: "", stats: { case: "redis" } }]);
    times.push(timestampDate(stores[0]?.sampleTime ?? fault()).getTime());
  }
  expect(times.toSorted((a, b) => a - b)).toEqual(times);
  expect(new Set(times).size).toBe(3);
  const ending = (async () => {
    for (;;) if ((await watch.next()).done === true) throw new Error("ended quietly");
  })();
  const [end] = await Promise.allSettled([ending, app.drain(5000)]);
  expect(end.status === "rejected" && reasonOf(end.reason)?.reason).toBe("WATCH_INTERRUPTED");
});

test("a thousand watches of both kinds cost the stores no more than one of each", async () => {
  await using app = await testApp();
  // A server takes a thousand streams that are given up at once on one connection for an attack.
  const connections = Array.from({ length: 10 }, () =>
    createClient(MonitoringService, createGrpcTransport({ baseUrl: `http://${app.grpcAddress}` })),
  );
  const statsRequest = { stores: [Store.REDIS, Store.SEARCH], interval: { seconds: 1n } };
  const began = performance.now();
  const watches = Array.from({ length: 1000 }, async (_, number) => {
    const monitoring = connections[number % connections.length] ?? fault();
    const watch =
      Math.floor(number / connections.length) % 2 === 0
        ? monitoring.watchHealth({ heartbeatInterval: { seconds: 1n } })
        : monitoring.watchStats(statsRequest);
    let events = 0;
    for await (const { stores } of watch) {
      expect(stores.length).toBeGreaterThanOrEqual(2);
      if (++events === 3) break;
    }
    return events;
  });
  expect(await Promise.all(watches)).toEqual(Array.from({ length: 1000 }, () => 3));
  const { stores } = await app.client(MonitoringService).getPerformance({});
  const counts = stores.find(({ store }) => store === Store.SEARCH)?.operations ?? [];
  const seconds = (performance.now() - began) / 1000;
  // One sample in 0.9 s by the watches of statistics; health is looked at every 3 s, a little more often when it changes.
  expect(counts.find(({ operation }) => operation === "count")?.count).toBeLessThanOrEqual(
    BigInt(Math.ceil(seconds / 0.9) + 2),
  );
  expect(counts.find(({ operation }) => operation === "info")?.count).toBeLessThanOrEqual(
    BigInt(Math.ceil(seconds) + 3),
  );
});

test("what breaks a rule is refused with its path", async () => {
  await using app = await testApp();
  const monitoring = app.client(MonitoringService);
  const refusals: readonly (readonly [Promise<unknown>, string])[] = [
    [monitoring.getStoreHealth({}), "store"],
    [monitoring.getStats({ stores: [Store.REDIS, Store.REDIS] }), "stores"],
    [monitoring.getPerformance({ window: { seconds: 9n } }), "window"],
    [Array.fromAsync(monitoring.watchHealth({ heartbeatInterval: { nanos: 1 } })), "heartbeat_interval"],
    [Array.fromAsync(monitoring.watchStats({ interval: { seconds: 301n } })), "interval"],
  ];
  for (const [call, fields] of refusals) {
    const [end] = await Promise.allSettled([call]);
    expect(end.status === "rejected" && reasonOf(end.reason)).toMatchObject({
      reason: "BAD_REQUEST",
      metadata: { fields },
    });
  }
});

function nanosecondsOf(duration: { seconds: bigint; nanos: number } | undefined): bigint {
  const { seconds, nanos } = duration ?? fault();
  return seconds * 1_000_000_000n + BigInt(nanos);
}

function fault(): never {
  throw new Error("not set");
}
