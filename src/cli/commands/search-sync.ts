import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";

import type { Command } from "commander";

import { JobState } from "../../../gen/lucid/admin/v1/backup_service_pb.ts";
import {
  type Comparison,
  ComparisonSchema,
  type DeadLetter,
  DeadLetterSchema,
  type Difference,
  DifferenceKindSchema,
  IndexSyncSchema,
  ResyncIndexResponseSchema,
  RetryDeadLettersResponseSchema,
  SearchSyncService,
} from "../../../gen/lucid/search/v1/search_sync_service_pb.ts";
import { withExamples } from "../examples.ts";
import { mayPass } from "../failure.ts";
import { stateName, styleOf, whyNot } from "../job-view.ts";
import { showList, withLimit } from "../lists.ts";
import type { Column, Fact } from "../output.ts";
import type { Session } from "../session.ts";
import { syncColumns } from "../sync.ts";
import { safe } from "../text.ts";
import { between, count, counted, nameOf, nothing, time } from "../units.ts";

/** `lucid index sync`, `dead-letters`, `compare` and `comparison`: how indices stand beside MongoDB. */
export function defineStanding(index: Command, session: Session): void {
  defineSync(index, session);
  defineDeadLetters(index.command("dead-letters").description("Documents that search refuses"), session);
  defineComparisons(index, session);
}

function defineSync(index: Command, session: Session): void {
  const client = () => session.client(SearchSyncService);
  const sync = index.command("sync").description("How search indices follow MongoDB");
  withExamples(
    sync
      .command("status")
      .description("Show how far the indices are behind MongoDB")
      .argument("[index...]", "names of the indices; all where none is named")
      .action(async (names: readonly string[]) => {
        const { indices } = await client().getSyncStatus({ indices: [...names] }, session.call());
        const { output } = session;
        if (indices.some(({ problem }) => problem !== "")) session.ending = "found";
        if (output.json) for (const each of indices) await output.message(IndexSyncSchema, each);
        else await output.table(indices, syncColumns);
      }),
    "lucid index sync status",
    "lucid index sync status users --json",
  );
  withExamples(
    sync
      .command("resync")
      .description("Have an index filled anew from MongoDB, without a new version")
      .argument("<index>", "name of the index")
      .action(async (name: string) => {
        const response = await client().resyncIndex({ index: name }, session.call());
        if (session.output.json) return session.output.message(ResyncIndexResponseSchema, response);
        session.output.note("It is being filled anew; `lucid index sync status` shows how far it is.");
      }),
    "lucid index sync resync users",
  );
}

function defineDeadLetters(command: Command, session: Session): void {
  const client = () => session.client(SearchSyncService);
  withExamples(
    withLimit(command.command("ls"))
      .description("List documents that search refuses, with the error and the field")
      .option("--index <index>", "only those of this index")
      .option("--discarded", "also those that were discarded")
      .action(async (options: { limit: number; index?: string; discarded?: boolean }) => {
        const { limit, index = "", discarded: withDiscarded = false } = options;
        await showList(session, {
          schema: DeadLetterSchema,
          limit,
          columns: letterColumns,
          none: "There are none: search takes every document.",
          async page(page) {
            const request = { index, withDiscarded, ...page };
            const { deadLetters, nextPageToken } = await client().listDeadLetters(request, session.call());
            return { items: deadLetters, nextPageToken };
          },
        });
      }),
    "lucid index dead-letters ls",
    "lucid index dead-letters ls --index users --json | jq -r .deadLetterId",
  );
  withExamples(
    command
      .command("retry")
      .description("Have search try documents again")
      .argument("<letter...>", "ids of dead letters, at most 100")
      .action(async (deadLetterIds: string[]) => {
        const response = await client().retryDeadLetters({ deadLetterIds }, session.call());
        if (response.refusedIds.length + response.missingIds.length > 0) session.ending = "found";
        if (session.output.json) return session.output.message(RetryDeadLettersResponseSchema, response);
        const [settled, refused, missing] = [response.settledIds, response.refusedIds, response.missingIds];
        session.output.note(
          `${count(settled.length)} settled, ${count(refused.length)} refused again, ${count(missing.length)} not there.`,
        );
      }),
    "lucid index dead-letters retry users:0199…",
    "lucid index dead-letters ls --json | jq -r .deadLetterId | xargs lucid index dead-letters retry",
  );
  withExamples(
    command
      .command("discard")
      .description("Say that a document need not be found")
      .argument("<letter>", "id of the dead letter")
      .action(async (deadLetterId: string) => {
        await session.confirm("This document will not be found by searches", deadLetterId);
        const { deadLetter } = await client().discardDeadLetter({ deadLetterId }, session.call());
        if (deadLetter === undefined) return;
        if (session.output.json) await session.output.message(DeadLetterSchema, deadLetter);
        else session.output.note("Discarded.");
      }),
    "lucid index dead-letters discard users:0199…",
  );
}

const letterColumns: readonly Column<DeadLetter>[] = [
  { title: "DEAD LETTER", of: ({ deadLetterId }) => deadLetterId },
  { title: "INDEX", of: ({ index }) => index },
  { title: "ERROR", of: ({ errorType }) => errorType },
  { title: "FIELD", of: ({ field }) => field || nothing },
  { title: "TRIES", of: ({ attempts }) => String(attempts), align: "right" },
  { title: "LAST", of: ({ lastTime }) => time(lastTime) },
];

