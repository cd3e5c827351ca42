import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";

import { fromJson } from "@bufbuild/protobuf";
import type { Command } from "commander";

import { JobState } from "../../../gen/lucid/admin/v1/backup_service_pb.ts";
import {
  type Index,
  IndexHealth,
  IndexHealthSchema,
  type IndexField,
  IndexFieldTypeSchema,
  type IndexOrigin,
  IndexOriginSchema,
  IndexMappingSchema,
  IndexSchema,
  IndexStatisticsSchema,
} from "../../../gen/lucid/search/v1/search_index_pb.ts";
import {
  CreateIndexResponseSchema,
  DeleteIndexResponseSchema,
  EnsuredState,
  type EnsuredIndex,
  EnsuredIndexSchema,
  EnsuredStateSchema,
  GetIndexResponseSchema,
  type IndexJob,
  IndexJobPhaseSchema,
  IndexJobSchema,
  IndexJobTypeSchema,
  SearchIndexService,
  type WatchIndexJobResponse,
  WatchIndexJobResponseSchema,
} from "../../../gen/lucid/search/v1/search_index_service_pb.ts";
import {
  type Comparison,
  ComparisonSchema,
  type DeadLetter,
  DeadLetterSchema,
  type Difference,
  DifferenceKindSchema,
  IndexSyncSchema,
  RetryDeadLettersResponseSchema,
  SearchSyncService,
} from "../../../gen/lucid/search/v1/search_sync_service_pb.ts";
import { enumOption } from "../choices.ts";
import { withExamples } from "../examples.ts";
import { Failure } from "../failure.ts";
import { readJson } from "../input.ts";
import {
  followJob,
  followOptions,
  type JobView,
  stateName,
  styleOf,
  type WatchOptions,
  whyNot,
  withWatchOptions,
} from "../jobs.ts";
import { showList, withLimit } from "../lists.ts";
import type { Column, Fact, Style } from "../output.ts";
import type { Session } from "../session.ts";
import { syncColumns } from "../sync.ts";
import { between, bytes, count, counted, nameOf, nothing, readNumber, time } from "../units.ts";

/** `lucid index …`: indices of the search server. Those of MongoDB belong to their collections. */
export function define(index: Command, session: Session): void {
  defineIndices(index, session);
  defineIndexJobs(index, session);
  defineSync(index, session);
  defineDeadLetters(index.command("dead-letters").description("Documents that search refuses"), session);
  defineComparisons(index, session);
}

