import { durationFromMs, durationMs, timestampFromDate } from "@bufbuild/protobuf/wkt";
import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";

import {
  ComparisonSchema,
  ListComparisonsRequestSchema,
  ListDeadLettersRequestSchema,
  ResyncReason,
  type SearchSyncService,
  SyncPhase,
} from "../../../gen/lucid/search/v1/search_sync_service_pb.ts";
import { fail } from "../../errors.ts";
import { jobCalls } from "../../jobs/calls.ts";
import type { Jobs } from "../../jobs/jobs.ts";
import type { JobRecord } from "../../jobs/record.ts";
import { toldJob } from "../../jobs/told.ts";
import { auditRecord, type CarryOut } from "../../schema/audited-call.ts";
import { pageSizeOf, queryOf } from "../../schema/list-query.ts";
import type { PageTokens } from "../../schema/page-tokens.ts";
import { pause } from "../../stores/waiting.ts";
import { indexResource } from "../index-catalog.ts";
import { messageOf } from "../indices.ts";
import { searchedMessages } from "../messages.ts";
import type { SyncAccess } from "./access.ts";
import { comparisonKind, comparisonOf, encoded } from "./comparison-jobs.ts";
import type { DeadLetter } from "./dead-letters.ts";
import { statesCollection } from "./state.ts";
import type { IndexStatus } from "./status.ts";

/** What SearchSyncService needs. */
export interface SearchSyncServiceOptions {
  readonly access: SyncAccess;
  readonly jobs: Jobs;
  readonly pageTokens: () => Promise<PageTokens>;
  readonly carryOut: CarryOut;
  /** Aborted when the process stops taking calls: watches end. */
  readonly draining: AbortSignal;
}

const usualIntervalMs = 2000;

/** The handlers of SearchSyncService. What they tell comes from the stores, so every replica tells the same. */
export function searchSyncService(options: SearchSyncServiceOptions): ServiceImpl<typeof SearchSyncService> {
  const { access, jobs, pageTokens, carryOut, draining } = options;
  const { states, deadLetters, indices } = access;
  const kind = { kind: comparisonKind, schema: ComparisonSchema, notFound: comparisonNotFound };
  const comparisons = jobCalls({ ...kind, jobs, pageTokens });

  const statuses = async (asked: readonly string[], signal: AbortSignal) => {
    for (const name of asked) messageOf(name);
    const names = asked.length === 0 ? [...searchedMessages.keys()] : [...new Set(asked)];
    return (await Promise.all(names.map((name) => access.status(name, signal)))).map(statusMessage);
  };

  /** Does something to dead letters, of each of which the log tells: one may be gone by itself before the log has its record. */
  const carriedOut = async <T>(ids: readonly string[], context: HandlerContext, run: () => Promise<T>): Promise<T> => {
    const told = ids.reduceRight((inner, name) => () => carryOut(context, { type: "DeadLetter", name }, inner), run);
    return told();
  };

  const lettersOf = async (ids: readonly string[]): Promise<DeadLetter[]> => {
    const found = await deadLetters.find(ids);
    if (found.length === 0) throw letterNotFound(ids[0] ?? "");
    return found;
  };

  return {
    async getSyncStatus({ indices: asked }, { signal }) {
      return { indices: await statuses(asked, signal) };
    },

    async *watchSyncStatus({ indices: asked, interval }, { signal }) {
      const intervalMs = interval === undefined ? usualIntervalMs : durationMs(interval);
      const ending = AbortSignal.any([signal, draining]);
      while (!ending.aborted) {
        yield { indices: await statuses(asked, signal) };
        await pause(intervalMs, ending);
      }
      signal.throwIfAborted();
      throw fail("DRAINING", "This process is going away; watch again", { retryAfterMs: 1000 });
    },

    async resyncIndex({ index }, context) {
      messageOf(index);
      const key = { _id: indices.alias(index) };
      const record = auditRecord(context, { collection: statesCollection, key, resource: indexResource(index) });
      if (!(await states.wantResync(indices.alias(index), record))) throw notBegun(index);
      return {};
    },

    async listDeadLetters(request) {
      const { index, withDiscarded } = request;
      if (index !== "") messageOf(index);
      const query = queryOf(ListDeadLettersRequestSchema, request);
      const tokens = await pageTokens();
      const size = pageSizeOf(request.pageSize);
      const after = tokens.decode(query, request.pageToken) ?? "";
      const found = await deadLetters.list({ index, withDiscarded, after, limit: size + 1 });
      const page = found.slice(0, size);
      const last = page.at(-1);
      const nextPageToken = found.length > size && last !== undefined ? tokens.encode(query, last._id) : "";
      return { deadLetters: page.map(letterMessage), nextPageToken };
    },

    async getDeadLetter({ deadLetterId }) {
      const [found] = await lettersOf([deadLetterId]);
      return { ...(found !== undefined && { deadLetter: letterMessage(found) }) };
    },

    async retryDeadLetters({ deadLetterIds }, context) {
      const ids = [...new Set(deadLetterIds)];
      const found = await lettersOf(ids);
      const there = found.map(({ _id }) => _id);
      const refusedIds: string[] = [];
      await carriedOut(there, context, async () => {
        for (const [index, letters] of Map.groupBy(found, (letter) => letter.index)) {
          refusedIds.push(...(await access.retry(index, letters, context.signal)));
        }
      });
      return {
        settledIds: there.filter((id) => !refusedIds.includes(id)),
        refusedIds,
        missingIds: ids.filter((id) => !there.includes(id)),
      };
    },

    async discardDeadLetter({ deadLetterId }, context) {
      await lettersOf([deadLetterId]);
      const discarded = await carriedOut([deadLetterId], context, async () => {
        const letter = await deadLetters.discard(deadLetterId);
        if (letter === undefined) throw letterNotFound(deadLetterId);
        return letter;
      });
      return { deadLetter: letterMessage(discarded) };
    },

    async compareIndex({ index, repair, requestId }, context) {
      messageOf(index);
      const spec = encoded({ index, repair });
      return { comparison: comparisonMessage(await comparisons.add(spec, { requestId }, context)) };
    },

    async getComparison({ comparisonId }, context) {
      return { comparison: comparisonMessage(await comparisons.get(comparisonId, context)) };
    },

    async listComparisons(request, context) {
      const { page, nextPageToken } = await comparisons.list(ListComparisonsRequestSchema, request, context);
      return { comparisons: page.map((job) => ({ ...comparisonMessage(job), differences: [] })), nextPageToken };
    },

    async cancelComparison({ comparisonId }, context) {
      return { comparison: comparisonMessage(await comparisons.cancel(comparisonId, context)) };
    },
  };
}

