import { Redis } from "ioredis";
import { afterAll, beforeAll, expect, test } from "vitest";

import {
  CacheService,
  type SubscribeResponse,
  SubscriptionEventType as Type,
} from "../../../gen/lucid/admin/v1/cache_service_pb.ts";
import { startRedis } from "../../../local/redis.ts";
import { redisSubscriptions, type SubscriptionEvent } from "../../../src/stores/redis-subscriptions.ts";
import { openRedis } from "../../../src/stores/redis.ts";
import { refusalOf } from "../../repository/support.ts";
import { testApp } from "../../support/app.ts";
import { startRedisCluster } from "../../support/redis-cluster.ts";
import { storeAddresses, uniqueName } from "../../support/stores.ts";
import { type Cache, type CacheApp, cacheApp } from "./support.ts";

let shared: CacheApp;
let cache: Cache;
beforeAll(async () => {
  shared = await cacheApp();
  ({ cache } = shared);
});
afterAll(() => shared[Symbol.asyncDispose]());

type Request = Parameters<Cache["subscribe"]>[0];

/** A subscription that has begun, and what it tells next. */
async function subscribed(client: Cache, request: Request) {
  const leaving = new AbortController();
  const events = client.subscribe(request, { signal: leaving.signal })[Symbol.asyncIterator]();
  const next = async (): Promise<SubscribeResponse> => {
    const result = await events.next();
    if (result.done === true) throw new Error("The subscription ended");
    return result.value;
  };
  expect(await next()).toMatchObject({ type: Type.SUBSCRIBED });
  return { next, leave: () => leaving.abort() };
}

const send = (client: Cache, channel: string, text: string) =>
  client.publishMessage({ channel, message: { case: "text", value: text } });

test("whoever subscribes gets what is sent from then on, in order, over one connection", async () => {
  const channel = `${shared.prefix}news`;
  const count = async () => Number((await shared.redis.pubsub("NUMSUB", channel))[1]);
  const all = [];
  for (const client of [cache, shared.app.http(CacheService), cache]) {
    all.push(await subscribed(client, { channels: [channel, `${channel}:other`] }));
  }
  expect(await count()).toBe(1);
  for (const text of ["one", "two", "three"]) expect((await send(cache, channel, text)).receiverCount).toBe(1n);
  await shared.redis.publish(channel, Buffer.from([0xff, 0]));
  for (const { next } of all) {
    for (const text of ["one", "two", "three"]) {
      expect(await next()).toMatchObject({
        type: Type.MESSAGE,
        channel,
        pattern: "",
        message: { case: "text", value: text },
      });
    }
    expect((await next()).message).toEqual({ case: "raw", value: new Uint8Array([0xff, 0]) });
  }
  const [first, ...others] = all;
  first?.leave();
  await send(cache, channel, "four");
  for (const { next } of others) expect((await next()).message.value).toBe("four");
  for (const { leave } of others) leave();
  await expect.poll(count, { timeout: 60_000 }).toBe(0);
  // And again.
  const again = await subscribed(cache, { channels: [channel] });
  await send(cache, channel, "five");
  expect((await again.next()).message.value).toBe("five");
  again.leave();
});

test("a pattern takes channels that it matches, a message for each way that it came by", async () => {
  const base = `${shared.prefix}patterns:`;
  const { next, leave } = await subscribed(cache, { patterns: [`${base}a*`, `${base}?b`], channels: [`${base}ab`] });
  await send(cache, `${base}c`, "nobody's");
  await send(cache, `${base}ab`, "x");
  const ways = [(await next()).pattern, (await next()).pattern, (await next()).pattern];
  expect(new Set(ways)).toEqual(new Set(["", `${base}a*`, `${base}?b`]));
  await send(cache, `${base}a1`, "y");
  expect(await next()).toMatchObject({ channel: `${base}a1`, pattern: `${base}a*`, message: { value: "y" } });
  leave();
});

test("who comes and goes all the time misses nothing of what it subscribed to", async () => {
  const channel = `${shared.prefix}busy`;
  const visit = async (index: number) => {
    const { next, leave } = await subscribed(cache, { channels: [channel] });
    const text = `for ${index}`;
    await send(cache, channel, text);
    for (let event = await next(); event.message.value !== text; event = await next()) {
      expect(event.type).toBe(Type.MESSAGE);
    }
    leave();
  };
  for (let round = 0; round < 5; round++) await Promise.all(Array.from({ length: 10 }, (_, index) => visit(index)));
});

test("a quiet subscription tells that it is there, and a drain that it is to be begun again", async () => {
  await using app = await testApp();
  const client = app.client(CacheService);
  const request = { channels: [`${shared.prefix}quiet`], heartbeatInterval: { seconds: 1n } };
  const { next } = await subscribed(client, request);
  expect(await next()).toMatchObject({ type: Type.HEARTBEAT });
  const ended = refusalOf(
    (async () => {
      for (;;) await next();
    })(),
  );
  await app.drain(1000);
  expect(await ended).toMatchObject({ code: "Unavailable", reason: "WATCH_INTERRUPTED" });
  expect(await refusalOf(Array.fromAsync(cache.subscribe({})))).toMatchObject({ reason: "BAD_REQUEST" });
});