function defineIndices(index: Command, session: Session): void {
  const client = () => session.client(SearchIndexService);

  withExamples(
    withLimit(index.command("ls"))
      .description("List search indices")
      .addOption(
        enumOption("--origin <origin>", "only those that the service keeps, or those of operators", IndexOriginSchema),
      )
      .action(async ({ limit, origin }: { limit: number; origin?: IndexOrigin }) => {
        await showList(session, {
          schema: IndexSchema,
          limit,
          columns: indexColumns,
          none: "There are no such indices.",
          async page(page) {
            const request = { ...page, ...(origin !== undefined && { origin }) };
            const { indices, nextPageToken } = await client().listIndices(request, session.call());
            return { items: indices, nextPageToken };
          },
        });
      }),
    "lucid index ls",
    "lucid index ls --origin operator --json",
  );

  withExamples(
    index
      .command("show")
      .description("Show one search index: its fields, its size, what it does")
      .argument("<index>", "name of the index")
      .action(async (name: string) => showIndex(session, name)),
    "lucid index show users",
  );

  withExamples(
    index
      .command("create")
      .description("Create a search index of your own")
      .argument("<index>", "name of the index: letters, digits, _ and -")
      .option("--shards <number>", "number of shards", readNumber(1, 128))
      .option("--replicas <number>", "number of copies of each shard", readNumber(0, 10))
      .option("--mapping <json>", "its fields, as JSON or @FILE: an IndexMapping of the contracts")
      .option("--dry-run", "check what can be checked, and create nothing")
      .action(
        async (name: string, options: { shards?: number; replicas?: number; mapping?: string; dryRun?: boolean }) => {
          const { shards, replicas, mapping, dryRun = false } = options;
          const request = {
            index: name,
            settings: {
              ...(shards !== undefined && { shardCount: shards }),
              ...(replicas !== undefined && { replicaCount: replicas }),
            },
            ...(mapping !== undefined && {
              mapping: await readJson(session, mapping, "--mapping", (json) => fromJson(IndexMappingSchema, json)),
            }),
            validateOnly: dryRun,
          };
          const response = await client().createIndex(request, session.call());
          if (session.output.json) return session.output.message(CreateIndexResponseSchema, response);
          session.output.note(dryRun ? "It could be created; nothing was changed." : `Created ${name}.`);
        },
      ),
    "lucid index create notes",
    `lucid index create notes --mapping '{"fields": {"title": {"type": "INDEX_FIELD_TYPE_TEXT"}}}'`,
  );

  withExamples(
    index
      .command("rm")
      .description("Delete a search index of your own, with all its documents")
      .argument("<index>", "name of the index")
      .option("--dry-run", "only say what would be deleted")
      .action(async (name: string, { dryRun = false }: { dryRun?: boolean }) => {
        const would = await client().deleteIndex({ index: name, validateOnly: true }, session.call());
        const amount = ({ documentCount, storedBytes }: typeof would) =>
          `${counted(documentCount, "document")}, ${bytes(storedBytes)}`;
        if (!dryRun) await session.confirm(`This deletes the index with ${amount(would)}`, name);
        const response = dryRun
          ? would
          : await client().deleteIndex({ index: name, confirmIndex: name }, session.call());
        if (session.output.json) return session.output.message(DeleteIndexResponseSchema, response);
        session.output.note(`${dryRun ? "It would delete" : "Deleted"} ${amount(response)}.`);
      }),
    "lucid index rm notes",
    "lucid index rm notes --dry-run",
  );

  withExamples(
    index
      .command("ensure")
      .description("Make the indices that the service keeps where they are missing, and tell how each stands")
      .argument("[index...]", "names of the indices; all where none is named")
      .action(async (names: readonly string[]) => {
        const { indices } = await client().ensureIndices({ indices: [...names] }, session.call());
        const { output } = session;
        const isWrong = ({ state }: EnsuredIndex) =>
          state === EnsuredState.OUTDATED || state === EnsuredState.CONFLICTING;
        if (indices.some(isWrong)) session.ending = "found";
        if (output.json) for (const each of indices) await output.message(EnsuredIndexSchema, each);
        else await output.table(indices, ensuredColumns);
      }),
    "lucid index ensure",
  );
}

async function showIndex(session: Session, name: string): Promise<void> {
  const { output } = session;
  const client = session.client(SearchIndexService);
  const [response, { statistics }] = await Promise.all([
    client.getIndex({ index: name }, session.call()),
    client.getIndexStatistics({ index: name }, session.call()),
  ]);
  if (output.json) {
    await output.message(GetIndexResponseSchema, response);
    if (statistics !== undefined) await output.message(IndexStatisticsSchema, statistics);
    return;
  }
  const { index } = response;
  if (index === undefined) return;
  const others = index.otherVersions.join(", ");
  await output.facts([
    ["index", index.index],
    ["kept by", nameOf(IndexOriginSchema, index.origin)],
    ["health", nameOf(IndexHealthSchema, index.health), healthStyle(index.health)],
    ["version", `${index.version}${others === "" ? "" : `; also there: ${others}`}`],
    ["documents", count(index.documentCount)],
    ["size", bytes(index.storedBytes)],
    ["created", time(index.createTime)],
    ["shards", `${index.settings?.shardCount ?? 0}, each with ${index.settings?.replicaCount ?? 0} copies`],
    statistics && [
      "deleted",
      `${counted(statistics.deletedDocumentCount, "document")}, taking up space until the server tidies up`,
    ],
    statistics && ["searches", `${count(statistics.searches?.count ?? 0n)} since the server started`],
    statistics && [
      "writes",
      `${count(statistics.writes?.count ?? 0n)}, and ${count(statistics.failedWriteCount)} refused`,
    ],
  ]);
  const fields = fieldsOf(index.mapping?.fields ?? {});
  if (fields.length === 0) return;
  await output.line();
  await output.table(fields, [
    { title: "FIELD", of: ({ path }) => path },
    { title: "TYPE", of: ({ field }) => nameOf(IndexFieldTypeSchema, field.type) || field.serverType },
    { title: "ALSO AS", of: ({ field }) => Object.keys(field.forms).join(", ") || nothing },
  ]);
}

function fieldsOf(
  fields: Readonly<Record<string, IndexField>>,
  prefix = "",
): readonly { readonly path: string; readonly field: IndexField }[] {
  return Object.entries(fields)
    .toSorted(([one], [other]) => (one < other ? -1 : 1))
    .flatMap(([name, field]) => [{ path: prefix + name, field }, ...fieldsOf(field.fields, `${prefix}${name}.`)]);
}

