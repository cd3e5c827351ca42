import { randomUUIDv7 } from "node:crypto";

import { create, type DescMessage, type MessageShape, toBinary } from "@bufbuild/protobuf";
import { type Duration, durationMs } from "@bufbuild/protobuf/wkt";
import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";

import {
  type BackupService,
  BackupType,
  ConflictPolicy,
  CreateBackupRequestSchema,
  CreateRestoreRequestSchema,
  ListBackupsRequestSchema,
  ListRestoresRequestSchema,
  VerifyBackupRequestSchema,
} from "../../gen/lucid/admin/v1/backup_service_pb.ts";
import { fail, isReason } from "../errors.ts";
import { jobKey, jobsCollection } from "../jobs/job-store.ts";
import type { Jobs } from "../jobs/jobs.ts";
import { activeStates, type JobRecord, type JobState } from "../jobs/record.ts";
import { auditRecord, type CarryOut } from "../schema/audited-call.ts";
import type { PageTokens } from "../schema/page-tokens.ts";
import { backupNotFound, catalog, isWanted } from "./catalog.ts";
import type { Target } from "./contracts.ts";
import {
  backupIdOf,
  backupKind,
  eventOf,
  restoreKind,
  restoreOf,
  storedState,
  verificationKind,
  verificationOf,
  withoutUnits,
} from "./messages.ts";
import type { BackupRepository } from "./repository/repository.ts";
import { requireRestorable, tryRestore } from "./restore-request.ts";
import { completeSelection, selectionViolations } from "./selection.ts";

/** What BackupService needs. */
export interface BackupServiceOptions {
  readonly jobs: Jobs;
  readonly repository: () => Promise<BackupRepository>;
  /** The stores that can be restored into, for the check of a restore that is only validated. */
  readonly targets: readonly Target[];
  readonly pageTokens: PageTokens;
  /** Database of the service's own, that nothing is restored into. */
  readonly systemDatabase: string;
  /** Turns an error of a store into one that a caller can be told. */
  readonly translate: (error: unknown) => unknown;
  /** Tells the audit log of a deletion. */
  readonly carryOut: CarryOut;
}

const pageSizes = { usual: 50, most: 1000 };

const usualHeartbeatMs = 15_000;

/** Jobs that are read at once. */
const pageJobs = 200;

