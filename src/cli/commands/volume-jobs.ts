import { randomUUID } from "node:crypto";

import type { Command } from "commander";

import {
  MigrationMode,
  MigrationModeSchema,
  type VolumeJob,
  VolumeJobPhaseSchema,
  VolumeJobSchema,
  VolumeService,
  WatchVolumeJobResponseSchema,
} from "../../../gen/lucid/admin/v1/volume_service_pb.ts";
import { withExamples } from "../examples.ts";
import { jobCommands } from "../job-commands.ts";
import { stateName, styleOf, viewOf, whyNot } from "../job-view.ts";
import type { Column, Output } from "../output.ts";
import type { Session } from "../session.ts";
import { between, bytes, count, counted, nameOf, nothing, time } from "../units.ts";
import { namesVolume } from "../volumes.ts";

/** `lucid volume migrate` and `lucid volume job …`. */
export function defineVolumeJobs(volume: Command, session: Session): void {
  const client = () => session.client(VolumeService);
  const jobs = jobCommands(session, {
    noun: "job",
    path: "lucid volume job",
    schema: VolumeJobSchema,
    eventSchema: WatchVolumeJobResponseSchema,
    idOf: ({ jobId }) => jobId,
    get: async (jobId, call) => (await client().getVolumeJob({ jobId }, call)).job,
    watch: (jobId, afterSequence, call) => client().watchVolumeJob({ jobId, afterSequence }, call),
    cancel: async (jobId, call) => (await client().cancelVolumeJob({ jobId }, call)).job,
    view: (event) =>
      viewOf(event, {
        phase: event.progress === undefined ? "" : nameOf(VolumeJobPhaseSchema, event.progress.phase),
        percent: event.progress?.percent ?? 0,
        done: event.progress?.copiedCount ?? 0n,
        total: event.progress?.entryCount ?? 0n,
        bytes: event.progress?.copiedBytes ?? 0n,
      }),
    show: (job) => showJob(session.output, job),
  });

  withExamples(
    namesVolume(volume.command("migrate"))
      .description("Copy what is in a volume into another one, or move it there")
      .argument("<target>", "name of the other volume")
      .option("--move", "delete it from the first one when the copy is verified")
      .option("-w, --watch", "show how far it is until it has ended, and end as it did")
      .action(
        async (
          name: string,
          targetName: string,
          { move = false, watch = false }: { move?: boolean; watch?: boolean },
        ) => {
          if (move) await session.confirm("This removes what is in the volume once its copy is verified", name);
          const mode = move ? MigrationMode.MOVE : MigrationMode.COPY;
          const request = { name, targetName, mode, confirmName: move ? name : "", requestId: randomUUID() };
          const { job } = await client().migrateVolume(request, session.call());
          await jobs.begun(job, { watch });
        },
      ),
    "lucid volume migrate recordings archive --watch",
    "lucid volume migrate recordings archive --move",
  );

  const command = volume.command("job").description("Jobs that migrate volumes");
  jobs.defineList(command, {
    columns: jobColumns,
    async page(page) {
      const { jobs: items, nextPageToken } = await client().listVolumeJobs(page, session.call());
      return { items, nextPageToken };
    },
  });
  jobs.define(command, { cancel: "Stop a job" });
}

async function showJob(output: Output, job: VolumeJob): Promise<void> {
  const { progress } = job;
  await output.facts([
    ["job", job.jobId],
    ["does", nameOf(MigrationModeSchema, job.mode)],
    ["volume", `${job.name}, to ${job.targetName}`],
    ["state", stateName(job.state), styleOf(job.state)],
    ["created", time(job.createTime)],
    ["took", between(job.startTime, job.endTime)],
    progress && [
      "copied",
      `${count(progress.copiedCount)} of ${counted(progress.entryCount, "entry", "entries")}, ${bytes(progress.copiedBytes)}`,
    ],
    progress && ["verified", count(progress.verifiedCount)],
    job.error && ["problem", whyNot(job.error), "red"],
  ]);
}

const jobColumns: readonly Column<VolumeJob>[] = [
  { title: "JOB", of: ({ jobId }) => jobId },
  { title: "DOES", of: ({ mode }) => nameOf(MigrationModeSchema, mode) },
  { title: "VOLUME", of: ({ name }) => name },
  { title: "TO", of: ({ targetName }) => targetName },
  { title: "STATE", of: ({ state }) => stateName(state), style: ({ state }) => styleOf(state) },
  { title: "CREATED", of: ({ createTime }) => time(createTime) },
  { title: "PROBLEM", of: ({ error }) => error?.reason ?? nothing, mayBeCut: true },
];
