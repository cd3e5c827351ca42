import { create, toBinary } from "@bufbuild/protobuf";
import type { ServiceImpl } from "@connectrpc/connect";

import {
  ListVolumeJobsRequestSchema,
  MigrationMode,
  VolumeJobSchema,
  type VolumeService,
} from "../../../gen/lucid/admin/v1/volume_service_pb.ts";
import { fail, isReason } from "../../errors.ts";
import { jobCalls } from "../../jobs/calls.ts";
import type { Jobs } from "../../jobs/jobs.ts";
import type { PageTokens } from "../../schema/page-tokens.ts";
import { badRequest } from "../../schema/refusals.ts";
import { isOwn, type OpenVolume, type Volumes } from "../../stores/volumes/volumes.ts";
import { readHistory } from "./history.ts";
import { volumeEventOf, volumeJobKind, volumeJobNotFound, volumeJobOf } from "./migration-jobs.ts";
import { requireConfirmed } from "./refusals.ts";

/** What the rpcs about jobs need. */
export interface MigrationOptions {
  readonly volumes: Volumes;
  readonly jobs: Jobs;
  readonly pageTokens: PageTokens;
  /** Fails with `VOLUME_IN_USE` where a job works on a volume. */
  readonly requireUnused: (name: string, signal: AbortSignal) => Promise<void>;
}

/** The handlers that are about jobs. */
export function volumeMigrations({
  volumes,
  jobs,
  pageTokens,
  requireUnused,
}: MigrationOptions): Pick<
  ServiceImpl<typeof VolumeService>,
  "migrateVolume" | "getVolumeJob" | "listVolumeJobs" | "watchVolumeJob" | "cancelVolumeJob"
> {
  const kind = { kind: volumeJobKind, schema: VolumeJobSchema, notFound: volumeJobNotFound };
  const calls = jobCalls({ ...kind, jobs, pageTokens: async () => pageTokens });
  return {
    async migrateVolume({ name, targetName, mode, confirmName, requestId }, context) {
      const spec = toBinary(VolumeJobSchema, create(VolumeJobSchema, { name, targetName, mode }));
      const check = async () => {
        if (name === targetName) throw badRequest({ field: "target_name", description: "must be another volume" });
        await using from = await volumes.open(name);
        if (mode === MigrationMode.MOVE) requireConfirmed(confirmName, name);
        await requireFitting(volumes, from, targetName);
        for (const used of [name, targetName]) await requireUnused(used, context.signal);
      };
      return { job: volumeJobOf(await calls.add(spec, { requestId, check }, context)) };
    },

    async getVolumeJob({ jobId }, context) {
      return { job: volumeJobOf(await calls.get(jobId, context)) };
    },

    async listVolumeJobs(request, context) {
      const { page, nextPageToken } = await calls.list(ListVolumeJobsRequestSchema, request, context);
      return { jobs: page.map(volumeJobOf), nextPageToken };
    },

    async *watchVolumeJob(request, context) {
      for await (const event of calls.watch(request.jobId, request, context)) yield volumeEventOf(event);
    },

    async cancelVolumeJob({ jobId }, context) {
      return { job: volumeJobOf(await calls.cancel(jobId, context)) };
    },
  };
}

/** What can be told before the job looks again. */
async function requireFitting(volumes: Volumes, from: OpenVolume, targetName: string): Promise<void> {
  let target: OpenVolume;
  try {
    target = await volumes.open(targetName);
  } catch (error) {
    if (isReason(error, "VOLUME_NOT_FOUND")) return;
    throw error;
  }
  await using to = target;
  const metadata = { volume: targetName };
  for await (const entries of to.top.entries()) {
    if (entries.every((entry) => isOwn(entry.name))) continue;
    throw fail("VOLUME_NOT_EMPTY", `The volume ${targetName} is not empty`, { metadata });
  }
  const { newest } = await readHistory(from.own);
  const [usedBytes, declaredBytes] = [newest?.usedBytes ?? 0n, to.stored.volume?.declaredBytes ?? 0n];
  if (usedBytes <= declaredBytes) return;
  throw fail("VOLUME_TOO_SMALL", `The volume ${targetName} is declared to be smaller than what would be migrated`, {
    metadata: { ...metadata, used_bytes: String(usedBytes), declared_bytes: String(declaredBytes) },
  });
}
