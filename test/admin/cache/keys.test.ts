import { durationMs } from "@bufbuild/protobuf/wkt";
import { Redis } from "ioredis";
import { afterAll, beforeAll, expect, test } from "vitest";

import {
  CacheService,
  type Content,
  ContentFormat,
  KeyOrigin,
  SetCondition,
} from "../../../gen/lucid/admin/v1/cache_service_pb.ts";
import { startRedis } from "../../../local/redis.ts";
import { readValue } from "../../../src/admin/cache/key-value.ts";
import { refusalOf } from "../../repository/support.ts";
import { testApp } from "../../support/app.ts";
import { uniqueName } from "../../support/stores.ts";
import { type Cache, type CacheApp, cacheApp, eventsOfFlush, keyOf, scanAll, valuePages } from "./support.ts";

let shared: CacheApp;
let cache: Cache;
let redis: Redis;
beforeAll(async () => {
  shared = await cacheApp();
  ({ cache, redis } = shared);
});
afterAll(() => shared[Symbol.asyncDispose]());

/** A name that nobody else uses. */
const named = (name: string): string => `${shared.prefix}${name}`;
const key = (value: string) => ({ case: "key", value }) as const;

test("statistics and memory are those of the server", async () => {
  const name = named("expiring");
  await redis.set(name, "1", "EX", 100);
  await redis.get(name);
  const { product, version, primaryCount, stats, expiringKeys } = await cache.getCacheStats({});
  expect(["Redis", "Valkey"]).toContain(product);
  expect(version).toMatch(/^\d+\.\d+/);
  expect(primaryCount).toBe(1);
  expect(stats?.hits).toBeGreaterThan(0n);
  expect(stats?.hitRate).toBeGreaterThan(0);
  expect(stats?.keys).toBeGreaterThanOrEqual(expiringKeys);
  expect(expiringKeys).toBeGreaterThan(0n);
  const { servers } = await cache.getCacheMemory({});
  expect(servers).toHaveLength(1);
  expect(servers[0]?.usedBytes).toBeGreaterThan(servers[0]?.datasetBytes ?? 0n);
  expect(servers[0]?.evictionPolicy).not.toBe("");
  expect(servers[0]?.runId).toMatch(/^[0-9a-f]{40}$/);
});

test("every key is found once, with its type, size and time to live", async () => {
  const pattern = named("scan:");
  const names = Array.from({ length: 500 }, (_, index) => `${pattern}${index}`);
  await redis.mset(names.flatMap((name) => [name, "value"]));
  await redis.pexpire(`${pattern}7`, 100_000);
  await redis.rpush(`${pattern}list`, "a", "b");
  const binary = Buffer.concat([Buffer.from(pattern), Buffer.from([0xff, 0, 0xfe])]);
  await redis.set(binary, "1");

  const { keys, pages } = await scanAll(cache, { pattern: `${pattern}*`, pageSize: 100 });
  expect(pages).toBeGreaterThanOrEqual(5);
  const found = keys.map((each) => keyOf(each).toString("latin1")).toSorted();
  expect(found).toEqual([...names, `${pattern}list`, binary.toString("latin1")].toSorted());
  const called = (name: string) => keys.find((each) => each.name.value === name);
  expect(called(`${pattern}8`)).toMatchObject({ type: "string", origin: KeyOrigin.UNSPECIFIED });
  expect(called(`${pattern}8`)?.ttl).toBeUndefined();
  expect(called(`${pattern}8`)?.sizeBytes).toBeGreaterThan(5n);
  const ttl = called(`${pattern}7`)?.ttl;
  expect(ttl && durationMs(ttl)).toBeLessThanOrEqual(100_000);
  expect(ttl && durationMs(ttl)).toBeGreaterThan(50_000);
  expect(keys.filter(({ name }) => name.case === "rawKey")).toHaveLength(1);

  const lists = await scanAll(cache, { pattern: `${pattern}*`, type: "list" });
  expect(lists.keys.map(({ name, type }) => [name.value, type])).toEqual([[`${pattern}list`, "list"]]);
  const { keys: bare } = await cache.scanKeys({ pattern: `${pattern}*`, namesOnly: true, pageSize: 1 });
  expect(bare.length).toBeGreaterThan(0);
  expect(bare[0]).toMatchObject({ type: "", sizeBytes: 0n });
});

