import { type Document, Long } from "bson";
import { expect, test } from "vitest";

import { fail } from "../../../src/errors.ts";
import { documentKey } from "../../../src/schema/search-copy.ts";
import { messageOf, searchIndices } from "../../../src/search/indices.ts";
import { rebuildIndex } from "../../../src/search/rebuild.ts";
import { syncAccess } from "../../../src/search/sync/access.ts";
import { type Changed, ChangeTail } from "../../../src/search/sync/tail.ts";
import { copyWriter, type Writer } from "../../../src/search/sync/writer.ts";
import { openSearch } from "../../../src/stores/search.ts";
import { storeAddresses } from "../../support/stores.ts";
import { refusingProxy } from "../refusing-proxy.ts";
import { change, newUser, syncBed, type SyncBed } from "./support.ts";

const message = messageOf("users");
const { searchUri } = storeAddresses();
const limit = () => AbortSignal.timeout(120_000);

/** A process whose bulk requests are on their way for a long time. */
async function slowProcess({ domain, system, prefix }: SyncBed) {
  await using stack = new AsyncDisposableStack();
  const proxy = stack.use(await refusingProxy(searchUri));
  const search = stack.use(openSearch({ uri: proxy.uri }));
  const [sent, free, arrived] = [0, 1, 2].map(() => Promise.withResolvers<void>()) as [Held, Held, Held]; // three
  stack.defer(() => free.resolve());
  const isBulk = (path: string) => path.includes("/_bulk");
  proxy.refuses = async (_, path) => {
    if (!isBulk(path)) return undefined;
    sent.resolve();
    await free.promise;
    return undefined;
  };
  proxy.answered = (path) => isBulk(path) && arrived.resolve();
  const access = syncAccess({ search, indices: searchIndices({ search, prefix }), domain, system });
  const all = stack.move();
  return {
    access,
    sent: sent.promise,
    async arrives() {
      free.resolve();
      await arrived.promise;
    },
    [Symbol.asyncDispose]: () => all.disposeAsync(),
  };
}

type Held = PromiseWithResolvers<void>;

/** The users of a bed as they are, raw. */
async function rawUsers({ domain }: SyncBed, ids: readonly string[]): Promise<Uint8Array[]> {
  const users = domain.collection("users").find<Uint8Array>({ user_id: { $in: [...ids] } }, { raw: true });
  return users.toArray();
}

async function keyOf(bed: SyncBed, id: string): Promise<string> {
  const [raw] = await rawUsers(bed, [id]);
  if (raw === undefined) throw new Error(`There is no ${id}`);
  return documentKey(raw);
}

/** What their changes tell. */
async function told(bed: SyncBed, ids: readonly string[]): Promise<Map<string, Changed>> {
  const raw = await rawUsers(bed, ids);
  return new Map(
    raw.map((document) => [documentKey(document), { _id: undefined, isRemoved: false, id: undefined, document }]),
  );
}

/** A writer that calls `raising` whenever it has begun a new epoch, before it goes on. */
async function writerOf(bed: SyncBed, raising: () => Promise<void> = async () => undefined): Promise<Writer> {
  const { access, search, domain, indices } = bed;
  const ensured = await indices.ensure("users", limit());
  const { deadLetters } = access;
  let epoch = 1;
  const raiseEpoch = async (above: number): Promise<number> => {
    epoch = Math.max(epoch, above) + 1;
    const raised = epoch;
    await raising();
    return raised;
  };
  const about = { message, db: domain, collection: "users", alias: ensured.alias, writes: ensured.writes };
  const writer = copyWriter({ ...about, search, deadLetters, raiseEpoch });
  writer.epoch = epoch;
  return writer;
}

/** Replaces a user by one of the same revision, as a restore does it. */
async function rewrite({ domain }: SyncBed, id: string, more: Document): Promise<void> {
  await domain.collection("users").replaceOne({ user_id: id }, newUser({ user_id: id, ...more }));
}

