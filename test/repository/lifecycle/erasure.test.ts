import { randomUUID } from "node:crypto";

import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { Collection, type Db } from "mongodb";
import { afterAll, beforeAll, expect, test } from "vitest";

import { Store } from "../../../gen/lucid/admin/v1/common_pb.ts";
import { RemovalOutcome, RemovalSchema } from "../../../gen/lucid/repository/v1/data_lifecycle_service_pb.ts";
import { openJobs } from "../../../src/jobs/jobs.ts";
import { storedMessages } from "../../../src/repository/collections.ts";
import type { Copies } from "../../../src/repository/lifecycle/copies.ts";
import { countOfUser, eraseUser } from "../../../src/repository/lifecycle/erasure.ts";
import { removalJobs, removalKind } from "../../../src/repository/lifecycle/jobs.ts";
import { purge } from "../../../src/repository/lifecycle/purge.ts";
import type { RemovalWork } from "../../../src/repository/lifecycle/remove.ts";
import { type Tally, tally } from "../../../src/repository/lifecycle/tally.ts";
import { endLeases, longLeaseMs } from "../../jobs/lease.ts";
import { startChild } from "../../support/child.ts";
import { storeAddresses, uniqueName } from "../../support/stores.ts";
import {
  belongings,
  everythingOf,
  expectErased,
  fill,
  goes,
  kinds,
  openStores,
  searchHits,
  type Stores,
  twoUsers,
} from "./support.ts";

let stores: Stores;
beforeAll(async () => {
  stores = await openStores();
});
afterAll(async () => {
  await stores.search.indices.delete({ index: "erased-users,erased-sessions", ignore_unavailable: true });
  await stores[Symbol.asyncDispose]();
});

function work(counts: Tally, changed: Partial<RemovalWork> = {}): RemovalWork {
  const { db, copies } = stores;
  return { db, copies, tally: counts, signal: new AbortController().signal, stepped: () => undefined, ...changed };
}

test("a user is erased everywhere, another is not touched, and the report says what was done where", async () => {
  const users = await twoUsers(stores);
  const expected = belongings(users.userId, users.of);
  const found = tally();
  await countOfUser(kinds, users.userId, work(found));
  const counts = tally();
  await eraseUser(kinds, users.userId, work(counts));
  await expectErased(stores, users);
  for (const [name, documents] of Object.entries(expected)) {
    const place = counts.places().find((each) => each.name === name);
    const planned = found.places().find((each) => each.name === name);
    if (name === "blocks" || name === "transactions") {
      expect(planned).toMatchObject({ outcome: RemovalOutcome.KEPT, note: expect.stringContaining("chain") as string });
      continue;
    }
    if (name === "trust_policy_activity") continue;
    const outcome = goes(name) ? RemovalOutcome.REMOVED : RemovalOutcome.ANONYMISED;
    expect(place).toMatchObject({ outcome, done: BigInt(documents.length), held: 0n });
    expect([name, planned?.found]).toEqual([name, BigInt(documents.length)]);
  }
  const done = Object.fromEntries(counts.places().map((place) => [place.name, place.done]));
  expect(done).toMatchObject({
    "lucid:user:{user_id}": 1n,
    "lucid:user:{user_id}:*": 1n,
    "lucid:session:{session_id}": 2n,
    "erased-users": 1n,
    "erased-sessions": 3n,
  });
  const again = tally();
  await eraseUser(kinds, users.userId, work(again));
  expect(again.places().filter((place) => place.done > 0n)).toEqual([]);
});

/** The stores, where the process ends right after every step that changes something. */
function crashing(): Pick<RemovalWork, "db" | "copies"> {
  const end = (changed: number): void => {
    if (changed > 0) throw new Error("The process ended here");
  };
  const collection = ((name: string) => {
    const real = stores.db.collection(name);
    const deleteMany: typeof real.deleteMany = async (...args) => {
      const result = await Collection.prototype.deleteMany.apply(real, args);
      end(result.deletedCount);
      return result;
    };
    const updateMany: typeof real.updateMany = async (...args) => {
      const result = await Collection.prototype.updateMany.apply(real, args);
      end(result.modifiedCount);
      return result;
    };
    return Object.defineProperties(real, { deleteMany: { value: deleteMany }, updateMany: { value: updateMany } });
  }) as Db["collection"];
  const removed = (counts: Tally) =>
    counts.places().reduce((sum, { store, done }) => sum + (store === Store.MONGODB ? 0 : Number(done)), 0);
  const copies: Copies = {
    async remove(kind, documents, counts, signal) {
      const before = removed(counts);
      await stores.copies.remove(kind, documents, counts, signal);
      end(removed(counts) - before);
    },
    async sweep(kind, userId, counts, signal) {
      const before = removed(counts);
      await stores.copies.sweep(kind, userId, counts, signal);
      end(removed(counts) - before);
    },
  };
  return { db: { collection }, copies };
}