/** The handlers of BackupService. The work itself is done by the jobs that `backupJobs` registers, in any replica. */
export function backupService(options: BackupServiceOptions): ServiceImpl<typeof BackupService> {
  const { jobs, repository, targets, pageTokens, systemDatabase, carryOut } = options;
  const backups = catalog(options);

  /** The job of a request: the one that an earlier call with its request id has made, or a new one that passes `check`. */
  async function jobFor(
    kind: string,
    request: { requestId: string; spec: Uint8Array },
    context: HandlerContext,
    check: () => Promise<void>,
  ): Promise<JobRecord> {
    const { requestId, spec } = request;
    const earlier = requestId === "" ? undefined : await jobs.recall(kind, { requestId, spec });
    if (earlier !== undefined) return earlier;
    await check();
    const jobId = randomUUIDv7();
    const record = recordOf(kind, jobId, context);
    return jobs.create(kind, { jobId, spec, record, ...(requestId !== "" && { requestId }) });
  }

  async function jobOf(kind: string, jobId: string, signal: AbortSignal): Promise<JobRecord> {
    const job = await jobs.find(kind, jobId, signal);
    if (job === undefined) throw jobNotFound(kind, jobId);
    return job;
  }

  async function cancel(kind: string, jobId: string, context: HandlerContext): Promise<JobRecord> {
    try {
      return await jobs.cancel(kind, jobId, recordOf(kind, jobId, context));
    } catch (error) {
      throw isReason(error, "JOB_NOT_FOUND") ? jobNotFound(kind, jobId) : error;
    }
  }

  async function* watch(kind: string, jobId: string, request: WatchRequest, { signal }: HandlerContext) {
    const { afterSequence, heartbeatInterval } = request;
    const heartbeatMs = heartbeatInterval === undefined ? usualHeartbeatMs : durationMs(heartbeatInterval);
    try {
      const events = jobs.watch(kind, jobId, { afterSequence: Number(afterSequence), heartbeatMs, signal });
      for await (const event of events) yield { event: eventOf(event) };
    } catch (error) {
      throw isReason(error, "JOB_NOT_FOUND") ? jobNotFound(kind, jobId) : error;
    }
  }

  async function* jobsOf(
    kind: string,
    wanted: { before?: string | undefined; states?: readonly JobState[] },
    signal: AbortSignal,
  ) {
    let { before } = wanted;
    for (;;) {
      const page = await jobs.list(kind, { ...wanted, before, limit: pageJobs }, signal);
      yield* page;
      before = page.at(-1)?.jobId;
      if (page.length < pageJobs) return;
    }
  }

  async function requireUnused(backupId: string, signal: AbortSignal): Promise<void> {
    for (const kind of [backupKind, verificationKind, restoreKind]) {
      for await (const job of jobsOf(kind, { states: activeStates }, signal)) {
        if (backupIdOf(job) !== backupId) continue;
        const metadata = { backup_id: backupId, kind, job_id: job.jobId, state: job.state };
        throw fail("BACKUP_IN_USE", `A ${kind} job works on backup ${backupId}`, { metadata });
      }
    }
  }

  return {
    async createBackup(request, context) {
      requireFull(request.type);
      const selection = completeSelection(request.selection);
      const wrong = selectionViolations(selection, { systemDatabase });
      if (wrong.length > 0) throw fail("BAD_REQUEST", "The selection is not valid", { fields: wrong });
      const { description, retentionDays, requestId } = request;
      const asked = create(CreateBackupRequestSchema, { type: BackupType.FULL, selection, description, retentionDays });
      const spec = toBinary(CreateBackupRequestSchema, asked);
      const job = await jobFor(backupKind, { requestId, spec }, context, async () => {
        await repository(); // that it is away or locked is to be told now, not by a job that fails
      });
      return { backup: await backups.ofJob(job, context.signal) };
    },

    async *watchBackup(request, context) {
      try {
        yield* watch(backupKind, request.backupId, request, context);
      } catch (error) {
        if (!isReason(error, "BACKUP_NOT_FOUND")) throw error;
        // After a loss of MongoDB the backup is there and its job is not: all that is left to tell is how it ended.
        const { state, progress, endTime } = await backups.get(request.backupId, context.signal);
        const sequence = request.afterSequence + 1n;
        yield { event: { sequence, state, ...(progress && { progress }), ...(endTime && { eventTime: endTime }) } };
      }
    },

    async getBackup({ backupId }, { signal }) {
      return { backup: await backups.get(backupId, signal) };
    },

    async listBackups(request, { signal }) {
      const query = queryOf(ListBackupsRequestSchema, request);
      const before = pageTokens.decode(query, request.pageToken);
      const { backups: all, repositoryOnly } = await backups.list({ before, signal });
      const { items, last } = await pageOf(all, request.pageSize, (backup) => isWanted(backup, request));
      const nextPageToken = last === undefined ? "" : pageTokens.encode(query, last.backupId);
      return { backups: items.map(withoutUnits), nextPageToken, repositoryOnly };
    },

    async cancelBackup({ backupId }, context) {
      try {
        return { backup: await backups.ofJob(await cancel(backupKind, backupId, context), context.signal) };
      } catch (error) {
        if (!isReason(error, "BACKUP_NOT_FOUND")) throw error;
        await backups.get(backupId, context.signal);
        const metadata = { job_id: backupId, state: "SUCCEEDED" };
        throw fail("JOB_ALREADY_FINISHED", "The job has ended already: SUCCEEDED", { metadata });
      }
    },

    async deleteBackup({ backupId, confirmBackupId, validateOnly }, context) {
      const { signal } = context;
      await requireUnused(backupId, signal);
      await backups.requireStored(backupId, signal);
      if (!validateOnly) requireConfirmed(confirmBackupId, backupId);
      const stored = await repository();
      const run = () => stored.delete(backupId, { validateOnly }, signal);
      return validateOnly ? await run() : await carryOut(context, { type: "Backup", name: backupId }, run);
    },

    async verifyBackup({ backupId, requestId, readPercent }, context) {
      const asked = { backupId, ...(readPercent !== undefined && { readPercent }) };
      const spec = toBinary(VerifyBackupRequestSchema, create(VerifyBackupRequestSchema, asked));
      const check = () => backups.requireStored(backupId, context.signal);
      const job = await jobFor(verificationKind, { requestId, spec }, context, check);
      return { verification: verificationOf(job) };
    },

    async *watchVerification(request, context) {
      yield* watch(verificationKind, request.verificationId, request, context);
    },

    async getVerification({ verificationId }, { signal }) {
      return { verification: verificationOf(await jobOf(verificationKind, verificationId, signal)) };
    },

    async cancelVerification({ verificationId }, context) {
      return { verification: verificationOf(await cancel(verificationKind, verificationId, context)) };
    },

    async createRestore(request, context) {
      const { signal } = context;
      const { backupId, requestId, confirmBackupId, selection, renames, validateOnly } = request;
      const conflictPolicy = request.conflictPolicy || ConflictPolicy.FAIL;
      const init = { backupId, renames, conflictPolicy, ...(selection && { selection }) };
      const asked = create(CreateRestoreRequestSchema, init);
      const spec = toBinary(CreateRestoreRequestSchema, asked);
      const check = async (): Promise<void> => {
        const manifest = await backups.manifest(backupId, signal);
        if (destructive.has(conflictPolicy)) requireConfirmed(confirmBackupId, backupId);
        requireRestorable(manifest, asked, { systemDatabase });
        if (validateOnly) await tryRestore(manifest, asked, { targets, repository: await repository(), signal });
      };
      if (validateOnly) {
        await check();
        return { restore: init };
      }
      return { restore: restoreOf(await jobFor(restoreKind, { requestId, spec }, context, check)) };
    },

    async *watchRestore(request, context) {
      yield* watch(restoreKind, request.restoreId, request, context);
    },

    async getRestore({ restoreId }, { signal }) {
      return { restore: restoreOf(await jobOf(restoreKind, restoreId, signal)) };
    },

    async listRestores(request, { signal }) {
      const query = queryOf(ListRestoresRequestSchema, request);
      const before = pageTokens.decode(query, request.pageToken);
      const state = storedState(request.state);
      const all = jobsOf(restoreKind, { before, ...(state && { states: [state] }) }, signal);
      const { items, last } = await pageOf(all, request.pageSize, (job) =>
        ["", backupIdOf(job)].includes(request.backupId),
      );
      const nextPageToken = last === undefined ? "" : pageTokens.encode(query, last.jobId);
      return { restores: items.map((job) => withoutUnits(restoreOf(job))), nextPageToken };
    },

    async cancelRestore({ restoreId }, context) {
      return { restore: restoreOf(await cancel(restoreKind, restoreId, context)) };
    },
  };
}

