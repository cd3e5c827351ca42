import { randomUUID } from "node:crypto";

import { getOption } from "@bufbuild/protobuf";
import { durationMs } from "@bufbuild/protobuf/wkt";
import { afterAll, beforeAll, expect, test, vi } from "vitest";

import {
  CacheService,
  type CheckRateLimitResponse,
  ContentFormat,
} from "../../../gen/lucid/admin/v1/cache_service_pb.ts";
import { unaudited } from "../../../gen/lucid/options/v1/options_pb.ts";
import { AuditLogService } from "../../../gen/lucid/repository/v1/audit_log_service_pb.ts";
import { refusalOf } from "../../repository/support.ts";
import { type TestApp, testApp } from "../../support/app.ts";
import { platformServices } from "../../support/requests.ts";
import { uniqueName } from "../../support/stores.ts";
import { type Cache, type CacheApp, cacheApp } from "./support.ts";

let shared: CacheApp;
let replica: TestApp;
let cache: Cache;
/** The same rpcs by other listeners and another process of the service. */
let caches: readonly Cache[];
const id = uniqueName("coordination");
beforeAll(async () => {
  shared = await cacheApp();
  replica = await testApp();
  cache = shared.cache;
  caches = [cache, shared.app.http(CacheService), replica.client(CacheService), replica.http(CacheService)];
});
afterAll(async () => {
  const keys = await Promise.all(["lucid:lock", "lucid:rate"].map((start) => shared.redis.keys(`${start}:*${id}*`)));
  if (keys.flat().length > 0) await shared.redis.unlink(...keys.flat());
  await replica[Symbol.asyncDispose]();
  await shared[Symbol.asyncDispose]();
});

let made = 0;
const newName = (): string => `${id}:${made++}`;
const hour = { seconds: 3600n };
const upTo = (count: number): readonly number[] => Array.from({ length: count }, (_, index) => index);
const turn = (index: number): Cache => caches[index % caches.length] ?? cache;

test("of many who ask at once, exactly as many go ahead as the limit says", async () => {
  const name = newName();
  const checks = await Promise.all(
    upTo(200).map((index) => turn(index).checkRateLimit({ name, limit: 37n, window: hour })),
  );
  expect(checks.filter(({ allowed }) => allowed)).toHaveLength(37);
  expect(Math.min(...checks.map(({ remaining }) => Number(remaining)))).toBe(0);
  for (const { allowed, retryAfter } of checks) expect(retryAfter === undefined).toBe(allowed);
  const other = await cache.checkRateLimit({ name, limit: 37n, window: { seconds: 3601n } });
  expect(other).toMatchObject({ allowed: true, remaining: 36n });
});

function retryMsOf({ retryAfter }: CheckRateLimitResponse): number {
  const retryMs = retryAfter === undefined ? 0 : durationMs(retryAfter);
  expect(retryMs).toBeGreaterThan(0);
  return retryMs;
}

test("a call may count for many or for nothing, and goes ahead after the time that it was told", async () => {
  const name = newName();
  const check = (cost: bigint) => cache.checkRateLimit({ name, limit: 10n, window: hour, cost });
  expect(await check(0n)).toMatchObject({ allowed: true, remaining: 10n, resetAfter: { seconds: 0n, nanos: 0 } });
  expect(await check(7n)).toMatchObject({ allowed: true, remaining: 3n });
  const refused = await check(4n);
  expect(refused).toMatchObject({ allowed: false, remaining: 3n });
  expect(await check(3n)).toMatchObject({ allowed: true, remaining: 0n });
  expect(retryMsOf(refused)).toBeLessThanOrEqual(3_660_000);
  const short = (cost: bigint, of: string) =>
    cache.checkRateLimit({ name: of, limit: 10n, window: { seconds: 2n }, cost });
  // A busy machine may need longer than the window between two calls.
  const full = async () => {
    const of = newName();
    await short(10n, of);
    const tooMuch = await short(4n, of);
    expect(tooMuch.allowed).toBe(false);
    expect(retryMsOf(tooMuch)).toBeLessThanOrEqual(2035);
    return of;
  };
  const of = await vi.waitFor(full, { timeout: 60_000 });
  await expect.poll(async () => (await short(4n, of)).allowed, { timeout: 60_000, interval: 20 }).toBe(true);
  expect(await refusalOf(check(11n))).toMatchObject({ code: "InvalidArgument", reason: "BAD_REQUEST" });
});

