import type { Db } from "mongodb";

import { type Jobs, openJobs } from "../../src/jobs/jobs.ts";
import { longLeaseMs } from "./lease.ts";

/** Logs nothing: of such a process only what it says to its test counts. */
export const silentLog = { info() {}, warn() {}, error() {} };

/** The jobs of a process that a test kills, which no stall of a machine takes its lease from before. */
export function jobsToBeKilled(db: Db, concurrency = 1): Jobs {
  return openJobs({ db, leaseMs: longLeaseMs, concurrency, log: silentLog, translate: (error) => error });
}