test("what a process had sent that was killed changes nothing, though it arrives last and is of the same revision", async () => {
  await using bed = await syncBed(searchUri);
  await bed.domain.collection("users").insertOne(newUser({ user_id: "u1" }));
  const first = bed.start({ messages: [message] });
  await bed.settled("users");
  await first[Symbol.asyncDispose]();
  await using slow = await slowProcess(bed);
  const killed = bed.start({ access: slow.access, messages: [message] });
  await rewrite(bed, "u1", { status: "BANNED" });
  await slow.sent;
  await killed[Symbol.asyncDispose]();
  await rewrite(bed, "u1", { status: "SUSPENDED" });
  bed.start({ messages: [message] });
  await bed.settled("users");
  await slow.arrives();
  expect(await bed.differences("users")).toEqual([]);
});

test("what is mended beside the synchronisation does not overwrite what that has written meanwhile", async () => {
  await using bed = await syncBed(searchUri);
  await bed.domain.collection("users").insertMany(["u1", "u2"].map((id) => newUser({ user_id: id })));
  bed.start({ messages: [message] });
  await bed.settled("users");
  await using slow = await slowProcess(bed);
  const writer = await slow.access.writer("users", limit());
  const copies = await Promise.all(["u1", "u2"].map(async (id) => ({ id, key: await keyOf(bed, id) })));
  const mending = writer.mend(copies, limit());
  await slow.sent;
  await rewrite(bed, "u1", { status: "BANNED" });
  await bed.domain.collection("users").deleteOne({ user_id: "u2" });
  await bed.settled("users");
  await slow.arrives();
  await mending;
  expect(await bed.differences("users")).toEqual([]);
});

test("what a repair had sent that was killed changes nothing, though it arrives after a restore of the same revision", async () => {
  await using bed = await syncBed(searchUri);
  const users = bed.domain.collection("users");
  await users.insertOne(newUser({ user_id: "u1" }));
  bed.start({ messages: [message] });
  await bed.settled("users");
  // From here on nothing of another process that kept the index may arrive.
  await rewrite(bed, "u1", { status: "SUSPENDED" });
  await bed.settled("users");
  // A copy of which no change has told.
  const surplus = { user_id: "u2", revision: 1, _key: "x" };
  await bed.search.client.index({ index: bed.indices.alias("users"), id: "u2", document: surplus });
  await using mender = await slowProcess(bed);
  await using pruner = await slowProcess(bed);
  const killing = new AbortController();
  const mending = (await mender.access.writer("users", limit())).mend(
    [{ id: "u1", key: await keyOf(bed, "u1") }],
    killing.signal,
  );
  const pruning = (await pruner.access.writer("users", limit())).prune([{ id: "u2", key: "x" }], killing.signal);
  await Promise.all([mender.sent, pruner.sent]);
  killing.abort();
  await Promise.allSettled([mending, pruning]);
  await users.insertOne(newUser({ user_id: "u2" }));
  await rewrite(bed, "u1", { status: "BANNED" });
  await bed.settled("users");
  await Promise.all([mender.arrives(), pruner.arrives()]);
  expect(await bed.differences("users")).toEqual([]);
});

test("what a change told before a new epoch is not taken for newer than what was written since", async () => {
  await using bed = await syncBed(searchUri);
  const users = bed.domain.collection("users");
  // More than are written at once.
  const ids = Array.from({ length: 1001 }, (_, at) => `u${String(at).padStart(4, "0")}`);
  const last = ids.at(-1) ?? "";
  await users.insertMany(ids.map((id) => newUser({ user_id: id })));
  const changed = await told(bed, ids);
  const writer = await writerOf(bed, async () => {
    // A later batch that is on its way beside it.
    await change(bed.domain, "users", { user_id: last }, { status: "BANNED" });
    await writer.write(await rawUsers(bed, [last]), limit());
  });
  // The first one was there in a later state, which a restore has undone.
  await users.updateOne({ user_id: ids[0] ?? "" }, { $set: { revision: Long.fromNumber(9) } });
  await writer.write(await rawUsers(bed, ids.slice(0, 1)), limit());
  await users.updateOne({ user_id: ids[0] ?? "" }, { $set: { revision: Long.fromNumber(1) } });
  await writer.bring({ changed, time: undefined }, limit());
  expect(await bed.differences("users")).toEqual([]);
});

