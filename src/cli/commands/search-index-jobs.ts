import { randomUUID } from "node:crypto";

import type { Command } from "commander";

import {
  type IndexJob,
  IndexJobPhaseSchema,
  IndexJobSchema,
  IndexJobTypeSchema,
  SearchIndexService,
  type WatchIndexJobResponse,
  WatchIndexJobResponseSchema,
} from "../../../gen/lucid/search/v1/search_index_service_pb.ts";
import { withExamples } from "../examples.ts";
import {
  followJob,
  followOptions,
  type JobView,
  stateName,
  styleOf,
  tellBegun,
  tellCancelled,
  type WatchOptions,
  whyNot,
  withWatchOptions,
} from "../jobs.ts";
import { showList, withLimit } from "../lists.ts";
import type { Column } from "../output.ts";
import type { Session } from "../session.ts";
import { between, count, counted, nameOf, nothing, time } from "../units.ts";

/** `lucid index rebuild`, `rollback`, `reindex` and `job`. */
export function defineIndexJobs(index: Command, session: Session): void {
  const client = () => session.client(SearchIndexService);
  const begun = async (job: IndexJob | undefined, watch: boolean): Promise<void> => {
    if (job === undefined) return;
    if (watch) return followIndexJob(session, job.jobId, {});
    const remark = `It has begun; \`lucid index job watch ${job.jobId}\` shows how far it is.`;
    await tellBegun(session, { schema: IndexJobSchema, job, id: job.jobId, remark });
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
        await tellCancelled(session, IndexJobSchema, job);
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
