import { MongoClient, type Db } from "mongodb";

import { type Jobs, openJobs } from "../../src/jobs/jobs.ts";
import type { JobEvent } from "../../src/jobs/record.ts";
import type { JobLog } from "../../src/jobs/runner.ts";
import { impatientClient, storeAddresses, uniqueName } from "../support/stores.ts";
import { longLeaseMs } from "./lease.ts";

export const utf8 = new TextEncoder();

export const silent: JobLog = { info() {}, warn() {}, error() {} };

/** A database of its own, and replicas on it. */
export interface Rig extends AsyncDisposable {
  readonly db: Db;
  readonly database: string;
  /** One more process' worth of jobs, not started. Its connection goes to `uri` where given. */
  replica(options?: {
    concurrency?: number;
    maxAttempts?: number;
    leaseMs?: number;
    uri?: string;
    log?: JobLog;
    onCommand?: (name: string) => void;
  }): Promise<Jobs>;
}

export async function rig(): Promise<Rig> {
  const stack = new AsyncDisposableStack();
  const database = uniqueName("jobs");
  const client = await MongoClient.connect(storeAddresses().mongodbUri);
  stack.defer(() => client.close());
  stack.defer(async () => {
    await client.db(database).dropDatabase();
  });
  return {
    db: client.db(database),
    database,
    async replica({
      concurrency = 2,
      maxAttempts = 3,
      leaseMs = longLeaseMs,
      uri = storeAddresses().mongodbUri,
      log = silent,
      onCommand,
    } = {}) {
      const own = await impatientClient(uri, { monitorCommands: true });
      own.on("commandStarted", ({ commandName }) => onCommand?.(commandName));
      stack.defer(() => own.close());
      const jobs = openJobs({
        db: own.db(database),
        leaseMs,
        concurrency,
        maxAttempts,
        log,
        translate: (error) => error,
      });
      stack.use(jobs);
      return jobs;
    },
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}

/** No test waits so long. */
export function never(): AbortSignal {
  return AbortSignal.timeout(230_000);
}

/** All events of a job to its end. */
export async function eventsOf(jobs: Jobs, jobId: string, afterSequence = 0): Promise<JobEvent[]> {
  const options = { afterSequence, heartbeatMs: 300_000, signal: never() };
  return Array.fromAsync(jobs.watch("work", jobId, options));
}

/** Resolves with the first event that `fits`. */
export async function firstEvent(jobs: Jobs, jobId: string, fits: (event: JobEvent) => boolean): Promise<JobEvent> {
  const options = { afterSequence: 0, heartbeatMs: 300_000, signal: never() };
  for await (const event of jobs.watch("work", jobId, options)) if (fits(event)) return event;
  throw new Error("The job ended without such an event");
}

export function sequences(events: readonly JobEvent[]): number[] {
  return events.map(({ sequence }) => sequence);
}

/** 1..n */
export function upTo(n: number): number[] {
  return Array.from({ length: n }, (_, index) => index + 1);
}
