/** Where a job is in its life. Nothing leaves a final state. */
export type JobState = "PENDING" | "RUNNING" | "CANCELLING" | "SUCCEEDED" | "FAILED" | "CANCELLED" | "INTERRUPTED";

/** The states of a job that some replica works on or will. */
export const activeStates: readonly JobState[] = ["PENDING", "RUNNING", "CANCELLING"];

/** Whether nothing will change in a job of this state. */
export function isFinal(state: JobState): boolean {
  return !activeStates.includes(state);
}

/** Why a job did not succeed. */
export interface JobFailure {
  /** One of the reasons of `errors.ts`, or `INTERNAL`. */
  readonly reason: string;
  readonly message: string;
  readonly metadata: Readonly<Record<string, string>>;
}

/** How far a job is. */
export interface JobProgress {
  /** 0 to 100. What is stored never falls, also when the job is run again. */
  readonly percent: number;
  /** What the job's kind says of it; of no meaning here. */
  readonly detail: Uint8Array;
}

/** A job as it is stored. */
export interface JobRecord {
  readonly jobId: string;
  readonly kind: string;
  readonly state: JobState;
  /** What is to be done, in the encoding of the job's kind. */
  readonly spec: Uint8Array;
  readonly requestId: string | undefined;
  /** Who asked for it. */
  readonly principal: string | undefined;
  readonly createTime: Date;
  readonly startTime: Date | undefined;
  readonly endTime: Date | undefined;
  /** How many times a replica took it up. */
  readonly attempt: number;
  /** How many of those handed it on in good order, because they were asked to stop. */
  readonly handOvers: number;
  /** Number of the newest event. */
  readonly sequence: number;
  /** The newest progress; it may be newer than the newest event. */
  readonly progress: JobProgress | undefined;
  /** What the job left, also where it did not succeed. */
  readonly result: Uint8Array | undefined;
  readonly error: JobFailure | undefined;
}

/** One event of a job. */
export interface JobEvent {
  /** Counts up by one from 1 within a job. A heartbeat repeats the number of the event before it. */
  readonly sequence: number;
  readonly eventTime: Date;
  readonly state: JobState;
  readonly progress: JobProgress | undefined;
  readonly error: JobFailure | undefined;
  /** Whether this only says that the watch is alive. Its progress is the newest. */
  readonly heartbeat: boolean;
}
