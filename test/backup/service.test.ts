import { Code } from "@connectrpc/connect";
import { expect, test } from "vitest";

import { BackupType, ConflictPolicy, JobPhase, JobState } from "../../gen/lucid/admin/v1/backup_service_pb.ts";
import { Store } from "../../gen/lucid/admin/v1/common_pb.ts";
import { gate, gatedSource, gatedTarget, plainSource, plainTarget } from "./fixtures.ts";
import { type BackupRig, backupRig, eventsOf, reason, refusal, takenBackup } from "./support.ts";

test("a backup is taken, watched, listed, verified, restored and deleted", async () => {
  await using rig = await backupRig();
  const db = await rig.filled(300);
  const { client } = await rig.replica({ sources: [plainSource(db)], targets: [plainTarget(db.client)] });

  const selection = { stores: [Store.MONGODB] };
  const { backup: asked } = await client.createBackup({ selection, description: "the first", retentionDays: 30 });
  const backupId = asked?.backupId ?? "";
  expect(asked).toMatchObject({ state: JobState.PENDING, type: BackupType.FULL, description: "the first" });

  const events = await eventsOf(client.watchBackup({ backupId }));
  expect(events.map(({ sequence }) => sequence)).toEqual(events.map((_, index) => BigInt(index + 1)));
  expect(events.at(-1)).toMatchObject({
    state: JobState.SUCCEEDED,
    progress: { percent: 100, itemsDone: 301n, itemsTotal: 301n },
  });
  // One that is over before the store has taken the one before is not told.
  const phases = [...new Set(events.flatMap(({ progress }) => progress?.phase ?? []))];
  expect(phases).toContain(JobPhase.COPYING);
  const inOrder = [JobPhase.COPYING, JobPhase.CUTTING, JobPhase.SEALING];
  expect(inOrder.filter((phase) => phases.includes(phase))).toEqual(phases);

  const { backup } = await client.getBackup({ backupId });
  expect(backup).toMatchObject({
    state: JobState.SUCCEEDED,
    itemCount: 301n,
    encrypted: true,
    description: "the first",
  });
  expect(backup?.rootHash).toMatch(/^[0-9a-f]{64}$/);
  expect(backup?.selection?.stores).toEqual([Store.MONGODB]);
  expect(Number((backup?.expireTime?.seconds ?? 0n) - (backup?.createTime?.seconds ?? 0n))).toBe(30 * 86_400);
  expect((await client.listBackups({})).backups).toEqual([backup]);

  const { verification } = await client.verifyBackup({ backupId });
  const verificationId = verification?.verificationId ?? "";
  const checks = await eventsOf(client.watchVerification({ verificationId }));
  expect(checks.at(-1)).toMatchObject({ state: JobState.SUCCEEDED, progress: { itemsDone: 301n } });
  expect((await client.getVerification({ verificationId })).verification).toMatchObject({
    backupId,
    state: JobState.SUCCEEDED,
  });

  const to = rig.databaseName();
  const renames = [{ store: Store.MONGODB, from: db.databaseName, to }];
  expect((await client.createRestore({ backupId, renames, validateOnly: true })).restore?.restoreId).toBe("");
  const { restore } = await client.createRestore({ backupId, renames });
  const restoreId = restore?.restoreId ?? "";
  const steps = await eventsOf(client.watchRestore({ restoreId }));
  const percents = steps.map(({ progress }) => progress?.percent ?? 0);
  expect(percents).toEqual(percents.toSorted((one, other) => one - other));
  expect(steps.at(-1)).toMatchObject({ state: JobState.SUCCEEDED, progress: { percent: 100 } });
  const { restore: done } = await client.getRestore({ restoreId });
  expect(done).toMatchObject({ backupId, state: JobState.SUCCEEDED, conflictPolicy: ConflictPolicy.FAIL });
  expect(done?.report).toMatchObject([
    { source: `${db.databaseName}.first`, target: `${to}.first`, expectedItems: 300n, equalItems: 300n, equal: true },
    { source: `${db.databaseName}.second`, target: `${to}.second`, equal: true },
  ]);
  expect(await db.client.db(to).collection("first").countDocuments()).toBe(300);
  expect((await client.listRestores({ backupId })).restores.map((one) => one.restoreId)).toEqual([restoreId]);
  expect((await client.listRestores({ backupId: "another" })).restores).toEqual([]);

  const { freedBytes: wouldFree } = await client.deleteBackup({ backupId, validateOnly: true });
  const { freedBytes } = await client.deleteBackup({ backupId, confirmBackupId: backupId });
  expect(freedBytes).toBeGreaterThanOrEqual(wouldFree);
  expect((await client.listBackups({})).backups).toEqual([]);
  expect(await reason(client.getBackup({ backupId }))).toBe("BACKUP_NOT_FOUND");
});

