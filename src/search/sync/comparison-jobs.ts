import { create, fromBinary, type MessageInitShape, toBinary } from "@bufbuild/protobuf";

import {
  type Comparison,
  ComparisonSchema,
  DifferenceKind,
} from "../../../gen/lucid/search/v1/search_sync_service_pb.ts";
import type { Jobs } from "../../jobs/jobs.ts";
import { schedule } from "../../jobs/schedule.ts";
import type { SearchStore } from "../../stores/search.ts";
import { messageOf } from "../indices.ts";
import { searchedMessages } from "../messages.ts";
import { patiently } from "../patience.ts";
import type { SyncAccess } from "./access.ts";
import { compare, type Tally } from "./compare.ts";

/** The kind of jobs that compare. What one is to do is a Comparison with `index` and `repair`, and so is what it leaves. */
export const comparisonKind = "search_comparison";

/** How long a comparison waits for the synchronisation to pass a moment, in milliseconds. */
const patienceMs = 60_000;
/** How long the search server may take to say that it is there, in milliseconds. */
const healthMs = 5000;

/**
 * Says how comparisons are done here. One whose process died, or whose store was away for less than a quarter of an hour, is begun
 * again.
 */
export function comparisonJobs({ jobs, access }: { readonly jobs: Jobs; readonly access: SyncAccess }): void {
  jobs.handle(comparisonKind, {
    onOwnerLost: "rerun",
    async run(job, context) {
      const { signal } = context;
      const { index, repair } = comparisonOf(job.spec);
      // It gets on only where it comes further than before it was begun again.
      let [furthest, gotOnMs] = [0, performance.now()];
      const run = async () =>
        compare({
          ...access.sourceOf(index),
          message: messageOf(index),
          search: access.search,
          alias: access.indices.alias(index),
          deadLetters: access.deadLetters,
          writer: await access.writer(index, signal),
          repair,
          caughtUp: (ending) => access.caughtUp(index, patienceMs, ending),
          signal,
          progress: (found) => {
            if (found.compared > furthest) [furthest, gotOnMs] = [found.compared, performance.now()];
            const percent = found.total === 0 ? 0 : (100 * found.compared) / found.total;
            context.report({ percent, detail: encoded({ ...summary(found), index, repair }) });
          },
        });
      const tally = await patiently(run, { signal, gotOnMs: () => gotOnMs });
      context.keep(encoded({ ...summary(tally), differences: differences(tally), index, repair }));
    },
  });
}

/** Asks for comparisons of all indices that mend what differs, again and again. Disposing it stops that. */
export function comparisonSchedules(options: {
  readonly jobs: Pick<Jobs, "create">;
  readonly search: Pick<SearchStore, "client">;
  readonly everyHours: number;
  readonly log: { info(facts: object, message: string): void; warn(facts: object, message: string): void };
}): Disposable {
  const { jobs, search, everyHours, log } = options;
  const stack = new DisposableStack();
  // Job after job would fail, and the synchronisation tells of the outage already.
  const mayBegin = async (index: string): Promise<boolean> => {
    try {
      await search.client.cluster.health({}, { requestTimeout: healthMs });
      return true;
    } catch {
      log.info({ index }, "A comparison is put off: the search server is away");
      return false;
    }
  };
  for (const index of searchedMessages.keys()) {
    stack.use(
      schedule({
        jobs,
        kind: comparisonKind,
        spec: encoded({ index, repair: true }),
        name: `search_comparison/${index}`,
        everyHours,
        mayBegin: () => mayBegin(index),
        failed: (err) => log.warn({ err, index }, "A comparison could not be asked for; trying again"),
      }),
    );
  }
  return stack;
}

export function comparisonOf(bytes: Uint8Array): Comparison {
  return fromBinary(ComparisonSchema, bytes);
}

export function encoded(comparison: MessageInitShape<typeof ComparisonSchema>): Uint8Array {
  return toBinary(ComparisonSchema, create(ComparisonSchema, comparison));
}

function summary({ compared, different, repaired, deadLetters, documentsDigest, indexDigest }: Tally) {
  return {
    compared: BigInt(compared),
    different: BigInt(different),
    repaired: BigInt(repaired),
    deadLetters: BigInt(deadLetters),
    documentsDigest,
    indexDigest,
  };
}

function differences({ differences: found }: Tally) {
  return found.map(({ id, kind, revision, indexedRevision }) => ({
    documentId: id,
    kind: DifferenceKind[kind],
    revision,
    indexedRevision,
  }));
}
