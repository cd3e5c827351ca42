import { randomUUIDv7 } from "node:crypto";

import { create, toBinary } from "@bufbuild/protobuf";
import { durationMs } from "@bufbuild/protobuf/wkt";
import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";

import {
  ListVolumeJobsRequestSchema,
  MigrationMode,
  VolumeJobSchema,
  type VolumeService,
} from "../../../gen/lucid/admin/v1/volume_service_pb.ts";
import { fail, isReason } from "../../errors.ts";
import { jobKey, jobsCollection } from "../../jobs/job-store.ts";
import type { Jobs } from "../../jobs/jobs.ts";
import { auditRecord } from "../../schema/audited-call.ts";
import { pageSizeOf, queryOf } from "../../schema/list-query.ts";
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

const usualHeartbeatMs = 15_000;

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
  return {
    async migrateVolume({ name, targetName, mode, confirmName, requestId }, context) {
      const spec = toBinary(VolumeJobSchema, create(VolumeJobSchema, { name, targetName, mode }));
      const earlier = requestId === "" ? undefined : await jobs.recall(volumeJobKind, { requestId, spec });
      if (earlier !== undefined) return { job: volumeJobOf(earlier) };
      if (name === targetName) throw badRequest({ field: "target_name", description: "must be another volume" });
      await using from = await volumes.open(name);
      if (mode === MigrationMode.MOVE) requireConfirmed(confirmName, name);
      await requireFitting(volumes, from, targetName);
      for (const used of [name, targetName]) await requireUnused(used, context.signal);
      const jobId = randomUUIDv7();
      const record = recordOf(jobId, context);
      const job = await jobs.create(volumeJobKind, { jobId, spec, record, ...(requestId !== "" && { requestId }) });
      return { job: volumeJobOf(job) };
    },

    async getVolumeJob({ jobId }, { signal }) {
      const job = await jobs.find(volumeJobKind, jobId, signal);
      if (job === undefined) throw volumeJobNotFound(jobId);
      return { job: volumeJobOf(job) };
    },

    async listVolumeJobs(request, { signal }) {
      const query = queryOf(ListVolumeJobsRequestSchema, request);
      const size = pageSizeOf(request.pageSize);
      const before = pageTokens.decode(query, request.pageToken);
      const found = await jobs.list(volumeJobKind, { before, limit: size + 1 }, signal);
      const page = found.slice(0, size);
      const last = page.at(-1);
      const nextPageToken = found.length > size && last !== undefined ? pageTokens.encode(query, last.jobId) : "";
      return { jobs: page.map(volumeJobOf), nextPageToken };
    },

    async *watchVolumeJob({ jobId, afterSequence, heartbeatInterval }, { signal }) {
      const heartbeatMs = heartbeatInterval === undefined ? usualHeartbeatMs : durationMs(heartbeatInterval);
      const watch = { afterSequence: Number(afterSequence), heartbeatMs, signal };
      try {
        for await (const event of jobs.watch(volumeJobKind, jobId, watch)) yield volumeEventOf(event);
      } catch (error) {
        throw isReason(error, "JOB_NOT_FOUND") ? volumeJobNotFound(jobId) : error;
      }
    },

    async cancelVolumeJob({ jobId }, context) {
      try {
        return { job: volumeJobOf(await jobs.cancel(volumeJobKind, jobId, recordOf(jobId, context))) };
      } catch (error) {
        throw isReason(error, "JOB_NOT_FOUND") ? volumeJobNotFound(jobId) : error;
      }
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

/** What the audit log is to say of a job's write. */
function recordOf(jobId: string, context: HandlerContext) {
  const resource = { type: VolumeJobSchema.name, name: jobId };
  return auditRecord(context, { collection: jobsCollection, key: jobKey(jobId), resource });
}
