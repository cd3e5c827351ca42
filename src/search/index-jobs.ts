import { create, fromBinary, type MessageInitShape, toBinary } from "@bufbuild/protobuf";

import {
  type IndexJob,
  IndexJobPhase,
  IndexJobProgressSchema,
  IndexJobSchema,
  IndexJobType,
  type WatchIndexJobResponseSchema,
} from "../../gen/lucid/search/v1/search_index_service_pb.ts";
import { fail } from "../errors.ts";
import type { Jobs } from "../jobs/jobs.ts";
import type { JobEvent, JobRecord } from "../jobs/record.ts";
import type { JobContext } from "../jobs/runner.ts";
import { toldEvent, toldJob, toldProgress } from "../jobs/told.ts";
import type { SearchStore } from "../stores/search.ts";
import { type CopyProgress, copyDocuments } from "./copy-documents.ts";
import { type IndexCatalog, requireAliased } from "./index-catalog.ts";
import { rebuildIndex, type RebuildProgress, type RebuildWork, rollBackIndex } from "./rebuild.ts";
import type { SyncAccess } from "./sync/access.ts";

/** The kind of jobs that work on indices. What one is to do is an IndexJob with what was asked for. */
export const indexJobKind = "search-index";

/** What the jobs need. */
export interface IndexJobsOptions {
  readonly jobs: Jobs;
  readonly search: SearchStore;
  readonly catalog: IndexCatalog;
  readonly access: SyncAccess;
  readonly leaseMs: number;
}

/** Has this process take up jobs on indices. Each goes on, or may be begun again, where its process died. */
export function indexJobs(options: IndexJobsOptions): void {
  options.jobs.handle(indexJobKind, {
    onOwnerLost: "rerun",
    async run(job, context) {
      const { type, index } = specOf(job);
      if (type === IndexJobType.REBUILD) await rebuildIndex(index, options, rebuildWork(job, context));
      else if (type === IndexJobType.ROLLBACK) await rollBackIndex(index, options, rebuildWork(job, context));
      else await reindex(job, context, options);
    },
  });
}

/** A rebuild keeps in the job where it is. */
function rebuildWork({ result }: JobRecord, context: JobContext): RebuildWork {
  return {
    signal: context.signal,
    kept: result,
    keep: (position) => context.keep(position),
    prove: () => context.prove(),
    progress: (progress) => context.report({ percent: rebuildPercent(progress), detail: rebuildDetail(progress) }),
  };
}

/** Of a hundred, what filling and comparing take; the rest is for the swap. */
const shares = { filling: 70, comparing: 28 };

function rebuildPercent({ phase, documents, filled, compared }: RebuildProgress): number {
  const part = (done: number) => (documents === 0 ? 1 : Math.min(1, done / documents));
  if (phase === "filling") return shares.filling * part(filled);
  return shares.filling + (phase === "comparing" ? shares.comparing * part(compared) : shares.comparing);
}

const phases = {
  filling: IndexJobPhase.COPYING,
  comparing: IndexJobPhase.COMPARING,
  swapping: IndexJobPhase.SWAPPING,
} as const;

function rebuildDetail({ phase, documents, filled, compared, refused, examples }: RebuildProgress): Uint8Array {
  const counts = {
    documentCount: BigInt(documents),
    writtenCount: BigInt(Math.max(0, filled - refused)),
    comparedCount: BigInt(compared),
    refusedCount: BigInt(refused),
  };
  const told = { ...counts, phase: phases[phase], refused: [...examples] };
  return toBinary(IndexJobProgressSchema, create(IndexJobProgressSchema, told));
}

/** Fails with `SEARCH_COPY_INCOMPLETE` where the index does not take all documents. */
async function reindex(
  job: JobRecord,
  context: JobContext,
  { search, catalog }: Pick<IndexJobsOptions, "search" | "catalog">,
): Promise<void> {
  const { index, sourceIndex } = specOf(job);
  const { signal } = context;
  const { live: source } = await catalog.findLive(sourceIndex, signal);
  const target = await catalog.findLive(index, signal);
  requireAliased(target);
  let refused = 0;
  for await (const progress of copyDocuments(search, { source: source.place, target: target.address }, signal)) {
    refused = progress.refused;
    context.report({ percent: percentOf(progress), detail: detailOf(progress) });
  }
  if (refused > 0) {
    throw fail("SEARCH_COPY_INCOMPLETE", `The index ${index} does not take all documents of ${sourceIndex}`, {
      metadata: { index, source_index: sourceIndex, refused_count: String(refused) },
    });
  }
}

function percentOf({ documents, written, present, refused }: CopyProgress): number {
  const done = written + present + refused;
  return documents === 0 ? 100 : Math.min(100, (100 * done) / documents);
}

function detailOf({ documents, written, present, refused, examples }: CopyProgress): Uint8Array {
  const counts = {
    documentCount: BigInt(documents),
    writtenCount: BigInt(written),
    presentCount: BigInt(present),
    refusedCount: BigInt(refused),
  };
  const told = { ...counts, phase: IndexJobPhase.COPYING, refused: examples };
  return toBinary(IndexJobProgressSchema, create(IndexJobProgressSchema, told));
}

// ---------------------------------------------------------------- what is told of them

/** What a job was asked to do. */
export function specOf({ spec }: JobRecord): IndexJob {
  return fromBinary(IndexJobSchema, spec);
}

export function indexJobOf(job: JobRecord): MessageInitShape<typeof IndexJobSchema> {
  const { type, index, sourceIndex } = specOf(job);
  return {
    jobId: job.jobId,
    type,
    index,
    sourceIndex,
    ...toldJob(job),
    ...toldProgress(IndexJobProgressSchema, job.progress),
  };
}

export function indexEventOf(event: JobEvent): MessageInitShape<typeof WatchIndexJobResponseSchema> {
  return { ...toldEvent(event), ...toldProgress(IndexJobProgressSchema, event.progress) };
}

export function indexJobNotFound(jobId: string): Error {
  return fail("INDEX_JOB_NOT_FOUND", `There is no job ${jobId}`, {
    metadata: { job_id: jobId },
    resource: { type: IndexJobSchema.typeName, name: jobId },
  });
}