test("whatever step it ends at, an erasure that is begun again ends well", async () => {
  const users = await twoUsers(stores);
  let runs = 0;
  // Each run does one step that changes something, and ends right after it.
  for (let isOver = false; !isOver; runs++) {
    expect(runs).toBeLessThan(200);
    try {
      await eraseUser(kinds, users.userId, work(tally(), crashing()));
      isOver = true;
    } catch (error) {
      expect(String(error)).toContain("The process ended here");
    }
  }
  // At least one for each collection, and for the copies of users and sessions.
  expect(runs).toBeGreaterThan(Object.keys(belongings("", "")).filter(goes).length + 4);
  await expectErased(stores, users);
});

test("what a call that was under way writes after its place was looked at is erased too", async () => {
  const users = await twoUsers(stores);
  const { userId, of } = users;
  const { db } = stores;
  let isWritten = false;
  // As a call does that has seen the user before it was marked.
  const late = ((name: string) => {
    const collection = db.collection(name);
    if (name !== "users") return collection;
    const deleteMany: typeof collection.deleteMany = async (...args) => {
      const result = await Collection.prototype.deleteMany.apply(collection, args);
      if (!isWritten && result.deletedCount > 0) {
        isWritten = true;
        await db.collection("authentication").insertOne({ user_id: userId, of });
        await db
          .collection("trust_policy_versions")
          .insertOne({ policy_id: randomUUID(), policy: { owner_id: userId }, of });
      }
      return result;
    };
    return Object.defineProperty(collection, "deleteMany", { value: deleteMany });
  }) as Db["collection"];
  await eraseUser(kinds, userId, work(tally(), { db: { collection: late } }));
  expect(isWritten).toBe(true);
  expect(await db.collection("authentication").countDocuments({ user_id: userId })).toBe(0);
  expect(await db.collection("trust_policy_versions").countDocuments({ "policy.owner_id": userId })).toBe(0);
});

test("an erasure waits for the audit log to take up what documents carry", async () => {
  const users = await twoUsers(stores);
  const sessions = stores.db.collection("sessions");
  await sessions.updateMany({ user_id: users.userId }, { $set: { _audit: [{ audit_id: "1" }] } });
  const counts = tally();
  const erasing = eraseUser(kinds, users.userId, work(counts));
  while (counts.heldCount() === 0) await new Promise((resolve) => setTimeout(resolve, 20));
  expect(await sessions.countDocuments({ user_id: users.userId, deleted_at: { $exists: true } })).toBe(0);
  await sessions.updateMany({ user_id: users.userId }, { $unset: { _audit: 1 } });
  await erasing;
  await expectErased(stores, users);
});

const dayMs = 86_400_000;
const daysAgo = (days: number) => new Date(Date.now() - days * dayMs);

test("a purge removes what was deleted long ago with its parts and copies, and nothing else", async () => {
  const [userId, of] = [randomUUID(), randomUUID()];
  const keys = await fill(stores, userId, of);
  const { db, redis } = stores;
  const [old, young] = await db.collection("sessions").find({ of }).toArray();
  if (old === undefined || young === undefined) throw new Error("There are two sessions");
  await db.collection("sessions").updateOne({ _id: old._id }, { $set: { deleted_at: daysAgo(31) } });
  await db.collection("sessions").updateOne({ _id: young._id }, { $set: { deleted_at: daysAgo(29) } });
  await db.collection("wallets").updateMany({ of }, { $set: { deleted_at: daysAgo(31), _audit: [{ audit_id: "1" }] } });
  const before = await everythingOf(stores, of);
  const counts = tally();
  await purge(kinds, daysAgo(30), work(counts));
  const after = await everythingOf(stores, of);
  const ofOld = (name: string) =>
    (before[name] ?? []).filter((document) => document["session_id"] === old["session_id"]);
  for (const name of ["sessions", "chunks", "encryption_keys", "manifests"]) {
    const gone = new Set(ofOld(name).map(({ _id }) => String(_id)));
    expect([name, after[name] ?? []]).toEqual([name, (before[name] ?? []).filter(({ _id }) => !gone.has(String(_id)))]);
  }
  expect(after["wallets"]).toEqual(before["wallets"]);
  expect(after["users"]).toEqual(before["users"]);
  expect(after["wallet_secrets"]).toEqual(before["wallet_secrets"]);
  expect(counts.places().find(({ name }) => name === "wallets")).toMatchObject({ done: 0n, held: 1n });
  expect(await redis.exists(`lucid:session:${String(old["session_id"])}`)).toBe(0);
  expect(await redis.exists(...keys)).toBe(keys.length - 1);
  expect(await searchHits(stores, userId)).toBe(3);

  // Its record has reached the log.
  await db.collection("wallets").updateMany({ of }, { $unset: { _audit: 1 } });
  await purge(kinds, daysAgo(30), work(tally()));
  for (const name of ["wallets", "wallet_secrets", "wallet_balances", "wallet_transactions"])
    expect(await db.collection(name).countDocuments({ of })).toBe(0);
});