function defineComparisons(index: Command, session: Session): void {
  const client = () => session.client(SearchSyncService);
  withExamples(
    index
      .command("compare")
      .description("Compare an index with MongoDB, document by document; ends with 4 where they differ")
      .argument("<index>", "name of the index")
      .option("--repair", "mend what differs")
      .option("-w, --wait", "wait until it has ended, and end as it did")
      .action(async (name: string, { repair = false, wait = false }: { repair?: boolean; wait?: boolean }) => {
        const request = { index: name, repair, requestId: randomUUID() };
        const { comparison } = await client().compareIndex(request, session.call());
        if (comparison === undefined) return;
        if (wait) return waitForComparison(session, comparison.comparisonId);
        if (session.output.json) return session.output.message(ComparisonSchema, comparison);
        await session.output.line(safe(comparison.comparisonId));
        session.output.note(
          `It has begun; \`lucid index comparison show ${comparison.comparisonId}\` shows what it found.`,
        );
      }),
    "lucid index compare users --wait",
    "lucid index compare users --repair --wait",
  );
  const comparisons = index.command("comparison").description("What comparisons of indices with MongoDB found");
  withExamples(
    withLimit(comparisons.command("ls"))
      .description("List comparisons, the newest first")
      .action(async ({ limit }: { limit: number }) => {
        await showList(session, {
          schema: ComparisonSchema,
          limit,
          columns: comparisonColumns,
          none: "There are no comparisons.",
          async page(page) {
            const { comparisons: items, nextPageToken } = await client().listComparisons(page, session.call());
            return { items, nextPageToken };
          },
        });
      }),
    "lucid index comparison ls",
  );
  withExamples(
    comparisons
      .command("show")
      .description("Show one comparison; ends with 4 where something differs")
      .argument("<comparison>", "id of the comparison")
      .action(async (comparisonId: string) => {
        const { comparison } = await client().getComparison({ comparisonId }, session.call());
        if (comparison !== undefined) await showComparison(session, comparison);
      }),
    "lucid index comparison show 019ab0f2-…",
  );
  withExamples(
    comparisons
      .command("cancel")
      .description("Stop a comparison")
      .argument("<comparison>", "id of the comparison")
      .action(async (comparisonId: string) => {
        const { comparison } = await client().cancelComparison({ comparisonId }, session.call());
        if (comparison === undefined) return;
        if (session.output.json) await session.output.message(ComparisonSchema, comparison);
        else session.output.note(`The comparison is ${stateName(comparison.state)}.`);
      }),
    "lucid index comparison cancel 019ab0f2-…",
  );
}

/** No rpc watches a comparison, so it is asked for. One that has begun outlives a service that is away for a while. */
async function waitForComparison(session: Session, comparisonId: string): Promise<void> {
  session.leaves = `The comparison goes on: \`lucid index comparison show ${comparisonId}\` shows what it found.`;
  const client = session.client(SearchSyncService);
  let failures = 0;
  for (let waitMs = 200; ; waitMs = Math.min(2000, waitMs * 1.5)) {
    try {
      const { comparison } = await client.getComparison({ comparisonId }, session.call());
      failures = 0;
      if (comparison?.endTime !== undefined) {
        session.leaves = undefined;
        return await showComparison(session, comparison);
      }
    } catch (error) {
      if (session.signal.aborted || !mayPass(error) || ++failures > 100) throw error;
    }
    await sleep(waitMs, undefined, { signal: session.signal });
  }
}

async function showComparison(session: Session, comparison: Comparison): Promise<void> {
  const { output } = session;
  const { state, different, repaired } = comparison;
  if (comparison.endTime !== undefined && state !== JobState.SUCCEEDED) session.ending = "failure";
  else if (different > repaired) session.ending = "found";
  if (output.json) return output.message(ComparisonSchema, comparison);
  const facts: readonly Fact[] = [
    ["comparison", comparison.comparisonId],
    ["index", comparison.index],
    ["state", stateName(state), styleOf(state)],
    ["compared", counted(comparison.compared, "document")],
    ["different", count(different), different > 0n ? "yellow" : "green"],
    ["repaired", comparison.repair ? count(repaired) : "not asked for"],
    ["dead letters", count(comparison.deadLetters)],
    ["took", between(comparison.startTime, comparison.endTime)],
    comparison.error && ["problem", whyNot(comparison.error), "red"],
  ];
  await output.facts(facts);
  if (comparison.differences.length === 0) return;
  await output.line();
  await output.table(comparison.differences, differenceColumns);
}

const comparisonColumns: readonly Column<Comparison>[] = [
  { title: "COMPARISON", of: ({ comparisonId }) => comparisonId },
  { title: "INDEX", of: ({ index }) => index },
  { title: "STATE", of: ({ state }) => stateName(state), style: ({ state }) => styleOf(state) },
  { title: "CREATED", of: ({ createTime }) => time(createTime) },
  { title: "COMPARED", of: ({ compared }) => count(compared), align: "right" },
  {
    title: "DIFFERENT",
    of: ({ different }) => count(different),
    align: "right",
    style: ({ different }) => (different > 0n ? "yellow" : undefined),
  },
  { title: "REPAIRED", of: ({ repaired }) => count(repaired), align: "right" },
];

const differenceColumns: readonly Column<Difference>[] = [
  { title: "DOCUMENT", of: ({ documentId }) => documentId },
  { title: "IN THE INDEX", of: ({ kind }) => nameOf(DifferenceKindSchema, kind) },
  { title: "REVISION", of: ({ revision }) => count(revision), align: "right" },
  { title: "INDEXED", of: ({ indexedRevision }) => count(indexedRevision), align: "right" },
];
