import type { Client } from "@connectrpc/connect";
import { Code } from "@connectrpc/connect";
import { afterAll, beforeAll, expect, test } from "vitest";

import { BackupService, BackupType, JobState } from "../../gen/lucid/admin/v1/backup_service_pb.ts";
import { Store } from "../../gen/lucid/admin/v1/common_pb.ts";
import { type TestApp, testApp } from "../support/app.ts";
import { backupRig, eventsOf, refusal } from "./support.ts";

let app: TestApp;
beforeAll(async () => {
  app = await testApp();
});
afterAll(async () => app[Symbol.asyncDispose]());

type Backups = Client<typeof BackupService>;

const backupId = "01890000-0000-7000-8000-000000000000";
const badId = "not a uuid";
const heartbeatInterval = { seconds: 0n, nanos: 1000 };

/** Calls of every rpc that are refused: why, and the fields that are named. */
const refused: readonly (readonly [string, (backups: Backups) => Promise<unknown>, string, Code, readonly string[]])[] =
  [
    [
      "createBackup: description",
      (b) => b.createBackup({ description: "x".repeat(501) }),
      "BAD_REQUEST",
      Code.InvalidArgument,
      ["description"],
    ],
    [
      "createBackup: retention",
      (b) => b.createBackup({ retentionDays: 366 }),
      "BAD_REQUEST",
      Code.InvalidArgument,
      ["retention_days"],
    ],
    [
      "createBackup: request id",
      (b) => b.createBackup({ requestId: badId }),
      "BAD_REQUEST",
      Code.InvalidArgument,
      ["request_id"],
    ],
    [
      "createBackup: namespace",
      (b) => b.createBackup({ selection: { stores: [Store.MONGODB], mongodbNamespaces: ["ok", "local.x"] } }),
      "BAD_REQUEST",
      Code.InvalidArgument,
      ["selection.mongodb_namespaces[1]"],
    ],
    [
      "createBackup: type",
      (b) => b.createBackup({ type: BackupType.INCREMENTAL, selection: { stores: [Store.MONGODB] } }),
      "BACKUP_TYPE_NOT_SUPPORTED",
      Code.FailedPrecondition,
      [],
    ],
    ["watchBackup: unknown", (b) => eventsOf(b.watchBackup({ backupId })), "BACKUP_NOT_FOUND", Code.NotFound, []],
    [
      "watchBackup: heartbeat",
      (b) => eventsOf(b.watchBackup({ backupId, heartbeatInterval })),
      "BAD_REQUEST",
      Code.InvalidArgument,
      ["heartbeat_interval"],
    ],
    ["getBackup: unknown", (b) => b.getBackup({ backupId }), "BACKUP_NOT_FOUND", Code.NotFound, []],
    [
      "listBackups: page size",
      (b) => b.listBackups({ pageSize: -1 }),
      "BAD_REQUEST",
      Code.InvalidArgument,
      ["page_size"],
    ],
    [
      "listBackups: page token",
      (b) => b.listBackups({ pageToken: "x" }),
      "PAGE_TOKEN_INVALID",
      Code.InvalidArgument,
      ["page_token"],
    ],
    ["cancelBackup: unknown", (b) => b.cancelBackup({ backupId }), "BACKUP_NOT_FOUND", Code.NotFound, []],
    [
      "deleteBackup: unknown",
      (b) => b.deleteBackup({ backupId, confirmBackupId: backupId }),
      "BACKUP_NOT_FOUND",
      Code.NotFound,
      [],
    ],
    ["verifyBackup: unknown", (b) => b.verifyBackup({ backupId }), "BACKUP_NOT_FOUND", Code.NotFound, []],
    [
      "verifyBackup: request id",
      (b) => b.verifyBackup({ backupId, requestId: badId }),
      "BAD_REQUEST",
      Code.InvalidArgument,
      ["request_id"],
    ],
    [
      "watchVerification: unknown",
      (b) => eventsOf(b.watchVerification({ verificationId: backupId })),
      "VERIFICATION_NOT_FOUND",
      Code.NotFound,
      [],
    ],
    [
      "getVerification: unknown",
      (b) => b.getVerification({ verificationId: backupId }),
      "VERIFICATION_NOT_FOUND",
      Code.NotFound,
      [],
    ],
    [
      "cancelVerification: unknown",
      (b) => b.cancelVerification({ verificationId: backupId }),
      "VERIFICATION_NOT_FOUND",
      Code.NotFound,
      [],
    ],
    ["createRestore: unknown", (b) => b.createRestore({ backupId }), "BACKUP_NOT_FOUND", Code.NotFound, []],
    [
      "createRestore: rename",
      (b) => b.createRestore({ backupId, renames: [{ from: "a", to: "b" }] }),
      "BAD_REQUEST",
      Code.InvalidArgument,
      ["renames[0].store"],
    ],
    [
      "watchRestore: unknown",
      (b) => eventsOf(b.watchRestore({ restoreId: backupId })),
      "RESTORE_NOT_FOUND",
      Code.NotFound,
      [],
    ],
    ["getRestore: unknown", (b) => b.getRestore({ restoreId: backupId }), "RESTORE_NOT_FOUND", Code.NotFound, []],
    [
      "listRestores: page token",
      (b) => b.listRestores({ pageToken: "x" }),
      "PAGE_TOKEN_INVALID",
      Code.InvalidArgument,
      ["page_token"],
    ],
    ["cancelRestore: unknown", (b) => b.cancelRestore({ restoreId: backupId }), "RESTORE_NOT_FOUND", Code.NotFound, []],
  ];

