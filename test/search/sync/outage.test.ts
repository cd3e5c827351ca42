import { setTimeout as sleep } from "node:timers/promises";

import type { Document } from "bson";
import { Registry } from "prom-client";
import { expect, test, vi } from "vitest";

import { startMongodb } from "../../../local/mongodb.ts";
import { startSearch } from "../../../local/search.ts";
import { messageOf, searchIndices } from "../../../src/search/indices.ts";
import { syncAccess } from "../../../src/search/sync/access.ts";
import { syncMonitor } from "../../../src/search/sync/monitor.ts";
import { changesAfter } from "../../../src/search/sync/tail.ts";
import { openSearch } from "../../../src/stores/search.ts";
import { cuttable } from "../../jobs/proxy.ts";
import { onEveryServer } from "../../support/search-servers.ts";
import { storeAddresses } from "../../support/stores.ts";
import { refusingProxy } from "../refusing-proxy.ts";
import { change, kill, newUser, startReplica, syncBed, type SyncBed } from "./support.ts";

const messages = [messageOf("users")];

const lostChanges = "Changes that search indices lack are lost, so that they will be filled anew";

const soon = { timeout: 150_000, interval: 100 };

onEveryServer((uri) => {
  test("while search is away nothing is lost, what waits is counted, and it catches up by itself", async () => {
    await using bed = await syncBed(uri);
    await using wire = await cuttable(uri);
    await using search = openSearch({ uri: wire.uri });
    const { domain, system, prefix } = bed;
    const users = domain.collection("users");
    await users.insertMany(Array.from({ length: 10 }, () => newUser()));
    const access = syncAccess({ search, indices: searchIndices({ search, prefix }), domain, system });
    bed.start({ access, messages });
    await bed.settled("users");
    wire.cut();
    await users.insertMany(Array.from({ length: 1500 }, () => newUser()));
    await change(domain, "users", {}, { status: "BANNED" });
    await wire.refused();
    // Asked where search is away too.
    const status = async () => access.status("users", AbortSignal.timeout(150_000));
    // Counting has a limit of time, and goes on where it was.
    await vi.waitFor(async () => expect(await status()).toMatchObject({ lagDocuments: 3010, isAtLeast: false }), soon);
    expect((await status()).lagMs).toBeGreaterThan(0);
    await users.insertMany(Array.from({ length: 5 }, () => newUser()));
    await vi.waitFor(async () => expect(await status()).toMatchObject({ lagDocuments: 3015, isAtLeast: false }), soon);
    wire.mend();
    await bed.settled("users");
    // It went on where it was, and filled nothing anew.
    expect((await access.states.find(bed.indices.alias("users")))?.resyncs).toBe(1);
    await expect.poll(status, { timeout: 150_000 }).toMatchObject({ lagDocuments: 0, lagMs: 0, problem: "" });
  });

  test("a search server that has no room for documents is asked again, and none of them is a dead letter", async () => {
    await using bed = await syncBed(uri);
    await using proxy = await refusingProxy(uri);
    await using search = openSearch({ uri: proxy.uri });
    const { domain, system, prefix } = bed;
    const users = domain.collection("users");
    await users.insertOne(newUser());
    const access = syncAccess({ search, indices: searchIndices({ search, prefix }), domain, system });
    bed.start({ access, messages });
    await bed.settled("users");
    const error = { type: "rejected_execution_exception", reason: "queue" };
    const answers = [
      { status: 429, body: { error: { root_cause: [error], ...error }, status: 429 } },
      // Of one document alone.
      { status: 200, body: { errors: true, items: [{ index: { status: 429, error } }] } },
      { status: 503, body: {} },
    ];
    proxy.refuses = (_, path) => (path.includes("/_bulk") ? answers.shift() : undefined);
    await users.insertOne(newUser());
    await bed.settled("users");
    expect(answers).toEqual([]);
    expect(await access.deadLetters.count("users")).toBe(0);
    expect(await access.states.find(bed.indices.alias("users"))).toMatchObject({ resyncs: 1, phase: "following" });
  });

  test.for<
    [string, (bed: SyncBed, index: string) => Promise<unknown>, (bed: SyncBed, index: string) => Promise<unknown>]
  >([
    [
      "takes no writes",
      ({ search }, index) => search.client.indices.putSettings({ index, settings: { "index.blocks.write": true } }),
      ({ search }, index) => search.client.indices.putSettings({ index, settings: { "index.blocks.write": null } }),
    ],
    [
      "is closed",
      ({ search }, index) => search.client.indices.close({ index }),
      ({ search }, index) => search.client.indices.open({ index }),
    ],
  ])(
    "while an index %s, that is told and waited for, and its documents are no dead letters",
    async ([, stop, goOn]) => {
      await using bed = await syncBed(uri);
      const users = bed.domain.collection("users");
      await users.insertMany([newUser({ user_id: "u1" }), newUser({ user_id: "u2" })]);
      const problemOf = vi.fn<(error: unknown) => string>(String);
      bed.start({ messages, problemOf });
      await bed.settled("users");
      const index = bed.indices.alias("users");
      await stop(bed, index);
      await change(bed.domain, "users", { user_id: "u1" }, { status: "BANNED" });
      const status = () => bed.access.status("users", AbortSignal.timeout(150_000));
      await vi.waitFor(async () => expect((await status()).problem).not.toBe(""), soon);
      const first = await status();
      expect(first).toMatchObject({ deadLetters: 0, lagDocuments: 1 });
      // To try again is not to get on.
      const more = problemOf.mock.calls.length + 4;
      await vi.waitFor(() => expect(problemOf.mock.calls.length).toBeGreaterThanOrEqual(more), soon);
      expect((await status()).state).toMatchObject({ problem_time: first.state?.problem_time });
      await users.deleteOne({ user_id: "u2" });
      await goOn(bed, index);
      await bed.settled("users");
      await vi.waitFor(async () => expect(await status()).toMatchObject({ lagDocuments: 0, problem: "" }), soon);
      expect(await status()).toMatchObject({ deadLetters: 0, state: { resyncs: 1 } });
    },
  );

  test("what was sent first does not arrive last where a document is replaced by one of the same revision", async () => {
    await using bed = await syncBed(uri);
    await using proxy = await refusingProxy(uri);
    await using search = openSearch({ uri: proxy.uri });
    const { domain, system, prefix } = bed;
    const users = domain.collection("users");
    await users.insertOne(newUser({ user_id: "u1" }));
    const access = syncAccess({ search, indices: searchIndices({ search, prefix }), domain, system });
    bed.start({ access, messages });
    await bed.settled("users");
    const [first, second] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    let sent = 0;
    proxy.refuses = async (_, path) => {
      if (!path.includes("/_bulk")) return undefined;
      sent += 1;
      if (sent === 1) {
        first.resolve();
        // The second one is not to come before this has its answer.
        await Promise.race([second.promise, sleep(1500)]);
        await sleep(200);
      } else {
        second.resolve();
      }
      return undefined;
    };
    const replaceBy = (more: Document) => users.replaceOne({ user_id: "u1" }, newUser({ user_id: "u1", ...more }));
    await replaceBy({ status: "BANNED" });
    await first.promise;
    await replaceBy({ status: "SUSPENDED" });
    await second.promise;
    const status = () => access.status("users", AbortSignal.timeout(150_000));
    await vi.waitFor(async () => expect(await status()).toMatchObject({ lagDocuments: 0 }), soon);
    expect(await bed.differences("users")).toEqual([]);
  });

  test("where the process that keeps an index is killed, another goes on", async () => {
    const leaseMs = 2500;
    await using bed = await syncBed(uri, leaseMs);
    await using stack = new AsyncDisposableStack();
    const of = { searchUri: uri, names: ["users"], leaseMs };
    const replicas = [await startReplica(bed, of), await startReplica(bed, of)];
    stack.defer(async () => {
      for (const replica of replicas) await kill(replica);
    });
    const users = bed.domain.collection("users");
    await users.insertOne(newUser());
    await bed.settled("users");
    const before = await bed.access.states.find(bed.indices.alias("users"));
    const holder = replicas.find(({ pid }) => before?.holder.endsWith(`/${pid}`));
    expect(holder).toBeDefined();
    await users.insertMany(Array.from({ length: 50 }, () => newUser()));
    await kill(holder);
    await users.insertOne(newUser());
    await bed.settled("users");
    const after = await bed.access.states.find(bed.indices.alias("users"));
    expect(after?.holder).not.toBe(before?.holder);
    expect(after?.resyncs).toBe(1);
  });
});

