import { Double, Long } from "bson";
import type { Document, UpdateFilter } from "mongodb";
import { expect, test, vi } from "vitest";

import { messageOf } from "../../../src/search/indices.ts";
import { compare } from "../../../src/search/sync/compare.ts";
import { concurrentlyOnEveryServer } from "../../support/search-servers.ts";
import { change, newUser, syncBed, type SyncBed } from "./support.ts";

const message = messageOf("users");
const soon = { timeout: 150_000, interval: 100 };
const limit = () => AbortSignal.timeout(150_000);

/** A bed whose index is kept, with users at revision 9, from `u0` on. */
async function keptUsers(uri: string, count = 2): Promise<SyncBed> {
  await using stack = new AsyncDisposableStack();
  const bed = stack.use(await syncBed(uri));
  const nine = Long.fromNumber(9);
  const users = Array.from({ length: count }, (_, at) => newUser({ user_id: `u${at}`, revision: nine }));
  await bed.domain.collection("users").insertMany(users);
  bed.start({ messages: [message] });
  await bed.settled("users");
  stack.move();
  return bed;
}

async function compared(bed: SyncBed, repair: boolean) {
  const { access, indices } = bed;
  return compare({
    ...access.sourceOf("users"),
    message,
    search: access.search,
    alias: indices.alias("users"),
    deadLetters: access.deadLetters,
    writer: await access.writer("users", limit()),
    repair,
    caughtUp: (signal) => access.caughtUp("users", 60_000, signal),
    signal: limit(),
    progress: () => undefined,
  });
}

concurrentlyOnEveryServer((uri) => {
  test("where another program lowers revisions, takes them away or leaves them, copies are what documents are, also after later writes", async () => {
    const lower = Long.fromNumber(3);
    const updates: (UpdateFilter<Document> | Document[])[] = [
      { $set: { revision: lower, status: "BANNED" } },
      { $set: { revision: lower } },
      [{ $set: { revision: { $subtract: ["$revision", 4n] }, status: "BANNED" } }],
      { $unset: { revision: "" }, $set: { status: "BANNED" } },
      { $set: { revision: null, status: "BANNED" } },
      { $set: { status: "BANNED" } },
    ];
    await using bed = await keptUsers(uri, updates.length);
    const users = bed.domain.collection("users");
    for (const [at, update] of updates.entries()) {
      await users.updateOne({ user_id: `u${at}` }, update);
      await bed.settled("users");
    }
    for (const status of ["ACTIVE", "SUSPENDED"]) {
      const revision = { $add: [{ $ifNull: ["$revision", 0n] }, 1n] };
      await users.updateMany({}, [{ $set: { status, revision } }]);
      await bed.settled("users");
    }
    // Nothing was filled anew for that.
    const state = await bed.access.states.find(bed.indices.alias("users"));
    expect(state).toMatchObject({ resyncs: 1, phase: "following" });
    expect(await compared(bed, false)).toMatchObject({ compared: updates.length, different: 0, deadLetters: 0 });
  });

  test("a copy that was edited by hand is replaced with the next change of its document, and holds up no other", async () => {
    await using bed = await keptUsers(uri);
    const { client } = bed.search;
    const index = bed.indices.alias("users");
    // Each of these raises the version by one, and leaves the revision.
    for (const status of ["A", "B", "C"]) await client.update({ index, id: "u0", doc: { status } });
    await change(bed.domain, "users", { user_id: "u0" }, { status: "BANNED" });
    await change(bed.domain, "users", { user_id: "u1" }, { status: "BANNED" });
    await bed.settled("users");
    expect(await bed.differences("users")).toEqual([]);
  });

  test("a copy that holds something else than its document is named though both are of one revision, and mended", async () => {
    await using bed = await keptUsers(uri);
    const { client } = bed.search;
    const index = bed.indices.alias("users");
    // One is edited; of another the server has what arrived last of two states of one revision.
    await client.update({ index, id: "u0", doc: { status: "EDITED" } });
    const { _source = {}, _version = 0 } = await client.get<object>({ index, id: "u1" });
    const document = { ..._source, status: "LATE", _digest: "of another state" };
    await client.index({ index, id: "u1", version: _version, version_type: "external_gte", document });
    const both = { revision: 9n, indexedRevision: 9n, kind: "CONTENT" };
    const differences = ["u0", "u1"].map((id) => ({ id, ...both }));
    expect(await compared(bed, false)).toMatchObject({ compared: 2, different: 2, repaired: 0, differences });
    expect(await compared(bed, true)).toMatchObject({ compared: 2, different: 2, repaired: 2 });
    expect(await bed.differences("users")).toEqual([]);
    const last = await compared(bed, false);
    expect(last).toMatchObject({ compared: 2, different: 0, indexDigest: last.documentsDigest });
  });

  test("a copy of a version that is far above all others goes with its document", async () => {
    await using bed = await keptUsers(uri);
    const index = bed.indices.alias("users");
    const { _source } = await bed.search.client.get<object>({ index, id: "u0" });
    const document = _source ?? {};
    await bed.search.client.index({ index, id: "u0", version: 2 ** 50, version_type: "external", document });
    await bed.domain.collection("users").deleteOne({ user_id: "u0" });
    await change(bed.domain, "users", { user_id: "u1" }, { status: "BANNED" });
    await bed.settled("users");
    expect(await bed.differences("users")).toEqual([]);
  });

  test("a revision that is none makes a dead letter, which holds up neither other documents nor comparisons", async () => {
    const revisions = [Long.fromNumber(-5), Long.fromNumber(2 ** 40), new Double(1.5), "nine"];
    await using bed = await keptUsers(uri, revisions.length + 1);
    const users = bed.domain.collection("users");
    const ids = revisions.map((_, at) => `u${at}`);
    // What is above them in the index are tombstones.
    await users.deleteMany({ user_id: { $in: ids } });
    await bed.settled("users");
    await users.insertMany(revisions.map((revision, at) => newUser({ user_id: ids[at], revision })));
    await change(bed.domain, "users", { user_id: `u${ids.length}` }, { status: "BANNED" });
    const status = () => bed.access.status("users", limit());
    await vi.waitFor(async () => expect(await status()).toMatchObject({ lagDocuments: 0, problem: "" }), soon);
    const letters = async () => {
      const wanted = { index: "users", withDiscarded: true, after: "", limit: 10 };
      return (await bed.access.deadLetters.list(wanted)).map(({ document_id: id, field }) => ({ id, field }));
    };
    expect((await letters()).toSorted((a, b) => (a.id < b.id ? -1 : 1))).toEqual(
      ids.map((id) => ({ id, field: "revision" })),
    );
    expect(await compared(bed, true)).toMatchObject({ compared: 5, different: 0, deadLetters: 4 });
    await users.updateMany({ user_id: { $in: ids } }, { $set: { revision: Long.fromNumber(1) } });
    await bed.settled("users");
    expect(await letters()).toEqual([]);
  });
});
