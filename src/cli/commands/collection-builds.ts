import type { Command } from "commander";

import {
  type IndexBuild,
  IndexBuildSchema,
  IndexBuildTypeSchema,
} from "../../../gen/lucid/admin/v1/collection_index_pb.ts";
import {
  DatabaseAdminService,
  WatchIndexBuildResponseSchema,
} from "../../../gen/lucid/admin/v1/database_admin_service_pb.ts";
import { EnsuredStateSchema } from "../../../gen/lucid/admin/v1/monitoring_service_pb.ts";
import { type JobCommands, jobCommands } from "../job-commands.ts";
import { stateName, styleOf, viewOf, whyNot } from "../job-view.ts";
import type { Column, Output } from "../output.ts";
import type { Session } from "../session.ts";
import { between, nameOf, nothing, time } from "../units.ts";

/** `lucid collection build …`. */
export function defineBuilds(command: Command, session: Session): void {
  const builds = buildCommands(session);
  builds.defineList(command, {
    columns: buildColumns,
    async page(page) {
      const response = await session.client(DatabaseAdminService).listIndexBuilds(page, session.call());
      return { items: response.builds, nextPageToken: response.nextPageToken };
    },
  });
  builds.define(command, { cancel: "Stop a build; indexes that are built stay" });
}

/** What commands do with jobs that build indexes. */
export function buildCommands(session: Session): JobCommands<typeof IndexBuildSchema> {
  const client = () => session.client(DatabaseAdminService);
  return jobCommands(session, {
    noun: "build",
    path: "lucid collection build",
    schema: IndexBuildSchema,
    eventSchema: WatchIndexBuildResponseSchema,
    idOf: ({ buildId }) => buildId,
    get: async (buildId, call) => (await client().getIndexBuild({ buildId }, call)).build,
    watch: (buildId, afterSequence, call) => client().watchIndexBuild({ buildId, afterSequence }, call),
    cancel: async (buildId, call) => (await client().cancelIndexBuild({ buildId }, call)).build,
    view: (event) => {
      const { phase = "", percent = 0, doneCount: done = 0n, totalCount: total = 0n } = event.progress ?? {};
      return viewOf(event, { phase, percent, done, total });
    },
    show: (build) => showBuild(session.output, build),
  });
}

async function showBuild(output: Output, build: IndexBuild): Promise<void> {
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
}

const buildColumns: readonly Column<IndexBuild>[] = [
  { title: "BUILD", of: ({ buildId }) => buildId },
  { title: "DOES", of: ({ type }) => nameOf(IndexBuildTypeSchema, type) },
  { title: "COLLECTION", of: ({ collection }) => collection || nothing },
  { title: "STATE", of: ({ state }) => stateName(state), style: ({ state }) => styleOf(state) },
  { title: "CREATED", of: ({ createTime }) => time(createTime) },
  { title: "PROBLEM", of: ({ error }) => error?.reason ?? nothing, mayBeCut: true },
];
