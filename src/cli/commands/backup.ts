import { randomUUID } from "node:crypto";

import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { type Command, InvalidArgumentError, Option } from "commander";

import {
  type Backup,
  BackupSchema,
  BackupService,
  ConflictPolicy,
  ConflictPolicySchema,
  CreateRestoreResponseSchema,
  DeleteBackupResponseSchema,
  JobState,
  JobStateSchema,
  WatchBackupResponseSchema,
} from "../../../gen/lucid/admin/v1/backup_service_pb.ts";
import { Store, StoreSchema } from "../../../gen/lucid/admin/v1/common_pb.ts";
import { choicesOf, enumOption, enumsOption } from "../choices.ts";
import { withExamples } from "../examples.ts";
import { type JobCommands, jobCommands } from "../job-commands.ts";
import { stateName, storeName, styleOf, viewOfStores, whyNot } from "../job-view.ts";
import type { Column, Output } from "../output.ts";
import type { Session } from "../session.ts";
import { between, bytes, count, many, nothing, readMoment, readNumber, time } from "../units.ts";
import { restoreCommands } from "./restore.ts";
import { defineVerification, verificationCommands } from "./verification.ts";

/** Stores by the names that options take. */
const stores = choicesOf(StoreSchema);

interface Selected {
  readonly store?: readonly Store[];
  readonly namespace?: readonly string[];
  readonly keys?: readonly string[];
  readonly index?: readonly string[];
  readonly volume?: readonly string[];
}

interface Wanted {
  readonly store?: Store;
  readonly state?: JobState;
  readonly after?: Date;
  readonly before?: Date;
}

/** `lucid backup …`. */
export function define(backup: Command, session: Session): void {
  const client = () => session.client(BackupService);
  const backups = backupCommands(session);

  withExamples(
    withSelection(backup.command("create"))
      .description("Take a backup")
      .option("--description <text>", "a note for people")
      .addOption(
        new Option("--keep <days>", "how many days it is kept; 0 keeps it until it is deleted")
          .argParser(readNumber(0, 365))
          .default(0),
      )
      .option("-w, --watch", "show how far it is until it has ended, and end as it did")
      .action(async (options: Selected & { description?: string; keep: number; watch?: boolean }) => {
        const { description = "", keep: retentionDays } = options;
        const request = { selection: selectionOf(options), description, retentionDays, requestId: randomUUID() };
        const response = await client().createBackup(request, session.call());
        await backups.begun(response.backup, options);
      }),
    "lucid backup create --watch",
    "lucid backup create --store mongodb --namespace lucid --description 'before the move'",
    "lucid backup create --store volumes --volume recordings --watch",
    "ID=$(lucid backup create)   # the id alone goes to stdout",
  );

  backups.defineList(backup, {
    columns: backupColumns,
    none: "There are no such backups; `lucid backup create` takes one.",
    withFilter: (ls) =>
      ls
        .addOption(enumOption("--store <store>", "only those that hold this store", StoreSchema))
        .addOption(enumOption("--state <state>", "only those in this state", JobStateSchema))
        .option("--after <time>", "only those of this time or later: 2026-11-28, or 7d for seven days ago", readMoment)
        .option("--before <time>", "only those of before this time", readMoment),
    async page(page, { store, state, after, before }: Wanted) {
      const filter = {
        ...(store !== undefined && { store }),
        ...(state !== undefined && { state }),
        ...(after && { createdAfter: timestampFromDate(after) }),
        ...(before && { createdBefore: timestampFromDate(before) }),
      };
      const response = await client().listBackups({ ...filter, ...page }, session.call());
      if (response.repositoryOnly && page.pageToken === "") {
        session.output.note("MongoDB is away: only backups in the repository are shown.");
      }
      return { items: response.backups, nextPageToken: response.nextPageToken };
    },
    examples: ["lucid backup ls --state failed --after 7d", "lucid backup ls --json | jq -r .backupId"],
  });
  backups.define(backup, { cancel: "Stop a backup that is being taken" });

  withExamples(
    backup
      .command("verify")
      .description("Read a backup again, all of it or a share, and check every checksum")
      .argument("<backup>", "id of the backup")
      .option(
        "--percent <number>",
        "read the content of so much of it, by chance; 0 looks only at what is there",
        readNumber(0, 100),
      )
      .option("-w, --watch", "show how far it is until it has ended, and end as it did")
      .action(async (backupId: string, options: { percent?: number; watch?: boolean }) => {
        const { percent: readPercent } = options;
        const request = { backupId, requestId: randomUUID(), ...(readPercent !== undefined && { readPercent }) };
        const response = await client().verifyBackup(request, session.call());
        await verificationCommands(session).begun(response.verification, options);
      }),
    "lucid backup verify 019ab0f2-… --watch",
    "lucid backup verify 019ab0f2-… --percent 5   # each night; in time that comes to all",
  );

  defineVerification(backup.command("verification").description("Show, watch and cancel verifications"), session);

  withExamples(
    withSelection(backup.command("restore"))
      .description("Bring the data of a backup back, whole or in part, into the same or other names")
      .argument("<backup>", "id of the backup")
      .option("--rename <store:from=to>", "restore under another name, for example mongodb:lucid=lucid_new", readRename)
      .addOption(
        enumOption(
          "--conflict <policy>",
          "what becomes of what is there already; drop and overwrite need a confirmation",
          ConflictPolicySchema,
        ).default(ConflictPolicy.FAIL, "fail"),
      )
      .option("--dry-run", "check all that can be checked, and change nothing")
      .option("-w, --watch", "show how far it is until it has ended, and end as it did")
      .action(async (backupId: string, options: RestoreOptions) => restore(session, backupId, options)),
    "lucid backup restore 019ab0f2-… --rename mongodb:lucid=lucid_restored --store mongodb --watch",
    "lucid backup restore 019ab0f2-… --namespace lucid.users --store mongodb --conflict drop --dry-run",
    "lucid backup restore 019ab0f2-… --conflict drop --yes --watch   # after a loss",
  );

  withExamples(
    backup
      .command("rm")
      .description("Delete a backup, and what no other backup needs of its data")
      .argument("<backup>", "id of the backup")
      .option("--dry-run", "only say what would become free")
      .action(async (backupId: string, { dryRun = false }: { dryRun?: boolean }) => {
        const asked = { backupId, confirmBackupId: backupId };
        const would = await client().deleteBackup({ backupId, validateOnly: true }, session.call());
        if (!dryRun) await session.confirm(`This deletes the backup and frees ${bytes(would.freedBytes)}`, backupId);
        const response = dryRun ? would : await client().deleteBackup(asked, session.call());
        if (session.output.json) await session.output.message(DeleteBackupResponseSchema, response);
        else session.output.note(`${dryRun ? "It would free" : "Deleted; freed"} ${bytes(response.freedBytes)}.`);
      }),
    "lucid backup rm 019ab0f2-…",
    "lucid backup rm 019ab0f2-… --yes",
  );
}

