import { randomUUID } from "node:crypto";

import type { Command } from "commander";

import {
  MigrationMode,
  MigrationModeSchema,
  type VolumeJob,
  VolumeJobPhaseSchema,
  VolumeJobSchema,
  VolumeService,
  type WatchVolumeJobResponse,
  WatchVolumeJobResponseSchema,
} from "../../../gen/lucid/admin/v1/volume_service_pb.ts";
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
import { between, bytes, count, counted, nameOf, nothing, time } from "../units.ts";
import { namesVolume } from "../volumes.ts";

/** `lucid volume migrate` and `lucid volume job …`. */
export function defineVolumeJobs(volume: Command, session: Session): void {
  const client = () => session.client(VolumeService);

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
          if (move) await session.confirm("This removes the volume once its copy is verified", name);
          const mode = move ? MigrationMode.MOVE : MigrationMode.COPY;
          const request = { name, targetName, mode, confirmName: move ? name : "", requestId: randomUUID() };
          const { job } = await client().migrateVolume(request, session.call());
          if (job === undefined) return;
          if (watch) return follow(session, job.jobId, {});
          const remark = `It has begun; \`lucid volume job watch ${job.jobId}\` shows how far it is.`;
          await tellBegun(session, { schema: VolumeJobSchema, job, id: job.jobId, remark });
        },
      ),
    "lucid volume migrate recordings archive --watch",
    "lucid volume migrate recordings archive --move",
  );

  const jobs = volume.command("job").description("Jobs that migrate volumes");
  withExamples(
    withLimit(jobs.command("ls"))
      .description("List jobs, the newest first")
      .action(async ({ limit }: { limit: number }) => {
        await showList(session, {
          schema: VolumeJobSchema,
          limit,
          columns: jobColumns,
          none: "There are no jobs.",
          async page(page) {
            const { jobs: items, nextPageToken } = await client().listVolumeJobs(page, session.call());
            return { items, nextPageToken };
          },
        });
      }),
    "lucid volume job ls",
  );
  withExamples(
    jobs
      .command("show")
      .description("Show one job")
      .argument("<job>", "id of the job")
      .action(async (jobId: string) => {
        const { output } = session;
        const { job } = await client().getVolumeJob({ jobId }, session.call());
        if (job === undefined) return;
        if (output.json) return output.message(VolumeJobSchema, job);
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
      }),
    "lucid volume job show 019ab0f2-…",
  );
  withExamples(
    withWatchOptions(jobs.command("watch"))
      .description("Show how far a job is until it has ended, and end as it did")
      .argument("<job>", "id of the job")
      .action(async (jobId: string, options: WatchOptions) => follow(session, jobId, options)),
    "lucid volume job watch 019ab0f2-…",
  );
  withExamples(
    jobs
      .command("cancel")
      .description("Stop a job")
      .argument("<job>", "id of the job")
      .action(async (jobId: string) => {
        const { job } = await client().cancelVolumeJob({ jobId }, session.call());
        await tellCancelled(session, VolumeJobSchema, job);
      }),
    "lucid volume job cancel 019ab0f2-…",
  );
}

async function follow(session: Session, jobId: string, options: WatchOptions): Promise<void> {
  const client = session.client(VolumeService);
  const job = {
    kind: "job",
    id: jobId,
    watch: (afterSequence: bigint) => client.watchVolumeJob({ jobId, afterSequence }, session.stream()),
    view,
    write: (response: WatchVolumeJobResponse) => session.output.message(WatchVolumeJobResponseSchema, response),
    watchCommand: `lucid volume job watch ${jobId}`,
    cancelCommand: `lucid volume job cancel ${jobId}`,
  };
  await followJob(session, job, followOptions(options));
}

function view({ sequence, eventTime, state, progress, error, heartbeat }: WatchVolumeJobResponse): JobView {
  return {
    sequence,
    time: eventTime,
    state,
    error,
    heartbeat,
    phase: progress === undefined ? "" : nameOf(VolumeJobPhaseSchema, progress.phase),
    percent: progress?.percent ?? 0,
    done: progress?.copiedCount ?? 0n,
    total: progress?.entryCount ?? 0n,
    bytes: progress?.copiedBytes ?? 0n,
    bytesPerSecond: 0,
    timeLeftMs: undefined,
    parts: [],
  };
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
