import { randomUUIDv7 } from "node:crypto";

import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { durationMs } from "@bufbuild/protobuf/wkt";
import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";

import { IndexBuildSchema } from "../../../gen/lucid/admin/v1/collection_index_pb.ts";
import {
  type DatabaseAdminService,
  ListIndexBuildsRequestSchema,
} from "../../../gen/lucid/admin/v1/database_admin_service_pb.ts";
import { isReason } from "../../errors.ts";
import { jobKey, jobsCollection } from "../../jobs/job-store.ts";
import type { Jobs } from "../../jobs/jobs.ts";
import { auditRecord } from "../../schema/audited-call.ts";
import { pageSizeOf, queryOf } from "../../schema/list-query.ts";
import type { PageTokens } from "../../schema/page-tokens.ts";
import { indexBuildEventOf, indexBuildKind, indexBuildNotFound, indexBuildOf } from "./index-builds.ts";

type Build = MessageInitShape<typeof IndexBuildSchema>;

/** Jobs that build indexes, as callers see them. */
export interface IndexBuilds {
  /** The job of a request: the one that an earlier call with its request id has made, or a new one that passes `check`. */
  add(
    asked: Build,
    request: { readonly requestId: string; readonly check: () => Promise<void> },
    context: HandlerContext,
  ): Promise<Build>;
  readonly handlers: Pick<
    ServiceImpl<typeof DatabaseAdminService>,
    "getIndexBuild" | "listIndexBuilds" | "watchIndexBuild" | "cancelIndexBuild"
  >;
}

const usualHeartbeatMs = 15_000;

export function buildAdmin({
  jobs,
  pageTokens,
}: {
  readonly jobs: Jobs;
  readonly pageTokens: () => Promise<PageTokens>;
}): IndexBuilds {
  return {
    async add(asked, { requestId, check }, context) {
      const spec = toBinary(IndexBuildSchema, create(IndexBuildSchema, asked));
      const earlier = requestId === "" ? undefined : await jobs.recall(indexBuildKind, { requestId, spec });
      if (earlier !== undefined) return indexBuildOf(earlier);
      await check();
      const jobId = randomUUIDv7();
      const record = recordOf(jobId, context);
      const request = requestId === "" ? {} : { requestId };
      return indexBuildOf(await jobs.create(indexBuildKind, { jobId, spec, record, ...request }));
    },

    handlers: {
      async getIndexBuild({ buildId }, { signal }) {
        const job = await jobs.find(indexBuildKind, buildId, signal);
        if (job === undefined) throw indexBuildNotFound(buildId);
        return { build: indexBuildOf(job) };
      },

      async listIndexBuilds(request, { signal }) {
        const query = queryOf(ListIndexBuildsRequestSchema, request);
        const tokens = await pageTokens();
        const size = pageSizeOf(request.pageSize);
        const before = tokens.decode(query, request.pageToken);
        const found = await jobs.list(indexBuildKind, { before, limit: size + 1 }, signal);
        const page = found.slice(0, size);
        const last = page.at(-1);
        const nextPageToken = found.length > size && last !== undefined ? tokens.encode(query, last.jobId) : "";
        return { builds: page.map(indexBuildOf), nextPageToken };
      },

      async *watchIndexBuild({ buildId, afterSequence, heartbeatInterval }, { signal }) {
        const heartbeatMs = heartbeatInterval === undefined ? usualHeartbeatMs : durationMs(heartbeatInterval);
        const watch = { afterSequence: Number(afterSequence), heartbeatMs, signal };
        try {
          for await (const event of jobs.watch(indexBuildKind, buildId, watch)) yield indexBuildEventOf(event);
        } catch (error) {
          throw isReason(error, "JOB_NOT_FOUND") ? indexBuildNotFound(buildId) : error;
        }
      },

      async cancelIndexBuild({ buildId }, context) {
        try {
          return { build: indexBuildOf(await jobs.cancel(indexBuildKind, buildId, recordOf(buildId, context))) };
        } catch (error) {
          throw isReason(error, "JOB_NOT_FOUND") ? indexBuildNotFound(buildId) : error;
        }
      },
    },
  };
}

/** What the audit log is to say of a job's write. */
function recordOf(jobId: string, context: HandlerContext) {
  const resource = { type: IndexBuildSchema.name, name: jobId };
  return auditRecord(context, { collection: jobsCollection, key: jobKey(jobId), resource });
}
