import { randomUUIDv7 } from "node:crypto";

import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { durationMs } from "@bufbuild/protobuf/wkt";
import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";

import {
  IndexJobSchema,
  IndexJobType,
  ListIndexJobsRequestSchema,
  type SearchIndexService,
} from "../../gen/lucid/search/v1/search_index_service_pb.ts";
import { isReason } from "../errors.ts";
import { jobKey, jobsCollection } from "../jobs/job-store.ts";
import { auditRecord } from "../schema/audited-call.ts";
import { pageSizeOf, queryOf } from "../schema/list-query.ts";
import { indexAdmin, type IndexAdminOptions, notConfirmed, requireUnused } from "./index-admin.ts";
import { requireAliased, requireOperators } from "./index-catalog.ts";
import { indexDocuments } from "./index-documents.ts";
import { indexEventOf, indexJobKind, indexJobNotFound, indexJobOf } from "./index-jobs.ts";
import { requirePrevious } from "./index-swap.ts";
import { messageOf } from "./indices.ts";
import type { SyncAccess } from "./sync/access.ts";

const usualHeartbeatMs = 15_000;

/** The handlers of SearchIndexService. What takes long is done by the jobs that `indexJobs` registers, in any replica. */
export function searchIndexService(
  options: IndexAdminOptions & { readonly access: SyncAccess },
): ServiceImpl<typeof SearchIndexService> {
  const { access, catalog, jobs, pageTokens } = options;

  /** The job of a request: the one that an earlier call with its request id has made, or a new one that passes `check`. */
  const jobFor = async (
    asked: MessageInitShape<typeof IndexJobSchema>,
    { requestId, check }: { readonly requestId: string; readonly check: () => Promise<void> },
    context: HandlerContext,
  ) => {
    const spec = toBinary(IndexJobSchema, create(IndexJobSchema, asked));
    const earlier = requestId === "" ? undefined : await jobs.recall(indexJobKind, { requestId, spec });
    if (earlier !== undefined) return { job: indexJobOf(earlier) };
    await check();
    const jobId = randomUUIDv7();
    const record = recordOf(jobId, context);
    const job = await jobs.create(indexJobKind, { jobId, spec, record, ...(requestId !== "" && { requestId }) });
    return { job: indexJobOf(job) };
  };

  return {
    ...indexAdmin(options),
    ...indexDocuments(options),

    reindex({ sourceIndex, index, requestId }, context) {
      const { signal } = context;
      const check = async () => {
        requireOperators(index);
        // What is copied out of such an index would be out of reach of an erasure.
        requireOperators(sourceIndex);
        requireAliased(await catalog.findLive(index, signal));
        await catalog.findLive(sourceIndex, signal);
      };
      return jobFor({ type: IndexJobType.REINDEX, index, sourceIndex }, { requestId, check }, context);
    },

    rebuildIndex({ index, requestId }, context) {
      messageOf(index);
      const check = () => requireUnused(jobs, index, context.signal);
      return jobFor({ type: IndexJobType.REBUILD, index }, { requestId, check }, context);
    },

    rollbackIndex({ index, confirmIndex, requestId }, context) {
      messageOf(index);
      if (confirmIndex !== index) throw notConfirmed(index);
      const check = async () => {
        await requireUnused(jobs, index, context.signal);
        await requirePrevious(index, access);
      };
      return jobFor({ type: IndexJobType.ROLLBACK, index }, { requestId, check }, context);
    },

    async getIndexJob({ jobId }, { signal }) {
      const job = await jobs.find(indexJobKind, jobId, signal);
      if (job === undefined) throw indexJobNotFound(jobId);
      return { job: indexJobOf(job) };
    },

    async listIndexJobs(request, { signal }) {
      const query = queryOf(ListIndexJobsRequestSchema, request);
      const tokens = await pageTokens();
      const size = pageSizeOf(request.pageSize);
      const before = tokens.decode(query, request.pageToken);
      const found = await jobs.list(indexJobKind, { before, limit: size + 1 }, signal);
      const page = found.slice(0, size);
      const last = page.at(-1);
      const nextPageToken = found.length > size && last !== undefined ? tokens.encode(query, last.jobId) : "";
      return { jobs: page.map(indexJobOf), nextPageToken };
    },

    async *watchIndexJob({ jobId, afterSequence, heartbeatInterval }, { signal }) {
      const heartbeatMs = heartbeatInterval === undefined ? usualHeartbeatMs : durationMs(heartbeatInterval);
      const watch = { afterSequence: Number(afterSequence), heartbeatMs, signal };
      try {
        for await (const event of jobs.watch(indexJobKind, jobId, watch)) yield indexEventOf(event);
      } catch (error) {
        throw isReason(error, "JOB_NOT_FOUND") ? indexJobNotFound(jobId) : error;
      }
    },

    async cancelIndexJob({ jobId }, context) {
      try {
        return { job: indexJobOf(await jobs.cancel(indexJobKind, jobId, recordOf(jobId, context))) };
      } catch (error) {
        throw isReason(error, "JOB_NOT_FOUND") ? indexJobNotFound(jobId) : error;
      }
    },
  };
}

/** What the audit log is to say of a job's write. */
function recordOf(jobId: string, context: HandlerContext) {
  const resource = { type: IndexJobSchema.name, name: jobId };
  return auditRecord(context, { collection: jobsCollection, key: jobKey(jobId), resource });
}
