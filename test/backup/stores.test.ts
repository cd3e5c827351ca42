import { MongoClient } from "mongodb";
import { expect, test } from "vitest";

import { ConflictPolicy, JobState } from "../../gen/lucid/admin/v1/backup_service_pb.ts";
import { Store } from "../../gen/lucid/admin/v1/common_pb.ts";
import { mongodbSource } from "../../src/backup/mongodb/source.ts";
import { mongodbTarget } from "../../src/backup/mongodb/target.ts";
import { storeAddresses } from "../support/stores.ts";
import { type BackupRig, backupRig, eventsOf, reason, systemDatabase } from "./support.ts";

/** Real stores, with data, and a replica that backs them up and restores them. */
async function realStores(rig: BackupRig, count: number) {
  const db = await rig.filled(count);
  await db.collection("first").createIndex({ number: 1 }, { unique: true });
  const mongodb = { client: db.client, systemDatabase };
  const parts = { sources: [mongodbSource(mongodb)], targets: [mongodbTarget(mongodb)] };
  const { client } = await rig.replica(parts);
  const other = await rig.replica(parts);
  const selection = { stores: [Store.MONGODB], mongodbNamespaces: [db.databaseName] };
  return { db, client, other, selection };
}

test("a backup while writers write is watched from several replicas, verified, and restored equal into other names", async () => {
  await using rig = await backupRig();
  const { db, client, other, selection } = await realStores(rig, 2000);
  await using writer = await MongoClient.connect(storeAddresses().mongodbUri);
  const writing = new AbortController();
  const writers = [0, 1].map(async (which) => {
    const first = writer.db(db.databaseName).collection("first");
    for (let turn = 0; !writing.signal.aborted; turn += 1) {
      await first.insertOne({ number: 1_000_000 * (which + 1) + turn });
      await first.updateOne({ number: turn % 2000 }, { $inc: { changes: 1 } });
      await first.deleteOne({ number: 1_000_000 * (which + 1) + turn - 5 });
    }
  });

  const { backup } = await client.createBackup({ selection });
  const backupId = backup?.backupId ?? "";
  const whole = eventsOf(other.client.watchBackup({ backupId }));
  const pieces: bigint[] = [];
  for (let after = 0n, ended = false; !ended;) {
    let events = 0;
    for await (const { event } of client.watchBackup({ backupId, afterSequence: after })) {
      after = event?.sequence ?? 0n;
      pieces.push(after);
      ended = event?.state === JobState.SUCCEEDED;
      events += 1;
      if (events === 2) break;
    }
  }
  const events = await whole;
  expect(events.at(-1)).toMatchObject({ state: JobState.SUCCEEDED });
  expect(pieces).toEqual(events.map(({ sequence }) => sequence));
  writing.abort();
  await Promise.all(writers);

  const { backup: taken } = await client.getBackup({ backupId });
  expect(taken?.consistencyPoint).toMatchObject({ mongodbConsistent: true });
  const { verification } = await client.verifyBackup({ backupId });
  const checked = await eventsOf(client.watchVerification({ verificationId: verification?.verificationId ?? "" }));
  expect(checked.at(-1)?.state).toBe(JobState.SUCCEEDED);

  const to = rig.databaseName();
  const { restore } = await client.createRestore({
    backupId,
    renames: [{ store: Store.MONGODB, from: db.databaseName, to }],
  });
  const restoreId = restore?.restoreId ?? "";
  const steps = await eventsOf(other.client.watchRestore({ restoreId }));
  expect(steps.at(-1)).toMatchObject({ state: JobState.SUCCEEDED, progress: { percent: 100 } });
  const { restore: done } = await client.getRestore({ restoreId });
  expect(done?.report.map(({ target, equal, remark }) => [target, equal, remark])).toEqual([
    [`${to}.first`, true, ""],
    [`${to}.second`, true, ""],
  ]);
  expect((await db.client.db(to).collection("first").indexes()).map(({ key }) => key)).toEqual([
    { _id: 1 },
    { number: 1 },
  ]);
});

test("what is there decides with the policy what a restore does", async () => {
  await using rig = await backupRig();
  const { db, client, selection } = await realStores(rig, 300);
  const { backup } = await client.createBackup({ selection });
  const backupId = backup?.backupId ?? "";
  await eventsOf(client.watchBackup({ backupId }));
  const first = db.collection("first");
  await first.updateOne({ number: 1 }, { $set: { text: "changed" } });
  await first.deleteOne({ number: 2 });

  expect(await reason(client.createRestore({ backupId, validateOnly: true }))).toBe("RESTORE_CONFLICT");
  const restored = async (conflictPolicy: ConflictPolicy) => {
    const { restore } = await client.createRestore({ backupId, conflictPolicy, confirmBackupId: backupId });
    return (await eventsOf(client.watchRestore({ restoreId: restore?.restoreId ?? "" }))).at(-1);
  };
  expect(await restored(ConflictPolicy.FAIL)).toMatchObject({
    state: JobState.FAILED,
    error: { reason: "RESTORE_CONFLICT" },
  });
  expect(await first.countDocuments()).toBe(299);
  expect((await restored(ConflictPolicy.SKIP))?.state).toBe(JobState.SUCCEEDED);
  expect(await first.countDocuments()).toBe(300);
  expect((await first.findOne({ number: 1 }))?.["text"]).toBe("changed");
  expect((await restored(ConflictPolicy.OVERWRITE))?.state).toBe(JobState.SUCCEEDED);
  expect((await first.findOne({ number: 1 }))?.["text"]).not.toBe("changed");
  await first.insertOne({ number: -1 });
  expect((await restored(ConflictPolicy.DROP))?.state).toBe(JobState.SUCCEEDED);
  expect(await first.countDocuments()).toBe(300);
});
