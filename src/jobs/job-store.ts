import { hostname } from "node:os";

import type { Collection, Db, Document, Filter } from "mongodb";

import { auditKey, auditPush } from "../schema/audited-call.ts";
import { isDuplicate } from "../schema/create-once.ts";
import {
  activeStates,
  isFinal,
  type JobEvent,
  type JobFailure,
  type JobProgress,
  type JobRecord,
  type JobState,
} from "./record.ts";

/*
 * How events get numbers without gaps although two collections are written and there may be no transactions:
 *
 * A job's newest event stands in the job's own document, so state and event change in one atomic step. All older ones stand
 * in `job_events`. Whoever appends event n+1 first copies event n there, then replaces it in the document, provided that it
 * is still n. A process that dies between the two leaves event n in both places, with one content: nothing to repair.
 * A reader that sees event n in the document finds 1..n-1 in `job_events`.
 *
 * Only the holder of the lease appends. All times are the server's ($$NOW), so clocks of replicas do not matter.
 */

/** Days that a job is kept after its end; its events a week longer. */
const keptDays = 90;

/**
 * How long a statement of those who do the work may take at least, in milliseconds. It is tried again while the lease lasts; a
 * caller does not try again, and is given what its call has.
 */
const statementMs = 5000;

interface StoredProgress {
  percent: number;
  detail: Uint8Array;
}

interface StoredEvent {
  sequence: number;
  event_time: Date;
  state: JobState;
  progress?: StoredProgress;
  error?: JobFailure;
}

interface StoredJob {
  _id: string;
  kind: string;
  state: JobState;
  spec: Uint8Array;
  request_id?: string;
  principal?: string;
  create_time: Date;
  start_time?: Date;
  end_time?: Date;
  attempt: number;
  /** How often an owner gave the job on in good order. */
  hand_overs: number;
  /** Counts up whenever the lease changes hands; part of every filter of its holder. */
  fence: number;
  owner?: string;
  lease_expire_time?: Date;
  event: StoredEvent;
  progress?: StoredProgress;
  result?: Uint8Array;
  error?: JobFailure;
  [auditKey]?: Document[];
}

/** The right to work on a job, until it expires. */
export interface Lease {
  readonly jobId: string;
  readonly owner: string;
  readonly fence: number;
}

/** What `append` writes. */
export interface Append {
  /** A final state ends the job and the lease. RUNNING leaves CANCELLING as it is. */
  readonly state: JobState;
  readonly progress?: JobProgress | undefined;
  readonly error?: JobFailure | undefined;
  readonly result?: Uint8Array | undefined;
}

/** A job and its newest event. */
export interface Snapshot {
  readonly job: JobRecord;
  readonly event: JobEvent;
}

/** What a watcher needs of a job. */
export interface Head {
  readonly jobId: string;
  readonly kind: string;
  readonly event: JobEvent;
  /** The newest, which may be newer than the event's. */
  readonly progress: JobProgress | undefined;
}

/** What is asked for when a job is created. */
export interface NewJob {
  /** Unique over all kinds; jobs are taken up and listed in the order of their ids, so they should sort by time. */
  readonly jobId: string;
  /** What is to be done, in the encoding of the job's kind. */
  readonly spec: Uint8Array;
  /** Makes the creation idempotent: unique within the kind. */
  readonly requestId?: string;
  readonly principal?: string;
  /** What the audit log is to say of the creation. */
  readonly record?: Document | undefined;
}

/** The collection of jobs, and what finds one in it. */
export const jobsCollection = "jobs";
export function jobKey(jobId: string): Document {
  return { _id: jobId };
}

/** The statements on jobs and their events; each is atomic. */
export type JobStore = ReturnType<typeof jobStore>;

