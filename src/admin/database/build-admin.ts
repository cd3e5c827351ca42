import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";

import { IndexBuildSchema } from "../../../gen/lucid/admin/v1/collection_index_pb.ts";
import {
  type DatabaseAdminService,
  ListIndexBuildsRequestSchema,
} from "../../../gen/lucid/admin/v1/database_admin_service_pb.ts";
import { jobCalls } from "../../jobs/calls.ts";
import type { Jobs } from "../../jobs/jobs.ts";
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

export function buildAdmin({
  jobs,
  pageTokens,
}: {
  readonly jobs: Jobs;
  readonly pageTokens: () => Promise<PageTokens>;
}): IndexBuilds {
  const kind = { kind: indexBuildKind, schema: IndexBuildSchema, notFound: indexBuildNotFound };
  const calls = jobCalls({ ...kind, jobs, pageTokens });
  return {
    async add(asked, request, context) {
      return indexBuildOf(
        await calls.add(toBinary(IndexBuildSchema, create(IndexBuildSchema, asked)), request, context),
      );
    },

    handlers: {
      async getIndexBuild({ buildId }, context) {
        return { build: indexBuildOf(await calls.get(buildId, context)) };
      },

      async listIndexBuilds(request, context) {
        const { page, nextPageToken } = await calls.list(ListIndexBuildsRequestSchema, request, context);
        return { builds: page.map(indexBuildOf), nextPageToken };
      },

      async *watchIndexBuild(request, context) {
        for await (const event of calls.watch(request.buildId, request, context)) yield indexBuildEventOf(event);
      },

      async cancelIndexBuild({ buildId }, context) {
        return { build: indexBuildOf(await calls.cancel(buildId, context)) };
      },
    },
  };
}
