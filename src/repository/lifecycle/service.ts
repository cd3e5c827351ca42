import { create, type DescMessage, fromBinary, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";
import type { Db } from "mongodb";

import {
  type DataLifecycleService,
  ListRemovalsRequestSchema,
  type RemovalPlace,
  RemovalSchema,
} from "../../../gen/lucid/repository/v1/data_lifecycle_service_pb.ts";
import { fail } from "../../errors.ts";
import { jobCalls } from "../../jobs/calls.ts";
import type { Jobs } from "../../jobs/jobs.ts";
import type { JobEvent, JobRecord } from "../../jobs/record.ts";
import { toldEvent, toldJob } from "../../jobs/told.ts";
import type { PageTokens } from "../../schema/page-tokens.ts";
import { countOfUser } from "./erasure.ts";
import { cutoffOf, removalKind } from "./jobs.ts";
import { countDeleted } from "./purge.ts";
import { storedKinds } from "./stored-kinds.ts";
import { type Tally, tally } from "./tally.ts";

type RemovalInit = MessageInitShape<typeof RemovalSchema>;

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
  const kind = { kind: removalKind, schema: RemovalSchema, notFound: removalNotFound };
  const calls = jobCalls({ ...kind, jobs, pageTokens });

  /** The removal that an earlier call with that request id has asked for, or a new one. */
  async function ask(removal: RemovalInit, requestId: string, context: HandlerContext): Promise<RemovalInit> {
    const spec = toBinary(RemovalSchema, create(RemovalSchema, removal));
    return removalOf(await calls.add(spec, { requestId }, context));
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

    async getRemoval({ removalId }, context) {
      return { removal: removalOf(await calls.get(removalId, context)) };
    },

    async listRemovals(request, context) {
      const { page, nextPageToken } = await calls.list(ListRemovalsRequestSchema, request, context);
      return { removals: page.map(removalOf), nextPageToken };
    },

    async *watchRemoval(request, context) {
      for await (const event of calls.watch(request.removalId, request, context)) yield eventOf(event);
    },

    async cancelRemoval({ removalId }, context) {
      return { removal: removalOf(await calls.cancel(removalId, context)) };
    },
  };
}

function removalOf(job: JobRecord): RemovalInit {
  const { userId, afterDays } = fromBinary(RemovalSchema, job.spec);
  return {
    removalId: job.jobId,
    userId,
    afterDays,
    ...toldJob(job),
    percent: job.progress?.percent ?? 0,
    places: placesIn(job.result),
  };
}

function eventOf(event: JobEvent) {
  const { percent = 0, detail } = event.progress ?? {};
  return { ...toldEvent(event), percent, places: placesIn(detail) };
}

function placesIn(encoded: Uint8Array | undefined) {
  return fromBinary(RemovalSchema, encoded ?? new Uint8Array()).places;
}

function removalNotFound(removalId: string): Error {
  return fail("REMOVAL_NOT_FOUND", `There is no removal ${removalId}`, {
    metadata: { removal_id: removalId },
    resource: { type: RemovalSchema.typeName, name: removalId },
  });
}