/** What commands do with backups. */
function backupCommands(session: Session): JobCommands<typeof BackupSchema> {
  const client = () => session.client(BackupService);
  return jobCommands(session, {
    noun: "backup",
    path: "lucid backup",
    schema: BackupSchema,
    eventSchema: WatchBackupResponseSchema,
    idOf: ({ backupId }) => backupId,
    get: async (backupId, call) => (await client().getBackup({ backupId }, call)).backup,
    watch: (backupId, afterSequence, call) => client().watchBackup({ backupId, afterSequence }, call),
    cancel: async (backupId, call) => (await client().cancelBackup({ backupId }, call)).backup,
    view: viewOfStores,
    show: (backup) => showBackup(session.output, backup),
    isShownAtEnd: true,
  });
}

async function showBackup(output: Output, backup: Backup): Promise<void> {
  const { selection, consistencyPoint } = backup;
  // Only MongoDB has a point in time that a backup can be of.
  const cut = selection?.stores.includes(Store.MONGODB) === true ? consistencyPoint : undefined;
  const selected = [
    ...(selection?.mongodbNamespaces ?? []),
    ...(selection?.redisKeyPatterns ?? []),
    ...(selection?.searchIndices ?? []),
    ...(selection?.volumes ?? []),
  ];
  await output.facts([
    ["backup", backup.backupId],
    ["state", stateName(backup.state), styleOf(backup.state)],
    ["stores", storesOf(backup)],
    selected.length === 0 ? undefined : ["selected", selected.join(", ")],
    backup.description === "" ? undefined : ["description", backup.description],
    ["created", time(backup.createTime)],
    ["took", between(backup.startTime, backup.endTime)],
    ["items", count(backup.itemCount)],
    ["size", `${bytes(backup.logicalBytes)}, of which ${bytes(backup.storedBytes)} were added to the repository`],
    backup.state === JobState.SUCCEEDED ? ["encrypted", backup.encrypted ? "yes" : "no"] : undefined,
    ["kept until", backup.expireTime === undefined ? "it is deleted" : time(backup.expireTime)],
    consistencyPoint?.mongodbTime && ["MongoDB as of", time(consistencyPoint.mongodbTime)],
    cut && ["consistent", cut.mongodbConsistent ? "yes" : "no: the server tells no changes"],
    backup.rootHash === "" ? undefined : ["root hash", backup.rootHash],
    backup.error && ["problem", whyNot(backup.error), "red"],
  ]);
}

