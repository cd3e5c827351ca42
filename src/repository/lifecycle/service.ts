import { randomUUIDv7 } from "node:crypto";

import { create, type DescMessage, fromBinary, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { durationMs, timestampFromDate } from "@bufbuild/protobuf/wkt";
import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";
import type { Db } from "mongodb";

import { JobState } from "../../../gen/lucid/admin/v1/backup_service_pb.ts";
import {
  type DataLifecycleService,
  ListRemovalsRequestSchema,
  type RemovalPlace,
  RemovalSchema,
} from "../../../gen/lucid/repository/v1/data_lifecycle_service_pb.ts";
import { fail, isReason } from "../../errors.ts";
import { jobKey, jobsCollection } from "../../jobs/job-store.ts";
import type { Jobs } from "../../jobs/jobs.ts";
import type { JobEvent, JobFailure, JobRecord } from "../../jobs/record.ts";
import { auditRecord } from "../../schema/audited-call.ts";
import { pageSizeOf, queryOf } from "../../schema/list-query.ts";
import type { PageTokens } from "../../schema/page-tokens.ts";
import { countOfUser } from "./erasure.ts";
import { cutoffOf, removalKind } from "./jobs.ts";
import { countDeleted } from "./purge.ts";
import { storedKinds } from "./stored-kinds.ts";
import { type Tally, tally } from "./tally.ts";

type RemovalInit = MessageInitShape<typeof RemovalSchema>;

const usualHeartbeatMs = 15_000;

/** What DataLifecycleService needs. */
export interface DataLifecycleOptions {
  readonly jobs: Jobs;
  readonly db: Db;
  /** The messages that are stored. */
  readonly messages: readonly DescMessage[];
  readonly purgeAfterDays: number;
  readonly pageTokens: () => Promise<PageTokens>;
}

/** The handlers of DataLifecycleService. The work itself is done by the jobs that `removalJobs` registers, in any replica. */
export function dataLifecycleService(options: DataLifecycleOptions): ServiceImpl<typeof DataLifecycleService> {
  const { jobs, db, messages, purgeAfterDays, pageTokens } = options;
  const kinds = storedKinds(messages);

  /** The removal that an earlier call with that request id has asked for, or a new one. */
  async function ask(removal: RemovalInit, requestId: string, context: HandlerContext): Promise<RemovalInit> {
    const spec = toBinary(RemovalSchema, create(RemovalSchema, removal));
    const earlier = requestId === "" ? undefined : await jobs.recall(removalKind, { requestId, spec });
    if (earlier !== undefined) return removalOf(earlier);
    const jobId = randomUUIDv7();
    const record = recordOf(jobId, context);
    return removalOf(await jobs.create(removalKind, { jobId, spec, record, ...(requestId !== "" && { requestId }) }));
  }

  async function counted(
    signal: AbortSignal,
    count: (work: { db: Db; tally: Tally; signal: AbortSignal }) => Promise<void>,
  ): Promise<RemovalPlace[]> {
    const counts = tally();
    await count({ db, tally: counts, signal });
    return counts.places();
  }

  return {
    async purgeDeleted({ afterDays: asked, validateOnly, requestId }, context) {
      const afterDays = asked || purgeAfterDays;
      if (!validateOnly) return { removal: await ask({ afterDays }, requestId, context) };
      const places = await counted(context.signal, (work) => countDeleted(kinds, cutoffOf(afterDays), work));
      return { removal: { afterDays, places } };
    },

    async eraseUser({ userId, confirmUserId, validateOnly, requestId }, context) {
      if (validateOnly) {
        const places = await counted(context.signal, (work) => countOfUser(kinds, userId, work));
        return { removal: { userId, places } };
      }
      if (confirmUserId !== userId) {
        throw fail("CONFIRMATION_MISMATCH", "The confirmation is not the id of the user", {
          metadata: { user_id: userId },
          fields: [{ field: "confirm_user_id", description: "must repeat the id of the user" }],
        });
      }
      return { removal: await ask({ userId }, requestId, context) };
    },

    async getRemoval({ removalId }, { signal }) {
      const job = await jobs.find(removalKind, removalId, signal);
      if (job === undefined) throw removalNotFound(removalId);
      return { removal: removalOf(job) };
    },

    async listRemovals(request, { signal }) {
      const query = queryOf(ListRemovalsRequestSchema, request);
      const tokens = await pageTokens();
      const size = pageSizeOf(request.pageSize);
      const before = tokens.decode(query, request.pageToken);
      const found = await jobs.list(removalKind, { before, limit: size + 1 }, signal);
      const page = found.slice(0, size);
      const last = page.at(-1);
      const nextPageToken = found.length > size && last !== undefined ? tokens.encode(query, last.jobId) : "";
      return { removals: page.map(removalOf), nextPageToken };
    },

    async *watchRemoval({ removalId, afterSequence, heartbeatInterval }, { signal }) {
      const heartbeatMs = heartbeatInterval === undefined ? usualHeartbeatMs : durationMs(heartbeatInterval);
      const watch = { afterSequence: Number(afterSequence), heartbeatMs, signal };
      try {
        for await (const event of jobs.watch(removalKind, removalId, watch)) yield eventOf(event);
      } catch (error) {
        throw isReason(error, "JOB_NOT_FOUND") ? removalNotFound(removalId) : error;
      }
    },

    async cancelRemoval({ removalId }, context) {
      try {
        return { removal: removalOf(await jobs.cancel(removalKind, removalId, recordOf(removalId, context))) };
      } catch (error) {
        throw isReason(error, "JOB_NOT_FOUND") ? removalNotFound(removalId) : error;
      }
    },
  };
}

/** What the audit log is to say of a job's write. */
function recordOf(jobId: string, context: HandlerContext) {
  const resource = { type: RemovalSchema.name, name: jobId };
  return auditRecord(context, { collection: jobsCollection, key: jobKey(jobId), resource });
}

function removalOf(job: JobRecord): RemovalInit {
  const { userId, afterDays } = fromBinary(RemovalSchema, job.spec);
  return {
    removalId: job.jobId,
    userId,
    afterDays,
    state: JobState[job.state],
    percent: job.progress?.percent ?? 0,
    places: placesIn(job.result),
    ...errorOf(job.error),
    createTime: timestampFromDate(job.createTime),
    ...(job.startTime && { startTime: timestampFromDate(job.startTime) }),
    ...(job.endTime && { endTime: timestampFromDate(job.endTime) }),
  };
}

function eventOf({ sequence, eventTime, state, progress, error, heartbeat }: JobEvent) {
  return {
    sequence: BigInt(sequence),
    eventTime: timestampFromDate(eventTime),
    state: JobState[state],
    percent: progress?.percent ?? 0,
    places: placesIn(progress?.detail),
    ...errorOf(error),
    heartbeat,
  };
}

function placesIn(encoded: Uint8Array | undefined) {
  return fromBinary(RemovalSchema, encoded ?? new Uint8Array()).places;
}

function errorOf(error: JobFailure | undefined) {
  return error === undefined ? {} : { error: { ...error, metadata: { ...error.metadata } } };
}

function removalNotFound(removalId: string): Error {
  return fail("REMOVAL_NOT_FOUND", `There is no removal ${removalId}`, {
    metadata: { removal_id: removalId },
    resource: { type: RemovalSchema.typeName, name: removalId },
  });
}