test("a pattern is the server's own: what has a meaning can be taken as it is", async () => {
  const base = named("glob:");
  for (const name of ["a*", "ab", "a[b]"]) await redis.set(`${base}${name}`, "1");
  const found = async (pattern: string) =>
    (await scanAll(cache, { pattern: `${base}${pattern}` })).keys.map((each) => keyOf(each).toString()).toSorted();
  expect(await found("a?")).toEqual([`${base}a*`, `${base}ab`]);
  expect(await found(String.raw`a\*`)).toEqual([`${base}a*`]);
  expect(await found(String.raw`a\[b\]`)).toEqual([`${base}a[b]`]);
  expect(await found("x")).toEqual([]);
});

test("a token goes on in another process, and nowhere once the server was restarted", async () => {
  await using server = await startRedis();
  const secret = { LUCID_REDIS_URI: server.uri, LUCID_PAGE_TOKEN_SECRET: uniqueName("secret") };
  const direct = new Redis(server.uri);
  await direct.mset(Array.from({ length: 300 }, (_, index) => [`k${index}`, "1"]).flat());
  const set = ["SADD", "set", ...Array.from({ length: 1000 }, (_, index) => `member ${index}`)] as const;
  await direct.call(...set);
  const found = new Set<string>();
  let pageToken: string;
  {
    await using before = await testApp(secret);
    const page = await before.client(CacheService).scanKeys({ pageSize: 100 });
    for (const each of page.keys) found.add(keyOf(each).toString());
    pageToken = page.nextPageToken;
  }
  await using after = await testApp(secret);
  const client = after.client(CacheService);
  const restarting = await client.scanKeys({ pageSize: 100, pageToken });
  for (let page = restarting; ; page = await client.scanKeys({ pageSize: 100, pageToken: page.nextPageToken })) {
    for (const each of page.keys) found.add(keyOf(each).toString());
    if (page.nextPageToken === "") break;
  }
  expect(found.size).toBe(301);
  const value = await client.getKey({ name: key("set"), pageSize: 10 });
  const other = await refusalOf(client.scanKeys({ pageSize: 100, pattern: "k*", pageToken }));
  expect(other).toMatchObject({ code: "InvalidArgument", reason: "PAGE_TOKEN_INVALID" });

  direct.disconnect();
  await server.kill();
  await server.start();
  const again = new Redis(server.uri);
  await again.call(...set);
  again.disconnect();
  const isBack = () =>
    client.getCacheStats({}).then(
      () => true,
      () => false,
    );
  await expect.poll(isBack, { timeout: 60_000 }).toBe(true);
  const lost = { code: "OutOfRange", reason: "CACHE_POSITION_EXPIRED" };
  expect(await refusalOf(client.scanKeys({ pageSize: 100, pageToken }))).toMatchObject(lost);
  const next = client.getKey({ name: key("set"), pageSize: 10, pageToken: value.nextPageToken });
  expect(await refusalOf(next)).toMatchObject(lost);
});

test("a value of each type is read in pages", async () => {
  const count = 1500;
  const upTo = Array.from({ length: count }, (_, index) => `element ${index} ${"x".repeat(80)}`);
  const [list, set, hash, zset, stream] = ["list", "set", "hash", "zset", "stream"].map(named) as [
    string,
    string,
    string,
    string,
    string,
  ];
  await redis.rpush(list, ...upTo);
  await redis.sadd(set, ...upTo);
  await redis.hset(hash, Object.fromEntries(upTo.map((text, index) => [text, index])));
  await redis.zadd(zset, ...upTo.flatMap((text, index) => [index / 4, text]));
  await redis.zadd(zset, "-inf", "lowest", "inf", "highest");
  const entries = redis.pipeline();
  for (const index of upTo.keys()) entries.xadd(stream, `${index + 1}-0`, "n", index, "n", "twice");
  await entries.exec();

  const pagesOf = (name: string) => valuePages(cache, { name: key(name), pageSize: 200 });
  const text = (content?: Pick<Content, "form">) => content?.form.value;
  const lists = (await pagesOf(list)).map(({ value }) => (value.case === "list" ? value.value : fault()));
  expect(lists.flatMap(({ elements }) => elements.map(text))).toEqual(upTo);
  expect(lists[1]?.firstIndex).toBe(BigInt(lists[0]?.elements.length ?? 0));

  const sets = (await pagesOf(set)).flatMap(({ value }) => (value.case === "set" ? value.value.members : fault()));
  expect(new Set(sets.map(text))).toEqual(new Set(upTo));

  const hashes = (await pagesOf(hash)).flatMap(({ value }) => (value.case === "hash" ? value.value.fields : fault()));
  expect(new Map(hashes.map(({ field, value }) => [text(field), jsonOf(value)]))).toEqual(
    new Map(upTo.map((name, index) => [name, index])),
  );

  const sorted = (await pagesOf(zset)).flatMap(({ value }) =>
    value.case === "sortedSet" ? value.value.members : fault(),
  );
  expect(sorted.map(({ member, score }) => [text(member), score])).toEqual([
    ["lowest", -Infinity],
    ...upTo.map((name, index) => [name, index / 4]),
    ["highest", Infinity],
  ]);

  const pages = await pagesOf(stream);
  expect(pages.every(({ length }) => length === BigInt(count))).toBe(true);
  const streamed = pages.flatMap(({ value }) => (value.case === "stream" ? value.value.entries : fault()));
  expect(streamed.map(({ entryId }) => entryId)).toEqual(upTo.map((_, index) => `${index + 1}-0`));
  expect(streamed[7]?.fields.map(({ field, value }) => [text(field), jsonOf(value) ?? text(value)])).toEqual([
    ["n", 7],
    ["n", "twice"],
  ]);
  expect(pages.length).toBeGreaterThanOrEqual(7);
});

