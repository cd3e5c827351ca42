import { create } from "@bufbuild/protobuf";
import type { Timestamp } from "@bufbuild/protobuf/wkt";

import {
  type Backup,
  BackupSchema,
  JobErrorSchema,
  JobState,
  type ListBackupsRequest,
} from "../../gen/lucid/admin/v1/backup_service_pb.ts";
import type { Manifest } from "../../gen/lucid/backup/v1/manifest_pb.ts";
import { fail, isReason, reasonOf } from "../errors.ts";
import type { Jobs } from "../jobs/jobs.ts";
import type { JobRecord } from "../jobs/record.ts";
import { backupKind, backupOfJob, backupOfManifest } from "./messages.ts";
import type { BackupRepository, ListedBackup } from "./repository/repository.ts";

/** What is known of backups: the repository's manifests are the truth, jobs tell of what is under way or came to nothing. */
export interface Catalog {
  /** One backup. Fails with `BACKUP_NOT_FOUND` or with what keeps its manifest from being read. */
  get(backupId: string, signal: AbortSignal): Promise<Backup>;
  /** Backups with an id below `before`, in descending order. */
  list(options: { readonly before: string | undefined; readonly signal: AbortSignal }): Promise<BackupList>;
  /** The backup that a job takes. */
  ofJob(job: JobRecord, signal: AbortSignal): Promise<Backup>;
  /** A manifest. Fails as `get` does, and with `BACKUP_NOT_COMPLETE` where there is no more than a job. */
  manifest(backupId: string, signal: AbortSignal): Promise<Manifest>;
  /** The same where the manifest need not be readable. */
  requireStored(backupId: string, signal: AbortSignal): Promise<void>;
}

/** A listing under way. */
export interface BackupList {
  readonly backups: AsyncIterable<Backup>;
  /** Whether jobs could not be asked for, so that the list is of the repository alone. */
  readonly repositoryOnly: boolean;
}

/** Jobs that are read at once. */
const pageJobs = 200;

/** What a catalogue is made from. */
export interface CatalogOptions {
  readonly jobs: Jobs;
  readonly repository: () => Promise<BackupRepository>;
  /** Turns an error of a store into one that a caller can be told. */
  readonly translate: (error: unknown) => unknown;
}

/** Brings manifests and jobs together. */
export function catalog({ jobs, repository, translate }: CatalogOptions): Catalog {
  const isAway = (error: unknown): boolean => {
    const told = translate(error);
    return isReason(told, "STORE_UNAVAILABLE") || isReason(told, "DEADLINE_EXCEEDED");
  };

  async function jobOf(backupId: string, signal: AbortSignal): Promise<JobRecord> {
    const job = await jobs.find(backupKind, backupId, signal);
    // A job that succeeded and has no manifest is of a backup that was deleted.
    if (job === undefined || job.state === "SUCCEEDED") throw backupNotFound(backupId);
    return job;
  }

  async function* allJobs(before: string | undefined, signal: AbortSignal): AsyncGenerator<JobRecord> {
    let last = before;
    for (;;) {
      const page = await jobs.list(
        backupKind,
        { limit: pageJobs, ...(last !== undefined && { before: last }) },
        signal,
      );
      yield* page;
      last = page.at(-1)?.jobId;
      if (page.length < pageJobs) return;
    }
  }

  async function manifest(backupId: string, signal: AbortSignal): Promise<Manifest> {
    const stored = await repository();
    try {
      return await stored.get(backupId, signal);
    } catch (error) {
      if (!isReason(error, "BACKUP_NOT_FOUND")) throw error;
      const { state } = await jobOf(backupId, signal);
      const metadata = { backup_id: backupId, state };
      throw fail("BACKUP_NOT_COMPLETE", `Backup ${backupId} is not complete: ${state}`, { metadata });
    }
  }

  return {
    async get(backupId, signal) {
      const stored = await repository();
      try {
        return backupOfManifest(await stored.get(backupId, signal), stored);
      } catch (error) {
        if (!isReason(error, "BACKUP_NOT_FOUND")) throw error;
        return backupOfJob(await jobOf(backupId, signal));
      }
    },

    async list({ before, signal }) {
      const stored = await repository();
      const whole = stored.list(signal, before);
      const asked = allJobs(before, signal);
      // The first page tells whether jobs can be asked for; the listing must not break off in the middle for that.
      const first = await asked.next().catch((error: unknown) => {
        signal.throwIfAborted();
        if (isAway(error)) return undefined;
        throw error;
      });
      const other = first === undefined ? noJobs() : resumed(first, asked);
      return { backups: merged(whole, other, stored), repositoryOnly: first === undefined };
    },

    async ofJob(job, signal) {
      if (job.state !== "SUCCEEDED") return backupOfJob(job);
      const stored = await repository();
      try {
        return backupOfManifest(await stored.get(job.jobId, signal), stored);
      } catch (error) {
        // It was deleted since.
        if (isReason(error, "BACKUP_NOT_FOUND")) return backupOfJob(job);
        throw error;
      }
    },

    manifest,

    async requireStored(backupId, signal) {
      try {
        await manifest(backupId, signal);
      } catch (error) {
        if (!isReason(error, "BACKUP_MANIFEST_DAMAGED") && !isReason(error, "BACKUP_FORMAT_UNKNOWN")) throw error;
      }
    },
  };
}

