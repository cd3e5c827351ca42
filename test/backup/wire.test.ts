import { expect, test } from "vitest";

import { BackupService, ConflictPolicy, JobState } from "../../gen/lucid/admin/v1/backup_service_pb.ts";
import { Store } from "../../gen/lucid/admin/v1/common_pb.ts";
import { testApp } from "../support/app.ts";
import { eventsOf } from "./support.ts";

test("a backup taken while writers write is watched on both listeners, verified, and restored under another name", async () => {
  await using app = await testApp();
  const [source, target] = [app.databaseName(), app.databaseName()];
  const documents = app.mongodb.db(source).collection<{ _id: number; count: number }>("documents");
  await documents.insertMany(Array.from({ length: 2000 }, (_, index) => ({ _id: index, count: 0 })));

  const writing = new AbortController();
  const writers = Array.from({ length: 3 }, async (_, writer) => {
    for (let at = writer; !writing.signal.aborted; at = (at + 7) % 2000) {
      await documents.updateOne({ _id: at }, { $inc: { count: 1 } });
    }
  });
  const backups = app.client(BackupService);
  const selection = { stores: [Store.MONGODB], mongodbNamespaces: [source] };
  const { backup } = await backups.createBackup({ selection, description: "while writers write" });
  const backupId = backup?.backupId ?? "";
  const watches = [backups.watchBackup({ backupId }), app.http(BackupService).watchBackup({ backupId })];
  const [first = [], second = []] = await Promise.all(watches.map(eventsOf));
  writing.abort();
  await Promise.all(writers);

  expect(first.at(-1)).toMatchObject({ state: JobState.SUCCEEDED, progress: { percent: 100 } });
  const sequences = (events: typeof first) =>
    events.filter(({ heartbeat }) => !heartbeat).map(({ sequence }) => sequence);
  expect(sequences(second)).toEqual(sequences(first));
  const percents = first.map(({ progress }) => progress?.percent ?? 0);
  expect(percents).toEqual(percents.toSorted((one, other) => one - other));

  const { verification } = await backups.verifyBackup({ backupId });
  const verificationId = verification?.verificationId ?? "";
  const verified = await eventsOf(backups.watchVerification({ verificationId }));
  expect(verified.at(-1)).toMatchObject({ state: JobState.SUCCEEDED });

  const { restore } = await backups.createRestore({
    backupId,
    renames: [{ store: Store.MONGODB, from: source, to: target }],
    conflictPolicy: ConflictPolicy.FAIL,
  });
  const restoreId = restore?.restoreId ?? "";
  const restored = await eventsOf(backups.watchRestore({ restoreId }));
  const report = (await backups.getRestore({ restoreId })).restore;
  expect(restored.at(-1), report?.error?.message).toMatchObject({ state: JobState.SUCCEEDED });
  expect(report?.report).toMatchObject([{ target: `${target}.documents`, expectedItems: 2000n, equal: true }]);
  expect(await app.mongodb.db(target).collection("documents").countDocuments()).toBe(2000);

  const again = await backups.createRestore({
    backupId,
    renames: [{ store: Store.MONGODB, from: source, to: target }],
  });
  const conflict = await eventsOf(backups.watchRestore({ restoreId: again.restore?.restoreId ?? "" }));
  expect(conflict.at(-1)).toMatchObject({ state: JobState.FAILED, error: { reason: "RESTORE_CONFLICT" } });
});
