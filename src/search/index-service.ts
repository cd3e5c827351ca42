import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";

import {
  IndexJobSchema,
  IndexJobType,
  ListIndexJobsRequestSchema,
  type SearchIndexService,
} from "../../gen/lucid/search/v1/search_index_service_pb.ts";
import { jobCalls } from "../jobs/calls.ts";
import { indexAdmin, type IndexAdminOptions, notConfirmed, requireUnused } from "./index-admin.ts";
import { requireAliased, requireOperators } from "./index-catalog.ts";
import { indexDocuments } from "./index-documents.ts";
import { indexEventOf, indexJobKind, indexJobNotFound, indexJobOf } from "./index-jobs.ts";
import { requirePrevious } from "./index-swap.ts";
import { messageOf } from "./indices.ts";
import type { SyncAccess } from "./sync/access.ts";

/** The handlers of SearchIndexService. What takes long is done by the jobs that `indexJobs` registers, in any replica. */
export function searchIndexService(
  options: IndexAdminOptions & { readonly access: SyncAccess },
): ServiceImpl<typeof SearchIndexService> {
  const { access, catalog, jobs, pageTokens } = options;
  const kind = { kind: indexJobKind, schema: IndexJobSchema, notFound: indexJobNotFound };
  const calls = jobCalls({ ...kind, jobs, pageTokens });

  /** The job of a request: the one that an earlier call with its request id has made, or a new one that passes `check`. */
  const jobFor = async (
    asked: MessageInitShape<typeof IndexJobSchema>,
    request: { readonly requestId: string; readonly check: () => Promise<void> },
    context: HandlerContext,
  ) => {
    const spec = toBinary(IndexJobSchema, create(IndexJobSchema, asked));
    return { job: indexJobOf(await calls.add(spec, request, context)) };
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

    async getIndexJob({ jobId }, context) {
      return { job: indexJobOf(await calls.get(jobId, context)) };
    },

    async listIndexJobs(request, context) {
      const { page, nextPageToken } = await calls.list(ListIndexJobsRequestSchema, request, context);
      return { jobs: page.map(indexJobOf), nextPageToken };
    },

    async *watchIndexJob(request, context) {
      for await (const event of calls.watch(request.jobId, request, context)) yield indexEventOf(event);
    },

    async cancelIndexJob({ jobId }, context) {
      return { job: indexJobOf(await calls.cancel(jobId, context)) };
    },
  };
}