test("limits that have counted something are listed, and forgotten when they are cleared", async () => {
  const names = upTo(30).map(() => newName());
  for (const name of names) await cache.checkRateLimit({ name, limit: 5n, window: hour, cost: 2n });
  const listed = async () => {
    const found = [];
    for (let pageToken = ""; ;) {
      const page = await cache.listRateLimits({ namePrefix: `${id}:`, pageSize: 10, pageToken });
      found.push(...page.rateLimits);
      pageToken = page.nextPageToken;
      if (pageToken === "") return found;
    }
  };
  const [first = ""] = names;
  const limits = await listed();
  expect(new Set(limits.map(({ name }) => name)).isSupersetOf(new Set(names))).toBe(true);
  const one = limits.find(({ name }) => name === first);
  expect(one).toMatchObject({ limit: 5n, used: 2n, window: { seconds: 3600n } });
  const resetMs = one?.resetAfter === undefined ? 0 : durationMs(one.resetAfter);
  expect(resetMs).toBeGreaterThan(3_300_000);
  expect(resetMs).toBeLessThanOrEqual(3_660_000);
  expect(await cache.clearRateLimit({ name: first, window: hour })).toMatchObject({ found: true });
  expect(await cache.clearRateLimit({ name: first, window: hour })).toMatchObject({ found: false });
  expect((await listed()).map(({ name }) => name)).not.toContain(first);
  expect(await cache.checkRateLimit({ name: first, limit: 5n, window: hour })).toMatchObject({ remaining: 4n });
});

test("a lock has one holder at a time, whose number is higher than those before", async () => {
  const name = newName();
  const counter = `${shared.prefix}counter`;
  const numbers: bigint[] = [];
  const work = async (client: Cache, holder: string) => {
    for (;;) {
      const { acquired, lock, token } = await client.acquireLock({ name, holder, ttl: { seconds: 30n } });
      expect(acquired).toBe(token !== "");
      if (!acquired) continue;
      expect(lock?.holder).toBe(holder);
      numbers.push(lock?.fencingNumber ?? 0n);
      // What nobody may do without a lock.
      const count = Number(await shared.redis.get(counter));
      await shared.redis.set(counter, count + 1);
      expect(await client.releaseLock({ name, token })).toMatchObject({ released: true });
      return;
    }
  };
  await Promise.all(upTo(16).map((index) => work(turn(index), `worker ${index}`)));
  expect(await shared.redis.get(counter)).toBe("16");
  expect(new Set(numbers).size).toBe(16);
  expect(numbers).toEqual(numbers.toSorted((one, other) => Number(one - other)));
});

test("only the holder's token extends and releases, and only in its time", async () => {
  const name = newName();
  const { lock, token } = await cache.acquireLock({ name, holder: "one", ttl: { seconds: 60n } });
  const other = await replica.client(CacheService).acquireLock({ name, holder: "other", ttl: { seconds: 60n } });
  expect(other).toMatchObject({
    acquired: false,
    token: "",
    lock: { holder: "one", fencingNumber: lock?.fencingNumber },
  });
  const notHeld = { code: "FailedPrecondition", reason: "LOCK_NOT_HELD", metadata: { name } };
  expect(await refusalOf(cache.extendLock({ name, token: "guessed", ttl: { seconds: 1n } }))).toMatchObject(notHeld);
  expect(await refusalOf(cache.releaseLock({ name, token: "guessed" }))).toMatchObject(notHeld);
  const extended = await cache.extendLock({ name, token, ttl: { seconds: 600n } });
  expect(extended.lock?.fencingNumber).toBe(lock?.fencingNumber);
  expect(extended.lock?.ttl && durationMs(extended.lock.ttl)).toBe(600_000);
  const found = await cache.getLock({ name });
  expect(found.lock).toMatchObject({ name, holder: "one", fencingNumber: lock?.fencingNumber });
  // Who may read keys does not hold locks.
  const stored = await cache.getKey({
    name: { case: "key", value: `lucid:lock:${name}` },
    format: ContentFormat.BASE64,
  });
  expect(
    JSON.stringify(stored, (_, value: unknown) => (typeof value === "bigint" ? String(value) : value)),
  ).not.toContain(Buffer.from(token).toString("base64"));

  await cache.extendLock({ name, token, ttl: { nanos: 20_000_000 } });
  const isFree = async () => (await refusalOf(cache.getLock({ name }))).reason;
  await expect.poll(() => isFree().catch(() => ""), { timeout: 60_000, interval: 10 }).toBe("LOCK_NOT_FOUND");
  expect(await refusalOf(cache.extendLock({ name, token, ttl: { seconds: 1n } }))).toMatchObject(notHeld);
  expect(await cache.releaseLock({ name, token })).toMatchObject({ released: false });
  const next = await cache.acquireLock({ name, holder: "next", ttl: { seconds: 60n } });
  expect(next.lock?.fencingNumber).toBeGreaterThan(lock?.fencingNumber ?? 0n);
  expect(await refusalOf(cache.releaseLock({ name, token }))).toMatchObject(notHeld);
  expect(await cache.releaseLock({ name, token: next.token })).toMatchObject({ released: true });
  expect(await cache.releaseLock({ name, token: next.token })).toMatchObject({ released: false });

  // Also where Redis has lost it.
  await shared.redis.del(`lucid:lock:${name}`);
  const later = await cache.acquireLock({ name, ttl: { seconds: 1n } });
  expect(later.lock?.fencingNumber).toBeGreaterThan(next.lock?.fencingNumber ?? 0n);
});