/** What jobs of a kind are called in the API. */
const typeNames: Readonly<Record<string, string>> = {
  [backupKind]: "Backup",
  [verificationKind]: "Verification",
  [restoreKind]: "Restore",
};

/** What the audit log is to say of a job's write. */
function recordOf(kind: string, jobId: string, context: HandlerContext) {
  const resource = { type: typeNames[kind] ?? kind, name: jobId };
  return auditRecord(context, { collection: jobsCollection, key: jobKey(jobId), resource });
}

interface WatchRequest {
  readonly afterSequence: bigint;
  readonly heartbeatInterval?: Duration | undefined;
}

/** Policies that change what is there. */
const destructive: ReadonlySet<ConflictPolicy> = new Set([ConflictPolicy.DROP, ConflictPolicy.OVERWRITE]);

/** What a page token is bound to: all that decides what is in the list. */
function queryOf<D extends DescMessage>(desc: D, request: MessageShape<D>): Uint8Array {
  return Buffer.concat([Buffer.from(desc.typeName), toBinary(desc, { ...request, pageSize: 0, pageToken: "" })]);
}

/** A page of what is wanted of `all`, and its last item where there is more. */
async function pageOf<T>(
  all: AsyncIterable<T>,
  asked: number,
  isWantedItem: (item: T) => boolean,
): Promise<{ items: T[]; last?: T }> {
  const size = Math.min(asked === 0 ? pageSizes.usual : asked, pageSizes.most);
  const items: T[] = [];
  for await (const item of all) {
    if (!isWantedItem(item)) continue;
    const last = items.at(-1);
    if (items.length === size && last !== undefined) return { items, last };
    items.push(item);
  }
  return { items };
}

function requireFull(type: BackupType): void {
  if (type === BackupType.UNSPECIFIED || type === BackupType.FULL) return;
  const name = type === BackupType.INCREMENTAL ? "INCREMENTAL" : "DIFFERENTIAL";
  throw fail("BACKUP_TYPE_NOT_SUPPORTED", `Backups of type ${name} are not supported`, { metadata: { type: name } });
}

function requireConfirmed(confirmation: string, backupId: string): void {
  if (confirmation === backupId) return;
  const field = { field: "confirm_backup_id", description: "must repeat the id of the backup" };
  const metadata = { backup_id: backupId };
  throw fail("CONFIRMATION_MISMATCH", "The confirmation is not the id of the backup", { fields: [field], metadata });
}

function jobNotFound(kind: string, jobId: string): Error {
  if (kind === backupKind) return backupNotFound(jobId);
  const [reason, type] =
    kind === restoreKind
      ? (["RESTORE_NOT_FOUND", "Restore"] as const)
      : (["VERIFICATION_NOT_FOUND", "Verification"] as const);
  return fail(reason, `There is no ${kind} ${jobId}`, {
    metadata: { [`${kind}_id`]: jobId },
    resource: { type: `lucid.admin.v1.${type}`, name: jobId },
  });
}