test("a long string comes in pieces that keep characters whole, and long elements are cut", async () => {
  const name = named("long");
  const whole = "aä€💛".repeat(400_000);
  await redis.set(name, whole);
  const pages = await valuePages(cache, { name: key(name) });
  const pieces = pages.map(({ value }) => (value.case === "string" ? value.value : fault()));
  expect(pieces.map(({ content }) => content?.form.case)).toEqual(pages.map(() => "text"));
  expect(pieces.map(({ content }) => textOf(content)).join("")).toBe(whole);
  expect(pages[0]?.length).toBe(BigInt(Buffer.byteLength(whole)));

  const list = named("long elements");
  await redis.rpush(list, "short", "ä".repeat(3_000_000), "short");
  const read = await valuePages(cache, { name: key(list) });
  const all = read.flatMap((page) => (page.value.case === "list" ? page.value.value.elements : fault()));
  expect(all).toHaveLength(3);
  expect(all[1]).toMatchObject({ wholeBytes: 6_000_000n, form: { case: "text" } });
  expect(textOf(all[1])).toMatch(/^ä{100000,2999999}$/);
});

const forms: readonly [what: string, stored: string | Buffer, format: ContentFormat, form: object][] = [
  ["JSON", '{"a":[1,null]}', ContentFormat.JSON, { case: "json" }],
  ["text", "plain", ContentFormat.UNSPECIFIED, { case: "text", value: "plain" }],
  ["a number that a double rounds", "12345678901234567890", ContentFormat.JSON, { case: "text" }],
  ["half a character", String.raw`"\ud800"`, ContentFormat.JSON, { case: "text", value: String.raw`"\ud800"` }],
  ["deep JSON", "[".repeat(90) + "]".repeat(90), ContentFormat.JSON, { case: "text" }],
  ["a prototype", '{"__proto__":1}', ContentFormat.JSON, { case: "text" }],
  ["no text", Buffer.from([0xff, 0]), ContentFormat.JSON, { case: "raw", value: new Uint8Array([0xff, 0]) }],
  ["bytes", '{"a":1}', ContentFormat.RAW, { case: "raw", value: new Uint8Array(Buffer.from('{"a":1}')) }],
  ["base64", Buffer.from([0xff, 0]), ContentFormat.BASE64, { case: "base64", value: "/wA=" }],
];
test.for(forms)("a string that is %s is told as such", async ([what, stored, format, form]) => {
  const name = named(`form ${what}`);
  await redis.set(name, stored);
  for (const client of [cache, shared.app.http(CacheService)]) {
    const { value } = await client.getKey({ name: key(name), format });
    expect(value).toMatchObject({ case: "string", value: { content: { form, wholeBytes: 0n } } });
  }
});

