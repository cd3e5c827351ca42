import { performance } from "node:perf_hooks";

import { fail, reasonOf } from "../errors.ts";
import type { Append, JobStore, Lease, Snapshot } from "./job-store.ts";
import { heldLease } from "./lease.ts";
import { pause } from "./pause.ts";
import type { JobFailure, JobProgress, JobRecord } from "./record.ts";

/** What a job's work gets. */
export interface JobContext {
  /**
   * Aborted when the job is cancelled (`CANCELLED`), its lease is lost (`JOB_LEASE_LOST`) or the process drains (`DRAINING`).
   * The work must then settle soon: the lease does not cover what it does from then on.
   */
  readonly signal: AbortSignal;
  /** 1 for the first try. What an earlier one did may be half done. */
  readonly attempt: number;
  /** Says how far the work is; synchronous and cheap. Stored at most twice in a second, but at once with `milestone`. */
  report(progress: JobProgress, options?: { readonly milestone?: boolean }): void;
  /** Keeps what `JobRecord.result` shows from now on, also if the job fails or its process dies. */
  keep(result: Uint8Array): void;
  /** Resolves when the lease has just been proved to be held; throws what aborted `signal`. For a step that must not be done twice. */
  prove(): Promise<void>;
}

/** How jobs of one kind are run. */
export interface JobHandler {
  /**
   * What becomes of a started job whose process died or drained: `rerun` by another, for work that may be repeated, or
   * `interrupt`, for work that must not be: it ends INTERRUPTED.
   */
  readonly onOwnerLost: "rerun" | "interrupt";
  /** Does the work; the job has succeeded when this resolves. */
  run(job: JobRecord, context: JobContext): Promise<void>;
}

