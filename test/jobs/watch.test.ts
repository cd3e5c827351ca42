import { Long } from "bson";
import { array, assert, asyncProperty, integer } from "fast-check";
import { expect, test } from "vitest";

import type { Jobs } from "../../src/jobs/jobs.ts";
import { eventPauseMs } from "../../src/jobs/runner.ts";
import { openRouter } from "../admin/database/router.ts";
import { storeAddresses } from "../support/stores.ts";
import { leaseMs, progress } from "./lease.ts";
import { eventsOf, firstEvent, never, rig, sequences, upTo, utf8 } from "./support.ts";

const spec = utf8.encode("spec");

/** A job's work: one progress event after another, each stored before the next. */
async function manyEvents(jobs: Jobs, jobId: string, report: (percent: number) => void, count: number): Promise<void> {
  for (let number = 1; number <= count; number += 1) {
    const percent = (number * 99) / count;
    report(percent);
    await firstEvent(jobs, jobId, (event) => (event.progress?.percent ?? 0) >= percent);
  }
}

/** Watches in pieces: after so many events of each piece it breaks off and comes back, to the next replica. */
async function inPieces(replicas: readonly Jobs[], jobId: string, pieces: readonly number[]): Promise<number[]> {
  const seen: number[] = [];
  for (let round = 0; ; round += 1) {
    const jobs = replicas[round % replicas.length];
    if (jobs === undefined) throw new Error("no replica");
    const atMost = pieces[round % pieces.length] ?? 1;
    const options = { afterSequence: seen.at(-1) ?? 0, heartbeatMs: 300_000, signal: never() };
    let got = 0;
    for await (const { sequence, state } of jobs.watch("work", jobId, options)) {
      seen.push(sequence);
      if (state === "SUCCEEDED") return seen;
      got += 1;
      if (got === atMost) break;
    }
  }
}

test("any number of watchers that break off and come back see every event exactly once, the final one last", async () => {
  await using r = await rig();
  const replicas = [await r.replica(), await r.replica(), await r.replica()];
  const [owner] = replicas;
  if (owner === undefined) throw new Error("no replica");
  owner.handle("work", {
    onOwnerLost: "rerun",
    run: (job, context) =>
      manyEvents(owner, job.jobId, (percent) => context.report(progress(percent), { milestone: true }), 60),
  });
  owner.start();
  const watchers = array(array(integer({ min: 1, max: 15 }), { minLength: 1, maxLength: 6 }), {
    minLength: 5,
    maxLength: 25,
  });
  let number = 0;
  await assert(
    asyncProperty(watchers, async (piecesOfEach) => {
      number += 1;
      const jobId = `job-${number}`;
      await owner.create("work", { jobId, spec });
      const watched = piecesOfEach.map((pieces, index) =>
        inPieces([...replicas.slice(index % 3), ...replicas], jobId, pieces),
      );
      for (const seen of await Promise.all(watched)) expect(seen).toEqual(upTo(63));
    }),
    { numRuns: 4, seed: 20_261_124, endOnFailure: true },
  );
});

test("a slow watcher slows neither the job nor the others, and misses nothing", async () => {
  await using r = await rig();
  const [owner, other] = [await r.replica(), await r.replica()];
  owner.handle("work", {
    onOwnerLost: "rerun",
    run: (job, context) =>
      manyEvents(owner, job.jobId, (percent) => context.report(progress(percent), { milestone: true }), 80),
  });
  await owner.create("work", { jobId: "a", spec });
  const watched = other.watch("work", "a", { afterSequence: 0, heartbeatMs: 300_000, signal: never() });
  const slow = watched[Symbol.asyncIterator]();
  expect((await slow.next()).value?.sequence).toBe(1);
  owner.start();
  const fast = await eventsOf(other, "a");
  expect(sequences(fast)).toEqual(upTo(83));
  // The job is over before the slow one asks for its second event.
  const rest: number[] = [];
  for (let next = await slow.next(); next.done !== true; next = await slow.next()) rest.push(next.value.sequence);
  expect(rest).toEqual(upTo(83).slice(1));
});

test("a late watcher of a job that has ended gets what it has not seen, and always the end", async () => {
  await using r = await rig();
  const [owner, late] = [await r.replica(), await r.replica()];
  owner.handle("work", {
    onOwnerLost: "rerun",
    run: (job, context) =>
      manyEvents(owner, job.jobId, (percent) => context.report(progress(percent), { milestone: true }), 5),
  });
  owner.start();
  await owner.create("work", { jobId: "a", spec });
  expect(sequences(await eventsOf(owner, "a"))).toEqual(upTo(8));
  for (const after of [0, 3, 7, 8]) {
    const events = await eventsOf(late, "a", after);
    expect(sequences(events)).toEqual(after === 8 ? [8] : upTo(8).slice(after));
    expect(events.at(-1)?.state).toBe("SUCCEEDED");
  }
});

