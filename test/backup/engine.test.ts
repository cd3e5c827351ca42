import { MongoClient } from "mongodb";
import { expect, test } from "vitest";

import { JobPhase, JobState } from "../../gen/lucid/admin/v1/backup_service_pb.ts";
import { Store } from "../../gen/lucid/admin/v1/common_pb.ts";
import type { Source } from "../../src/backup/contracts.ts";
import { fail } from "../../src/errors.ts";
import { storeAddresses } from "../support/stores.ts";
import { gate, gatedSource, plainSource } from "./fixtures.ts";
import { backupRig, eventsOf, reason, takenBackup } from "./support.ts";

/** A source that says what is asked of it, and writes one record. `ways` are done on the way. */
function toldSource(
  store: Store,
  told: string[],
  ways: { read?: (signal: AbortSignal) => Promise<void> } = {},
): Source {
  const name = `unit-${store}`;
  return {
    store,
    begin: (_selection, sink, { meter, signal }) => {
      told.push(`begin ${store}`);
      meter.plan(store, name, 1);
      return Promise.resolve({
        async read() {
          await ways.read?.(signal);
          told.push(`read ${store}`);
        },
        cut() {
          told.push(`cut ${store}`);
          return Promise.resolve(
            store === Store.MONGODB ? { mongodbClusterTime: 7n } : { redisReplicationOffsets: [9n] },
          );
        },
        async finish() {
          await using writer = sink.open();
          await writer.write([Buffer.from(name)]);
          const stream = await writer.seal();
          const { recordCount, recordBytes } = stream;
          meter.add(store, name, 1, Number(recordBytes));
          told.push(`finish ${store}`);
          return [{ store, name, streams: [stream], recordCount, recordBytes }];
        },
        [Symbol.asyncDispose]() {
          told.push(`dispose ${store}`);
          return Promise.resolve();
        },
      });
    },
  };
}

test("all stores are read before any is cut and cut before any is finished, MongoDB's cut first", async () => {
  await using rig = await backupRig();
  const told: string[] = [];
  const sources = [Store.MONGODB, Store.REDIS, Store.SEARCH].map((store) => toldSource(store, told));
  const { client } = await rig.replica({ sources });
  const { backup } = await client.createBackup({});
  const backupId = backup?.backupId ?? "";
  expect((await eventsOf(client.watchBackup({ backupId }))).at(-1)?.state).toBe(JobState.SUCCEEDED);
  const steps = told.map((line) => line.split(" ")[0]);
  expect(steps).toEqual(["begin", "read", "cut", "finish", "dispose"].flatMap((step) => [step, step, step]));
  expect(told.filter((line) => line.startsWith("cut"))).toEqual(["cut 1", "cut 2", "cut 3"]);
  const { backup: taken } = await client.getBackup({ backupId });
  expect(taken).toMatchObject({
    itemCount: 3n,
    consistencyPoint: { mongodbClusterTime: 7n, redisReplicationOffsets: [9n] },
  });
});

test("a store that fails stops the others, names its reason, and nothing is listed as whole", async () => {
  await using rig = await backupRig();
  const told: string[] = [];
  const failing = toldSource(Store.REDIS, told, {
    read: () =>
      Promise.reject(fail("BACKUP_SOURCE_CHANGED", "The store was changed", { metadata: { store: "redis" } })),
  });
  const waiting = toldSource(Store.MONGODB, told, { read: (signal) => gate().pass(signal) });
  const { client } = await rig.replica({ sources: [waiting, failing] });
  const { backup } = await client.createBackup({});
  const backupId = backup?.backupId ?? "";
  const last = (await eventsOf(client.watchBackup({ backupId }))).at(-1);
  expect(last).toMatchObject({
    state: JobState.FAILED,
    error: { reason: "BACKUP_SOURCE_CHANGED", metadata: { store: "redis" } },
  });
  expect(told.toSorted()).toEqual(["begin 1", "begin 2", "dispose 1", "dispose 2"]);
  expect((await client.listBackups({ state: JobState.SUCCEEDED })).backups).toEqual([]);
});

test("who has lost the lease seals nothing", async () => {
  await using rig = await backupRig();
  const db = await rig.filled(10);
  const copying = gate();
  const { client } = await rig.replica({ sources: [gatedSource(plainSource(db), copying)] });
  const { backup } = await client.createBackup({});
  const backupId = backup?.backupId ?? "";
  await copying.reached;
  // As if another process had taken the job over while this one was stalled.
  await using other = await MongoClient.connect(storeAddresses().mongodbUri);
  const lease = { owner: "another", fence: 100, lease_expire_time: new Date(Date.now() + 5000) };
  await other.db(rig.database).collection<{ _id: string }>("jobs").updateOne({ _id: backupId }, { $set: lease });
  copying.open();
  // It does not answer and its lease runs out; then the backup is taken by who is there.
  const last = (await eventsOf(client.watchBackup({ backupId }))).at(-1);
  expect(last?.state).toBe(JobState.SUCCEEDED);
  const job = await other
    .db(rig.database)
    .collection<{ _id: string; fence: number }>("jobs")
    .findOne({ _id: backupId });
  expect(job?.fence).toBe(101);
  expect((await client.listBackups({})).backups).toHaveLength(1);
});

test("monitors see the phases, the units and a percentage that never falls", async () => {
  await using rig = await backupRig();
  const db = await rig.filled(200);
  const copying = gate();
  const { client } = await rig.replica({ sources: [gatedSource(plainSource(db), copying)] });
  const { backup } = await client.createBackup({});
  const backupId = backup?.backupId ?? "";
  await copying.reached;
  copying.open();
  const events = await eventsOf(client.watchBackup({ backupId }));
  const percents = events.map(({ progress }) => progress?.percent ?? 0);
  expect(percents).toEqual(percents.toSorted((one, other) => one - other));
  expect(percents.filter((percent) => percent === 100)).toHaveLength(1);
  const last = events.at(-1)?.progress;
  expect(last?.phase).toBe(JobPhase.SEALING);
  const name = db.databaseName;
  expect(last?.units).toMatchObject([
    { store: Store.MONGODB, unit: `${name}.first`, itemsDone: 200n, itemsTotal: 200n },
    { store: Store.MONGODB, unit: `${name}.second`, itemsDone: 1n, itemsTotal: 1n },
  ]);
  expect(last?.bytesWritten).toBeGreaterThan(0n);
});

test("a second backup of the same data stores hardly anything", async () => {
  await using rig = await backupRig();
  const db = await rig.filled(2000);
  const { client } = await rig.replica({ sources: [plainSource(db)] });
  const stored = async () =>
    (await client.getBackup({ backupId: await takenBackup(client) })).backup?.storedBytes ?? 0n;
  const first = await stored();
  expect(Number(await stored())).toBeLessThanOrEqual(Number(first) * 0.02);
  expect(await reason(client.getBackup({ backupId: "none" }))).toBe("BACKUP_NOT_FOUND");
});
