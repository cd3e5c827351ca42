import { durationMs, type Timestamp } from "@bufbuild/protobuf/wkt";

import {
  type JobError,
  type JobEvent,
  JobPhaseSchema,
  type JobProgress,
  JobState,
  JobStateSchema,
} from "../../gen/lucid/admin/v1/backup_service_pb.ts";
import { Store, StoreSchema } from "../../gen/lucid/admin/v1/common_pb.ts";
import type { Style } from "./output.ts";
import { safe } from "./text.ts";
import { nameOf } from "./units.ts";

/** One line of work within a job: a store, or nothing where a job has only one thing to do. */
interface Part {
  readonly name: string;
  readonly done: bigint;
  readonly total: bigint;
  readonly bytes: bigint;
}

/** What is shown of a job's event, whatever the job does. */
export interface JobView {
  readonly sequence: bigint;
  readonly time: Timestamp | undefined;
  readonly state: JobState;
  readonly error: JobError | undefined;
  readonly heartbeat: boolean;
  readonly phase: string;
  readonly percent: number;
  readonly done: bigint;
  readonly total: bigint;
  /** Undefined where the job does not count bytes. */
  readonly bytes: bigint | undefined;
  readonly bytesPerSecond: number;
  readonly timeLeftMs: number | undefined;
  readonly parts: readonly Part[];
}

/** What an event says of the work that is done and to be done. */
type Work = Omit<JobView, "sequence" | "time" | "state" | "error" | "heartbeat">;

/** What the events of all jobs have. */
interface JobEventHead {
  readonly sequence: bigint;
  readonly eventTime?: Timestamp | undefined;
  readonly state: JobState;
  readonly error?: JobError | undefined;
  readonly heartbeat: boolean;
}

/** What an event shows, with what is special to its kind of jobs: how much of what it does is done. */
export function viewOf({ sequence, eventTime, state, error, heartbeat }: JobEventHead, work: Partial<Work>): JobView {
  return {
    percent: 0,
    done: 0n,
    total: 0n,
    bytes: undefined,
    bytesPerSecond: 0,
    timeLeftMs: undefined,
    parts: [],
    ...work,
    // Of a build of indexes it is what MongoDB calls it.
    phase: safe(work.phase ?? ""),
    sequence,
    time: eventTime,
    state,
    error,
    heartbeat,
  };
}

/** What is shown of an event of the jobs of BackupService. */
export function viewOfStores({ event }: { readonly event?: JobEvent | undefined }): JobView {
  const { sequence = 0n, eventTime, state = JobState.UNSPECIFIED, progress, error, heartbeat = false } = event ?? {};
  return viewOf(
    { sequence, eventTime, state, error, heartbeat },
    {
      phase: progress === undefined ? "" : nameOf(JobPhaseSchema, progress.phase),
      percent: progress?.percent ?? 0,
      done: progress?.itemsDone ?? 0n,
      total: progress?.itemsTotal ?? 0n,
      bytes: progress?.bytesDone ?? 0n,
      bytesPerSecond: progress?.bytesPerSecond ?? 0,
      timeLeftMs: progress?.timeLeft === undefined ? undefined : durationMs(progress.timeLeft),
      parts: partsOf(progress),
    },
  );
}

/** Sums the units of each store. */
function partsOf(progress: JobProgress | undefined): readonly Part[] {
  const stores = Map.groupBy(progress?.units ?? [], ({ store }) => store);
  return [...stores].map(([store, units]) => ({
    name: storeName(store),
    done: units.reduce((sum, { itemsDone }) => sum + itemsDone, 0n),
    total: units.reduce((sum, { itemsTotal }) => sum + itemsTotal, 0n),
    bytes: units.reduce((sum, { bytesDone }) => sum + bytesDone, 0n),
  }));
}

/** How a state is painted. */
export function styleOf(state: JobState): Style | undefined {
  if (state === JobState.SUCCEEDED) return "green";
  if (state === JobState.FAILED || state === JobState.INTERRUPTED) return "red";
  return state === JobState.CANCELLED || state === JobState.CANCELLING ? "yellow" : undefined;
}

/** The name of a state as people read it. */
export function stateName(state: JobState): string {
  return nameOf(JobStateSchema, state);
}

/** The name of a store as people read it. */
export function storeName(store: Store): string {
  if (store === Store.MONGODB) return "MongoDB";
  return store === Store.REDIS ? "Redis" : nameOf(StoreSchema, store);
}

/** Why a job did not succeed, in one sentence. */
export function whyNot({ message, reason }: JobError): string {
  return `${safe(message)}${reason === "" ? "" : ` (${safe(reason)})`}`;
}

/** The states that a job ends in. */
export const finalStates: ReadonlySet<JobState> = new Set([
  JobState.SUCCEEDED,
  JobState.FAILED,
  JobState.CANCELLED,
  JobState.INTERRUPTED,
]);
