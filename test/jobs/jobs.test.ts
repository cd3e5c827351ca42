import { expect, test } from "vitest";

import { fail, reasonOf } from "../../src/errors.ts";
import { aborted, longLeaseMs, progress } from "./lease.ts";
import { eventsOf, firstEvent, never, rig, sequences, upTo, utf8 } from "./support.ts";

const spec = utf8.encode("spec");

test("a job runs once and tells how it went", async () => {
  await using r = await rig();
  const jobs = await r.replica();
  jobs.handle("work", {
    onOwnerLost: "rerun",
    async run(job, context) {
      expect(job).toMatchObject({ jobId: "a", kind: "work", principal: "someone", attempt: 1 });
      expect(Buffer.from(job.spec).toString()).toBe("spec");
      context.report(progress(40), { milestone: true });
      context.keep(utf8.encode("the result"));
    },
  });
  jobs.start();
  const created = await jobs.create("work", { jobId: "a", spec, principal: "someone" });
  expect(created).toMatchObject({ state: "PENDING", sequence: 1, attempt: 0 });

  const events = await eventsOf(jobs, "a");
  expect(sequences(events)).toEqual(upTo(events.length));
  expect(events[0]?.state).toBe("PENDING");
  expect(events[1]?.state).toBe("RUNNING");
  expect(events.at(-1)).toMatchObject({ state: "SUCCEEDED", progress: { percent: 100 } });

  const job = await jobs.find("work", "a");
  expect(job).toMatchObject({ state: "SUCCEEDED", sequence: events.length });
  expect(Buffer.from(job?.result ?? []).toString()).toBe("the result");
  expect(job?.endTime?.getTime()).toBeGreaterThanOrEqual(job?.startTime?.getTime() ?? Infinity);
});

test("a failure is kept with its reason; what was not made to be told is not told", async () => {
  await using r = await rig();
  const jobs = await r.replica();
  jobs.handle("work", {
    onOwnerLost: "rerun",
    run(job, context) {
      context.keep(utf8.encode("so far"));
      if (job.jobId === "told") throw fail("BACKUP_CHUNK_DAMAGED", "A chunk is damaged", { metadata: { chunk: "7" } });
      throw new Error("mongodb://user:secret@host");
    },
  });
  jobs.start();
  for (const jobId of ["told", "untold"]) await jobs.create("work", { jobId, spec });
  const told = { reason: "BACKUP_CHUNK_DAMAGED", message: "A chunk is damaged", metadata: { chunk: "7" } };
  expect((await eventsOf(jobs, "told")).at(-1)).toMatchObject({ state: "FAILED", error: told });
  const untold = { reason: "INTERNAL", message: "Internal error", metadata: {} };
  expect((await eventsOf(jobs, "untold")).at(-1)?.error).toEqual(untold);
  const job = await jobs.find("work", "told");
  expect(job?.error).toMatchObject({ reason: told.reason });
  expect(Buffer.from(job?.result ?? []).toString()).toBe("so far");
});

test("many creations at once with one request id make one job", async () => {
  await using r = await rig();
  const replicas = [await r.replica(), await r.replica()] as const;
  const made = await Promise.all(
    Array.from({ length: 20 }, (_, index) =>
      replicas[index % 2 === 0 ? 0 : 1].create("work", { jobId: `job-${index}`, spec, requestId: "once" }),
    ),
  );
  expect(new Set(made.map(({ jobId }) => jobId)).size).toBe(1);
  expect(await r.db.collection("jobs").countDocuments()).toBe(1);

  const other = replicas[0].create("work", { jobId: "other", spec: utf8.encode("another"), requestId: "once" });
  expect(reasonOf(await other.catch((error: unknown) => error))?.reason).toBe("REQUEST_ID_REUSED");
  // The same id for another kind is another request.
  expect((await replicas[0].create("rest", { jobId: "rest", spec, requestId: "once" })).jobId).toBe("rest");
});

test("percent never falls and reaches 100 only with success", async () => {
  await using r = await rig();
  const jobs = await r.replica();
  jobs.handle("work", {
    onOwnerLost: "rerun",
    async run(job, context) {
      for (const percent of [10, 50, 20, 70, 100, 5]) {
        context.report(progress(percent), { milestone: true });
        await firstEvent(
          jobs,
          job.jobId,
          (event) => Buffer.from(event.progress?.detail ?? []).toString() === String(percent),
        );
      }
    },
  });
  jobs.start();
  await jobs.create("work", { jobId: "a", spec });
  const events = await eventsOf(jobs, "a");
  const percents = events.map((event) => event.progress?.percent ?? 0);
  expect(percents).toEqual(percents.toSorted((one, other) => one - other));
  expect(percents).toContain(70);
  expect(percents.filter((percent) => percent === 100)).toEqual([100]);
  expect(events.at(-1)?.state).toBe("SUCCEEDED");
});

