import { performance } from "node:perf_hooks";

import type { Db, Document } from "mongodb";

import { fail } from "../errors.ts";
import { callTime } from "../schema/call-options.ts";
import { type Head, jobStore, type ListOptions, type NewJob, type Snapshot } from "./job-store.ts";
import { pause } from "./pause.ts";
import { isFinal, type JobEvent, type JobRecord } from "./record.ts";
import { hold, type Holding, type JobHandler, type JobLog } from "./runner.ts";
import { tails } from "./tail.ts";
import { watch, type WatchOptions } from "./watch.ts";

/**
 * Work that outlives the call that asked for it, in the collections `jobs` and `job_events`. Any number of processes share
 * them; each job has one owner at a time, by a lease. Disposing it drains without grace.
 */
export interface Jobs extends AsyncDisposable {
  /** Says how jobs of a kind are run here. A process takes up only kinds that it has a handler for. */
  handle(kind: string, handler: JobHandler): void;
  /** Begins to take up jobs, also those of processes that died. */
  start(): void;
  /**
   * Stores a job. With a `requestId` that was used before it returns the job of then; throws `REQUEST_ID_REUSED` where that
   * had another spec.
   */
  create(kind: string, job: NewJob): Promise<JobRecord>;
  /** The job that was created with a request id, so that a retry need not be checked anew. Throws `REQUEST_ID_REUSED`. */
  recall(
    kind: string,
    request: { readonly requestId: string; readonly spec: Uint8Array },
  ): Promise<JobRecord | undefined>;
  find(kind: string, jobId: string, signal?: AbortSignal): Promise<JobRecord | undefined>;
  /** Jobs of a kind, the highest id first. */
  list(kind: string, options: ListOptions, signal?: AbortSignal): Promise<JobRecord[]>;
  /** Asks a job to stop, and returns it. May be repeated. `record` is for the audit log. Throws `JOB_NOT_FOUND`, `JOB_ALREADY_FINISHED` where it ended otherwise. */
  cancel(kind: string, jobId: string, record?: Document): Promise<JobRecord>;
  /** See `watch`. Throws `JOB_NOT_FOUND`. */
  watch(kind: string, jobId: string, options: WatchOptions): AsyncIterable<JobEvent>;
  /**
   * Ends watches with `WATCH_INTERRUPTED`, takes up no more jobs, and gives running ones `graceMs` to end. The others are then
   * stopped and handed on. Resolves when this process holds none, or a lease's time after the grace where work does not stop.
   */
  drain(graceMs: number): Promise<void>;
}

/** What `openJobs` takes. */
export interface JobsOptions {
  readonly db: Db;
  readonly leaseMs: number;
  /** Jobs that this process runs at once. */
  readonly concurrency: number;
  /** Longest time in milliseconds that a statement may take which a caller waits for; 30 s where not given. */
  readonly callMs?: number;
  readonly log: JobLog;
  /** Turns an error of a store into one that a caller can be told. */
  readonly translate: (error: unknown) => unknown;
  /** Once so many processes died with a job, it ends INTERRUPTED; 3 where not given. */
  readonly maxAttempts?: number;
}

