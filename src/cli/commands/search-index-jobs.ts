import { randomUUID } from "node:crypto";

import type { Command } from "commander";

import {
  type IndexJob,
  IndexJobPhaseSchema,
  IndexJobSchema,
  IndexJobTypeSchema,
  SearchIndexService,
  WatchIndexJobResponseSchema,
} from "../../../gen/lucid/search/v1/search_index_service_pb.ts";
import { withExamples } from "../examples.ts";
import { jobCommands } from "../job-commands.ts";
import { stateName, styleOf, viewOf, whyNot } from "../job-view.ts";
import type { Column, Output } from "../output.ts";
import type { Session } from "../session.ts";
import { between, count, counted, nameOf, nothing, time } from "../units.ts";

/** `lucid index rebuild`, `rollback`, `reindex` and `job`. */
export function defineIndexJobs(index: Command, session: Session): void {
  const client = () => session.client(SearchIndexService);
  const jobs = jobCommands(session, {
    noun: "job",
    path: "lucid index job",
    schema: IndexJobSchema,
    eventSchema: WatchIndexJobResponseSchema,
    idOf: ({ jobId }) => jobId,
    get: async (jobId, call) => (await client().getIndexJob({ jobId }, call)).job,
    watch: (jobId, afterSequence, call) => client().watchIndexJob({ jobId, afterSequence }, call),
    cancel: async (jobId, call) => (await client().cancelIndexJob({ jobId }, call)).job,
    view: (event) => {
      const { phase, percent = 0, documentCount: total = 0n } = event.progress ?? {};
      const { writtenCount = 0n, presentCount = 0n, refusedCount = 0n } = event.progress ?? {};
      const done = writtenCount + presentCount + refusedCount;
      return viewOf(event, {
        phase: phase === undefined ? "" : nameOf(IndexJobPhaseSchema, phase),
        percent,
        done,
        total,
      });
    },
    show: (job) => showJob(session.output, job),
  });

  withExamples(
    index
      .command("rebuild")
      .description("Fill a new version of an index that the service keeps, and put it in the place of the live one")
      .argument("<index>", "name of the index")
      .option("-w, --watch", "show how far it is until it has ended, and end as it did")
      .action(async (name: string, { watch = false }: { watch?: boolean }) => {
        const { job } = await client().rebuildIndex({ index: name, requestId: randomUUID() }, session.call());
        await jobs.begun(job, { watch });
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
        await jobs.begun(job, { watch });
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
        await jobs.begun(job, { watch });
      }),
    "lucid index reindex notes notes-2026 --watch",
  );

  const command = index.command("job").description("Jobs that work on search indices");
  jobs.defineList(command, {
    columns: jobColumns,
    async page(page) {
      const { jobs: items, nextPageToken } = await client().listIndexJobs(page, session.call());
      return { items, nextPageToken };
    },
  });
  jobs.define(command, { cancel: "Stop a job; what it has written stays" });
}

async function showJob(output: Output, job: IndexJob): Promise<void> {
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