test.for([
  [
    { selection: { mongodbNamespaces: ["fine", "a/b.c", "admin"] } },
    ["selection.mongodb_namespaces[1]", "selection.mongodb_namespaces[2]"],
  ],
  [{ selection: { mongodbNamespaces: ["lucid_system.jobs"] } }, ["selection.mongodb_namespaces[0]"]],
  [{ selection: { mongodbNamespaces: [".c"] } }, ["selection.mongodb_namespaces[0]"]],
  [{ selection: { mongodbNamespaces: [`d.${"c".repeat(254)}`] } }, ["selection.mongodb_namespaces[0]"]],
  [
    { selection: { searchIndices: ["Upper", "fine-*", "-minus"] } },
    ["selection.search_indices[0]", "selection.search_indices[2]"],
  ],
  [{ selection: { stores: [Store.REDIS], searchIndices: ["x"] } }, ["selection.search_indices"]],
] as const)("a bad selection is refused with its fields: %j", async ([{ selection }, fields]) => {
  await using rig = await backupRig();
  const { client } = await rig.replica({ start: false });
  const given = Object.fromEntries(Object.entries(selection).map(([name, values]) => [name, [...values]]));
  expect(await refusal(client.createBackup({ selection: given }))).toEqual({
    reason: "BAD_REQUEST",
    code: Code.InvalidArgument,
    fields,
  });
});

test("types that are not supported are refused, never something else done", async () => {
  await using rig = await backupRig();
  const { client } = await rig.replica({ start: false });
  for (const type of [BackupType.INCREMENTAL, BackupType.DIFFERENTIAL]) {
    expect(await refusal(client.createBackup({ type }))).toMatchObject({
      reason: "BACKUP_TYPE_NOT_SUPPORTED",
      code: Code.FailedPrecondition,
    });
  }
});

test("a backup of nothing fails", async () => {
  await using rig = await backupRig();
  const db = await rig.filled(1);
  const { client } = await rig.replica({ sources: [plainSource(db.client.db(rig.databaseName()))] });
  const { backup } = await client.createBackup({});
  const backupId = backup?.backupId ?? "";
  const events = await eventsOf(client.watchBackup({ backupId }));
  expect(events.at(-1)).toMatchObject({ state: JobState.FAILED, error: { reason: "BACKUP_SELECTION_EMPTY" } });
  // It is listed, as what it is, and is good for nothing.
  expect((await client.listBackups({})).backups).toMatchObject([{ backupId, state: JobState.FAILED }]);
  expect((await client.getBackup({ backupId })).backup).toMatchObject({
    rootHash: "",
    error: { reason: "BACKUP_SELECTION_EMPTY" },
  });
  expect(await reason(client.verifyBackup({ backupId }))).toBe("BACKUP_NOT_COMPLETE");
  expect(await reason(client.createRestore({ backupId }))).toBe("BACKUP_NOT_COMPLETE");
  expect(await reason(client.deleteBackup({ backupId }))).toBe("BACKUP_NOT_COMPLETE");
  expect(await reason(client.cancelBackup({ backupId }))).toBe("JOB_ALREADY_FINISHED");
});

test("what is not there is not found, by every call", async () => {
  await using rig = await backupRig();
  const { client } = await rig.replica();
  const backupId = "none";
  const calls: [string, () => Promise<unknown>][] = [
    ["BACKUP_NOT_FOUND", () => client.getBackup({ backupId })],
    ["BACKUP_NOT_FOUND", () => client.cancelBackup({ backupId })],
    ["BACKUP_NOT_FOUND", () => client.deleteBackup({ backupId, confirmBackupId: backupId })],
    ["BACKUP_NOT_FOUND", () => client.verifyBackup({ backupId })],
    ["BACKUP_NOT_FOUND", () => client.createRestore({ backupId })],
    ["BACKUP_NOT_FOUND", () => eventsOf(client.watchBackup({ backupId }))],
    ["VERIFICATION_NOT_FOUND", () => client.getVerification({ verificationId: "none" })],
    ["VERIFICATION_NOT_FOUND", () => client.cancelVerification({ verificationId: "none" })],
    ["VERIFICATION_NOT_FOUND", () => eventsOf(client.watchVerification({ verificationId: "none" }))],
    ["RESTORE_NOT_FOUND", () => client.getRestore({ restoreId: "none" })],
    ["RESTORE_NOT_FOUND", () => client.cancelRestore({ restoreId: "none" })],
    ["RESTORE_NOT_FOUND", () => eventsOf(client.watchRestore({ restoreId: "none" }))],
  ];
  for (const [expected, call] of calls) {
    expect(await refusal(call())).toEqual({ reason: expected, code: Code.NotFound, fields: [] });
  }
});

