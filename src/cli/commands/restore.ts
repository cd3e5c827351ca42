import type { Command } from "commander";

import {
  BackupService,
  ConflictPolicySchema,
  type JobState,
  JobStateSchema,
  type Restore,
  type RestoredUnit,
  RestoreSchema,
  WatchRestoreResponseSchema,
} from "../../../gen/lucid/admin/v1/backup_service_pb.ts";
import { enumOption } from "../choices.ts";
import { type JobCommands, jobCommands } from "../job-commands.ts";
import { stateName, storeName, styleOf, viewOfStores, whyNot } from "../job-view.ts";
import type { Column, Output } from "../output.ts";
import type { Session } from "../session.ts";
import { between, count, nameOf, nothing, time } from "../units.ts";

/** `lucid restore …`. */
export function define(command: Command, session: Session): void {
  const restores = restoreCommands(session);
  restores.defineList(command, {
    columns: restoreColumns,
    none: "There are no such restores; `lucid backup restore` begins one.",
    withFilter: (ls) =>
      ls
        .option("--backup <backup>", "only those of this backup")
        .addOption(enumOption("--state <state>", "only those in this state", JobStateSchema)),
    async page(page, { backup: backupId = "", state }: { backup?: string; state?: JobState }) {
      const request = { backupId, ...(state !== undefined && { state }), ...page };
      const response = await session.client(BackupService).listRestores(request, session.call());
      return { items: response.restores, nextPageToken: response.nextPageToken };
    },
    examples: ["lucid restore ls --state failed"],
  });
  restores.define(command, {
    show: "Show one restore, and what it has put in place",
    cancel: "Stop a restore; its report says what is in place",
  });
}

/** What commands do with restores. */
export function restoreCommands(session: Session): JobCommands<typeof RestoreSchema> {
  const client = () => session.client(BackupService);
  return jobCommands(session, {
    noun: "restore",
    path: "lucid restore",
    schema: RestoreSchema,
    eventSchema: WatchRestoreResponseSchema,
    idOf: ({ restoreId }) => restoreId,
    get: async (restoreId, call) => (await client().getRestore({ restoreId }, call)).restore,
    watch: (restoreId, afterSequence, call) => client().watchRestore({ restoreId, afterSequence }, call),
    cancel: async (restoreId, call) => (await client().cancelRestore({ restoreId }, call)).restore,
    view: viewOfStores,
    show: (restore) => showRestore(session.output, restore),
    isShownAtEnd: true,
  });
}

async function showRestore(output: Output, restore: Restore): Promise<void> {
  await output.facts([
    ["restore", restore.restoreId],
    ["backup", restore.backupId],
    ["state", stateName(restore.state), styleOf(restore.state)],
    ["on conflict", nameOf(ConflictPolicySchema, restore.conflictPolicy)],
    ["begun", time(restore.startTime)],
    ["took", between(restore.startTime, restore.endTime)],
    restore.error && ["problem", whyNot(restore.error), "red"],
  ]);
  if (restore.report.length === 0) return;
  await output.line();
  await output.table(restore.report, reportColumns);
}

const restoreColumns: readonly Column<Restore>[] = [
  { title: "RESTORE", of: ({ restoreId }) => restoreId },
  { title: "STATE", of: ({ state }) => stateName(state), style: ({ state }) => styleOf(state) },
  { title: "BACKUP", of: ({ backupId }) => backupId },
  { title: "CREATED", of: ({ createTime }) => time(createTime) },
  { title: "TOOK", of: ({ startTime, endTime }) => between(startTime, endTime), align: "right" },
  { title: "ITEMS", of: ({ progress }) => count(progress?.itemsDone ?? 0n), align: "right" },
  { title: "PROBLEM", of: ({ error }) => error?.reason ?? nothing, mayBeCut: true },
];

const reportColumns: readonly Column<RestoredUnit>[] = [
  { title: "STORE", of: ({ store }) => storeName(store) },
  { title: "FROM", of: ({ source }) => source },
  { title: "TO", of: ({ target }) => target },
  { title: "EXPECTED", of: ({ expectedItems }) => count(expectedItems), align: "right" },
  { title: "WRITTEN", of: ({ writtenItems }) => count(writtenItems), align: "right" },
  { title: "SKIPPED", of: ({ skippedItems }) => count(skippedItems), align: "right" },
  { title: "EQUAL", of: ({ equal }) => (equal ? "yes" : "no"), style: ({ equal }) => (equal ? "green" : "red") },
  { title: "REMARK", of: ({ remark }) => remark || nothing, mayBeCut: true },
];