test.for(refused)("%s is refused on both listeners alike", async ([, call, reason, code, fields]) => {
  for (const backups of [app.client(BackupService), app.http(BackupService)]) {
    expect(await refusal(call(backups))).toEqual({ reason, code, fields: [...fields] });
  }
});

/** A database of a test's own, with something in it, as what a backup selects. */
async function smallSelection() {
  const database = app.databaseName();
  await app.mongodb.db(database).collection("some").insertOne({});
  return { stores: [Store.MONGODB], mongodbNamespaces: [database] };
}

test("a token of one list is none of another", async () => {
  const backups = app.client(BackupService);
  const selection = await smallSelection();
  const created = [await backups.createBackup({ selection }), await backups.createBackup({ selection })];
  for (const { backup } of created) await eventsOf(backups.watchBackup({ backupId: backup?.backupId ?? "" }));
  const { nextPageToken: pageToken } = await backups.listBackups({ pageSize: 1 });
  expect(pageToken).not.toBe("");
  expect((await refusal(backups.listRestores({ pageToken }))).reason).toBe("PAGE_TOKEN_INVALID");
  expect((await refusal(backups.listBackups({ pageToken, state: JobState.FAILED }))).reason).toBe("PAGE_TOKEN_INVALID");
  expect((await backups.listBackups({ pageToken })).backups).toHaveLength(1);
});

test("a replica that goes away ends its watches, and the next one goes on with the same events", async () => {
  await using rig = await backupRig(); // whose repository and database the two share
  const { dir, keyFile, database } = rig;
  const shared = {
    LUCID_MONGODB_SYSTEM_DATABASE: database,
    LUCID_BACKUP_DIR: dir,
    LUCID_BACKUP_KEY_FILE: keyFile,
  };
  await using leaving = await testApp(shared);
  await using staying = await testApp(shared);
  const { backup } = await leaving.client(BackupService).createBackup({ selection: await smallSelection() });
  const id = backup?.backupId ?? "";
  const seen: bigint[] = [];
  const first = async (): Promise<void> => {
    for await (const { event } of leaving.client(BackupService).watchBackup({ backupId: id })) {
      seen.push(event?.sequence ?? 0n);
      if (seen.length === 1) void leaving.drain(0);
    }
  };
  expect(await refusal(first())).toMatchObject({ reason: "WATCH_INTERRUPTED", code: Code.Unavailable });
  const rest = await eventsOf(
    staying.client(BackupService).watchBackup({ backupId: id, afterSequence: seen.at(-1) ?? 0n }),
  );
  expect(rest.at(-1)?.state).toBe(JobState.SUCCEEDED);
  seen.push(...rest.map(({ sequence }) => sequence));
  expect(seen).toEqual(seen.map((_, index) => BigInt(index + 1)));
});