/** Opens the collections `jobs` and `job_events` of `db`. Nothing is read or written yet. `callMs` is as in `JobsOptions`. */
export function jobStore(db: Db, { leaseMs, callMs }: { readonly leaseMs: number; readonly callMs: number }) {
  // What this room stores must not change with the options of the client that it was given. Majority: an event that
  // a watcher has seen must not be taken back by a failover.
  const options = {
    readConcern: { level: "majority" },
    writeConcern: { w: "majority" },
    readPreference: "primary",
    promoteBuffers: true,
    promoteLongs: true,
    promoteValues: true,
    ignoreUndefined: true,
  } as const;
  const jobs: Collection<StoredJob> = db.collection(jobsCollection, options);
  const events: Collection<StoredEvent & { _id: string; job_id: string }> = db.collection("job_events", options);
  const owner = `${hostname()}/${process.pid}/${crypto.randomUUID()}`;
  // What a claim takes whose answer does not come is nobody's until the lease has run out.
  const bounded = { maxTimeMS: Math.max(statementMs, Math.ceil(leaseMs / 2)) };
  const asked = { maxTimeMS: callMs };
  // Through a number: one of the servers that speak this protocol holds $$NOW to be equal to every stored date.
  const now = { $toDate: { $toLong: "$$NOW" } };
  const leaseExpired = { $expr: { $lte: [{ $ifNull: ["$lease_expire_time", new Date(0)] }, now] } };
  const newLease = { $add: ["$$NOW", leaseMs] };

  let indexed: Promise<void> | undefined;
  /** `create` rests on the unique index, so it waits; a failed try does not stick. */
  function ensureIndexes(): Promise<void> {
    indexed ??= createIndexes().catch((error: unknown) => {
      indexed = undefined;
      throw error;
    });
    return indexed;
  }
  async function createIndexes(): Promise<void> {
    const unique = { unique: true, partialFilterExpression: { request_id: { $exists: true } } };
    await jobs.createIndex({ kind: 1, request_id: 1 }, { ...unique, ...asked });
    await jobs.createIndex({ kind: 1, state: 1, _id: 1 }, asked);
    await jobs.createIndex({ end_time: 1 }, { expireAfterSeconds: keptDays * 86_400, ...asked });
    await events.createIndex({ event_time: 1 }, { expireAfterSeconds: (keptDays + 7) * 86_400, ...asked });
  }

  const held = (lease: Lease): Filter<StoredJob> => ({ _id: lease.jobId, owner: lease.owner, fence: lease.fence });

  return {
    ensureIndexes,

    /** Stores a job, unless one with its id or with its request id is there, which is then returned. */
    async create(kind: string, job: NewJob) {
      await ensureIndexes();
      const state = "PENDING" satisfies JobState;
      const { jobId, spec, requestId: request_id, principal, record } = job;
      const fixed = defined({
        _id: jobId,
        kind,
        state,
        spec,
        request_id,
        principal,
        attempt: 0,
        hand_overs: 0,
        fence: 0,
        [auditKey]: record && [record],
      });
      const event = { $mergeObjects: [{ $literal: { sequence: 1, state } }, { event_time: "$$NOW" }] };
      const created = { $mergeObjects: [{ $literal: fixed }, { create_time: "$$NOW", event }] };
      // An insert could not use the server's clock, an update with a pipeline can.
      const insert = [{ $replaceWith: { $cond: [{ $eq: [{ $type: "$kind" }, "missing"] }, created, "$$ROOT"] } }];
      const once = { upsert: true, returnDocument: "after", ...asked } as const;
      for (;;) {
        try {
          const stored = await jobs.findOneAndUpdate({ _id: jobId }, insert, once);
          if (stored !== null) return recordOf(stored);
        } catch (error) {
          if (!isDuplicate(error)) throw error;
          if (request_id !== undefined) {
            const stored = await jobs.findOne({ kind, request_id }, asked);
            if (stored !== null) return recordOf(stored);
          }
          // Otherwise two upserts of one id met, and the next round finds the winner's.
        }
      }
    },

    async find(kind: string, jobId: string, signal?: AbortSignal): Promise<Snapshot | undefined> {
      const stored = await jobs.findOne({ _id: jobId, kind }, { ...asked, ...(signal && { signal }) });
      return stored === null ? undefined : snapshotOf(stored);
    },

    async findRequest(kind: string, requestId: string): Promise<JobRecord | undefined> {
      const stored = await jobs.findOne({ kind, request_id: requestId }, asked);
      return stored === null ? undefined : recordOf(stored);
    },

    /** Jobs with ids below `before`, the highest first. */
    async list(kind: string, wanted: ListOptions, signal?: AbortSignal): Promise<JobRecord[]> {
      const filter: Filter<StoredJob> = { kind };
      if (wanted.states !== undefined) filter.state = { $in: wanted.states };
      if (wanted.before !== undefined) filter._id = { $lt: wanted.before };
      const found = jobs.find(filter, { ...asked, ...(signal && { signal }) });
      return (await found.sort({ _id: -1 }).limit(wanted.limit).toArray()).map(recordOf);
    },

    /** Asks an active job to stop. Returns the job as it is then; undefined where there is none. */
    async cancel(kind: string, jobId: string, record?: Document): Promise<JobRecord | undefined> {
      // Not where it was asked already: that changes nothing.
      const filter = { _id: jobId, kind, state: { $in: activeStates.filter((state) => state !== "CANCELLING") } };
      const change = { $set: { state: "CANCELLING" as const }, ...auditPush(record) };
      const cancelling = await jobs.findOneAndUpdate(filter, change, { returnDocument: "after", ...asked });
      const stored = cancelling ?? (await jobs.findOne({ _id: jobId, kind }, asked));
      return stored === null ? undefined : recordOf(stored);
    },

    /**
     * Takes the oldest job that nobody holds. With `settleOnly` just those that need no work to end: a cancelled one, and a
     * started one of the kinds in `interrupted`.
     */
    async claim(among: {
      readonly kinds: readonly string[];
      readonly interrupted: readonly string[];
      readonly except: readonly string[];
      readonly settleOnly: boolean;
    }): Promise<{ lease: Lease; snapshot: Snapshot } | undefined> {
      const settle = [
        { state: "CANCELLING" as const },
        { state: "RUNNING" as const, kind: { $in: among.interrupted } },
      ];
      const filter: Filter<StoredJob> = {
        kind: { $in: among.kinds },
        state: { $in: activeStates },
        _id: { $nin: among.except },
        ...leaseExpired,
        ...(among.settleOnly && { $or: settle }),
      };
      const take = {
        owner: { $literal: owner },
        fence: { $add: ["$fence", 1] },
        attempt: { $add: ["$attempt", 1] },
        lease_expire_time: newLease,
      };
      const claim = { sort: { _id: 1 }, returnDocument: "after", ...bounded } as const;
      const stored = await jobs.findOneAndUpdate(filter, [{ $set: take }], claim);
      if (stored === null) return undefined;
      return { lease: { jobId: stored._id, owner, fence: stored.fence }, snapshot: snapshotOf(stored) };
    },

    /** Prolongs the lease and stores the newest progress and result. Undefined where the lease is not held any more. */
    async renew(lease: Lease, change: Pick<Append, "progress" | "result">): Promise<JobState | undefined> {
      const set = { lease_expire_time: newLease, ...literals({ progress: change.progress, result: change.result }) };
      const projection = { state: 1 };
      const after = { returnDocument: "after", projection, ...bounded } as const;
      const stored = await jobs.findOneAndUpdate(held(lease), [{ $set: set }], after);
      return stored?.state;
    },

    /** Appends the event after `previous` and prolongs or ends the lease. Undefined where the lease is not held any more. */
    async append(lease: Lease, previous: JobEvent, change: Append): Promise<Snapshot | undefined> {
      const last = defined(storedEvent(previous));
      try {
        const _id = eventId(lease.jobId, previous.sequence);
        await events.insertOne({ _id, job_id: lease.jobId, ...last }, bounded);
      } catch (error) {
        if (!isDuplicate(error)) throw error; // it is there already: this append is a second try
      }
      const sequence = previous.sequence + 1;
      const { state, progress, error, result } = change;
      const final = isFinal(state);
      // CANCELLING was written by another process; the owner must not wipe it out without having seen it.
      const next = final
        ? { $literal: state }
        : { $cond: [{ $eq: ["$state", "CANCELLING"] }, "$state", { $literal: state }] };
      const event = {
        $mergeObjects: [{ $literal: defined({ sequence, progress, error }) }, { event_time: "$$NOW", state: next }],
      };
      const set = {
        event,
        state: next,
        ...(state === "RUNNING" && { start_time: { $ifNull: ["$start_time", "$$NOW"] } }),
        ...literals({ progress, error, result }),
        ...(final ? { end_time: "$$NOW" } : { lease_expire_time: newLease }),
      };
      const update = [{ $set: set }, ...(final ? [{ $unset: ["owner", "lease_expire_time"] }] : [])];
      const filter = { ...held(lease), "event.sequence": previous.sequence };
      const stored = await jobs.findOneAndUpdate(filter, update, { returnDocument: "after", ...bounded });
      if (stored !== null) return snapshotOf(stored);
      // A first try may have arrived though its answer was lost. Its fence tells it from another holder's work.
      const arrived = await jobs.findOne({ _id: lease.jobId, fence: lease.fence, "event.sequence": sequence }, bounded);
      return arrived === null ? undefined : snapshotOf(arrived);
    },

    /** Gives the lease back, so that another replica can go on at once. */
    async release(lease: Lease): Promise<void> {
      const change = [
        { $set: { hand_overs: { $add: ["$hand_overs", 1] } } },
        { $unset: ["owner", "lease_expire_time"] },
      ];
      await jobs.updateOne(held(lease), change, bounded);
    },

    /** The newest events and progress of jobs, in no order. */
    async heads(jobIds: readonly string[], signal: AbortSignal): Promise<Head[]> {
      const projection = { kind: 1, event: 1, progress: 1 };
      const found = await jobs.find({ _id: { $in: jobIds } }, { projection, signal, maxTimeMS: statementMs }).toArray();
      return found.map(({ _id, kind, event, progress }) => ({ jobId: _id, kind, event: eventOf(event), progress }));
    },

    /** Stored events with `after` < sequence < `before`, in order, at most `limit`. */
    async history(jobId: string, range: { after: number; before: number; limit: number }, signal: AbortSignal) {
      const _id = { $gt: eventId(jobId, range.after), $lt: eventId(jobId, range.before) };
      const found = events.find({ _id }, { sort: { _id: 1 }, limit: range.limit, signal, ...asked });
      return (await found.toArray()).map(eventOf);
    },
  };
}

