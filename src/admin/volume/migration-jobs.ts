import { clone, create, fromBinary, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { timestampNow } from "@bufbuild/protobuf/wkt";

import { StoredVolumeSchema, VolumeSchema } from "../../../gen/lucid/admin/v1/volume_pb.ts";
import {
  MigrationMode,
  type VolumeJob,
  VolumeJobPhase,
  VolumeJobProgressSchema,
  VolumeJobSchema,
  type WatchVolumeJobResponseSchema,
} from "../../../gen/lucid/admin/v1/volume_service_pb.ts";
import { fail, isReason } from "../../errors.ts";
import type { Jobs } from "../../jobs/jobs.ts";
import type { JobEvent, JobRecord } from "../../jobs/record.ts";
import type { JobContext } from "../../jobs/runner.ts";
import { toldEvent, toldJob, toldProgress } from "../../jobs/told.ts";
import { type OpenVolume, requireStillThere, type Volumes } from "../../stores/volumes/volumes.ts";
import type { MigrationProgress } from "./migration-run.ts";
import { abandon, migrate } from "./migration.ts";

/** The kind of jobs that migrate volumes. What one is to do is a VolumeJob with what was asked for. */
export const volumeJobKind = "volume-migration";

/** Has this process take up migrations. Each goes on where its process died. */
export function volumeJobs({
  jobs,
  volumes,
}: {
  readonly jobs: Pick<Jobs, "handle">;
  readonly volumes: Volumes;
}): void {
  jobs.handle(volumeJobKind, { onOwnerLost: "rerun", run: (job, context) => run(job, context, volumes) });
}

/** How long what a migration that came to nothing has left may take to be removed. */
const abandonMs = 60_000;

async function run(job: JobRecord, context: JobContext, volumes: Volumes): Promise<void> {
  const { name, targetName, mode } = specOf(job);
  await using from = await volumes.open(name);
  await using to = await openTarget(volumes, from, targetName);
  const migration = { id: job.jobId, from, to };
  try {
    await migrate({
      ...migration,
      move: mode === MigrationMode.MOVE,
      signal: context.signal,
      prove: async () => {
        await context.prove();
        // Deletion is refused while a job works on a volume, but the two may meet, and nobody asks before a directory is renamed by hand.
        for (const volume of [from, to]) await requireStillThere(volumes, volume);
      },
      progress: (progress) => context.report({ percent: percentOf(progress), detail: detailOf(progress) }),
    });
  } catch (error) {
    // Another process goes on with it.
    const { signal } = context;
    const isHandedOn = signal.aborted && !isReason(signal.reason, "CANCELLED");
    // What cannot be removed now is no worse than what made the job fail.
    if (!isHandedOn) await abandon(migration, AbortSignal.timeout(abandonMs)).catch(() => undefined);
    throw error;
  }
}

/** Opens the volume that is to be filled; makes it where it is missing, declared like the one that is read. */
async function openTarget(volumes: Volumes, { stored }: OpenVolume, name: string): Promise<OpenVolume> {
  try {
    return await volumes.open(name);
  } catch (error) {
    if (!isReason(error, "VOLUME_NOT_FOUND")) throw error;
  }
  const now = timestampNow();
  const volume = clone(VolumeSchema, stored.volume ?? create(VolumeSchema));
  Object.assign(volume, { name, createTime: now, updateTime: now });
  await volumes.create({ name, stored: create(StoredVolumeSchema, { formatVersion: 1, volume }), adopt: false });
  return await volumes.open(name);
}

/** Of a hundred, what copying and comparing take, and where a run that goes on from a later phase begins. */
const shares = { copying: 50, verifying: 30, deleting: 19 };

function percentOf({ phase, entries, copied, verified, deleted }: MigrationProgress): number {
  const part = (done: number) => (entries <= 0 ? 0 : Math.min(1, done / entries));
  if (phase === "copying") return shares.copying * part(copied);
  if (phase === "verifying") return shares.copying + shares.verifying * part(verified);
  const before = shares.copying + shares.verifying;
  return phase === "switching" ? before : before + shares.deleting * part(deleted);
}

const phases = {
  copying: VolumeJobPhase.COPYING,
  verifying: VolumeJobPhase.VERIFYING,
  switching: VolumeJobPhase.SWITCHING,
  deleting: VolumeJobPhase.DELETING,
} as const;

function detailOf({ phase, entries, copied, copiedBytes, verified, deleted }: MigrationProgress): Uint8Array {
  const told = create(VolumeJobProgressSchema, {
    phase: phases[phase],
    entryCount: BigInt(entries),
    copiedCount: BigInt(copied),
    copiedBytes: BigInt(copiedBytes),
    verifiedCount: BigInt(verified),
    deletedCount: BigInt(deleted),
  });
  return toBinary(VolumeJobProgressSchema, told);
}

// ---------------------------------------------------------------- what is told of them

/** What a job was asked to do. */
function specOf({ spec }: JobRecord): VolumeJob {
  return fromBinary(VolumeJobSchema, spec);
}

/** Whether a job reads or fills a volume. */
export function migratesVolume(job: JobRecord, volume: string): boolean {
  const { name, targetName } = specOf(job);
  return name === volume || targetName === volume;
}

export function volumeJobOf(job: JobRecord): MessageInitShape<typeof VolumeJobSchema> {
  const { name, targetName, mode } = specOf(job);
  return {
    jobId: job.jobId,
    name,
    targetName,
    mode,
    ...toldJob(job),
    ...toldProgress(VolumeJobProgressSchema, job.progress),
  };
}

export function volumeEventOf(event: JobEvent): MessageInitShape<typeof WatchVolumeJobResponseSchema> {
  return { ...toldEvent(event), ...toldProgress(VolumeJobProgressSchema, event.progress) };
}

export function volumeJobNotFound(jobId: string): Error {
  return fail("VOLUME_JOB_NOT_FOUND", `There is no job ${jobId}`, {
    metadata: { job_id: jobId },
    resource: { type: VolumeJobSchema.typeName, name: jobId },
  });
}
