import { randomUUID } from "node:crypto";

import type { Client } from "@connectrpc/connect";
import { afterAll, beforeAll, expect, test } from "vitest";

import { DocumentCacheService } from "../../../gen/lucid/repository/v1/document_cache_service_pb.ts";
import { SessionService } from "../../../gen/lucid/repository/v1/session_service_pb.ts";
import { UserService } from "../../../gen/lucid/repository/v1/user_service_pb.ts";
import { startRedis } from "../../../local/redis.ts";
import { copies, type Loaded, takeOut } from "../../../src/admin/cache/copies.ts";
import { newSession } from "../../repository/session-support.ts";
import { newUser, refusalOf } from "../../repository/support.ts";
import { type TestApp, testApp } from "../../support/app.ts";
import { uniqueName } from "../../support/stores.ts";
import { type CacheApp, cacheApp } from "./support.ts";

let shared: CacheApp;
/** Another process of the service, on the same databases. */
let replica: TestApp;
let cache: Client<typeof DocumentCacheService>;
beforeAll(async () => {
  shared = await cacheApp();
  const { database, systemDatabase } = shared.app.config.mongodb;
  replica = await testApp({ LUCID_MONGODB_DATABASE: database, LUCID_MONGODB_SYSTEM_DATABASE: systemDatabase });
  cache = shared.app.client(DocumentCacheService);
});
afterAll(async () => {
  await replica[Symbol.asyncDispose]();
  await shared[Symbol.asyncDispose]();
});

const sessionsOf = (app: TestApp) => app.client(SessionService);

/** Reads until a copy serves, as it does soon after a process has begun to follow changes. */
async function warm(client: typeof cache, sessionId: string): Promise<void> {
  const isCopy = async () => (await client.getCachedSession({ sessionId })).fromCache;
  await expect.poll(isCopy, { timeout: 60_000, interval: 50 }).toBe(true);
}

test("a session is read from its copy, in any process, and no older one is once a change is known", async () => {
  const { sessionId } = await newSession(sessionsOf(shared.app));
  const caches = [cache, replica.client(DocumentCacheService)];
  for (const client of caches) await warm(client, sessionId);
  const { session } = await cache.getCachedSession({ sessionId });
  expect(session).toEqual((await sessionsOf(shared.app).getSession({ sessionId })).session);
  for (const description of ["one", "two", "three"]) {
    await sessionsOf(replica).updateSession({ session: { sessionId, description } });
    for (const client of caches) {
      const told = async () => (await client.getCachedSession({ sessionId })).session?.description;
      await expect.poll(told, { timeout: 60_000, interval: 10 }).toBe(description);
    }
  }
  await sessionsOf(shared.app).deleteSession({ sessionId });
  const gone = async () =>
    cache.getCachedSession({ sessionId }).then(
      () => "there",
      () => "gone",
    );
  await expect.poll(gone, { timeout: 60_000, interval: 10 }).toBe("gone");
  expect(await refusalOf(cache.getCachedSession({ sessionId }))).toMatchObject({
    code: "NotFound",
    reason: "SESSION_NOT_FOUND",
    metadata: { session_id: sessionId },
  });
});

test("a user is read from its copy until it changes", async () => {
  const users = shared.app.client(UserService);
  const { userId } = await newUser(users);
  const isCopy = async () => (await cache.getCachedUser({ userId })).fromCache;
  await expect.poll(isCopy, { timeout: 60_000, interval: 50 }).toBe(true);
  await users.updateUser({ user: { userId, emailVerified: true } });
  const told = async () => (await cache.getCachedUser({ userId })).user?.emailVerified;
  await expect.poll(told, { timeout: 60_000, interval: 10 }).toBe(true);
  expect(await refusalOf(cache.getCachedUser({ userId: randomUUID() }))).toMatchObject({ reason: "USER_NOT_FOUND" });
});

test("copies are made, touched, listed by user, deleted and cleared; the sessions stay", async () => {
  const userId = randomUUID();
  const made: string[] = [];
  for (let index = 0; index < 5; index++) {
    const { session } = await sessionsOf(shared.app).createSession({ session: { userId } });
    made.push(session?.sessionId ?? "");
  }
  const ttl = { seconds: 100n };
  // A change that is just being followed may keep one from being stored.
  const isMade = async (sessionId: string) => (await cache.createCachedSession({ sessionId, ttl })).cached;
  for (const sessionId of made) await expect.poll(() => isMade(sessionId), { timeout: 60_000 }).toBe(true);
  const [first = "", second = "", third = ""] = made;
  await cache.touchCachedSession({ sessionId: first, ttl: { seconds: 5000n } });
  const listed = async () => {
    const found = [];
    for (let pageToken = ""; ;) {
      const page = await cache.listCachedSessions({ userId, pageSize: 2, pageToken });
      found.push(...page.sessions);
      pageToken = page.nextPageToken;
      if (pageToken === "") return found;
    }
  };
  const all = await listed();
  expect(new Set(all.map(({ sessionId }) => sessionId))).toEqual(new Set(made));
  expect(all.every((one) => one.userId === userId && one.revision > 0n)).toBe(true);
  const ttlOf = (id: string) => Number(all.find(({ sessionId }) => sessionId === id)?.ttl?.seconds);
  expect(ttlOf(first)).toBeGreaterThan(4000);
  expect(ttlOf(second)).toBeLessThanOrEqual(100);
  const everybodys = await cache.listCachedSessions({ pageSize: 1000 });
  expect(everybodys.sessions.length).toBeGreaterThan(0);

  expect(await cache.deleteCachedSession({ sessionId: first })).toMatchObject({ found: true });
  expect(await cache.deleteCachedSession({ sessionId: first })).toMatchObject({ found: false });
  expect(await refusalOf(cache.touchCachedSession({ sessionId: first }))).toMatchObject({
    code: "NotFound",
    reason: "CACHED_SESSION_NOT_FOUND",
  });
  expect((await listed()).map(({ sessionId }) => sessionId)).not.toContain(first);
  expect(await cache.clearCachedSessions({ userId })).toMatchObject({ deletedCount: 4n });
  expect(await listed()).toEqual([]);
  await cache.createCachedSession({ sessionId: third });
  expect((await cache.clearCachedSessions({})).deletedCount).toBeGreaterThanOrEqual(1n);
  expect((await sessionsOf(shared.app).getSession({ sessionId: first })).session?.sessionId).toBe(first);
});