/** Tells operators what happens; a pino logger is one. */
export interface JobLog {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

/** What running a job needs. */
export interface RunnerOptions {
  readonly store: JobStore;
  readonly leaseMs: number;
  /** Once so many processes died with a job, it ends INTERRUPTED. */
  readonly maxAttempts: number;
  readonly log: JobLog;
  /** Called when an event was stored, so that watchers in this process need not wait. */
  readonly stored: (jobId: string) => void;
  /** Turns an error of a store into one that a caller can be told. */
  readonly translate: (error: unknown) => unknown;
}

/** One job that this process holds. */
export interface Holding {
  /** Resolves, and never rejects, when the job has ended or is not this process's any more. */
  readonly ended: Promise<void>;
  /** Looks for a cancellation now. */
  nudge(): void;
  /** Stops the work and hands the job on. */
  drain(): void;
}

/** Shortest time between two stored states of progress, in milliseconds. */
const reportMs = 500;

/**
 * Time between two events of progress of a job that has run for `elapsedMs`, in milliseconds. It bounds their number: 500 in the
 * first four minutes, 1,800 in an hour, 3,400 in a day. Heartbeats carry the newest progress in between.
 */
export function eventPauseMs(elapsedMs: number): number {
  return Math.max(reportMs, elapsedMs / 500);
}

/** Takes care of a job that was claimed by a statement sent at `sentMs`, until it has ended or the lease is gone. */
export function hold(
  { lease, snapshot, sentMs }: { lease: Lease; snapshot: Snapshot; sentMs: number },
  handler: JobHandler,
  options: RunnerOptions,
): Holding {
  const { store, leaseMs, log } = options;
  const { job } = snapshot;
  const about = { job_id: job.jobId, kind: job.kind, attempt: job.attempt };
  const held = heldLease(() => leaseLost(job.jobId), { leaseMs, sentMs });
  const stop = new AbortController();
  held.signal.addEventListener("abort", () => stop.abort(held.signal.reason), { once: true });
  const rounds = pause();
  const latest: { progress: JobProgress | undefined; result: Uint8Array | undefined; milestone: boolean } = {
    progress: job.progress,
    result: job.result,
    milestone: false,
  };
  let head = snapshot.event;
  const settled = new AbortController();

  /** Tries while the lease lasts, so that a store which is away for less costs nothing. */
  async function persist<T>(statement: () => Promise<T | undefined>): Promise<T> {
    for (;;) {
      try {
        return await held.use(statement);
      } catch (error) {
        held.signal.throwIfAborted();
        log.warn({ ...about, err: error }, "The state of a job could not be stored; trying again");
        await pause().wait(Math.min(250, leaseMs / 10));
      }
    }
  }

  /** Every event carries the newest progress, so that none takes back what one before has told. */
  async function append(change: Append): Promise<JobRecord> {
    const { progress, result } = latest;
    const stored = await persist(() => store.append(lease, head, { progress, result, ...change }));
    head = stored.event;
    options.stored(job.jobId);
    if (head.state === "CANCELLING") cancel();
    return stored.job;
  }

  function cancel(): void {
    stop.abort(fail("CANCELLED", "The job was cancelled", { metadata: { job_id: job.jobId } }));
  }

  /** Keeps the lease and stores what is new, while the work is done. */
  async function keepUp(): Promise<void> {
    const startMs = performance.now();
    let eventMs = startMs;
    let stored = { ...latest };
    while (!settled.signal.aborted) {
      await rounds.wait(Math.min(reportMs, leaseMs / 4));
      if (settled.signal.aborted) return;
      const now = { ...latest };
      latest.milestone = false;
      const news = {
        progress: now.progress === stored.progress ? undefined : now.progress,
        result: now.result === stored.result ? undefined : now.result,
      };
      const nowMs = performance.now();
      const due = nowMs - eventMs >= eventPauseMs(nowMs - startMs);
      if (now.milestone || (due && news.progress !== undefined)) {
        await append({ state: "RUNNING" });
        eventMs = nowMs;
      } else {
        const state = await persist(() => store.renew(lease, news));
        // Watchers are to learn of it from an event of its own.
        if (state === "CANCELLING" && head.state !== "CANCELLING") await append({ state: "RUNNING" });
      }
      stored = now;
    }
  }

  async function work(running: JobRecord): Promise<void> {
    const context: JobContext = {
      signal: stop.signal,
      attempt: job.attempt,
      report({ percent, detail }, { milestone = false } = {}) {
        // A job that is run again starts over; what monitors were told stands until the new run has passed it.
        const reached = Math.max(latest.progress?.percent ?? 0, Math.min(percent, 99.99));
        latest.progress = { percent: reached, detail };
        if (!milestone) return;
        latest.milestone = true;
        rounds.wake();
      },
      keep(result) {
        latest.result = result;
      },
      async prove() {
        stop.signal.throwIfAborted();
        const state = await persist(() => store.renew(lease, {}));
        if (state === "CANCELLING") cancel();
        stop.signal.throwIfAborted();
      },
    };
    // Without its keeper the work must not go on. A lost lease has stopped it already.
    const kept = keepUp().catch((error: unknown) => stop.abort(error));
    try {
      await handler.run(running, context);
    } finally {
      settled.abort();
      rounds.wake();
      await kept;
    }
  }

  async function finish(state: Append["state"], error?: JobFailure): Promise<void> {
    const detail = latest.progress?.detail ?? new Uint8Array();
    if (state === "SUCCEEDED") latest.progress = { percent: 100, detail };
    await append({ state, error });
    log.info({ ...about, state, ...(error && { reason: error.reason }) }, "A job has ended");
  }

  async function run(): Promise<void> {
    const started = job.startTime !== undefined;
    if (job.state === "CANCELLING") return finish("CANCELLED");
    if (started && handler.onOwnerLost === "interrupt") return finish("INTERRUPTED", interrupted(job));
    if (job.attempt - 1 - job.handOvers >= options.maxAttempts) return finish("INTERRUPTED", interrupted(job));
    log.info(about, started ? "A job is taken over" : "A job is taken up");
    const running = await append({ state: "RUNNING" });
    try {
      stop.signal.throwIfAborted();
      await work(running);
    } catch (error) {
      held.signal.throwIfAborted();
      const reason = reasonOf(stop.signal.reason)?.reason;
      if (reason === "CANCELLED") return finish("CANCELLED");
      if (reason === "DRAINING" && handler.onOwnerLost === "interrupt") return finish("INTERRUPTED", interrupted(job));
      if (reason === "DRAINING") return store.release(lease);
      const failure = options.translate(error);
      log.error({ ...about, err: error }, "A job has failed");
      return finish("FAILED", failureOf(failure));
    }
    return finish("SUCCEEDED");
  }

  async function take(): Promise<void> {
    using _ = held;
    try {
      await run();
    } catch (error) {
      // The lease is gone, or it will run out: another process, or this one, takes the job over.
      log.warn({ ...about, err: error }, "A job is given up");
    }
  }

  return {
    ended: take(),
    nudge: () => rounds.wake(),
    drain() {
      stop.abort(fail("DRAINING", "This process is going away", { metadata: { job_id: job.jobId } }));
    },
  };
}

function leaseLost(jobId: string): Error {
  return fail("JOB_LEASE_LOST", "The lease of the job was lost", { metadata: { job_id: jobId } });
}

function interrupted(job: JobRecord): JobFailure {
  const metadata = { job_id: job.jobId, attempt: String(job.attempt) };
  return { reason: "JOB_INTERRUPTED", message: "The process that worked on it went away before it was done", metadata };
}

/** What watchers are told of an error; nothing of one that was not made to be told. */
export function failureOf(error: unknown): JobFailure {
  const known = reasonOf(error);
  if (known === undefined || !(error instanceof Error)) {
    return { reason: "INTERNAL", message: "Internal error", metadata: {} };
  }
  // ConnectError puts its code in brackets before the sentence that `fail` was given.
  const message = "rawMessage" in error && typeof error.rawMessage === "string" ? error.rawMessage : error.message;
  return { reason: known.reason, message, metadata: known.metadata };
}