test.for(["is deleted by hand and made anew", "is being rebuilt"])(
  "what was sent to an index that %s does not bring back in the new one what has gone meanwhile",
  async (happens) => {
    await using bed = await syncBed(searchUri);
    const users = bed.domain.collection("users");
    await users.insertMany([newUser({ user_id: "u1" }), newUser({ user_id: "u2" })]);
    const first = bed.start({ messages: [message] });
    await bed.settled("users");
    await using slow = await slowProcess(bed);
    const ending = new AbortController();
    if (happens === "is being rebuilt") {
      const work = { keep: () => undefined, progress: () => undefined, prove: () => Promise.resolve() };
      const options = { access: slow.access, leaseMs: 8000 };
      const rebuilding = rebuildIndex("users", options, { ...work, signal: ending.signal, kept: undefined });
      await slow.sent;
      ending.abort(fail("CANCELLED", "It was cancelled"));
      await expect(rebuilding).rejects.toThrow("It was cancelled");
      await users.deleteOne({ user_id: "u1" });
      // Right before the swap nothing is compared any more.
      const again = { ...work, signal: limit(), kept: undefined, prove: () => slow.arrives() };
      await rebuildIndex("users", { ...options, access: bed.access }, again);
    } else {
      await first[Symbol.asyncDispose]();
      const killed = bed.start({ access: slow.access, messages: [message] });
      await change(bed.domain, "users", { user_id: "u1" }, { status: "BANNED" });
      await slow.sent;
      await killed[Symbol.asyncDispose]();
      await users.deleteOne({ user_id: "u1" });
      await bed.search.client.indices.delete({ index: bed.indices.versioned("users", 1) });
      bed.start({ messages: [message] });
    }
    await bed.settled("users");
    await slow.arrives();
    expect(await bed.differences("users")).toEqual([]);
  },
);

test("what was read before a new epoch is not taken for newer than what was written since", async () => {
  await using bed = await syncBed(searchUri);
  const users = bed.domain.collection("users");
  await users.insertMany(["u1", "u2"].map((id) => newUser({ user_id: id })));
  const changed = await told(bed, ["u1", "u2"]);
  const writer = await writerOf(bed, async () => {
    await change(bed.domain, "users", { user_id: "u2" }, { status: "BANNED" });
    await writer.write(await rawUsers(bed, ["u2"]), limit());
  });
  // Both are there in later states; a restore has undone one of them.
  await change(bed.domain, "users", {}, { status: "SUSPENDED" });
  await writer.write(await rawUsers(bed, ["u1", "u2"]), limit());
  await users.updateOne({ user_id: "u1" }, { $set: { revision: Long.fromNumber(1) } });
  await writer.bring({ changed, time: undefined }, limit());
  expect(await bed.differences("users")).toEqual([]);
});

test("a fill that another process goes on with looks for what the first one had sent of documents that have gone", async () => {
  await using bed = await syncBed(searchUri);
  const users = bed.domain.collection("users");
  await users.insertMany(["u1", "u2"].map((id) => newUser({ user_id: id })));
  const first = bed.start({ messages: [message] });
  await bed.settled("users");
  await first[Symbol.asyncDispose]();
  await users.deleteOne({ user_id: "u1" });
  // As where it was killed with its first page under way, which arrived when the removal had been taken.
  await using tail = await ChangeTail.open({ db: bed.domain, collection: "users", id: "user_id" }, undefined);
  const alias = bed.indices.alias("users");
  const { fence = 0 } = (await bed.access.states.find(alias)) ?? {};
  const { token } = tail;
  await bed.access.states.save(alias, fence, { phase: "filling", filled: 0, needs_sweep: false, token });
  bed.start({ messages: [message] });
  await bed.settled("users");
  expect(await bed.access.states.find(alias)).toMatchObject({ resyncs: 1 });
});
