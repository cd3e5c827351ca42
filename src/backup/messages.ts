import { create, fromBinary, type MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";

import {
  type Backup,
  BackupSchema,
  CreateBackupRequestSchema,
  CreateRestoreRequestSchema,
  type JobErrorSchema,
  type JobEvent,
  JobEventSchema,
  JobPhase,
  type JobProgress,
  JobProgressSchema,
  JobState,
  type Restore,
  RestoreSchema,
  type Verification,
  VerificationSchema,
  VerifyBackupRequestSchema,
} from "../../gen/lucid/admin/v1/backup_service_pb.ts";
import type { Manifest } from "../../gen/lucid/backup/v1/manifest_pb.ts";
import type * as stored from "../jobs/record.ts";
import { volumeRemarks } from "./volumes/remarks.ts";

const mostRemarks = 100;

/** The kind of jobs that take backups; the id of the job is that of the backup. */
export const backupKind = "backup";

/** The kind of jobs that verify backups. */
export const verificationKind = "verification";

/** The kind of jobs that restore backups. */
export const restoreKind = "restore";

/** The states of jobs, as they are told and as they are stored. */
const states: readonly (readonly [stored.JobState, JobState])[] = [
  ["PENDING", JobState.PENDING],
  ["RUNNING", JobState.RUNNING],
  ["CANCELLING", JobState.CANCELLING],
  ["SUCCEEDED", JobState.SUCCEEDED],
  ["FAILED", JobState.FAILED],
  ["CANCELLED", JobState.CANCELLED],
  ["INTERRUPTED", JobState.INTERRUPTED],
];

export function toldState(state: stored.JobState): JobState {
  return states.find(([one]) => one === state)?.[1] ?? JobState.UNSPECIFIED;
}

/** Undefined for UNSPECIFIED. */
export function storedState(state: JobState): stored.JobState | undefined {
  return states.find(([, told]) => told === state)?.[0];
}

function progressOf(progress: stored.JobProgress | undefined): JobProgress | undefined {
  if (progress === undefined) return undefined;
  // The percentage is the job's own, which never falls; the rest was measured by the run that is under way.
  return create(JobProgressSchema, { ...fromBinary(JobProgressSchema, progress.detail), percent: progress.percent });
}

function errorOf(error: stored.JobFailure | undefined): MessageInitShape<typeof JobErrorSchema> | undefined {
  return error === undefined ? undefined : { ...error, metadata: { ...error.metadata } };
}

/** An event of a job of any kind. */
export function eventOf(event: stored.JobEvent): JobEvent {
  const { state, progress, error } = event;
  return create(JobEventSchema, {
    sequence: BigInt(event.sequence),
    eventTime: timestampFromDate(event.eventTime),
    state: toldState(state),
    progress: progressOf(progress),
    error: errorOf(error),
    heartbeat: event.heartbeat,
  });
}

/** What backups, verifications and restores say of their job alike. */
function jobFields(job: stored.JobRecord) {
  return {
    state: toldState(job.state),
    progress: progressOf(job.progress),
    error: errorOf(job.error),
    createTime: timestampFromDate(job.createTime),
    startTime: job.startTime && timestampFromDate(job.startTime),
    endTime: job.endTime && timestampFromDate(job.endTime),
  };
}

/** A backup of which there is a job, but nothing whole in the repository. */
export function backupOfJob(job: stored.JobRecord): Backup {
  const { type, selection, description } = fromBinary(CreateBackupRequestSchema, job.spec);
  return create(BackupSchema, { backupId: job.jobId, type, selection, description, ...jobFields(job) });
}

/** A backup that is whole, whatever has become of its job. */
export function backupOfManifest(manifest: Manifest, { encrypted }: { readonly encrypted: boolean }): Backup {
  const { itemCount, logicalBytes, storedBytes } = manifest;
  return create(BackupSchema, {
    backupId: manifest.backupId,
    type: manifest.type,
    selection: manifest.selection,
    description: manifest.description,
    state: JobState.SUCCEEDED,
    progress: {
      phase: JobPhase.SEALING,
      percent: 100,
      itemsDone: itemCount,
      itemsTotal: itemCount,
      bytesDone: logicalBytes,
      bytesWritten: storedBytes,
    },
    createTime: manifest.createTime,
    startTime: manifest.startTime,
    endTime: manifest.endTime,
    expireTime: manifest.expireTime,
    consistencyPoint: manifest.consistencyPoint,
    itemCount,
    logicalBytes,
    storedBytes,
    rootHash: Buffer.from(manifest.rootHash).toString("hex"),
    encrypted,
    remarks: manifest.units.flatMap(volumeRemarks).slice(0, mostRemarks),
  });
}

export function verificationOf(job: stored.JobRecord): Verification {
  const { backupId, readPercent = 100 } = fromBinary(VerifyBackupRequestSchema, job.spec);
  const { problems, problemCount } = fromBinary(VerificationSchema, job.result ?? new Uint8Array());
  const found = { problems, problemCount };
  return create(VerificationSchema, { verificationId: job.jobId, backupId, readPercent, ...jobFields(job), ...found });
}

export function restoreOf(job: stored.JobRecord): Restore {
  const { backupId, selection, renames, conflictPolicy } = fromBinary(CreateRestoreRequestSchema, job.spec);
  const { report } = fromBinary(RestoreSchema, job.result ?? new Uint8Array());
  const asked = { backupId, selection, renames, conflictPolicy };
  return create(RestoreSchema, { restoreId: job.jobId, ...asked, ...jobFields(job), report });
}

/** The backup that a job of any kind is about. */
export function backupIdOf({ kind, jobId, spec }: stored.JobRecord): string {
  switch (kind) {
    case verificationKind:
      return fromBinary(VerifyBackupRequestSchema, spec).backupId;
    case restoreKind:
      return fromBinary(CreateRestoreRequestSchema, spec).backupId;
    default:
      return jobId;
  }
}

/** The same without the units of its progress, for lists. */
export function withoutUnits<T extends { progress?: JobProgress | undefined }>(message: T): T {
  if (message.progress !== undefined) message.progress.units = [];
  return message;
}