test.concurrent("a search server that is killed and comes back has everything, however often it was tried meanwhile", async () => {
  await using server = await startSearch();
  await using bed = await syncBed(server.uri);
  const users = bed.domain.collection("users");
  await users.insertMany(Array.from({ length: 200 }, () => newUser()));
  const problemOf = vi.fn<(error: unknown) => string>(String);
  bed.start({ messages, problemOf });
  await bed.settled("users");
  const alias = bed.indices.alias("users");
  const before = await bed.access.states.find(alias);
  // What was acknowledged last may not be on its disk as it is in the checkpoint.
  const last = newUser();
  await users.insertOne(last);
  await bed.settled("users");
  await server.kill();
  for (let wave = 1; wave <= 2; wave++) {
    await users.insertMany(Array.from({ length: 100 }, () => newUser()));
    await change(bed.domain, "users", { role: "USER" }, { username: `wave ${wave}` });
    await users.deleteMany({ user_id: { $in: [last["user_id"]] } });
    const enough = problemOf.mock.calls.length + 2;
    await vi.waitFor(() => expect(problemOf.mock.calls.length).toBeGreaterThanOrEqual(enough), soon);
  }
  await server.start();
  await bed.settled("users");
  expect(await bed.access.states.find(alias)).toMatchObject({ resyncs: before?.resyncs, phase: "following" });
});