test("what has a part that waits for the audit log waits too, and a thousand others do not", async () => {
  const of = randomUUID();
  const { db } = stores;
  const deleted = { of, deleted_at: daysAgo(31) };
  const users = Array.from({ length: 250 }, (_, index) => ({ user_id: `${of}-${index}`, ...deleted }));
  await db.collection("users").insertMany(users);
  await db.collection("authentication").insertMany(users.map(({ user_id }) => ({ user_id, of })));
  await db
    .collection("authentication")
    .updateOne({ user_id: users[7]?.user_id ?? "" }, { $set: { _audit: [{ audit_id: "1" }] } });
  await purge(kinds, daysAgo(30), work(tally()));
  for (const name of ["users", "authentication"])
    expect(await db.collection(name).find({ of }).toArray()).toMatchObject([{ user_id: users[7]?.user_id }]);
  await db.collection("authentication").updateMany({ of }, { $unset: { _audit: 1 } });
  await purge(kinds, daysAgo(30), work(tally()));
  for (const name of ["users", "authentication"]) expect(await db.collection(name).countDocuments({ of })).toBe(0);
});

/** A process that works on removals until it has done so many steps. */
async function childReplica(jobsDatabase: string, steps: number) {
  const { mongodbUri, redisUri, searchUri } = storeAddresses();
  const args = [mongodbUri, redisUri, searchUri, jobsDatabase, stores.db.databaseName, String(steps)];
  return startChild(`${import.meta.dirname}/replica.ts`, args);
}

test.concurrent.for([1, 6, 15])(
  "an erasure whose process is killed after step %i is ended by another replica",
  async (steps) => {
    const users = await twoUsers(stores);
    const jobsDb = stores.db.client.db(uniqueName("jobs"));
    const log = { info() {}, warn() {}, error() {} };
    const options = { db: jobsDb, leaseMs: longLeaseMs, concurrency: 1, log };
    await using jobs = openJobs({ ...options, translate: (error) => error });
    const jobId = randomUUID();
    {
      await using child = await childReplica(jobsDb.databaseName, steps);
      const spec = toBinary(RemovalSchema, create(RemovalSchema, { userId: users.userId }));
      await jobs.create(removalKind, { jobId, spec });
      await child.said("half-way");
    }
    await endLeases(jobsDb);
    const { db, copies } = stores;
    removalJobs({ jobs, db, copies, messages: storedMessages, isHeldUp: async () => false });
    jobs.start();
    const watch = { afterSequence: 0, heartbeatMs: 60_000, signal: AbortSignal.timeout(230_000) };
    let last;
    for await (const event of jobs.watch(removalKind, jobId, watch)) last = event;
    expect(last).toMatchObject({ state: "SUCCEEDED", progress: { percent: 100 } });
    await expectErased(stores, users);
    const job = await jobs.find(removalKind, jobId);
    expect(job?.attempt).toBe(2);
    // What the killed process has counted may be lacking; nothing is counted twice.
    const { places } = fromBinary(RemovalSchema, job?.result ?? new Uint8Array());
    const expected = belongings(users.userId, users.of);
    for (const [name, documents] of Object.entries(expected).filter(([each]) => goes(each)))
      expect(places.find((place) => place.name === name)?.done ?? 0n).toBeLessThanOrEqual(BigInt(documents.length));
    await jobsDb.dropDatabase();
  },
);
