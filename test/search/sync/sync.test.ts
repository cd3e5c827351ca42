import type { Document } from "bson";
import { Long, ObjectId } from "bson";
import { expect, test, vi } from "vitest";

import { messageOf } from "../../../src/search/indices.ts";
import { concurrentlyOnEveryServer } from "../../support/search-servers.ts";
import { change, newSession, newUser, syncBed, type SyncBed } from "./support.ts";

const users = [messageOf("users")];
const sessions = [messageOf("sessions")];

const soon = { timeout: 150_000, interval: 100 };

/** How the sync of an index stands. */
async function stateOf(bed: SyncBed, name: string) {
  const state = await bed.access.states.find(bed.indices.alias(name));
  if (state === undefined) throw new Error(`Nothing is known of ${name}`);
  return state;
}

concurrentlyOnEveryServer((uri) => {
  test("what is there is filled in, and what changes, is deleted or removed follows", async () => {
    await using bed = await syncBed(uri);
    const collection = bed.domain.collection("users");
    const first = Array.from({ length: 1200 }, () => newUser());
    await collection.insertMany(first);
    await bed.system
      .collection("audit_logs")
      .insertOne({ audit_id: "a1", sequence: 1n, rpc: "x/Y", actor: { id: "b" } });
    bed.start({ messages: [...users, messageOf("audit-logs")] });
    for (const name of ["users", "audit-logs"]) await bed.settled(name);
    await collection.insertMany(Array.from({ length: 20 }, () => newUser()));
    const [one, two, three] = first.map(({ user_id }) => user_id as string);
    await change(bed.domain, "users", { user_id: one }, { status: "BANNED" });
    await change(bed.domain, "users", { user_id: two }, { deleted_at: "$$NOW" });
    await collection.deleteOne({ user_id: three });
    // Made and removed before anybody can have seen it.
    await collection.insertOne(newUser({ user_id: "short-lived" }));
    await collection.deleteOne({ user_id: "short-lived" });
    await bed.settled("users");
    expect(await stateOf(bed, "users")).toMatchObject({ phase: "following", resyncs: 1 });
    const behind = async () => bed.access.status("users", AbortSignal.timeout(150_000));
    await vi.waitFor(
      async () => expect(await behind()).toMatchObject({ lagDocuments: 0, lagMs: 0, problem: "" }),
      soon,
    );
  });

  test("a document that comes back, with an earlier revision or another _id, replaces what was there", async () => {
    await using bed = await syncBed(uri);
    const collection = bed.domain.collection("users");
    const _id = new ObjectId();
    await collection.insertOne(newUser({ _id, user_id: "u1", revision: Long.fromNumber(50) }));
    await collection.insertOne(newUser({ user_id: "u2", revision: Long.fromNumber(50) }));
    bed.start({ messages: users });
    await bed.settled("users");
    // As a restore does it that overwrites.
    await collection.replaceOne({ _id }, newUser({ user_id: "u1", revision: Long.fromNumber(3) }));
    await bed.settled("users");
    await collection.deleteOne({ user_id: "u2" });
    await bed.settled("users");
    await collection.insertOne(newUser({ user_id: "u2", revision: Long.fromNumber(1) }));
    await bed.settled("users");
    await change(bed.domain, "users", {}, { status: "SUSPENDED" });
    await bed.settled("users");
    expect((await stateOf(bed, "users")).resyncs).toBe(1);
  });

  test("a late write of a removed document brings nothing back", async () => {
    await using bed = await syncBed(uri);
    const collection = bed.domain.collection("users");
    await collection.insertOne(newUser({ user_id: "u1" }));
    bed.start({ messages: users });
    await bed.settled("users");
    const late = await collection.find<Uint8Array>({ user_id: "u1" }, { raw: true }).toArray();
    await collection.deleteOne({ user_id: "u1" });
    await bed.settled("users");
    // Another process had read it before, and its bulk comes only now.
    const writer = await bed.access.writer("users", AbortSignal.timeout(150_000));
    await writer.write(late, AbortSignal.timeout(150_000));
    expect(await bed.differences("users")).toEqual([]);
    // Long after that the tombstone goes too.
    const ids = async () => (await writer.stored(["u1"], AbortSignal.timeout(150_000))).size;
    expect(await ids()).toBe(1);
    await writer.tidy(new Date(Date.now() - 3_600_000), AbortSignal.timeout(150_000));
    expect(await ids()).toBe(1);
    await writer.tidy(new Date(Date.now() + 1000), AbortSignal.timeout(150_000));
    expect(await ids()).toBe(0);
  });

  test("moving an audit record out of a document writes nothing", async () => {
    await using bed = await syncBed(uri);
    const collection = bed.domain.collection("users");
    await collection.insertMany([newUser(), newUser()]);
    bed.start({ messages: users });
    await bed.settled("users");
    const writes = async () => {
      const { _all } = await bed.search.client.indices.stats({ index: bed.indices.alias("users"), metric: "indexing" });
      return _all.primaries?.indexing?.index_total;
    };
    const before = await writes();
    const take = { $set: { _audit: { $filter: { input: "$_audit", cond: false } } } };
    await collection.updateMany({}, [take, { $unset: "_audit" }]);
    await collection.insertOne(newUser({ user_id: "after" }));
    await bed.settled("users");
    expect(await writes()).toBe((before ?? 0) + 1);
  });

  test.for<[string, (bed: SyncBed) => Promise<void>, string]>([
    [
      "the index is deleted by hand",
      async (bed) => void (await bed.search.client.indices.delete({ index: `${bed.prefix}users-v1` })),
      "INDEX_REPLACED",
    ],
    [
      "another index is behind the alias",
      async (bed) => {
        const next = await bed.indices.makeNext("users", AbortSignal.timeout(150_000));
        const alias = bed.indices.alias("users");
        await bed.search.client.indices.updateAliases({
          actions: [{ remove: { index: `${alias}-v1`, alias } }, { add: { index: next, alias } }],
        });
      },
      "INDEX_REPLACED",
    ],
    [
      "the collection is dropped",
      async (bed) => {
        await bed.domain.collection("users").drop();
        await bed.domain.collection("users").insertMany([newUser({ user_id: "u1", revision: Long.fromNumber(1) })]);
      },
      "COLLECTION_REPLACED",
    ],
    [
      "another collection takes its name",
      async (bed) => {
        await bed.domain.collection("restored").insertOne(newUser({ user_id: "u1", revision: Long.fromNumber(1) }));
        await bed.domain.collection("users").drop();
        await bed.domain.collection("restored").rename("users");
      },
      "COLLECTION_REPLACED",
    ],
    ["the database is dropped", async (bed) => void (await bed.domain.dropDatabase()), "COLLECTION_REPLACED"],
    [
      "an operator asks for it",
      async (bed) => void (await bed.access.states.wantResync(bed.indices.alias("users"), undefined)),
      "REQUESTED",
    ],
  ])("the index is filled anew by itself where %s", async ([, happens, reason]) => {
    await using bed = await syncBed(uri);
    const all = Array.from({ length: 30 }, () => newUser({ revision: Long.fromNumber(9) }));
    await bed.domain.collection("users").insertMany([...all, newUser({ user_id: "u1", revision: Long.fromNumber(9) })]);
    bed.start({ messages: users });
    await bed.settled("users");
    await happens(bed);
    await vi.waitFor(async () => expect((await stateOf(bed, "users")).resync_reason).toBe(reason), soon);
    await bed.settled("users");
    await bed.domain.collection("users").insertOne(newUser());
    await bed.settled("users");
  });

  test.for<[string, Document, string]>([
    ["the history is lost", { $set: { token: { _data: "lost" } } }, "HISTORY_LOST"],
    [
      "nothing is known of the index any more",
      { $unset: { token: "" }, $set: { epoch: 0, phase: "new" } },
      "FIRST_FILL",
    ],
  ])("while nobody looked %s: what has gone goes from the index too", async ([, loss, reason]) => {
    await using bed = await syncBed(uri);
    const collection = bed.domain.collection("users");
    const all = Array.from({ length: 50 }, () => newUser({ revision: Long.fromNumber(5) }));
    await collection.insertMany(all);
    const first = bed.start({ messages: users });
    await bed.settled("users");
    await first[Symbol.asyncDispose]();
    await collection.deleteMany({ user_id: { $in: all.slice(0, 10).map(({ user_id }) => user_id as string) } });
    await collection.updateMany({}, { $set: { revision: Long.fromNumber(2), status: "BANNED" } });
    await bed.system.collection("search_sync").updateOne({}, loss);
    bed.start({ messages: users });
    await bed.settled("users");
    expect((await stateOf(bed, "users")).resync_reason).toBe(reason);
  });

  test("fields that a new version declares are filled in", async () => {
    await using bed = await syncBed(uri);
    await bed.domain.collection("sessions").insertMany([newSession(), newSession()]);
    const first = bed.start({ messages: sessions });
    await bed.settled("sessions");
    await first[Symbol.asyncDispose]();
    const alias = bed.indices.alias("sessions");
    const mapping = await bed.search.client.indices.getMapping({ index: alias });
    const [index = "", { mappings } = { mappings: {} }] = Object.entries(mapping)[0] ?? [];
    // As an older version had made it.
    await bed.search.client.indices.putMapping({ index, _meta: { ...mappings._meta, digest: "older" } });
    await bed.system.collection("search_sync").updateOne({ _id: alias as never }, { $set: { digest: "older" } });
    bed.start({ messages: sessions });
    await vi.waitFor(async () => expect((await stateOf(bed, "sessions")).resync_reason).toBe("MAPPING_EXTENDED"), soon);
    await bed.settled("sessions");
  });
});
