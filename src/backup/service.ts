import { create, type DescMessage, toBinary } from "@bufbuild/protobuf";
import type { ServiceImpl } from "@connectrpc/connect";

import {
  BackupSchema,
  type BackupService,
  BackupType,
  ConflictPolicy,
  CreateBackupRequestSchema,
  CreateRestoreRequestSchema,
  ListBackupsRequestSchema,
  ListRestoresRequestSchema,
  RestoreSchema,
  VerificationSchema,
  VerifyBackupRequestSchema,
} from "../../gen/lucid/admin/v1/backup_service_pb.ts";
import { fail, isReason } from "../errors.ts";
import { jobCalls } from "../jobs/calls.ts";
import type { Jobs } from "../jobs/jobs.ts";
import { activeStates, type JobState } from "../jobs/record.ts";
import type { CarryOut } from "../schema/audited-call.ts";
import { pageSizeOf, queryOf } from "../schema/list-query.ts";
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

/** Jobs that are read at once. */
const pageJobs = 200;

/** The handlers of BackupService. The work itself is done by the jobs that `backupJobs` registers, in any replica. */
export function backupService(options: BackupServiceOptions): ServiceImpl<typeof BackupService> {
  const { jobs, repository, targets, pageTokens, systemDatabase, carryOut } = options;
  const backups = catalog(options);

  const callsOf = (kind: string, schema: DescMessage, notFound: (jobId: string) => Error) =>
    jobCalls({ jobs, kind, schema, notFound, pageTokens: async () => pageTokens });
  const backupCalls = callsOf(backupKind, BackupSchema, backupNotFound);
  const verificationCalls = callsOf(verificationKind, VerificationSchema, verificationNotFound);
  const restoreCalls = callsOf(restoreKind, RestoreSchema, restoreNotFound);

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
      const check = async () => {
        await repository(); // that it is away or locked is to be told now, not by a job that fails
      };
      const job = await backupCalls.add(spec, { requestId, check }, context);
      return { backup: await backups.ofJob(job, context.signal) };
    },

    async *watchBackup(request, context) {
      try {
        for await (const event of backupCalls.watch(request.backupId, request, context))
          yield { event: eventOf(event) };
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
        return { backup: await backups.ofJob(await backupCalls.cancel(backupId, context), context.signal) };
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
      return { verification: verificationOf(await verificationCalls.add(spec, { requestId, check }, context)) };
    },

    async *watchVerification(request, context) {
      const events = verificationCalls.watch(request.verificationId, request, context);
      for await (const event of events) yield { event: eventOf(event) };
    },

    async getVerification({ verificationId }, context) {
      return { verification: verificationOf(await verificationCalls.get(verificationId, context)) };
    },

    async cancelVerification({ verificationId }, context) {
      return { verification: verificationOf(await verificationCalls.cancel(verificationId, context)) };
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
      return { restore: restoreOf(await restoreCalls.add(spec, { requestId, check }, context)) };
    },

    async *watchRestore(request, context) {
      for await (const event of restoreCalls.watch(request.restoreId, request, context))
        yield { event: eventOf(event) };
    },

    async getRestore({ restoreId }, context) {
      return { restore: restoreOf(await restoreCalls.get(restoreId, context)) };
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
      return { restore: restoreOf(await restoreCalls.cancel(restoreId, context)) };
    },
  };
}

/** Policies that change what is there. */
const destructive: ReadonlySet<ConflictPolicy> = new Set([ConflictPolicy.DROP, ConflictPolicy.OVERWRITE]);

/** A page of what is wanted of `all`, and its last item where there is more. */
async function pageOf<T>(
  all: AsyncIterable<T>,
  asked: number,
  isWantedItem: (item: T) => boolean,
): Promise<{ items: T[]; last?: T }> {
  const size = pageSizeOf(asked);
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

function verificationNotFound(verificationId: string): Error {
  return fail("VERIFICATION_NOT_FOUND", `There is no verification ${verificationId}`, {
    metadata: { verification_id: verificationId },
    resource: { type: VerificationSchema.typeName, name: verificationId },
  });
}

function restoreNotFound(restoreId: string): Error {
  return fail("RESTORE_NOT_FOUND", `There is no restore ${restoreId}`, {
    metadata: { restore_id: restoreId },
    resource: { type: RestoreSchema.typeName, name: restoreId },
  });
}
