import type { Command } from "commander";

import {
  BackupService,
  ConflictPolicySchema,
  GetRestoreResponseSchema,
  type JobState,
  JobStateSchema,
  type Restore,
  type RestoredUnit,
  RestoreSchema,
  type WatchRestoreResponse,
  WatchRestoreResponseSchema,
} from "../../../gen/lucid/admin/v1/backup_service_pb.ts";
import { enumOption } from "../choices.ts";
import { withExamples } from "../examples.ts";
import {
  followJob,
  followOptions,
  stateName,
  storeName,
  styleOf,
  viewOf,
  type WatchOptions,
  whyNot,
  withWatchOptions,
} from "../jobs.ts";
import { showList, withLimit } from "../lists.ts";
import type { Column } from "../output.ts";
import type { Session } from "../session.ts";
import { between, count, nameOf, nothing, time } from "../units.ts";

/** `lucid restore …`. */
export function define(restore: Command, session: Session): void {
  const client = () => session.client(BackupService);

  withExamples(
    withLimit(restore.command("ls"))
      .description("List restores, the newest first")
      .option("--backup <backup>", "only those of this backup")
      .addOption(enumOption("--state <state>", "only those in this state", JobStateSchema))
      .action(async (options: { limit: number; backup?: string; state?: JobState }) => {
        const { limit, backup: backupId = "", state } = options;
        await showList(session, {
          schema: RestoreSchema,
          limit,
          columns: restoreColumns,
          none: "There are no such restores; `lucid backup restore` begins one.",
          async page(page) {
            const filter = { backupId, ...(state !== undefined && { state }) };
            const { restores, nextPageToken } = await client().listRestores({ ...filter, ...page }, session.call());
            return { items: restores, nextPageToken };
          },
        });
      }),
    "lucid restore ls",
    "lucid restore ls --state failed",
  );

  withExamples(
    restore
      .command("show")
      .description("Show one restore, and what it has put in place")
      .argument("<restore>", "id of the restore")
      .action(async (restoreId: string) => showRestore(session, restoreId)),
    "lucid restore show 019ab0f2-…",
  );

  withExamples(
    withWatchOptions(restore.command("watch"))
      .description("Show how far a restore is until it has ended, and end as it did")
      .argument("<restore>", "id of the restore")
      .action(async (restoreId: string, options: WatchOptions) => followRestore(session, restoreId, options)),
    "lucid restore watch 019ab0f2-…",
  );

  withExamples(
    restore
      .command("cancel")
      .description("Stop a restore; its report says what is in place")
      .argument("<restore>", "id of the restore")
      .action(async (restoreId: string) => {
        const { restore: cancelled } = await client().cancelRestore({ restoreId }, session.call());
        if (cancelled === undefined) return;
        if (session.output.json) await session.output.message(RestoreSchema, cancelled);
        else session.output.note(`The restore is ${stateName(cancelled.state)}.`);
      }),
    "lucid restore cancel 019ab0f2-…",
  );
}

/** Shows how far a restore is until it has ended. */
export async function followRestore(session: Session, restoreId: string, options: WatchOptions): Promise<void> {
  const client = session.client(BackupService);
  const job = {
    kind: "restore",
    id: restoreId,
    watch: (afterSequence: bigint) => client.watchRestore({ restoreId, afterSequence }, session.stream()),
    view: ({ event }: WatchRestoreResponse) => viewOf(event),
    write: (response: WatchRestoreResponse) => session.output.message(WatchRestoreResponseSchema, response),
    watchCommand: `lucid restore watch ${restoreId}`,
    cancelCommand: `lucid restore cancel ${restoreId}`,
  };
  await followJob(session, job, followOptions(options));
}

/** Shows a restore with its report. */
export async function showRestore(session: Session, restoreId: string): Promise<void> {
  const { output } = session;
  const response = await session.client(BackupService).getRestore({ restoreId }, session.call());
  if (output.json) return output.message(GetRestoreResponseSchema, response);
  const { restore } = response;
  if (restore === undefined) return;
  await output.facts([
    ["restore", restore.restoreId],
    ["backup", restore.backupId],
    ["state", stateName(restore.state), styleOf(restore.state)],
    ["on conflict", nameOf(ConflictPolicySchema, restore.conflictPolicy)],
    ["begun", time(restore.startTime)],
    ["took", between(restore.startTime, restore.endTime)],
    restore.error === undefined ? undefined : ["problem", whyNot(restore.error), "red"],
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
