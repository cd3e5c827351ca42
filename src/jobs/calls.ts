import { randomUUIDv7 } from "node:crypto";

import type { DescMessage, MessageShape } from "@bufbuild/protobuf";
import { type Duration, durationMs } from "@bufbuild/protobuf/wkt";
import type { HandlerContext } from "@connectrpc/connect";

import { isReason } from "../errors.ts";
import { auditRecord } from "../schema/audited-call.ts";
import { pageSizeOf, queryOf } from "../schema/list-query.ts";
import type { PageTokens } from "../schema/page-tokens.ts";
import { jobKey, jobsCollection } from "./job-store.ts";
import type { Jobs } from "./jobs.ts";
import type { JobEvent, JobRecord } from "./record.ts";

const usualHeartbeatMs = 15_000;

/** What callers do with jobs of one kind, as far as it does not depend on the kind. */
export interface JobCalls {
  /** The job of a request: the one that an earlier call with its request id has made, or a new one that passes `check`. */
  add(
    spec: Uint8Array,
    request: { readonly requestId: string; readonly check?: () => Promise<void> },
    context: HandlerContext,
  ): Promise<JobRecord>;
  get(jobId: string, context: HandlerContext): Promise<JobRecord>;
  list<D extends DescMessage>(
    schema: D,
    request: MessageShape<D> & { readonly pageSize: number; readonly pageToken: string },
    context: HandlerContext,
  ): Promise<{ readonly page: readonly JobRecord[]; readonly nextPageToken: string }>;
  watch(
    jobId: string,
    request: { readonly afterSequence: bigint; readonly heartbeatInterval?: Duration | undefined },
    context: HandlerContext,
  ): AsyncGenerator<JobEvent>;
  cancel(jobId: string, context: HandlerContext): Promise<JobRecord>;
}

export function jobCalls({
  jobs,
  kind,
  schema,
  notFound,
  pageTokens,
}: {
  readonly jobs: Jobs;
  readonly kind: string;
  /** The message of such a job, by whose name the audit log speaks of it. */
  readonly schema: DescMessage;
  /** What is said where there is no such job. */
  readonly notFound: (jobId: string) => Error;
  readonly pageTokens: () => Promise<PageTokens>;
}): JobCalls {
  const recordOf = (jobId: string, context: HandlerContext) =>
    auditRecord(context, {
      collection: jobsCollection,
      key: jobKey(jobId),
      resource: { type: schema.name, name: jobId },
    });
  const told = (error: unknown, jobId: string): unknown => (isReason(error, "JOB_NOT_FOUND") ? notFound(jobId) : error);

  return {
    async add(spec, { requestId, check }, context) {
      const earlier = requestId === "" ? undefined : await jobs.recall(kind, { requestId, spec });
      if (earlier !== undefined) return earlier;
      await check?.();
      const jobId = randomUUIDv7();
      const record = recordOf(jobId, context);
      return jobs.create(kind, { jobId, spec, record, ...(requestId !== "" && { requestId }) });
    },

    async get(jobId, { signal }) {
      const job = await jobs.find(kind, jobId, signal);
      if (job === undefined) throw notFound(jobId);
      return job;
    },

    async list(listSchema, request, { signal }) {
      const { pageSize, pageToken } = request;
      const query = queryOf(listSchema, request);
      const tokens = await pageTokens();
      const size = pageSizeOf(pageSize);
      const before = tokens.decode(query, pageToken);
      const found = await jobs.list(kind, { before, limit: size + 1 }, signal);
      const page = found.slice(0, size);
      const last = page.at(-1);
      const nextPageToken = found.length > size && last !== undefined ? tokens.encode(query, last.jobId) : "";
      return { page, nextPageToken };
    },

    async *watch(jobId, { afterSequence, heartbeatInterval }, { signal }) {
      const heartbeatMs = heartbeatInterval === undefined ? usualHeartbeatMs : durationMs(heartbeatInterval);
      try {
        yield* jobs.watch(kind, jobId, { afterSequence: Number(afterSequence), heartbeatMs, signal });
      } catch (error) {
        throw told(error, jobId);
      }
    },

    async cancel(jobId, context) {
      try {
        return await jobs.cancel(kind, jobId, recordOf(jobId, context));
      } catch (error) {
        throw told(error, jobId);
      }
    },
  };
}