test("who does not take messages is told how many were left out, where they were", async () => {
  await using store = openRedis({ uri: storeAddresses().redisUri, mode: "single" });
  await using subscriptions = redisSubscriptions(store.client);
  const channel = uniqueName("slow");
  const leaving = new AbortController();
  const options = { channels: [channel], patterns: [], heartbeatMs: 60_000, signal: leaving.signal };
  const [slow, quick] = [subscriptions.subscribe(options), subscriptions.subscribe(options)];
  for (const events of [slow, quick]) expect(await events.next()).toMatchObject({ value: { type: "subscribed" } });
  const taken = (async () => {
    let count = 0;
    for await (const event of quick) if (event.type === "message" && ++count === 5000) return count;
    return count;
  })();
  for (let first = 0; first < 5000; first += 250) {
    const sent = shared.redis.pipeline();
    for (let index = first; index < first + 250; index++) sent.publish(channel, String(index));
    await sent.exec();
  }
  expect(await taken).toBe(5000);
  await shared.redis.publish(channel, "last");
  const numbers: string[] = [];
  let missed = 0;
  while (numbers.at(-1) !== "last" && numbers.length + missed < 5001) {
    const { value } = (await slow.next()) as { value: SubscriptionEvent };
    if (value.type === "missed") missed += value.count;
    else if (value.type === "message") numbers.push(value.message.message.toString());
  }
  expect(numbers.slice(0, 1000)).toEqual(Array.from({ length: 1000 }, (_, index) => String(index)));
  expect(numbers.length + missed).toBe(5001);
  expect(missed).toBeGreaterThanOrEqual(4000);
  await shared.redis.publish(channel, "after");
  expect(await slow.next()).toMatchObject({ value: { type: "message" } });
  leaving.abort(new Error("left"));
  await expect(slow.next()).rejects.toThrow("left");
});

test("a broken connection is told, and messages come again", async () => {
  await using server = await startRedis();
  await using app = await testApp({ LUCID_REDIS_URI: server.uri });
  const client = app.client(CacheService);
  const { next, leave } = await subscribed(client, { channels: ["news"] });
  const admin = new Redis(server.uri);
  // The connection alone.
  await admin.call("CLIENT", "KILL", "TYPE", "pubsub");
  expect(await next()).toMatchObject({ type: Type.RECONNECTED });
  await admin.publish("news", "one");
  expect(await next()).toMatchObject({ message: { value: "one" } });
  admin.disconnect();
  // The server.
  await server.kill();
  await server.start();
  expect(await next()).toMatchObject({ type: Type.RECONNECTED });
  const after = new Redis(server.uri);
  await after.publish("news", "two");
  expect(await next()).toMatchObject({ message: { value: "two" } });
  after.disconnect();
  leave();
});

test("a message reaches subscribers at any server of a cluster", async () => {
  await using stack = new AsyncDisposableStack();
  const servers = await startRedisCluster(stack);
  await using app = await testApp({ LUCID_REDIS_URI: servers[0].uri, LUCID_REDIS_MODE: "cluster" });
  const { next, leave } = await subscribed(app.client(CacheService), { channels: ["news"] });
  for (const { uri } of servers) {
    const node = new Redis(uri);
    await node.publish("news", uri);
    node.disconnect();
    expect((await next()).message.value).toBe(uri);
  }
  await send(app.client(CacheService), "news", "by the service");
  expect((await next()).message.value).toBe("by the service");
  // Locks and limits are one key each, so that any server has them whole.
  const coordinating = app.client(CacheService);
  for (let index = 0; index < 10; index++) {
    const name = `n${index}`;
    const { token } = await coordinating.acquireLock({ name, ttl: { seconds: 60n } });
    expect(token).not.toBe("");
    const check = await coordinating.checkRateLimit({ name, limit: 2n, window: { seconds: 60n } });
    expect(check).toMatchObject({ allowed: true, remaining: 1n });
  }
  expect((await coordinating.listLocks({ pageSize: 1000 })).locks).toHaveLength(10);
  expect((await coordinating.listRateLimits({ pageSize: 1000 })).rateLimits).toHaveLength(10);
  leave();
});

test("without Redis there is no subscription", async () => {
  await using app = await testApp({ LUCID_REDIS_URI: "redis://127.0.0.1:1" });
  const call = Array.fromAsync(app.client(CacheService).subscribe({ channels: ["a"] }));
  expect(await refusalOf(call)).toMatchObject({ code: "Unavailable", reason: "STORE_UNAVAILABLE" });
});