test.for(["list", "hash", "set", "zset", "stream"] as const)(
  "a page of a %s is no larger in memory for elements far larger than those that its size was estimated from",
  async (type) => {
    const name = named(`uneven ${type}`);
    const large = Array.from({ length: 64 }, (_, index) => `${index} ${"x".repeat(256 * 1024)}`);
    const { redis: direct } = shared;
    for (const text of large) {
      if (type === "list") await direct.rpush(name, text);
      else if (type === "hash") await direct.hset(name, text.slice(0, 2), text);
      else if (type === "set") await direct.sadd(name, text);
      else if (type === "zset") await direct.zadd(name, 1, text);
      else await direct.xadd(name, "*", "field", text);
    }
    let most = 0;
    /** Bytes of what the server replied at once. */
    const counted = <T>(reply: T): T => {
      const texts = [reply].flat(9) as unknown[]; // of buffers and texts
      most = Math.max(
        most,
        texts.reduce<number>((sum, each) => sum + (Buffer.isBuffer(each) ? each.length : 0), 0),
      );
      return reply;
    };
    const client = new Proxy(direct, {
      get: (target, property) => {
        const member: unknown = Reflect.get(target, property);
        if (typeof member !== "function") return member;
        return async (...args: unknown[]) =>
          counted(await (member as (...given: unknown[]) => unknown).apply(target, args));
      },
    });
    const facts = { key: Buffer.from(name), type, ttlMs: undefined, sizeBytes: 64 };
    const page = await readValue(client, { facts, from: undefined, format: ContentFormat.BASE64, size: 1000 });
    expect(page).toMatchObject({ length: 64, next: expect.any(String) as unknown });
    expect(most).toBeGreaterThan(256 * 1024);
    expect(most).toBeLessThan(40 * 256 * 1024);
  },
);

test("a value that goes before it is read whole is not there", async () => {
  const facts = { key: Buffer.from(uniqueName("gone")), type: "of a module", ttlMs: undefined, sizeBytes: 1 };
  const reading = readValue(shared.redis, { facts, from: undefined, format: ContentFormat.UNSPECIFIED, size: 1 });
  expect(await refusalOf(reading)).toMatchObject({ code: "NotFound", reason: "CACHE_KEY_NOT_FOUND" });
});

test("a token of one type means nothing for another", async () => {
  const name = named("changing");
  await redis.rpush(name, ...Array.from({ length: 100 }, String));
  const { nextPageToken: pageToken } = await cache.getKey({ name: key(name), pageSize: 10 });
  await redis.del(name);
  expect(await refusalOf(cache.getKey({ name: key(name), pageSize: 10, pageToken }))).toMatchObject({
    code: "NotFound",
    reason: "CACHE_KEY_NOT_FOUND",
    metadata: { key: name },
  });
  await redis.set(name, "1");
  expect(await refusalOf(cache.getKey({ name: key(name), pageSize: 10, pageToken }))).toMatchObject({
    code: "OutOfRange",
    reason: "CACHE_POSITION_EXPIRED",
  });
});

test("a string is set under a condition, for a time, or with the time that it had", async () => {
  const name = named("set me");
  const value = { case: "text", value: "one" } as const;
  const set = (more: object) => cache.setKey({ name: key(name), value, ...more });
  expect(await refusalOf(set({ condition: SetCondition.IF_PRESENT }))).toMatchObject({
    code: "NotFound",
    reason: "CACHE_KEY_NOT_FOUND",
  });
  await set({ condition: SetCondition.IF_ABSENT, ttl: { seconds: 100n, nanos: 500_000_000 } });
  expect(await redis.pttl(name)).toBeGreaterThan(50_000);
  expect(await refusalOf(set({ condition: SetCondition.IF_ABSENT }))).toMatchObject({
    code: "AlreadyExists",
    reason: "CACHE_KEY_ALREADY_EXISTS",
  });
  await set({ value: { case: "raw", value: new Uint8Array([0, 255]) }, keepTtl: true });
  expect(await redis.getBuffer(name)).toEqual(Buffer.from([0, 255]));
  expect(await redis.pttl(name)).toBeGreaterThan(50_000);
  const json = { kind: { case: "numberValue", value: 1.5 } } as const;
  await set({ value: { case: "json", value: json }, condition: SetCondition.IF_PRESENT });
  expect(await redis.get(name)).toBe("1.5");
  expect(await redis.pttl(name)).toBe(-1);
  const nothing = { case: "json", value: { kind: { case: "numberValue", value: NaN } } };
  expect(await refusalOf(set({ value: nothing }))).toMatchObject({ reason: "BAD_REQUEST", fields: ["json"] });
  const both = set({ keepTtl: true, ttl: { seconds: 1n } });
  expect(await refusalOf(both)).toMatchObject({ code: "InvalidArgument", reason: "BAD_REQUEST" });
});