test("jobs are listed newest first, by state and from an id on", async () => {
  await using r = await rig();
  const jobs = await r.replica();
  for (const jobId of ["1", "2", "3", "4"]) await jobs.create("work", { jobId, spec });
  await jobs.create("rest", { jobId: "5", spec });
  await jobs.cancel("work", "2");
  const ids = async (options: Parameters<typeof jobs.list>[1]) =>
    (await jobs.list("work", options)).map(({ jobId }) => jobId);
  expect(await ids({ limit: 10 })).toEqual(["4", "3", "2", "1"]);
  expect(await ids({ limit: 2, before: "4" })).toEqual(["3", "2"]);
  expect(await ids({ limit: 10, states: ["PENDING"] })).toEqual(["4", "3", "1"]);
});

test("a running job is cancelled, from any replica and as often as one likes", async () => {
  await using r = await rig();
  const [owner, other] = [await r.replica(), await r.replica()];
  const reasons: unknown[] = [];
  owner.handle("work", {
    onOwnerLost: "rerun",
    async run(_job, { signal }) {
      reasons.push(reasonOf(await aborted(signal))?.reason);
      signal.throwIfAborted();
    },
  });
  owner.start();
  await owner.create("work", { jobId: "a", spec });
  await firstEvent(other, "a", ({ state }) => state === "RUNNING");
  const asked = await Promise.all([other.cancel("work", "a"), owner.cancel("work", "a"), other.cancel("work", "a")]);
  for (const job of asked) expect(["CANCELLING", "CANCELLED"]).toContain(job.state);

  const events = await eventsOf(other, "a");
  expect(events.map(({ state }) => state)).toEqual(["PENDING", "RUNNING", "CANCELLING", "CANCELLED"]);
  expect(reasons).toEqual(["CANCELLED"]);
  expect((await other.cancel("work", "a")).state).toBe("CANCELLED");
});

test("a job that waits for a slot is cancelled without one", async () => {
  await using r = await rig();
  const jobs = await r.replica({ concurrency: 1 });
  const started: string[] = [];
  jobs.handle("work", {
    onOwnerLost: "rerun",
    async run(job, { signal }) {
      started.push(job.jobId);
      await aborted(signal);
    },
  });
  jobs.start();
  await jobs.create("work", { jobId: "1", spec });
  await firstEvent(jobs, "1", ({ state }) => state === "RUNNING");
  await jobs.create("work", { jobId: "2", spec });
  await jobs.cancel("work", "2");
  expect((await eventsOf(jobs, "2")).at(-1)?.state).toBe("CANCELLED");
  expect(started).toEqual(["1"]);
  expect((await jobs.find("work", "2"))?.startTime).toBeUndefined();
});

test("a cancellation that meets the end of the work leaves one outcome", async () => {
  await using r = await rig();
  const [owner, other] = [await r.replica({ concurrency: 8 }), await r.replica()];
  owner.handle("work", {
    onOwnerLost: "rerun",
    async run(_job, context) {
      await context.prove();
    },
  });
  owner.start();
  await Promise.all(
    upTo(24).map(async (number) => {
      const jobId = `job-${String(number).padStart(2, "0")}`;
      await owner.create("work", { jobId, spec });
      const answer = await other.cancel("work", jobId).catch((error: unknown) => reasonOf(error)?.reason);
      const events = await eventsOf(other, jobId);
      expect(sequences(events)).toEqual(upTo(events.length));
      const final = events.at(-1)?.state;
      expect(answer === "JOB_ALREADY_FINISHED" ? ["SUCCEEDED"] : ["SUCCEEDED", "CANCELLED"]).toContain(final);
      expect((await owner.find("work", jobId))?.state).toBe(final);
    }),
  );
});

test("what is not there and what has ended cannot be cancelled", async () => {
  await using r = await rig();
  const jobs = await r.replica();
  jobs.handle("work", { onOwnerLost: "rerun", run: async () => {} });
  jobs.start();
  const reason = async (jobId: string) =>
    reasonOf(await jobs.cancel("work", jobId).catch((error: unknown) => error))?.reason;
  expect(await reason("none")).toBe("JOB_NOT_FOUND");
  await jobs.create("work", { jobId: "a", spec });
  await eventsOf(jobs, "a");
  expect(await reason("a")).toBe("JOB_ALREADY_FINISHED");
});