test("a retry of the same request gets the lock again, and nobody else knows the request", async () => {
  const request = { name: newName(), ttl: { seconds: 60n }, requestId: randomUUID() };
  const first = await cache.acquireLock(request);
  const stored = await shared.redis.hgetall(`lucid:lock:${request.name}`);
  expect(Object.values(stored).join(" ")).not.toContain(request.requestId);
  const again = await cache.acquireLock(request);
  expect(again).toMatchObject({ acquired: true, lock: { fencingNumber: first.lock?.fencingNumber } });
  expect(again.token).not.toBe(first.token);
  expect(await refusalOf(cache.releaseLock({ name: request.name, token: first.token }))).toMatchObject({
    reason: "LOCK_NOT_HELD",
  });
  expect((await cache.acquireLock({ ...request, requestId: randomUUID() })).acquired).toBe(false);
  expect(await cache.releaseLock({ name: request.name, token: again.token })).toMatchObject({ released: true });
});

test("locks that are held are listed", async () => {
  const names = upTo(5).map(() => `${newName()}[listed]`);
  const tokens = [];
  for (const name of names) tokens.push((await cache.acquireLock({ name, holder: name, ttl: hour })).token);
  await cache.releaseLock({ name: names[0] ?? "", token: tokens[0] ?? "" });
  const all = await cache.listLocks({ namePrefix: id, pageSize: 1000 });
  const listed = all.locks.filter(({ name }) => names.includes(name));
  expect(new Map(listed.map(({ name, holder }) => [name, holder]))).toEqual(
    new Map(names.slice(1).map((name) => [name, name])),
  );
  const [, second = ""] = names;
  expect((await cache.listLocks({ namePrefix: second })).locks.map(({ name }) => name)).toEqual([second]);
});

test("rate limits and locks are in no audit log, and the proto says why", async () => {
  const name = newName();
  const { token } = await cache.acquireLock({ name, ttl: hour });
  await cache.checkRateLimit({ name, limit: 1n, window: hour });
  await cache.releaseLock({ name, token });
  await cache.clearRateLimit({ name, window: hour });
  const { records } = await shared.app
    .client(AuditLogService)
    .listAuditRecords({ filter: { resourceName: name, resourceType: "RateLimit" } });
  expect(records.map(({ rpc }) => rpc)).toEqual(["lucid.admin.v1.CacheService/ClearRateLimit"]);
  const all = await shared.app.client(AuditLogService).listAuditRecords({ pageSize: 1000 });
  const reasons = platformServices()
    .flatMap(({ methods }) => methods)
    .map((method) => ({ rpc: `${method.parent.typeName}/${method.name}`, reason: getOption(method, unaudited) }))
    .filter(({ reason }) => reason !== "");
  expect(reasons.length).toBeGreaterThan(0);
  for (const { reason } of reasons) expect(reason).toMatch(/^[A-Z].{40,}\.$/);
  const left = new Set(reasons.map(({ rpc }) => rpc));
  expect(all.records.filter(({ rpc }) => left.has(rpc))).toEqual([]);
});

test("what is not there or not right is refused", async () => {
  expect(await refusalOf(cache.getLock({ name: newName() }))).toMatchObject({
    code: "NotFound",
    reason: "LOCK_NOT_FOUND",
  });
  const wrong = `lucid:lock:${newName()}`;
  await shared.redis.set(wrong, "by hand");
  const call = cache.acquireLock({ name: wrong.slice("lucid:lock:".length), ttl: hour });
  expect(await refusalOf(call)).toMatchObject({ code: "Aborted", reason: "STORE_CONFLICT" });
});