function storesOf({ selection }: Backup): string {
  return (selection?.stores ?? []).map(storeName).join(", ") || "all";
}

const backupColumns: readonly Column<Backup>[] = [
  { title: "BACKUP", of: ({ backupId }) => backupId },
  { title: "STATE", of: ({ state }) => stateName(state), style: ({ state }) => styleOf(state) },
  { title: "CREATED", of: ({ createTime }) => time(createTime) },
  { title: "TOOK", of: ({ startTime, endTime }) => between(startTime, endTime), align: "right" },
  { title: "ITEMS", of: ({ itemCount }) => count(itemCount), align: "right" },
  { title: "SIZE", of: ({ logicalBytes }) => bytes(logicalBytes), align: "right" },
  { title: "STORED", of: ({ storedBytes }) => bytes(storedBytes), align: "right" },
  { title: "STORES", of: storesOf },
  {
    title: "DESCRIPTION",
    of: ({ description, error }) => (error === undefined ? description : error.reason) || nothing,
    mayBeCut: true,
  },
];

interface RestoreOptions extends Selected {
  readonly rename?: readonly { readonly store: Store; readonly from: string; readonly to: string }[];
  readonly conflict: ConflictPolicy;
  readonly dryRun?: boolean;
  readonly watch?: boolean;
}

async function restore(session: Session, backupId: string, options: RestoreOptions): Promise<void> {
  const { output } = session;
  const { rename = [], conflict, dryRun = false } = options;
  const changesWhatIsThere = conflict === ConflictPolicy.DROP || conflict === ConflictPolicy.OVERWRITE;
  if (changesWhatIsThere && !dryRun) {
    const what =
      conflict === ConflictPolicy.DROP
        ? "drops what is there under these names"
        : "overwrites documents and keys that are there";
    await session.confirm(`This restore ${what}`, backupId);
  }
  const request = {
    backupId,
    selection: selectionOf(options),
    renames: [...rename],
    conflictPolicy: conflict,
    confirmBackupId: changesWhatIsThere ? backupId : "",
    ...(dryRun ? { validateOnly: true } : { requestId: randomUUID() }),
  };
  const response = await session.client(BackupService).createRestore(request, session.call());
  if (!dryRun) return restoreCommands(session).begun(response.restore, options);
  if (output.json) await output.message(CreateRestoreResponseSchema, response);
  else output.note("The restore could begin; nothing was changed.");
}

/** Adds the options that say what of the stores is meant. */
function withSelection(command: Command): Command {
  return command
    .addOption(enumsOption("--store <store>", "only this store", StoreSchema))
    .option(
      "--namespace <name>",
      "only this database, or database.collection, of MongoDB; may be given many times",
      many,
    )
    .option("--keys <pattern>", "only keys of Redis that match this pattern; may be given many times", many)
    .option("--index <name>", "only search indices of this name, * for any characters; may be given many times", many)
    .option("--volume <name>", "only this volume, with --store volumes; may be given many times", many);
}

function selectionOf({ store = [], namespace = [], keys = [], index = [], volume = [] }: Selected) {
  return {
    stores: [...store],
    mongodbNamespaces: [...namespace],
    redisKeyPatterns: [...keys],
    searchIndices: [...index],
    volumes: [...volume],
  };
}

function readRename(text: string, all: RestoreOptions["rename"] = []): RestoreOptions["rename"] {
  const [, name = "", from = "", to = ""] = /^(\w+):([^=]*)=(.*)$/s.exec(text) ?? [];
  const store = stores.get(name) as Store | undefined; // the map is of that enum
  if (store === undefined)
    throw new InvalidArgumentError(`Write it as STORE:FROM=TO; a store is one of ${[...stores.keys()].join(", ")}.`);
  return [...all, { store, from, to }];
}