test.concurrent("a history that MongoDB has lost while search was away is noticed, and the index is filled anew", async () => {
  await using server = await startMongodb({ history: 50 });
  const { searchUri } = storeAddresses();
  await using bed = await syncBed(searchUri, undefined, { mongodbUri: server.uri });
  await using wire = await cuttable(searchUri);
  await using search = openSearch({ uri: wire.uri });
  const { domain, system, prefix } = bed;
  const access = syncAccess({ search, indices: searchIndices({ search, prefix }), domain, system });
  const users = bed.domain.collection("users");
  const all = Array.from({ length: 20 }, () => newUser());
  await users.insertMany(all);
  bed.start({ access, messages });
  await bed.settled("users");
  wire.cut();
  await users.deleteOne({ user_id: all[0]?.["user_id"] as string });
  const alias = bed.indices.alias("users");
  const { token = {} } = (await access.states.find(alias)) ?? {};
  const lost = async () => {
    await domain.collection("others").insertMany(Array.from({ length: 1000 }, (_, number) => ({ number })));
    const signal = AbortSignal.timeout(150_000);
    await changesAfter({ db: domain, collection: "users", id: "user_id" }, token, { most: 1, limit: signal, signal });
  };
  await vi.waitFor(() => expect(lost()).rejects.toThrow("no longer has the changes"), soon);
  // That is told before search is back, beside what the synchronisation says of it.
  await vi.waitFor(async () => expect((await access.states.find(alias))?.problem).toBeDefined(), soon);
  const status = await access.status("users", AbortSignal.timeout(150_000));
  expect(status).toMatchObject({ isLost: true, lagDocuments: 19 });
  expect(status.problem).toMatch(/will be filled anew\. ./);
  const metrics = new Registry();
  let isAway = false;
  const looked: typeof access = {
    ...access,
    status: (...of) => (isAway ? Promise.reject(new Error("MongoDB does not answer")) : access.status(...of)),
  };
  await using monitor = syncMonitor({ access: looked, metrics, lagWarningMs: Infinity });
  monitor.start();
  await vi.waitFor(() => expect(monitor.concern()).toBe(`${lostChanges}: users`), soon);
  // What is known stays where nothing newer is to be had.
  isAway = true;
  await vi.waitFor(() => expect(monitor.concern()).toBe(`${lostChanges}: users (as last seen)`), soon);
  expect(await metrics.metrics()).toMatch(/^lucid_search_history_lost\{index="users"\} 1$/m);
  isAway = false;
  wire.mend();
  await bed.settled("users");
  const state = await access.states.find(alias);
  expect(state).toMatchObject({ resync_reason: "HISTORY_LOST", resyncs: 2 });
  await vi.waitFor(() => expect(monitor.concern()).toBe(""), soon);
});
