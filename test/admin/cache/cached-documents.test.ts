import { randomUUID } from "node:crypto";

import type { Client } from "@connectrpc/connect";
import { Redis } from "ioredis";
import { afterAll, beforeAll, expect, test, vi } from "vitest";

import { DocumentCacheService } from "../../../gen/lucid/repository/v1/document_cache_service_pb.ts";
import { SessionService } from "../../../gen/lucid/repository/v1/session_service_pb.ts";
import { UserService } from "../../../gen/lucid/repository/v1/user_service_pb.ts";
import { startRedis } from "../../../local/redis.ts";
import { copies, type Loaded, takeOut } from "../../../src/admin/cache/copies.ts";
import { ownPrefixes } from "../../../src/admin/cache/keys.ts";
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

test("who names the revision of a write reads it or a later one, whatever copy is there", async () => {
  const { sessionId, revision: first } = await newSession(sessionsOf(shared.app));
  await warm(cache, sessionId);
  const key = `${ownPrefixes.session}${sessionId}`;
  const { bytes } = await shared.redis.hgetallBuffer(key);
  if (bytes === undefined) throw new Error("There is no copy");
  const { session: written } = await sessionsOf(replica).updateSession({ session: { sessionId, description: "new" } });
  const minRevision = written?.revision ?? 0n;
  expect(minRevision).toBeGreaterThan(first);
  for (const client of [cache, shared.app.http(DocumentCacheService), replica.client(DocumentCacheService)]) {
    // A process that is just learning of the change may take the old copy out again.
    const isOldServed = async () => {
      await client.getCachedSession({ sessionId });
      await shared.redis.hset(key, { bytes, revision: String(first) });
      const { session, fromCache } = await client.getCachedSession({ sessionId });
      return fromCache && session?.revision === first;
    };
    await expect.poll(isOldServed, { timeout: 60_000, interval: 20 }).toBe(true);
    expect((await client.getCachedSession({ sessionId, minRevision })).session?.revision).toBe(minRevision);
    await warm(client, sessionId);
    expect((await client.getCachedSession({ sessionId })).session?.revision).toBe(minRevision);
  }
});

test("of many who write and read at once each sees its own write", async () => {
  const { sessionId } = await newSession(sessionsOf(shared.app));
  const apps = [shared.app, replica];
  const seen = await Promise.all(
    Array.from({ length: 10 }, async (_, at) => {
      const writer = sessionsOf(apps[at % 2] ?? replica);
      const { session: written } = await writer.updateSession({ session: { sessionId, description: `by ${at}` } });
      const minRevision = written?.revision ?? 0n;
      const reads = apps.map((app) => app.client(DocumentCacheService).getCachedSession({ sessionId, minRevision }));
      return (await Promise.all(reads)).map(({ session }) => (session?.revision ?? 0n) >= minRevision);
    }),
  );
  expect(seen.flat()).toEqual(seen.flat().map(() => true));
});

test("a revision that nobody has written is refused, and nobody is kept from the copy", async () => {
  const { sessionId, revision } = await newSession(sessionsOf(shared.app));
  const { userId } = await newUser(shared.app.client(UserService));
  await warm(cache, sessionId);
  for (const client of [cache, shared.app.http(DocumentCacheService)]) {
    expect(await refusalOf(client.getCachedSession({ sessionId, minRevision: revision + 5n }))).toMatchObject({
      code: "FailedPrecondition",
      reason: "CACHE_REVISION_NOT_REACHED",
      metadata: { session_id: sessionId, revision: String(revision), min_revision: String(revision + 5n) },
    });
    expect(await refusalOf(client.getCachedUser({ userId, minRevision: 2n ** 63n - 1n }))).toMatchObject({
      reason: "CACHE_REVISION_NOT_REACHED",
      metadata: { user_id: userId },
    });
  }
  await warm(cache, sessionId);
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
  const [first = "", second = ""] = made;
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
  expect((await sessionsOf(shared.app).getSession({ sessionId: first })).session?.sessionId).toBe(first);
});

test("while Redis is away sessions are read from MongoDB, and no copy of before serves afterwards", async () => {
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
  const told = async () => (await client.getCachedSession({ sessionId })).session?.description;
  expect(await told()).toBe("meanwhile");

  // Those of all users, which on the shared server would be other tests' too.
  expect(await client.clearCachedSessions({})).toMatchObject({ deletedCount: 1n });
  await warm(client, sessionId);

  // A server that was restarted may have a copy again that had been taken out.
  const direct = new Redis(server.uri);
  await direct.save();
  const saved = await direct.hget(`${ownPrefixes.session}${sessionId}`, "revision");
  await sessionsOf(app).updateSession({ session: { sessionId, description: "later" } });
  await expect.poll(told, { timeout: 60_000, interval: 10 }).toBe("later");
  direct.disconnect();
  await server.kill();
  await server.start();
  const again = new Redis(server.uri);
  expect(await again.hget(`${ownPrefixes.session}${sessionId}`, "revision")).toBe(saved);
  again.disconnect();
  await warm(client, sessionId);
  await expect.poll(told, { timeout: 60_000, interval: 50 }).toBe("later");
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
  const stampede = async () => {
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
    expect(reads.map(textOf)).toEqual(reads.map(() => "at 1"));
    expect(reads.filter((read) => read?.isCopy)).toHaveLength(60 - loads);
    expect(loads).toBe(1);
  };
  // Where a machine stalls they lose patience, and each loads for itself.
  await vi.waitFor(stampede, { timeout: 60_000 });
});

test("a copy that is older than what is asked for serves only those who ask for less", async () => {
  const [first, ...rest] = [replicaOf(), replicaOf(), replicaOf()];
  const processes = [first, ...rest];
  const id = uniqueName("least");
  await first.kept.read(request(id, async () => document(1n)));
  let loads = 0;
  const load = async () => {
    loads++;
    await shared.redis.ping();
    return document(2n);
  };
  const wanted = { ...request(id, load), minRevision: 2n };
  const [reads, others] = await Promise.all([
    Promise.all(processes.flatMap(({ kept }) => Array.from({ length: 20 }, () => kept.read(wanted)))),
    Promise.all(processes.map(({ kept }) => kept.read(request(id, async () => document(9n))))),
  ]);
  expect(reads.map(textOf)).toEqual(reads.map(() => "at 2"));
  // One loads for the others, unless a machine is so busy that they lose patience.
  expect(reads.filter((read) => read?.isCopy)).toHaveLength(60 - loads);
  expect(loads).toBeLessThan(60);
  expect(["at 1", "at 2"]).toEqual(expect.arrayContaining(others.map(textOf)));
});

test("what somebody was loading before a write does not serve who asks for that write", async () => {
  const [one, other] = [replicaOf(), replicaOf()];
  const id = uniqueName("early");
  const [begun, ended] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  const early = one.kept.read(
    request(id, async () => {
      begun.resolve();
      await ended.promise;
      return document(1n);
    }),
  );
  await begun.promise;
  const late = other.kept.read({ ...request(id, async () => document(2n)), minRevision: 2n });
  ended.resolve();
  expect([textOf(await early), textOf(await late)]).toEqual(["at 1", "at 2"]);
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