/** Opens the jobs in `db`. Does nothing before it is asked to, so the store may be away. */
export function openJobs({
  db,
  leaseMs,
  callMs = callTime.maxTimeMS,
  concurrency,
  log,
  translate,
  maxAttempts = 3,
}: JobsOptions): Jobs {
  // A free slot looks for work so often, and watchers for events of other processes; a quarter of the lease when that is short.
  const pollMs = Math.min(500, leaseMs / 4);
  const store = jobStore(db, { leaseMs, callMs });
  const handlers = new Map<string, JobHandler>();
  const holdings = new Map<string, Holding>();
  const following = tails(store, { pollMs, log });
  const heads = new Map<string, Promise<Snapshot | undefined>>();
  const closing = new AbortController();
  const rounds = pause();
  let claiming: Promise<void> | undefined;
  let drained: Promise<void> | undefined;

  /** Where many monitors come at once, as after the loss of a replica, they share one statement, or need none. */
  async function headOf(kind: string, jobId: string, afterSequence: number): Promise<Head> {
    const followed = following.headOf(jobId);
    if (followed?.kind === kind && followed.event.sequence >= afterSequence) return followed;
    const key = `${kind}/${jobId}`;
    const isShared = heads.has(key);
    let found = await findTogether(key, kind, jobId);
    // What others asked for earlier may be from before what this caller has seen. What is asked for from now on is not.
    const isOld = found === undefined || found.event.sequence < afterSequence;
    if (isShared && isOld) found = await findTogether(key, kind, jobId);
    if (found === undefined) throw jobNotFound(kind, jobId);
    return { jobId, kind, event: found.event, progress: found.job.progress };
  }

  function findTogether(key: string, kind: string, jobId: string): Promise<Snapshot | undefined> {
    const finding = heads.get(key) ?? store.find(kind, jobId).finally(() => heads.delete(key));
    heads.set(key, finding);
    return finding;
  }

  async function claimNext(): Promise<boolean> {
    const kinds = [...handlers.keys()];
    const interrupted = kinds.filter((kind) => handlers.get(kind)?.onOwnerLost === "interrupt");
    // What needs no work ends even where every slot is taken, so that nothing waits for a long backup to be told its end.
    const settleOnly = holdings.size >= concurrency;
    const sentMs = performance.now();
    const claimed = await store.claim({ kinds, interrupted, except: [...holdings.keys()], settleOnly });
    if (claimed === undefined) return false;
    const handler = handlers.get(claimed.snapshot.job.kind);
    if (handler === undefined) throw new Error(`A job of a kind that was not asked for: ${claimed.snapshot.job.kind}`);
    const { jobId } = claimed.snapshot.job;
    const options = { store, leaseMs, maxAttempts, log, translate, stored: (id: string) => following.nudge(id) };
    const holding = hold({ ...claimed, sentMs }, handler, options);
    holdings.set(jobId, holding);
    void forget(jobId, holding);
    return true;
  }

  async function forget(jobId: string, holding: Holding): Promise<void> {
    await holding.ended;
    holdings.delete(jobId);
    rounds.wake();
  }

  async function claimLoop(): Promise<void> {
    while (!closing.signal.aborted) {
      try {
        if (await claimNext()) continue;
      } catch (error) {
        log.warn({ err: error }, "Jobs could not be taken up; trying again");
      }
      await rounds.wait(pollMs);
    }
  }

  async function drain(graceMs: number): Promise<void> {
    closing.abort();
    rounds.wake();
    await Promise.all([claiming, following.close()]);
    await allEnded(graceMs);
    for (const holding of holdings.values()) holding.drain();
    if (!(await allEnded(leaseMs)))
      log.error({ job_ids: [...holdings.keys()] }, "Work on jobs did not stop; their leases run out");
  }

  async function allEnded(ms: number): Promise<boolean> {
    const ended = Promise.all([...holdings.values()].map((holding) => holding.ended)).then(() => true);
    const late = Promise.withResolvers<boolean>();
    const timer = setTimeout(() => late.resolve(false), ms);
    try {
      return await Promise.race([ended, late.promise]);
    } finally {
      clearTimeout(timer);
    }
  }

  return {
    handle(kind, handler) {
      handlers.set(kind, handler);
    },

    start() {
      claiming ??= claimLoop();
    },

    async create(kind, job) {
      const record = await store.create(kind, job);
      requireSameSpec(record, job.spec);
      rounds.wake();
      return record;
    },

    async recall(kind, { requestId, spec }) {
      const record = await store.findRequest(kind, requestId);
      if (record !== undefined) requireSameSpec(record, spec);
      return record;
    },

    async find(kind, jobId, signal) {
      return (await store.find(kind, jobId, signal))?.job;
    },

    list: (kind, options, signal) => store.list(kind, options, signal),

    async cancel(kind, jobId, record) {
      const job = await store.cancel(kind, jobId, record);
      if (job === undefined) throw jobNotFound(kind, jobId);
      if (isFinal(job.state) && job.state !== "CANCELLED") {
        const metadata = { job_id: jobId, state: job.state };
        throw fail("JOB_ALREADY_FINISHED", `The job has ended already: ${job.state}`, { metadata });
      }
      holdings.get(jobId)?.nudge();
      rounds.wake();
      return job;
    },

    async *watch(kind, jobId, options) {
      const head = await headOf(kind, jobId, options.afterSequence);
      options.signal.throwIfAborted();
      yield* watch({ head, follow: () => following.follow(head), store, closing: closing.signal }, options);
    },

    drain(graceMs) {
      drained ??= drain(graceMs);
      return drained;
    },

    async [Symbol.asyncDispose]() {
      await this.drain(0);
    },
  };
}

function requireSameSpec(record: JobRecord, spec: Uint8Array): void {
  if (Buffer.compare(record.spec, spec) === 0) return;
  const field = { field: "request_id", description: "was used for another request" };
  throw fail("REQUEST_ID_REUSED", "The request id was used for another request", { fields: [field] });
}

function jobNotFound(kind: string, jobId: string): Error {
  return fail("JOB_NOT_FOUND", "There is no such job", {
    resource: { type: kind, name: jobId },
    metadata: { job_id: jobId },
  });
}
