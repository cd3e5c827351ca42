import { expect, test, vi } from "vitest";

import { reasonOf } from "../../src/errors.ts";
import type { JobHandler } from "../../src/jobs/runner.ts";
import { openRouter } from "../admin/database/router.ts";
import { startChild } from "../support/child.ts";
import { storeAddresses } from "../support/stores.ts";
import { aborted, endLeases, leaseMs, longLeaseMs, progress } from "./lease.ts";
import { cuttable } from "./proxy.ts";
import { eventsOf, firstEvent, never, type Rig, rig, sequences, upTo, utf8 } from "./support.ts";

const spec = utf8.encode("spec");

/** A replica in a process of its own. */
const childReplica = (r: Rig, onOwnerLost: JobHandler["onOwnerLost"], ownLeaseMs = longLeaseMs) =>
  startChild(`${import.meta.dirname}/replica.ts`, [
    storeAddresses().mongodbUri,
    r.database,
    onOwnerLost,
    String(ownLeaseMs),
  ]);

test.concurrent("a killed process's job is taken over within the lease, and a watcher elsewhere sees every event once", async () => {
  await using r = await rig();
  const looks: number[] = [];
  const onCommand = (name: string) => void (name === "findAndModify" && looks.push(Date.now()));
  const other = await r.replica({ leaseMs, maxAttempts: 100, onCommand });
  await using child = await childReplica(r, "rerun", leaseMs);
  await other.create("work", { jobId: "a", spec });
  const watched = eventsOf(other, "a");
  await child.said("working");

  const attempts: number[] = [];
  let takenMs = Infinity;
  other.handle("work", {
    onOwnerLost: "rerun",
    async run(_job, context) {
      takenMs = Date.now();
      attempts.push(context.attempt);
      context.report(progress(5), { milestone: true });
      await context.prove();
    },
  });
  child.kill("SIGKILL");
  const jobs = r.db.collection<{ _id: string; lease_expire_time: Date }>("jobs");
  const leaseEnd = (await jobs.findOne({ _id: "a" }))?.lease_expire_time.getTime() ?? 0;
  other.start();

  const events = await watched;
  // By one of the first looks after it, however long the server takes for each; the event that it runs is a statement too.
  expect(looks.filter((atMs) => atMs > leaseEnd && atMs <= takenMs).length).toBeLessThanOrEqual(4);
  expect(Math.min(...attempts)).toBeGreaterThan(1);
  expect(sequences(events)).toEqual(upTo(events.length));
  expect(events.at(-1)?.state).toBe("SUCCEEDED");
  expect(events.filter(({ state }) => state === "SUCCEEDED")).toHaveLength(1);
  const percents = events.map((event) => event.progress?.percent ?? 0);
  expect(percents).toEqual(percents.toSorted((one, two) => one - two));
});

test.concurrent("work that must not run twice ends INTERRUPTED, also when the dead process was the only one", async () => {
  await using r = await rig();
  {
    await using child = await childReplica(r, "interrupt");
    const asking = await r.replica();
    await asking.create("work", { jobId: "a", spec });
    await child.said("working");
  }
  await endLeases(r.db);
  const next = await r.replica();
  next.handle("work", { onOwnerLost: "interrupt", run: () => Promise.reject(new Error("must not run")) });
  next.start();
  const events = await eventsOf(next, "a");
  expect(sequences(events)).toEqual(upTo(events.length));
  expect(events.at(-1)).toMatchObject({ state: "INTERRUPTED", error: { reason: "JOB_INTERRUPTED" } });
  expect((await next.find("work", "a"))?.endTime).toBeInstanceOf(Date);
});

test.concurrent("an owner that was stalled beyond its lease writes nothing when it wakes", async () => {
  await using r = await rig();
  const other = await r.replica({ maxAttempts: 100 });
  await using child = await childReplica(r, "rerun", leaseMs);
  await other.create("work", { jobId: "a", spec });
  await child.said("working");
  child.kill("SIGSTOP");
  other.handle("work", { onOwnerLost: "rerun", run: async () => {} });
  other.start();
  const events = await eventsOf(other, "a");
  const jobs = r.db.collection<{ _id: string }>("jobs");
  const before = await jobs.findOne({ _id: "a" });

  child.kill("SIGCONT");
  expect(await child.said("stopped")).toBe("stopped JOB_LEASE_LOST JOB_LEASE_LOST");
  expect(await jobs.findOne({ _id: "a" })).toEqual(before);
  expect(await eventsOf(other, "a")).toEqual(events);
  expect(events.at(-1)?.state).toBe("SUCCEEDED");
});

test.concurrent("a job that kills every process that takes it up ends after so many", async () => {
  await using r = await rig();
  const asking = await r.replica();
  await asking.create("work", { jobId: "a", spec });
  for (let attempt = 1; attempt <= 2; attempt += 1) {
    {
      await using child = await childReplica(r, "rerun");
      await child.said("working");
    }
    await endLeases(r.db);
  }
  const last = await r.replica({ maxAttempts: 2 });
  last.handle("work", { onOwnerLost: "rerun", run: () => Promise.reject(new Error("must not run")) });
  last.start();
  const events = await eventsOf(last, "a");
  expect(sequences(events)).toEqual(upTo(events.length));
  expect(events.at(-1)).toMatchObject({ state: "INTERRUPTED", error: { reason: "JOB_INTERRUPTED" } });
});