/** What of a job list is wanted. */
export interface ListOptions {
  readonly states?: readonly JobState[] | undefined;
  /** Only jobs with an id below this one. */
  readonly before?: string | undefined;
  readonly limit: number;
}

/** Sorts as the numbers do, so that a range of events is a range of `_id`s. */
function eventId(jobId: string, sequence: number): string {
  return `${jobId}/${String(sequence).padStart(10, "0")}`;
}

/** `value` without what is undefined, which BSON would store as null inside `$literal`. */
function defined<T extends object>(value: T): { [K in keyof T]: Exclude<T[K], undefined> } {
  const entries = Object.entries(value).filter(([, member]) => member !== undefined);
  // Only members that are undefined were left out, and those the type allows to be absent.
  return Object.fromEntries(entries) as { [K in keyof T]: Exclude<T[K], undefined> };
}

function literals(values: Readonly<Record<string, unknown>>): Record<string, { $literal: unknown }> {
  return Object.fromEntries(Object.entries(defined(values)).map(([name, value]) => [name, { $literal: value }]));
}

function storedEvent({ sequence, eventTime, state, progress, error }: JobEvent): StoredEvent {
  return { sequence, event_time: eventTime, state, ...(progress && { progress }), ...(error && { error }) };
}

function eventOf({ sequence, event_time: eventTime, state, progress, error }: StoredEvent): JobEvent {
  return { sequence, eventTime, state, progress, error, heartbeat: false };
}

function snapshotOf(stored: StoredJob): Snapshot {
  return { job: recordOf(stored), event: eventOf(stored.event) };
}

function recordOf(stored: StoredJob): JobRecord {
  return {
    jobId: stored._id,
    kind: stored.kind,
    state: stored.state,
    spec: stored.spec,
    requestId: stored.request_id,
    principal: stored.principal,
    createTime: stored.create_time,
    startTime: stored.start_time,
    endTime: stored.end_time,
    attempt: stored.attempt,
    handOvers: stored.hand_overs,
    sequence: stored.event.sequence,
    progress: stored.progress,
    result: stored.result,
    error: stored.error,
  };
}
