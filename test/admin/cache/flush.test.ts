import { Cluster, Redis } from "ioredis";
import { expect, test } from "vitest";

import { CacheService } from "../../../gen/lucid/admin/v1/cache_service_pb.ts";
import { startRedis } from "../../../local/redis.ts";
import { refusalOf } from "../../repository/support.ts";
import { testApp } from "../../support/app.ts";
import { startRedisCluster } from "../../support/redis-cluster.ts";
import { cacheApp, eventsOfFlush, keyOf, scanAll, valuePages } from "./support.ts";

/** Commands that make a server wait for as long as there are keys. */
const blocking = ["keys", "flushall", "flushdb", "del", "smembers", "hgetall"];

test("a pattern is counted, confirmed and deleted, and nothing else is", async () => {
  await using shared = await cacheApp();
  const { cache, redis, prefix, app } = shared;
  const names = Array.from({ length: 3000 }, (_, index) => `${prefix}${index % 3 === 0 ? "go" : "stay"}:${index}`);
  await redis.mset(names.flatMap((name) => [name, "1"]));
  const pattern = `${prefix}go:*`;
  const dry = await eventsOfFlush(cache, { pattern, validateOnly: true });
  expect(dry.at(-1)).toMatchObject({
    matchedCount: 1000n,
    deletedCount: 1000n,
    protectedCount: 0n,
    percent: 100,
    done: true,
  });
  expect(await refusalOf(eventsOfFlush(cache, { pattern, confirmPattern: "*" }))).toMatchObject({
    code: "FailedPrecondition",
    reason: "CONFIRMATION_MISMATCH",
  });
  expect((await scanAll(cache, { pattern: `${prefix}*`, pageSize: 1000 })).keys).toHaveLength(3000);

  const events = await eventsOfFlush(app.http(CacheService), { pattern, confirmPattern: pattern });
  expect(events.at(-1)).toMatchObject({ matchedCount: 1000n, deletedCount: 1000n, done: true });
  const left = (await scanAll(cache, { pattern: `${prefix}*`, pageSize: 1000 })).keys.map((each) =>
    keyOf(each).toString(),
  );
  expect(left.toSorted()).toEqual(names.filter((name) => name.startsWith(`${prefix}stay:`)).toSorted());
  expect((await eventsOfFlush(cache, { pattern, confirmPattern: pattern })).at(-1)).toMatchObject({ matchedCount: 0n });
});

test("all keys are deleted but those that would be missed, without a command that blocks", async () => {
  await using server = await startRedis();
  await using app = await testApp({ LUCID_REDIS_URI: server.uri });
  const cache = app.client(CacheService);
  const redis = new Redis(server.uri);
  try {
    await redis.mset(Array.from({ length: 20_000 }, (_, index) => [`k${index}`, "1"]).flat());
    await redis.hset("lucid:lock:a", "a", "1");
    await redis.hset("lucid:rate:b", "a", "1");
    await redis.set("lucid:copy:session:c", "1");
    await redis.config("RESETSTAT");
    const last = (await eventsOfFlush(cache, { pattern: "*", confirmPattern: "*" })).at(-1);
    expect(last).toMatchObject({
      keyCount: 20_003n,
      deletedCount: 20_001n,
      protectedCount: 2n,
      percent: 100,
      done: true,
    });
    expect((await redis.keys("*")).toSorted()).toEqual(["lucid:lock:a", "lucid:rate:b"]);
    const used = (await redis.info("commandstats")).matchAll(/cmdstat_([a-z|]+):calls=(\d+)/g);
    const calls = new Map(Array.from(used, ([, name = "", count]) => [name, Number(count)]));
    expect(calls.get("unlink")).toBe(20_001);
    // The one is this test's own.
    expect(blocking.filter((name) => calls.has(name))).toEqual(["keys"]);
    expect(calls.get("keys")).toBe(1);
  } finally {
    redis.disconnect();
  }
});

test("a flush ends with its caller, and another call goes on", async () => {
  await using shared = await cacheApp();
  const { cache, redis, prefix } = shared;
  for (let first = 0; first < 30_000; first += 10_000) {
    await redis.mset(Array.from({ length: 10_000 }, (_, index) => [`${prefix}${first + index}`, "1"]).flat());
  }
  const pattern = `${prefix}*`;
  const leaving = new AbortController();
  const left = () => redis.exists(...Array.from({ length: 30_000 }, (_, index) => `${prefix}${index}`));
  const call = Array.fromAsync(cache.flushKeys({ pattern, confirmPattern: pattern }, { signal: leaving.signal }));
  const refusal = refusalOf(call);
  await expect.poll(left, { timeout: 60_000, interval: 20 }).toBeLessThan(29_000);
  leaving.abort();
  expect(await refusal).toMatchObject({ code: "Canceled" });
  let last = await left();
  const isQuiet = async () => last === (last = await left());
  await expect.poll(isQuiet, { timeout: 60_000, interval: 200 }).toBe(true);
  expect(last).toBeGreaterThan(0);
  const events = await eventsOfFlush(cache, { pattern, confirmPattern: pattern });
  expect(events.at(-1)).toMatchObject({ done: true, percent: 100 });
  expect((await eventsOfFlush(cache, { pattern, validateOnly: true })).at(-1)).toMatchObject({ matchedCount: 0n });
  const percents = events.map(({ percent }) => percent);
  expect(percents).toEqual(percents.toSorted((one, other) => one - other));
});

test("a cluster is scanned, read and flushed node after node", async () => {
  await using stack = new AsyncDisposableStack();
  const servers = await startRedisCluster(stack);
  await using app = await testApp({ LUCID_REDIS_URI: servers[0].uri, LUCID_REDIS_MODE: "cluster" });
  const cache = app.client(CacheService);
  const names = Array.from({ length: 900 }, (_, index) => `key:${index}`);
  for (const name of names.slice(0, 10)) {
    await cache.setKey({ name: { case: "key", value: name }, value: { case: "text", value: name } });
  }
  const direct = new Cluster([servers[0].uri]);
  try {
    await Promise.all(names.slice(10).map((name) => direct.set(name, name)));
    await direct.sadd("set", ...names);
    const { keys, pages } = await scanAll(cache, { pattern: "key:*", pageSize: 100 });
    expect(keys.map((each) => keyOf(each).toString()).toSorted()).toEqual(names.toSorted());
    expect(keys.every(({ type, sizeBytes }) => type === "string" && sizeBytes > 0n)).toBe(true);
    expect(pages).toBeGreaterThan(5);
    const members = (await valuePages(cache, { name: { case: "key", value: "set" }, pageSize: 100 })).flatMap(
      ({ value }) => (value.case === "set" ? value.value.members : []),
    );
    expect(new Set(members.map(({ form }) => form.value))).toEqual(new Set(names));
    const { primaryCount, stats } = await cache.getCacheStats({});
    expect([primaryCount, stats?.keys]).toEqual([3, 901n]);
    expect((await cache.getCacheMemory({})).servers).toHaveLength(3);
    expect((await cache.deleteKeys({ keys: names.slice(0, 300) })).foundCount).toBe(300);
    const last = (await eventsOfFlush(cache, { pattern: "*", confirmPattern: "*" })).at(-1);
    expect(last).toMatchObject({ keyCount: 601n, deletedCount: 601n, done: true });
  } finally {
    direct.disconnect();
  }
});