test.concurrent("a death between the two writes of an event loses and repeats nothing", async () => {
  await using r = await rig();
  const jobs = await r.replica();
  await jobs.create("work", { jobId: "a", spec });
  // What a process leaves that copied event 1 and died before it wrote event 2.
  const job = await r.db.collection<{ _id: string; event: object }>("jobs").findOne({ _id: "a" });
  const copied = { _id: "a/0000000001", job_id: "a", ...job?.event };
  await r.db.collection<{ _id: string }>("job_events").insertOne(copied);
  expect(await jobs.find("work", "a")).toMatchObject({ sequence: 1 });

  jobs.handle("work", { onOwnerLost: "rerun", run: async () => {} });
  jobs.start();
  const events = await eventsOf(jobs, "a");
  expect(events.map(({ sequence, state }) => [sequence, state])).toEqual([
    [1, "PENDING"],
    [2, "RUNNING"],
    [3, "SUCCEEDED"],
  ]);
});

test.concurrent("a store that is away for less than the lease costs nothing", async () => {
  await using r = await rig();
  await using wire = await cuttable(storeAddresses().mongodbUri);
  const [owner, other] = [await r.replica({ uri: wire.uri }), await r.replica()];
  const cut = Promise.withResolvers<void>();
  owner.handle("work", {
    onOwnerLost: "rerun",
    async run(_job, context) {
      await context.prove();
      wire.cut();
      context.report(progress(50), { milestone: true });
      await wire.refused(); // it was tried in vain to store that
      wire.mend();
      await cut.promise;
    },
  });
  owner.start();
  await owner.create("work", { jobId: "a", spec });
  const watched = eventsOf(other, "a");
  await firstEvent(other, "a", (event) => event.progress?.percent === 50);
  cut.resolve();
  const events = await watched;
  expect(sequences(events)).toEqual(upTo(events.length));
  expect(events.at(-1)?.state).toBe("SUCCEEDED");
  expect((await other.find("work", "a"))?.attempt).toBe(1);
});

test.concurrent("a lease is proved to be held though a statement takes too long", async () => {
  await using r = await rig();
  let late = 0;
  await using server = await openRouter(storeAddresses().mongodbUri, (_command, name) => {
    if (name !== "findAndModify" || late-- <= 0) return undefined;
    return { ok: 0, code: 50, codeName: "MaxTimeMSExpired", errmsg: "operation exceeded time limit" };
  });
  const owner = await r.replica({ uri: server.uri });
  owner.handle("work", {
    onOwnerLost: "rerun",
    async run(_job, context) {
      late = 3;
      await context.prove();
    },
  });
  owner.start();
  await owner.create("work", { jobId: "a", spec });
  expect((await eventsOf(owner, "a")).at(-1)?.state).toBe("SUCCEEDED");
});

test.concurrent("work stops when the store is away for longer than the lease, and is done again", async () => {
  await using r = await rig();
  await using wire = await cuttable(storeAddresses().mongodbUri);
  const [owner, other] = [await r.replica({ uri: wire.uri, leaseMs, maxAttempts: 100 }), await r.replica()];
  const stopped = Promise.withResolvers<unknown>();
  let isCut = false;
  owner.handle("work", {
    onOwnerLost: "rerun",
    async run(_job, { signal }) {
      if (isCut) return;
      isCut = true;
      wire.cut();
      stopped.resolve(await aborted(signal));
      signal.throwIfAborted();
    },
  });
  owner.start();
  await owner.create("work", { jobId: "a", spec });
  const watched = eventsOf(other, "a");
  expect(reasonOf(await stopped.promise)?.reason).toBe("JOB_LEASE_LOST");
  wire.mend();
  const events = await watched;
  expect(sequences(events)).toEqual(upTo(events.length));
  expect(events.at(-1)?.state).toBe("SUCCEEDED");
  expect((await other.find("work", "a"))?.attempt).toBeGreaterThan(1);
});

test.concurrent("a watch whose store does not answer goes on when it does", async () => {
  await using r = await rig();
  await using wire = await cuttable(storeAddresses().mongodbUri);
  const [owner, watching] = [await r.replica(), await r.replica({ uri: wire.uri })];
  const end = Promise.withResolvers<void>();
  owner.handle("work", { onOwnerLost: "rerun", run: () => end.promise });
  owner.start();
  await owner.create("work", { jobId: "a", spec });
  const seen: number[] = [];
  const goOn = async (): Promise<void> => {
    wire.cut();
    await wire.refused();
    end.resolve();
    wire.mend();
  };
  let cut: Promise<void> | undefined;
  for await (const event of watching.watch("work", "a", { afterSequence: 0, heartbeatMs: 300_000, signal: never() })) {
    seen.push(event.sequence);
    if (event.state === "RUNNING") cut ??= goOn();
  }
  await cut;
  expect(seen).toEqual([1, 2, 3]);
});

test.concurrent("a job whose owner lives is nobody else's, however long it takes", async () => {
  await using r = await rig();
  const longerMs = 20_000;
  const asking = await r.replica({ leaseMs: longerMs });
  const replicas = [asking, await r.replica({ leaseMs: longerMs }), await r.replica({ leaseMs: longerMs })];
  const jobs = r.db.collection<{ _id: string; lease_expire_time: Date }>("jobs");
  let runs = 0;
  for (const replica of replicas) {
    replica.handle("work", {
      onOwnerLost: "rerun",
      async run(job) {
        runs += 1;
        const leaseEnd = async () => (await jobs.findOne({ _id: job.jobId }))?.lease_expire_time.getTime() ?? 0;
        const firstEnd = await leaseEnd();
        const isOutlived = async () => expect(await leaseEnd()).toBeGreaterThan(firstEnd + longerMs);
        await vi.waitFor(isOutlived, { timeout: 120_000, interval: 200 });
      },
    });
    replica.start();
  }
  await asking.create("work", { jobId: "a", spec });
  expect((await eventsOf(asking, "a")).map(({ state }) => state)).toEqual(["PENDING", "RUNNING", "SUCCEEDED"]);
  expect(runs).toBe(1);
});
