import { fromBinary, type MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromDate, timestampFromMs } from "@bufbuild/protobuf/wkt";

import {
  BackupType,
  type ConsistencyPointSchema,
  type CreateBackupRequest,
  CreateBackupRequestSchema,
  JobPhase,
} from "../../gen/lucid/admin/v1/backup_service_pb.ts";
import type { UnitSchema } from "../../gen/lucid/backup/v1/manifest_pb.ts";
import { fail, isReason } from "../errors.ts";
import type { JobRecord } from "../jobs/record.ts";
import type { JobContext } from "../jobs/runner.ts";
import type { Source, SourceRun } from "./contracts.ts";
import { type JobMeter, jobMeter } from "./progress.ts";
import type { ManifestInit } from "./repository/backup-writer.ts";
import type { BackupRepository } from "./repository/repository.ts";
import { completeSelection } from "./selection.ts";
import { together } from "./together.ts";

type UnitInit = MessageInitShape<typeof UnitSchema>;

const dayMs = 86_400_000;

/** What taking a backup needs. */
export interface EngineOptions {
  readonly repository: () => Promise<BackupRepository>;
  /** In the order of their cuts. */
  readonly sources: readonly Source[];
  readonly parallelism: number;
}

/**
 * Takes the backup that a job asks for. It is whole when this resolves; otherwise no backup of that id exists, and what was
 * written of it serves the next try. May be repeated: a backup that an earlier try has sealed is left as it is.
 */
export async function takeBackup(job: JobRecord, context: JobContext, options: EngineOptions): Promise<void> {
  const request = fromBinary(CreateBackupRequestSchema, job.spec);
  const selection = completeSelection(request.selection);
  const sources = options.sources.filter(({ store }) => selection.stores.includes(store));
  const repository = await options.repository();
  if (await exists(repository, job.jobId, context.signal)) return;

  const stop = new AbortController();
  const signal = AbortSignal.any([context.signal, stop.signal]);
  await using writer = await repository.begin(job.jobId, signal);
  const bytesWritten = (): number => writer.bytesWritten;
  using meter = jobMeter(context, { passes: 1, passOf: () => 0, bytesWritten });
  const work = { meter, signal, parallelism: options.parallelism };
  await using runs = new AsyncDisposableStack();
  const begin = async (source: Source): Promise<SourceRun> => runs.use(await source.begin(selection, writer, work));

  const begun = await together(sources.map(begin), stop);
  meter.phase(JobPhase.COPYING);
  await together(
    begun.map((run) => run.read()),
    stop,
  );
  meter.phase(JobPhase.CUTTING);
  const cut: MessageInitShape<typeof ConsistencyPointSchema> = {};
  // One after the other, MongoDB's first: the points in time are then as close together as the stores allow.
  for (const run of begun) Object.assign(cut, await run.cut());
  meter.phase(JobPhase.COPYING);
  const units = (
    await together(
      begun.map((run) => run.finish()),
      stop,
    )
  ).flat();
  if (units.length === 0)
    throw fail("BACKUP_SELECTION_EMPTY", "There is nothing in the stores that the backup selects");

  meter.phase(JobPhase.SEALING);
  const manifest = manifestOf(job, request, units);
  // An owner that was stalled must not publish what another one is making anew.
  await context.prove();
  await writer.seal({
    ...manifest,
    selection,
    consistencyPoint: cut,
    itemCount: units.reduce((sum, unit) => sum + itemCountOf(unit, meter), 0n),
  });
}

function manifestOf(job: JobRecord, request: CreateBackupRequest, units: UnitInit[]): ManifestInit {
  const { description, retentionDays } = request;
  return {
    type: BackupType.FULL,
    description,
    createTime: timestampFromDate(job.createTime),
    startTime: timestampFromDate(job.startTime ?? job.createTime),
    endTime: timestampFromDate(new Date()),
    ...(retentionDays > 0 && { expireTime: timestampFromMs(job.createTime.getTime() + retentionDays * dayMs) }),
    units,
    logicalBytes: units.reduce((sum, { recordBytes }) => sum + (recordBytes ?? 0n), 0n),
  };
}

/** What was copied, in the terms of the store; a key of Redis may be several records. */
function itemCountOf({ store, name, description }: UnitInit, meter: JobMeter): bigint {
  if (description?.case === "mongodbChanges" || store === undefined || name === undefined) return 0n;
  return BigInt(meter.itemsDone(store, name));
}

async function exists(repository: BackupRepository, backupId: string, signal: AbortSignal): Promise<boolean> {
  try {
    await repository.get(backupId, signal);
    return true;
  } catch (error) {
    if (isReason(error, "BACKUP_NOT_FOUND")) return false;
    throw error;
  }
}