function healthStyle(health: IndexHealth): Style | undefined {
  if (health === IndexHealth.GREEN) return "green";
  return health === IndexHealth.YELLOW ? "yellow" : health === IndexHealth.RED ? "red" : undefined;
}

const indexColumns: readonly Column<Index>[] = [
  { title: "INDEX", of: ({ index }) => index },
  { title: "KEPT BY", of: ({ origin }) => nameOf(IndexOriginSchema, origin) },
  {
    title: "HEALTH",
    of: ({ health }) => nameOf(IndexHealthSchema, health),
    style: ({ health }) => healthStyle(health),
  },
  { title: "VERSION", of: ({ version }) => String(version), align: "right" },
  { title: "DOCUMENTS", of: ({ documentCount }) => count(documentCount), align: "right" },
  { title: "SIZE", of: ({ storedBytes }) => bytes(storedBytes), align: "right" },
  { title: "CREATED", of: ({ createTime }) => time(createTime) },
];

const ensuredColumns: readonly Column<EnsuredIndex>[] = [
  { title: "INDEX", of: ({ index }) => index },
  { title: "STATE", of: ({ state }) => nameOf(EnsuredStateSchema, state) },
  { title: "OCCUPIED BY", of: ({ occupiedBy }) => occupiedBy || nothing },
];

function defineIndexJobs(index: Command, session: Session): void {
  const client = () => session.client(SearchIndexService);
  const begun = async (job: IndexJob | undefined, watch: boolean): Promise<void> => {
    if (job === undefined) return;
    if (watch) return followIndexJob(session, job.jobId, {});
    if (session.output.json) return session.output.message(IndexJobSchema, job);
    await session.output.line(job.jobId);
    session.output.note(`It has begun; \`lucid index job watch ${job.jobId}\` shows how far it is.`);
  };

  withExamples(
    index
      .command("rebuild")
      .description("Fill a new version of an index that the service keeps, and put it in the place of the live one")
      .argument("<index>", "name of the index")
      .option("-w, --watch", "show how far it is until it has ended, and end as it did")
      .action(async (name: string, { watch = false }: { watch?: boolean }) => {
        const { job } = await client().rebuildIndex({ index: name, requestId: randomUUID() }, session.call());
        await begun(job, watch);
      }),
    "lucid index rebuild users --watch",
  );

  withExamples(
    index
      .command("rollback")
      .description("Put the version in its place again that the last rebuild has replaced")
      .argument("<index>", "name of the index")
      .option("-w, --watch", "show how far it is until it has ended, and end as it did")
      .action(async (name: string, { watch = false }: { watch?: boolean }) => {
        await session.confirm("This puts the version before the last rebuild in the place of the live one", name);
        const request = { index: name, confirmIndex: name, requestId: randomUUID() };
        const { job } = await client().rollbackIndex(request, session.call());
        await begun(job, watch);
      }),
    "lucid index rollback users --watch",
  );

  withExamples(
    index
      .command("reindex")
      .description("Copy all documents of an index into another one")
      .argument("<source>", "name of the index to read")
      .argument("<index>", "name of the index to write to")
      .option("-w, --watch", "show how far it is until it has ended, and end as it did")
      .action(async (sourceIndex: string, name: string, { watch = false }: { watch?: boolean }) => {
        const request = { sourceIndex, index: name, requestId: randomUUID() };
        const { job } = await client().reindex(request, session.call());
        await begun(job, watch);
      }),
    "lucid index reindex notes notes-2026 --watch",
  );

  const jobs = index.command("job").description("Jobs that work on search indices");
  withExamples(
    withLimit(jobs.command("ls"))
      .description("List jobs, the newest first")
      .action(async ({ limit }: { limit: number }) => {
        await showList(session, {
          schema: IndexJobSchema,
          limit,
          columns: jobColumns,
          none: "There are no jobs.",
          async page(page) {
            const { jobs: items, nextPageToken } = await client().listIndexJobs(page, session.call());
            return { items, nextPageToken };
          },
        });
      }),
    "lucid index job ls",
  );
  withExamples(
    jobs
      .command("show")
      .description("Show one job")
      .argument("<job>", "id of the job")
      .action(async (jobId: string) => {
        const { job } = await client().getIndexJob({ jobId }, session.call());
        if (job !== undefined) await showIndexJob(session, job);
      }),
    "lucid index job show 019ab0f2-…",
  );
  withExamples(
    withWatchOptions(jobs.command("watch"))
      .description("Show how far a job is until it has ended, and end as it did")
      .argument("<job>", "id of the job")
      .action(async (jobId: string, options: WatchOptions) => followIndexJob(session, jobId, options)),
    "lucid index job watch 019ab0f2-…",
  );
  withExamples(
    jobs
      .command("cancel")
      .description("Stop a job; what it has written stays")
      .argument("<job>", "id of the job")
      .action(async (jobId: string) => {
        const { job } = await client().cancelIndexJob({ jobId }, session.call());
        if (job === undefined) return;
        if (session.output.json) await session.output.message(IndexJobSchema, job);
        else session.output.note(`The job is ${stateName(job.state)}.`);
      }),
    "lucid index job cancel 019ab0f2-…",
  );
}