test("keys are deleted by name, each with what became of it", async () => {
  const [there, gone] = [named("there"), named("gone")];
  const binary = Buffer.concat([Buffer.from(named("")), Buffer.from([0xff])]);
  await redis.set(there, "1");
  await redis.set(binary, "1");
  const request = { keys: [there, gone], rawKeys: [binary] };
  for (const validateOnly of [true, false]) {
    const { keys, foundCount } = await cache.deleteKeys({ ...request, validateOnly });
    expect(keys.map(({ name, found }) => [name.value, found])).toEqual([
      [there, true],
      [gone, false],
      [new Uint8Array(binary), true],
    ]);
    expect(foundCount).toBe(2);
  }
  expect((await cache.deleteKeys(request)).foundCount).toBe(0);
  expect(await refusalOf(cache.deleteKeys({}))).toMatchObject({ code: "InvalidArgument", reason: "BAD_REQUEST" });
  const name = named("twice");
  await redis.set(name, "1");
  const twice = { keys: [name, name], rawKeys: [Buffer.from(name)] };
  for (const validateOnly of [true, false]) {
    const response = await cache.deleteKeys({ ...twice, validateOnly });
    expect([response.foundCount, response.keys.map(({ found }) => found)]).toEqual([1, [true, true, true]]);
  }
});

test("the service's own keys are shown as such, and those that would be missed are protected", async () => {
  const id = uniqueName("own");
  const [copy, lock] = [`lucid:copy:session:${id}`, `lucid:lock:${id}`];
  await redis.set(copy, "a");
  await redis.hset(lock, "a", "1");
  try {
    expect((await cache.getKey({ name: key(copy) })).key?.origin).toBe(KeyOrigin.COPY);
    expect((await cache.getKey({ name: key(lock) })).key?.origin).toBe(KeyOrigin.LOCK);
    const refused = { code: "FailedPrecondition", reason: "CACHE_KEY_PROTECTED" };
    const value = { case: "text", value: "1" } as const;
    for (const name of [copy, lock]) {
      expect(await refusalOf(cache.setKey({ name: key(name), value }))).toMatchObject({
        ...refused,
        metadata: { key: name },
      });
    }
    // What the service has no use for yet, it may have later.
    expect(await refusalOf(cache.setKey({ name: key(`lucid:${id}`), value }))).toMatchObject(refused);
    expect(await refusalOf(cache.deleteKeys({ keys: [copy, lock] }))).toMatchObject(refused);
    expect(await redis.exists(copy, lock)).toBe(2);
    expect((await cache.deleteKeys({ keys: [copy] })).foundCount).toBe(1);
  } finally {
    await redis.unlink(copy, lock);
  }
});

/** Text that means something to a pattern, a protocol, a script or a terminal. */
const hostile = [
  "*",
  "[",
  "\\",
  "?a\r\nDEL x\r\n",
  "\0",
  "__proto__",
  "\u001b[31m",
  "' .. ARGV[1] .. '",
  "💛".repeat(100),
];
test.for(hostile)("a key may be called anything: %.20j", async (text) => {
  const [name, other] = [named(text), named("bystander")];
  await redis.set(other, "1");
  await cache.setKey({ name: key(name), value: { case: "text", value: text } });
  expect(await redis.get(name)).toBe(text);
  const { value } = await cache.getKey({ name: key(name), format: ContentFormat.RAW });
  expect(value).toMatchObject({ value: { content: { form: { value: new Uint8Array(Buffer.from(text)) } } } });
  await cache.scanKeys({ pattern: text.slice(0, 100) });
  expect((await cache.deleteKeys({ keys: [name] })).foundCount).toBe(1);
  expect(await redis.get(other)).toBe("1");
});

test("while Redis is away, calls say so at once", async () => {
  await using app = await testApp({ LUCID_REDIS_URI: "redis://127.0.0.1:1" });
  const away = app.client(CacheService);
  const outcomes = await Promise.all([
    refusalOf(away.getCacheStats({})),
    refusalOf(away.scanKeys({})),
    refusalOf(away.getKey({ name: key("a") })),
    refusalOf(away.deleteKeys({ keys: ["a"] })),
    refusalOf(eventsOfFlush(away, { pattern: "a", validateOnly: true })),
  ]);
  for (const outcome of outcomes) expect(outcome).toMatchObject({ code: "Unavailable", reason: "STORE_UNAVAILABLE" });
});

function fault(): never {
  throw new Error("The value has another type");
}

function textOf(content?: Pick<Content, "form">): string {
  return content?.form.case === "text" ? content.form.value : fault();
}

function jsonOf(content?: Pick<Content, "form">): unknown {
  return content?.form.case === "json" ? content.form.value.kind.value : undefined;
}