test("while Redis is away sessions are read from MongoDB, and copies serve again afterwards", async () => {
  await using server = await startRedis();
  await using app = await testApp({ LUCID_REDIS_URI: server.uri });
  const client = app.client(DocumentCacheService);
  const { sessionId } = await newSession(sessionsOf(app));
  await warm(client, sessionId);
  await server.kill();
  const away = await client.getCachedSession({ sessionId });
  expect(away).toMatchObject({ fromCache: false, session: { sessionId } });
  // What was changed meanwhile could not be taken out, so that no copy of then may serve.
  await sessionsOf(app).updateSession({ session: { sessionId, description: "meanwhile" } });
  await server.start();
  await warm(client, sessionId);
  expect((await client.getCachedSession({ sessionId })).session?.description).toBe("meanwhile");
});

/** Copies of one process, of which the test says what has been seen. */
function replicaOf() {
  let since: number | undefined = 0;
  const changes = { since: () => since, [Symbol.asyncDispose]: async () => {} };
  const lose = (): void => {
    since = undefined;
  };
  return { lose, kept: copies({ client: shared.redis, prefix: shared.prefix, changes }) };
}

const document = (revision: bigint): Loaded => ({ bytes: Buffer.from(`at ${revision}`), revision, userId: "u" });
const request = (id: string, load: () => Promise<Loaded | undefined>) => ({
  id,
  ttlMs: 60_000,
  load,
  signal: new AbortController().signal,
});
const textOf = (read?: { bytes: Uint8Array }) => read && Buffer.from(read.bytes).toString();

test("of many who miss at once one loads, and the others wait for it", async () => {
  const processes = [replicaOf(), replicaOf(), replicaOf()];
  const id = uniqueName("stampede");
  let loads = 0;
  const load = async () => {
    loads++;
    await shared.redis.ping();
    return document(1n);
  };
  const reads = await Promise.all(
    processes.flatMap(({ kept }) => Array.from({ length: 20 }, () => kept.read(request(id, load)))),
  );
  expect(loads).toBe(1);
  expect(reads.map(textOf)).toEqual(reads.map(() => "at 1"));
  expect(reads.filter((read) => read?.isCopy)).toHaveLength(59);
});

test("what was loaded before a change is never stored after it was seen", async () => {
  const { kept } = replicaOf();
  const id = uniqueName("late");
  const key = kept.keyOf(id);
  const late = await kept.read(
    request(id, async () => {
      // The change comes while the document is on its way.
      await takeOut(shared.redis, key, 2n);
      return document(1n);
    }),
  );
  expect([textOf(late), late?.isKept]).toEqual(["at 1", false]);
  expect(await shared.redis.hexists(key, "bytes")).toBe(0);
  const fresh = await kept.read(request(id, async () => document(2n)));
  expect([textOf(fresh), fresh?.isKept]).toEqual(["at 2", true]);
  // The change that made it, told once more.
  await takeOut(shared.redis, key, 2n);
  expect(await kept.read(request(id, async () => document(9n)))).toMatchObject({ isCopy: true });
  // A restore takes revisions back.
  await takeOut(shared.redis, key, 1n);
  expect(await shared.redis.hexists(key, "bytes")).toBe(0);
});

test("a loader that lost its place stores nothing, and one that failed makes room at once", async () => {
  const { kept } = replicaOf();
  const id = uniqueName("stalled");
  const removed = await kept.read(
    request(id, async () => {
      await kept.remove(id);
      return document(1n);
    }),
  );
  expect(removed?.isKept).toBe(false);
  const failing = kept.read(request(id, () => Promise.reject(new Error("away"))));
  await expect(failing).rejects.toThrow("away");
  expect(await kept.read(request(id, async () => undefined))).toBeUndefined();
  expect(await kept.read(request(id, async () => document(1n)))).toMatchObject({ isCopy: false, isKept: true });
});

test("a copy from before the clock went back is not believed", async () => {
  const { kept } = replicaOf();
  const id = uniqueName("back");
  await kept.read(request(id, async () => document(1n)));
  const [began] = await shared.redis.hmget(kept.keyOf(id), "began");
  await shared.redis.hset(kept.keyOf(id), "began", Number(began) + 3_600_000);
  const read = await kept.read(request(id, async () => document(2n)));
  expect([textOf(read), read?.isCopy, read?.isKept]).toEqual(["at 2", false, true]);
  expect(await kept.read(request(id, async () => document(3n)))).toMatchObject({ isCopy: true });
});

test("who has lost track of changes reads no copies, but makes them for others", async () => {
  const [lost, other] = [replicaOf(), replicaOf()];
  const id = uniqueName("lost");
  lost.lose();
  for (const revision of [1n, 2n]) {
    const read = await lost.kept.read(request(id, async () => document(revision)));
    expect([textOf(read), read?.isCopy]).toEqual([`at ${revision}`, false]);
  }
  const read = await other.kept.read(request(id, async () => document(9n)));
  expect([textOf(read), read?.isCopy]).toEqual(["at 2", true]);
});