test("all watchers of a process together ask the store once in each interval", async () => {
  await using r = await rig();
  let asked = 0;
  const fourth = Promise.withResolvers<void>();
  const onCommand = (command: string): void => {
    if (command !== "find" || started < count) return;
    asked += 1;
    if (asked === 4) fourth.resolve();
  };
  const jobs = await r.replica({ leaseMs, onCommand });
  await jobs.create("work", { jobId: "a", spec });
  const gone = new AbortController();
  const count = 200;
  let started = 0;
  let startedMs = 0;
  const watching = upTo(count).map(async () => {
    for await (const _ of jobs.watch("work", "a", { afterSequence: 0, heartbeatMs: 300_000, signal: gone.signal })) {
      started += 1;
      startedMs = performance.now();
    }
  });
  await fourth.promise;
  // Four polls are some three intervals of a quarter of the lease; a poll for each watcher would have been here at once.
  expect(performance.now() - startedMs).toBeGreaterThan(leaseMs / 4);
  gone.abort();
  for (const outcome of await Promise.allSettled(watching)) expect(outcome.status).toBe("rejected");
});

test("a job's events are close together at first and few in all", () => {
  const hourMs = 3_600_000;
  const counts = new Map<number, number>();
  let elapsedMs = 0;
  for (let count = 0; elapsedMs <= 24 * hourMs; count += 1) {
    for (const limitMs of [hourMs / 15, hourMs, 24 * hourMs]) if (elapsedMs <= limitMs) counts.set(limitMs, count);
    elapsedMs += eventPauseMs(elapsedMs);
  }
  expect([...counts.values()].map((count) => Math.round(count / 100) * 100)).toEqual([500, 1800, 3400]);
});

async function* firstOf<T>(items: AsyncIterable<T>): AsyncGenerator<T> {
  for await (const item of items) {
    yield item;
    return;
  }
}

test("monitors that come at once share one statement", async () => {
  await using r = await rig();
  let asked = 0;
  const jobs = await r.replica({ onCommand: (command) => void (command === "find" && (asked += 1)) });
  await jobs.create("work", { jobId: "a", spec });
  asked = 0;
  const gone = new AbortController();
  const first = upTo(100).map(async () => {
    const watched = jobs.watch("work", "a", { afterSequence: 0, heartbeatMs: 300_000, signal: gone.signal });
    const [event] = await Array.fromAsync(firstOf(watched));
    return event?.sequence;
  });
  expect(new Set(await Promise.all(first))).toEqual(new Set([1]));
  // One for all of them, and what the poll may have asked meanwhile.
  expect(asked).toBeLessThanOrEqual(3);
});

test("a watcher is not told what others asked for before it came", async () => {
  await using r = await rig();
  const [asked, answered] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  await using server = await openRouter(storeAddresses().mongodbUri, async ({ find, filter }, name) => {
    if (name !== "find" || find !== "jobs") return undefined;
    const firstBatch = await r.db.collection("jobs").find(filter, { promoteValues: false }).toArray();
    asked.resolve();
    await answered.promise;
    return { ok: 1, cursor: { id: Long.ZERO, ns: `${r.database}.jobs`, firstBatch } };
  });
  const [owner, other] = [await r.replica(), await r.replica({ uri: server.uri })];
  owner.handle("work", { onOwnerLost: "rerun", run: async () => {} });
  const next = (jobId: string, afterSequence: number) =>
    other.watch("work", jobId, { afterSequence, heartbeatMs: 300_000, signal: never() })[Symbol.asyncIterator]().next();
  await owner.create("work", { jobId: "a", spec });
  const first = Promise.allSettled([next("a", 0), next("made meanwhile", 0)]);
  await asked.promise;
  owner.start();
  await eventsOf(owner, "a");
  await owner.create("work", { jobId: "made meanwhile", spec });
  const second = Promise.all([next("a", 2), next("made meanwhile", 0)]);
  answered.resolve();
  expect(await first).toMatchObject([
    { value: { value: { sequence: 1 } } },
    { reason: expect.objectContaining({ message: expect.stringContaining("There is no such job") }) },
  ]);
  expect(await second).toMatchObject([{ value: { sequence: 3 } }, { value: { sequence: 1 } }]);
});
