import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import type { DescMessage } from "@bufbuild/protobuf";
import type { Db } from "mongodb";

import { RemovalSchema } from "../../../gen/lucid/repository/v1/data_lifecycle_service_pb.ts";
import type { Jobs } from "../../jobs/jobs.ts";
import type { JobRecord } from "../../jobs/record.ts";
import type { JobContext } from "../../jobs/runner.ts";
import { schedule } from "../../jobs/schedule.ts";
import { pause } from "../../stores/waiting.ts";
import type { Copies } from "./copies.ts";
import { countOfUser, eraseUser } from "./erasure.ts";
import { countDeleted, purge } from "./purge.ts";
import { storedKinds } from "./stored-kinds.ts";
import { tally } from "./tally.ts";

/** The kind of jobs that remove data for good. What one is to do is a Removal with a `user_id`, or the `after_days` of a purge. */
export const removalKind = "removal";

/** What the jobs need. */
export interface RemovalJobsOptions {
  readonly jobs: Jobs;
  readonly db: Pick<Db, "collection">;
  readonly copies: Copies;
  /** The messages that are stored. */
  readonly messages: readonly DescMessage[];
  /** Whether documents must be left as they are, since a restore compares them with its backup. */
  readonly isHeldUp: () => Promise<boolean>;
}

const dayMs = 86_400_000;
/** Wait in milliseconds between two looks at whether a restore has ended. */
const heldUpMs = 2000;

/** What was deleted before that time is purged after so many days. */
export function cutoffOf(afterDays: number): Date {
  return new Date(Date.now() - afterDays * dayMs);
}

/** Says how removals are done here. One whose process died is begun again: it finds by itself what is left. */
export function removalJobs(options: RemovalJobsOptions): void {
  options.jobs.handle(removalKind, { onOwnerLost: "rerun", run: (job, context) => runRemoval(job, context, options) });
}

async function runRemoval(job: JobRecord, context: JobContext, options: RemovalJobsOptions): Promise<void> {
  const { db, copies, messages, isHeldUp } = options;
  const { userId, afterDays } = fromBinary(RemovalSchema, job.spec);
  const { signal } = context;
  while (await isHeldUp()) {
    await pause(heldUpMs, signal);
    signal.throwIfAborted();
  }
  const kinds = storedKinds(messages);
  const cutoff = cutoffOf(afterDays);
  const earlier = fromBinary(RemovalSchema, job.result ?? new Uint8Array()).places;
  // What an earlier try has done is found no more.
  const counts = tally(earlier.map((place) => ({ ...place, found: place.done, held: 0n })));
  const stepped = () => {
    const detail = counts.encoded();
    context.keep(detail);
    context.report({ percent: counts.percent(), detail });
  };
  const work = { db, copies, tally: counts, signal, stepped };
  if (userId === "") {
    await countDeleted(kinds, cutoff, work);
    stepped();
    await purge(kinds, cutoff, work);
  } else {
    await countOfUser(kinds, userId, work);
    stepped();
    await eraseUser(kinds, userId, work);
  }
  stepped();
}

/** Asks for a purge again and again; however many replicas do, there is one job each time. Disposing it stops that. */
export function purgeSchedule(options: {
  readonly jobs: Pick<Jobs, "create">;
  readonly everyHours: number;
  readonly afterDays: number;
  readonly log: { warn(facts: object, message: string): void };
}): Disposable {
  const { jobs, everyHours, afterDays, log } = options;
  return schedule({
    jobs,
    kind: removalKind,
    spec: toBinary(RemovalSchema, create(RemovalSchema, { afterDays })),
    name: `purge/${afterDays}`,
    everyHours,
    failed: (err) => log.warn({ err }, "A purge could not be asked for; trying again"),
  });
}
