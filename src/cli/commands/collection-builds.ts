import { type Command } from "commander";

import {
  type IndexBuild,
  IndexBuildSchema,
  IndexBuildTypeSchema,
} from "../../../gen/lucid/admin/v1/collection_index_pb.ts";
import {
  DatabaseAdminService,
  type WatchIndexBuildResponse,
  WatchIndexBuildResponseSchema,
} from "../../../gen/lucid/admin/v1/database_admin_service_pb.ts";
import { EnsuredStateSchema } from "../../../gen/lucid/admin/v1/monitoring_service_pb.ts";
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
import { between, nameOf, nothing, time } from "../units.ts";

/** `lucid collection build …`. */
export function defineBuilds(builds: Command, session: Session): void {
  const client = () => session.client(DatabaseAdminService);
  withExamples(
    withLimit(builds.command("ls"))
      .description("List jobs, the newest first")
      .action(async ({ limit }: { limit: number }) => {
        await showList(session, {
          schema: IndexBuildSchema,
          limit,
          columns: buildColumns,
          none: "There are no jobs.",
          async page(page) {
            const { builds: items, nextPageToken } = await client().listIndexBuilds(page, session.call());
            return { items, nextPageToken };
          },
        });
      }),
    "lucid collection build ls",
  );
  withExamples(
    builds
      .command("show")
      .description("Show one job")
      .argument("<build>", "id of the job")
      .action(async (buildId: string) => {
        const { output } = session;
        const { build } = await client().getIndexBuild({ buildId }, session.call());
        if (build === undefined) return;
        if (output.json) return output.message(IndexBuildSchema, build);
        await output.facts([
          ["build", build.buildId],
          ["does", nameOf(IndexBuildTypeSchema, build.type)],
          ["collection", build.collection || "those of the domain"],
          ["state", stateName(build.state), styleOf(build.state)],
          ["created", time(build.createTime)],
          ["took", between(build.startTime, build.endTime)],
          build.error && ["problem", whyNot(build.error), "red"],
        ]);
        const built = build.progress?.indexes ?? [];
        if (built.length === 0) return;
        await output.line();
        await output.table(built, [
          { title: "COLLECTION", of: ({ collection }) => collection },
          { title: "INDEX", of: ({ index }) => index },
          { title: "STATE", of: ({ state }) => nameOf(EnsuredStateSchema, state) },
          { title: "PROBLEM", of: ({ problem }) => problem || nothing, mayBeCut: true },
        ]);
      }),
    "lucid collection build show 019ab0f2-…",
  );
  withExamples(
    withWatchOptions(builds.command("watch"))
      .description("Show how far a job is until it has ended, and end as it did")
      .argument("<build>", "id of the job")
      .action(async (buildId: string, options: WatchOptions) => followBuild(session, buildId, options)),
    "lucid collection build watch 019ab0f2-…",
  );
  withExamples(
    builds
      .command("cancel")
      .description("Stop a job; indexes that are built stay")
      .argument("<build>", "id of the job")
      .action(async (buildId: string) => {
        const { build } = await client().cancelIndexBuild({ buildId }, session.call());
        await tellCancelled(session, IndexBuildSchema, build);
      }),
    "lucid collection build cancel 019ab0f2-…",
  );
}

/** Tells of a job that has begun, or follows it. */
export async function begun(session: Session, build: IndexBuild | undefined, watch: boolean): Promise<void> {
  if (build === undefined) return;
  if (watch) return followBuild(session, build.buildId, {});
  const remark = `It is being built; \`lucid collection build watch ${build.buildId}\` shows how far it is.`;
  await tellBegun(session, { schema: IndexBuildSchema, job: build, id: build.buildId, remark });
}

async function followBuild(session: Session, buildId: string, options: WatchOptions): Promise<void> {
  const client = session.client(DatabaseAdminService);
  const job = {
    kind: "build",
    id: buildId,
    watch: (afterSequence: bigint) => client.watchIndexBuild({ buildId, afterSequence }, session.stream()),
    view: viewOfBuild,
    write: (response: WatchIndexBuildResponse) => session.output.message(WatchIndexBuildResponseSchema, response),
    watchCommand: `lucid collection build watch ${buildId}`,
    cancelCommand: `lucid collection build cancel ${buildId}`,
  };
  await followJob(session, job, followOptions(options));
}

function viewOfBuild({ sequence, eventTime, state, progress, error, heartbeat }: WatchIndexBuildResponse): JobView {
  return {
    sequence,
    time: eventTime,
    state,
    error,
    heartbeat,
    phase: progress?.phase ?? "",
    percent: progress?.percent ?? 0,
    done: progress?.doneCount ?? 0n,
    total: progress?.totalCount ?? 0n,
    bytes: undefined,
    bytesPerSecond: 0,
    timeLeftMs: undefined,
    parts: [],
  };
}

const buildColumns: readonly Column<IndexBuild>[] = [
  { title: "BUILD", of: ({ buildId }) => buildId },
  { title: "DOES", of: ({ type }) => nameOf(IndexBuildTypeSchema, type) },
  { title: "COLLECTION", of: ({ collection }) => collection || nothing },
  { title: "STATE", of: ({ state }) => stateName(state), style: ({ state }) => styleOf(state) },
  { title: "CREATED", of: ({ createTime }) => time(createTime) },
  { title: "PROBLEM", of: ({ error }) => error?.reason ?? nothing, mayBeCut: true },
];