const phases = {
  new: SyncPhase.NEW,
  filling: SyncPhase.FILLING,
  sweeping: SyncPhase.SWEEPING,
  following: SyncPhase.FOLLOWING,
} as const;

function statusMessage({ name, state, lagDocuments, isAtLeast, lagMs, deadLetters, isLost, problem }: IndexStatus) {
  return {
    index: name,
    phase: phases[state?.phase ?? "new"],
    lagDocuments: BigInt(lagDocuments),
    lagIsAtLeast: isAtLeast,
    lag: durationFromMs(lagMs),
    deadLetters: BigInt(deadLetters),
    historyLost: isLost,
    problem,
    ...(state !== undefined && {
      filledDocuments: BigInt(state.filled),
      resyncs: BigInt(state.resyncs),
      holder: state.holder,
      ...(state.resync_reason && { resyncReason: ResyncReason[state.resync_reason] }),
      ...(state.resync_time && { resyncTime: timestampFromDate(state.resync_time) }),
      ...(state.token_time && { checkpointTime: timestampFromDate(state.token_time) }),
      ...(state.problem_time && { problemTime: timestampFromDate(state.problem_time) }),
    }),
  };
}

function letterMessage(letter: DeadLetter) {
  return {
    deadLetterId: letter._id,
    index: letter.index,
    documentId: letter.document_id,
    revision: letter.revision,
    errorType: letter.error_type,
    causeType: letter.cause_type,
    field: letter.field,
    attempts: letter.attempts,
    firstTime: timestampFromDate(letter.first_time),
    lastTime: timestampFromDate(letter.last_time),
    discarded: letter.discarded,
  };
}

function comparisonMessage(job: JobRecord) {
  // What it leaves says more than how far it was.
  const { index, repair, compared, different, repaired, deadLetters, differences, documentsDigest, indexDigest } =
    comparisonOf(job.result ?? job.progress?.detail ?? job.spec);
  return {
    comparisonId: job.jobId,
    index,
    repair,
    ...toldJob(job),
    percent: job.progress?.percent ?? 0,
    compared,
    different,
    repaired,
    deadLetters,
    differences,
    documentsDigest,
    indexDigest,
  };
}

function letterNotFound(id: string) {
  return fail("DEAD_LETTER_NOT_FOUND", `There is no dead letter ${id}`, {
    metadata: { dead_letter_id: id },
    resource: { type: "DeadLetter", name: id },
  });
}

function comparisonNotFound(id: string) {
  return fail("COMPARISON_NOT_FOUND", `There is no comparison ${id}`, {
    metadata: { comparison_id: id },
    resource: { type: ComparisonSchema.typeName, name: id },
  });
}

function notBegun(index: string) {
  return fail("SEARCH_SYNC_NOT_BEGUN", `No process has begun to keep the search index ${index}`, {
    metadata: { index },
    retryAfterMs: 5000,
  });
}