test("a retry with the same request id returns what the first call made", async () => {
  await using rig = await backupRig();
  const db = await rig.filled(5);
  const { client } = await rig.replica({ sources: [plainSource(db)], targets: [plainTarget(db.client)] });
  const requestId = crypto.randomUUID();
  const many = await Promise.all(Array.from({ length: 8 }, () => client.createBackup({ requestId })));
  expect(new Set(many.map(({ backup }) => backup?.backupId)).size).toBe(1);
  expect(await reason(client.createBackup({ requestId, description: "another" }))).toBe("REQUEST_ID_REUSED");
  const backupId = many[0]?.backup?.backupId ?? "";
  await eventsOf(client.watchBackup({ backupId }));
  expect((await client.createBackup({ requestId })).backup).toMatchObject({ backupId, state: JobState.SUCCEEDED });

  const first = await client.verifyBackup({ backupId, requestId });
  const again = await client.verifyBackup({ backupId, requestId });
  expect(again.verification?.verificationId).toBe(first.verification?.verificationId);

  const renames = [{ store: Store.MONGODB, from: db.databaseName, to: rig.databaseName() }];
  const { restore } = await client.createRestore({ backupId, renames, requestId });
  await eventsOf(client.watchRestore({ restoreId: restore?.restoreId ?? "" }));
  await eventsOf(client.watchVerification({ verificationId: first.verification?.verificationId ?? "" }));
  await client.deleteBackup({ backupId, confirmBackupId: backupId });
  // Also where what it was made from is gone.
  expect((await client.createRestore({ backupId, renames, requestId })).restore?.restoreId).toBe(restore?.restoreId);
});

test("a restore is checked before there is a job", async () => {
  await using rig = await backupRig();
  const db = await rig.filled(5);
  const { client } = await rig.replica({ sources: [plainSource(db)], targets: [plainTarget(db.client)] });
  const backupId = await takenBackup(client);
  const name = db.databaseName;
  const rename = (from: string, to: string, store: Store = Store.MONGODB) => ({ store, from, to });
  type Request = Parameters<typeof client.createRestore>[0];
  const refused: [Request, string, string[]][] = [
    [{ selection: { stores: [Store.REDIS] } }, "BAD_REQUEST", ["selection.stores[0]"]],
    [{ selection: { mongodbNamespaces: [name, "other"] } }, "BAD_REQUEST", ["selection.mongodb_namespaces[1]"]],
    [{ selection: { searchIndices: ["x*"] } }, "BAD_REQUEST", ["selection.search_indices[0]"]],
    [{ renames: [rename(name, "a.b")] }, "BAD_REQUEST", ["renames[0].to"]],
    [{ renames: [rename("other", "new")] }, "BAD_REQUEST", ["renames[0].from"]],
    [{ renames: [rename(name, "lucid_system")] }, "BAD_REQUEST", ["renames[0].to"]],
    [{ renames: [rename(name, "admin")] }, "BAD_REQUEST", ["renames[0].to"]],
    [{ renames: [rename(`${name}.first`, "x.y"), rename(`${name}.second`, "x.y")] }, "BAD_REQUEST", ["renames"]],
    [{ renames: [rename("a*", "b", Store.SEARCH)] }, "BAD_REQUEST", ["renames[0].to", "renames[0].from"]],
    [{ conflictPolicy: ConflictPolicy.DROP }, "CONFIRMATION_MISMATCH", ["confirm_backup_id"]],
    [
      { conflictPolicy: ConflictPolicy.OVERWRITE, confirmBackupId: "x" },
      "CONFIRMATION_MISMATCH",
      ["confirm_backup_id"],
    ],
    [{ validateOnly: true }, "RESTORE_CONFLICT", []],
  ];
  for (const [request, expected, fields] of refused) {
    expect(await refusal(client.createRestore({ backupId, ...request }))).toMatchObject({ reason: expected, fields });
  }
  expect((await client.listRestores({})).restores).toEqual([]);
  // What the stores say is the job's to find out, and leaves them as they are.
  const { restore } = await client.createRestore({ backupId });
  const restoreId = restore?.restoreId ?? "";
  expect((await eventsOf(client.watchRestore({ restoreId }))).at(-1)).toMatchObject({
    error: { reason: "RESTORE_CONFLICT" },
  });
  expect((await client.getRestore({ restoreId })).restore?.report).toEqual([]);
  expect(await db.collection("first").countDocuments()).toBe(5);
});

test("what is written over is confirmed", async () => {
  await using rig = await backupRig();
  const db = await rig.filled(5);
  const { client } = await rig.replica({ sources: [plainSource(db)], start: true });
  const backupId = await takenBackup(client);
  expect(await refusal(client.deleteBackup({ backupId, confirmBackupId: "x" }))).toMatchObject({
    reason: "CONFIRMATION_MISMATCH",
    fields: ["confirm_backup_id"],
  });
  expect((await client.listBackups({})).backups).toHaveLength(1);
});