async function followIndexJob(session: Session, jobId: string, options: WatchOptions): Promise<void> {
  const client = session.client(SearchIndexService);
  const job = {
    kind: "job",
    id: jobId,
    watch: (afterSequence: bigint) => client.watchIndexJob({ jobId, afterSequence }, session.stream()),
    view: viewOfIndexJob,
    write: (response: WatchIndexJobResponse) => session.output.message(WatchIndexJobResponseSchema, response),
    watchCommand: `lucid index job watch ${jobId}`,
    cancelCommand: `lucid index job cancel ${jobId}`,
  };
  await followJob(session, job, followOptions(options));
}

function viewOfIndexJob({ sequence, eventTime, state, progress, error, heartbeat }: WatchIndexJobResponse): JobView {
  return {
    sequence,
    time: eventTime,
    state,
    error,
    heartbeat,
    phase: progress === undefined ? "" : nameOf(IndexJobPhaseSchema, progress.phase),
    percent: progress?.percent ?? 0,
    done: (progress?.writtenCount ?? 0n) + (progress?.presentCount ?? 0n) + (progress?.refusedCount ?? 0n),
    total: progress?.documentCount ?? 0n,
    bytes: undefined,
    bytesPerSecond: 0,
    timeLeftMs: undefined,
    parts: [],
  };
}

async function showIndexJob({ output }: Session, job: IndexJob): Promise<void> {
  if (output.json) return output.message(IndexJobSchema, job);
  const { progress } = job;
  await output.facts([
    ["job", job.jobId],
    ["does", nameOf(IndexJobTypeSchema, job.type)],
    ["index", job.sourceIndex === "" ? job.index : `${job.index}, from ${job.sourceIndex}`],
    ["state", stateName(job.state), styleOf(job.state)],
    ["created", time(job.createTime)],
    ["took", between(job.startTime, job.endTime)],
    progress && ["written", `${count(progress.writtenCount)} of ${counted(progress.documentCount, "document")}`],
    progress && ["there already", counted(progress.presentCount, "document")],
    progress && ["refused", counted(progress.refusedCount, "document")],
    job.error && ["problem", whyNot(job.error), "red"],
  ]);
}

const jobColumns: readonly Column<IndexJob>[] = [
  { title: "JOB", of: ({ jobId }) => jobId },
  { title: "DOES", of: ({ type }) => nameOf(IndexJobTypeSchema, type) },
  { title: "INDEX", of: ({ index }) => index },
  { title: "STATE", of: ({ state }) => stateName(state), style: ({ state }) => styleOf(state) },
  { title: "CREATED", of: ({ createTime }) => time(createTime) },
  { title: "TOOK", of: ({ startTime, endTime }) => between(startTime, endTime), align: "right" },
  { title: "PROBLEM", of: ({ error }) => error?.reason ?? nothing, mayBeCut: true },
];

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
        await client().resyncIndex({ index: name }, session.call());
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
        await session.output.line(comparison.comparisonId);
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
        session.output.note(`The comparison is ${stateName(comparison?.state ?? JobState.UNSPECIFIED)}.`);
      }),
    "lucid index comparison cancel 019ab0f2-…",
  );
}

/** No rpc watches a comparison, so it is asked for. */
async function waitForComparison(session: Session, comparisonId: string): Promise<void> {
  session.leaves = `The comparison goes on: \`lucid index comparison show ${comparisonId}\` shows what it found.`;
  for (let waitMs = 200; ; waitMs = Math.min(2000, waitMs * 1.5)) {
    const { comparison } = await session.client(SearchSyncService).getComparison({ comparisonId }, session.call());
    if (comparison === undefined) throw new Failure("failure", "The service does not say how the comparison stands");
    if (comparison.endTime !== undefined) {
      session.leaves = undefined;
      return showComparison(session, comparison);
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