/** Whether a repository has no backup of an id: it was deleted, or never whole. */
export async function isDeleted(repository: BackupRepository, backupId: string, signal: AbortSignal): Promise<boolean> {
  try {
    await repository.get(backupId, signal);
    return false;
  } catch (error) {
    if (isReason(error, "BACKUP_NOT_FOUND")) return true;
    if (isReason(error, "BACKUP_MANIFEST_DAMAGED") || isReason(error, "BACKUP_FORMAT_UNKNOWN")) return false;
    throw error;
  }
}

/** Two descending sequences as one; of a backup that is in both, the repository's word counts. */
async function* merged(
  whole: AsyncIterable<ListedBackup>,
  jobs: AsyncIterable<JobRecord>,
  options: { readonly encrypted: boolean },
): AsyncGenerator<Backup> {
  const left = whole[Symbol.asyncIterator]();
  const right = jobs[Symbol.asyncIterator]();
  let [one, other] = [await left.next(), await right.next()];
  while (one.done !== true || other.done !== true) {
    const listed = one.done === true ? undefined : one.value;
    const job = other.done === true ? undefined : other.value;
    const backupId = [listed?.backupId ?? "", job?.jobId ?? ""].toSorted().at(-1);
    const isListed = listed?.backupId === backupId;
    const isJob = job?.jobId === backupId;
    if (isListed && listed !== undefined) yield backupOfListed(listed, isJob ? job : undefined, options);
    else if (job !== undefined && job.state !== "SUCCEEDED") yield backupOfJob(job);
    if (isListed) one = await left.next();
    if (isJob) other = await right.next();
  }
}

function backupOfListed(
  listed: ListedBackup,
  job: JobRecord | undefined,
  options: { readonly encrypted: boolean },
): Backup {
  if (listed.manifest !== undefined) return backupOfManifest(listed.manifest, options);
  const { reason = "INTERNAL", metadata = {} } = reasonOf(listed.error) ?? {};
  const backup = job === undefined ? create(BackupSchema, { backupId: listed.backupId }) : backupOfJob(job);
  backup.state = JobState.FAILED;
  backup.error = create(JobErrorSchema, { reason, message: listed.error.rawMessage, metadata });
  return backup;
}

async function* resumed(first: IteratorResult<JobRecord>, rest: AsyncGenerator<JobRecord>): AsyncGenerator<JobRecord> {
  if (first.done === true) return;
  yield first.value;
  yield* rest;
}

async function* noJobs(): AsyncGenerator<JobRecord> {}

/** Whether a backup is what a list was asked for. */
export function isWanted(backup: Backup, wanted: ListBackupsRequest): boolean {
  const { store, type, state, createdAfter, createdBefore } = wanted;
  if (store !== 0 && backup.selection?.stores.includes(store) !== true) return false;
  if (type !== 0 && backup.type !== type) return false;
  if (state !== JobState.UNSPECIFIED && backup.state !== state) return false;
  if (createdAfter !== undefined && !(compareTimes(backup.createTime, createdAfter) >= 0)) return false;
  return createdBefore === undefined || compareTimes(backup.createTime, createdBefore) < 0;
}

/** NaN where the first is not known. */
function compareTimes(one: Timestamp | undefined, other: Timestamp): number {
  if (one === undefined) return Number.NaN;
  return Number(one.seconds - other.seconds) || one.nanos - other.nanos;
}

export function backupNotFound(backupId: string): Error {
  return fail("BACKUP_NOT_FOUND", `There is no backup ${backupId}`, {
    metadata: { backup_id: backupId },
    resource: { type: "lucid.admin.v1.Backup", name: backupId },
  });
}