test("a backup is not deleted while something works on it", async () => {
  await using rig = await backupRig();
  const db = await rig.filled(5);
  const [copying, writing] = [gate(), gate()];
  const source = plainSource(db);
  const { client } = await rig.replica({ sources: [source], targets: [gatedTarget(plainTarget(db.client), writing)] });
  const backupId = await takenBackup(client);
  const renames = [{ store: Store.MONGODB, from: db.databaseName, to: rig.databaseName() }];
  const { restore } = await client.createRestore({ backupId, renames });
  await writing.reached;
  expect(await reason(client.deleteBackup({ backupId, confirmBackupId: backupId }))).toBe("BACKUP_IN_USE");
  expect(await reason(client.deleteBackup({ backupId, validateOnly: true }))).toBe("BACKUP_IN_USE");
  writing.open();
  await eventsOf(client.watchRestore({ restoreId: restore?.restoreId ?? "" }));
  await client.deleteBackup({ backupId, confirmBackupId: backupId });

  const slow = await rig.replica({ sources: [gatedSource(source, copying)], database: rig.databaseName() });
  const { backup } = await slow.client.createBackup({});
  await copying.reached;
  const running = backup?.backupId ?? "";
  expect(await reason(slow.client.deleteBackup({ backupId: running, confirmBackupId: running }))).toBe("BACKUP_IN_USE");
  copying.open();
  await eventsOf(slow.client.watchBackup({ backupId: running }));
});

test("a backup that is cancelled half-way is listed as that and nothing else", async () => {
  await using rig = await backupRig();
  const db = await rig.filled(50);
  const copying = gate();
  const { client } = await rig.replica({ sources: [gatedSource(plainSource(db), copying)] });
  const { backup } = await client.createBackup({});
  const backupId = backup?.backupId ?? "";
  await copying.reached;
  const { backup: asked } = await client.cancelBackup({ backupId });
  expect([JobState.CANCELLING, JobState.CANCELLED]).toContain(asked?.state);
  const events = await eventsOf(client.watchBackup({ backupId }));
  expect(events.at(-1)?.state).toBe(JobState.CANCELLED);
  expect((await client.cancelBackup({ backupId })).backup?.state).toBe(JobState.CANCELLED);
  expect((await client.listBackups({ state: JobState.SUCCEEDED })).backups).toEqual([]);
  expect((await client.listBackups({ state: JobState.CANCELLED })).backups).toMatchObject([{ backupId, rootHash: "" }]);
  copying.open();
  const next = await client.createBackup({});
  expect((await eventsOf(client.watchBackup({ backupId: next.backup?.backupId ?? "" }))).at(-1)?.state).toBe(
    JobState.SUCCEEDED,
  );
});

/** A restore that stands between its writes and their comparison. */
async function halfRestored(rig: BackupRig) {
  const db = await rig.filled(20);
  const writing = gate();
  const { client } = await rig.replica({
    sources: [plainSource(db)],
    targets: [gatedTarget(plainTarget(db.client), writing)],
  });
  const backupId = await takenBackup(client);
  const to = rig.databaseName();
  const { restore } = await client.createRestore({
    backupId,
    renames: [{ store: Store.MONGODB, from: db.databaseName, to }],
  });
  const restoreId = restore?.restoreId ?? "";
  await writing.reached;
  return { db, client, to, restoreId, writing };
}

test("a restore that is cancelled half-way says what is in place", async () => {
  await using rig = await backupRig();
  const { client, to, restoreId } = await halfRestored(rig);
  await client.cancelRestore({ restoreId });
  expect((await eventsOf(client.watchRestore({ restoreId }))).at(-1)?.state).toBe(JobState.CANCELLED);
  const { restore: left } = await client.getRestore({ restoreId });
  expect(left?.report).toMatchObject([
    { target: `${to}.first`, writtenItems: 20n, equal: false },
    { target: `${to}.second`, writtenItems: 1n, equal: false },
  ]);
});

test("a restore whose comparison finds a difference fails and says where", async () => {
  await using rig = await backupRig();
  const { db, client, to, restoreId, writing } = await halfRestored(rig);
  await db.client
    .db(to)
    .collection("first")
    .updateOne({ number: 7 }, { $set: { text: "changed" } });
  writing.open();
  const error = { reason: "RESTORE_NOT_EQUAL", metadata: { units: `${db.databaseName}.first`, unit_count: "1" } };
  expect((await eventsOf(client.watchRestore({ restoreId }))).at(-1)).toMatchObject({ state: JobState.FAILED, error });
  expect((await client.getRestore({ restoreId })).restore?.report[0]).toMatchObject({ equal: false, equalItems: 19n });
});