test("a draining process ends its watches and hands its jobs on at once", async () => {
  await using r = await rig();
  const [leaving, staying] = [await r.replica(), await r.replica()];
  const attempts: [string, number][] = [];
  leaving.handle("work", {
    onOwnerLost: "rerun",
    async run(_job, { signal, attempt }) {
      attempts.push(["leaving", attempt]);
      expect(reasonOf(await aborted(signal))?.reason).toBe("DRAINING");
      signal.throwIfAborted();
    },
  });
  staying.handle("work", {
    onOwnerLost: "rerun",
    async run(_job, { attempt }) {
      attempts.push(["staying", attempt]);
    },
  });
  leaving.start();
  await leaving.create("work", { jobId: "a", spec });
  await firstEvent(leaving, "a", ({ state }) => state === "RUNNING");
  const watched = eventsOf(leaving, "a").catch((error: unknown) => reasonOf(error)?.reason);

  staying.start();
  const beforeMs = performance.now();
  await leaving.drain(0);
  expect(await watched).toBe("WATCH_INTERRUPTED");
  expect((await eventsOf(staying, "a")).at(-1)?.state).toBe("SUCCEEDED");
  // Not after the lease has run out.
  expect(performance.now() - beforeMs).toBeLessThan(longLeaseMs);
  expect(attempts).toEqual([
    ["leaving", 1],
    ["staying", 2],
  ]);
  expect((await staying.find("work", "a"))?.handOvers).toBe(1);
});

test("a draining process lets work end within its grace, and interrupts what must not run twice", async () => {
  await using r = await rig();
  const jobs = await r.replica({ concurrency: 2 });
  const end = Promise.withResolvers<void>();
  jobs.handle("work", {
    onOwnerLost: "interrupt",
    run: (job, { signal }) => (job.jobId === "1" ? end.promise : halt(signal)),
  });
  async function halt(signal: AbortSignal): Promise<void> {
    throw await aborted(signal);
  }
  jobs.start();
  for (const jobId of ["1", "2"]) {
    await jobs.create("work", { jobId, spec });
    await firstEvent(jobs, jobId, ({ state }) => state === "RUNNING");
  }
  const drained = jobs.drain(500);
  end.resolve();
  await drained;
  expect((await jobs.find("work", "1"))?.state).toBe("SUCCEEDED");
  expect(await jobs.find("work", "2")).toMatchObject({ state: "INTERRUPTED", error: { reason: "JOB_INTERRUPTED" } });
});

test("a watch beats while nothing happens, with the newest progress", async () => {
  await using r = await rig();
  const jobs = await r.replica();
  const end = Promise.withResolvers<void>();
  jobs.handle("work", { onOwnerLost: "rerun", run: () => end.promise });
  jobs.start();
  await jobs.create("work", { jobId: "a", spec });
  const beats: number[] = [];
  for await (const event of jobs.watch("work", "a", { afterSequence: 0, heartbeatMs: 50, signal: never() })) {
    if (!event.heartbeat) continue;
    beats.push(event.sequence);
    if (beats.length === 3) end.resolve();
  }
  expect(beats.length).toBeGreaterThanOrEqual(3);
  expect(beats).toEqual(beats.toSorted((one, other) => one - other));
});

test("a watch refuses a position that the job has not reached, and an unknown job", async () => {
  await using r = await rig();
  const jobs = await r.replica();
  await jobs.create("work", { jobId: "a", spec });
  const reason = async (jobId: string) =>
    reasonOf(await eventsOf(jobs, jobId, 5).catch((error: unknown) => error))?.reason;
  expect(await reason("a")).toBe("BAD_REQUEST");
  expect(await reason("none")).toBe("JOB_NOT_FOUND");
});

test("a watch ends when its caller goes away", async () => {
  await using r = await rig();
  const jobs = await r.replica();
  await jobs.create("work", { jobId: "a", spec });
  const gone = new AbortController();
  const watched = (async () => {
    for await (const _ of jobs.watch("work", "a", { afterSequence: 0, heartbeatMs: 300_000, signal: gone.signal }))
      gone.abort();
  })();
  await expect(watched).rejects.toThrow("aborted");
});
