import { Redis } from "ioredis";
import { expect, test } from "vitest";

import { BackupService, JobState } from "../../gen/lucid/admin/v1/backup_service_pb.ts";
import { Store } from "../../gen/lucid/admin/v1/common_pb.ts";
import { latencyRecorder } from "../../src/stores/latency.ts";
import { openSearch } from "../../src/stores/search.ts";
import { testApp } from "../support/app.ts";
import { storeAddresses, uniqueName } from "../support/stores.ts";
import { eventsOf } from "./support.ts";

test("one backup holds all three stores at one cut, and restores them into other names", async () => {
  await using app = await testApp();
  const [source, target] = [app.databaseName(), app.databaseName()];
  const [keys, restoredKeys] = [`${uniqueName("keys")}:`, `${uniqueName("restored")}:`];
  await using stack = new AsyncDisposableStack();
  const redis = new Redis(storeAddresses().redisUri);
  stack.defer(() => redis.disconnect());
  stack.defer(async () => {
    for (const prefix of [keys, restoredKeys]) {
      await redis.unlink(...["text", "hash", "scores"].map((name) => prefix + name));
    }
  });
  const [index, restoredIndex] = [uniqueName("index"), uniqueName("restored")];
  const search = stack.use(openSearch({ uri: storeAddresses().searchUri }, { latency: latencyRecorder() }));
  stack.defer(async () => {
    await search.client.indices.delete({ index: [index, restoredIndex], ignore_unavailable: true });
  });
  for (const id of ["1", "2"]) {
    await search.client.index({ index, id, routing: "shard", document: { number: Number(id) }, refresh: true });
  }
  await app.mongodb
    .db(source)
    .collection("documents")
    .insertMany(Array.from({ length: 100 }, (_, number) => ({ number })));
  await redis.set(`${keys}text`, "value", "PX", 3_600_000);
  await redis.hset(`${keys}hash`, { one: "1", two: "2" });
  await redis.zadd(`${keys}scores`, "1.5", "member");

  const backups = app.client(BackupService);
  const { backup } = await backups.createBackup({
    selection: {
      mongodbNamespaces: [source],
      redisKeyPatterns: [`${keys}*`],
      searchIndices: [index],
    },
  });
  const backupId = backup?.backupId ?? "";
  const taken = await eventsOf(backups.watchBackup({ backupId }));
  expect(taken.at(-1)).toMatchObject({ state: JobState.SUCCEEDED });
  const { consistencyPoint, itemCount } = (await backups.getBackup({ backupId })).backup ?? {};
  expect(consistencyPoint).toMatchObject({ mongodbConsistent: true });
  expect(consistencyPoint?.redisReplicationIds).toHaveLength(1);
  expect(itemCount).toBe(105n);

  const { restore } = await backups.createRestore({
    backupId,
    renames: [
      { store: Store.MONGODB, from: source, to: target },
      { store: Store.REDIS, from: keys, to: restoredKeys },
      { store: Store.SEARCH, from: index, to: restoredIndex },
    ],
  });
  const restoreId = restore?.restoreId ?? "";
  const events = await eventsOf(backups.watchRestore({ restoreId }));
  const { report, error } = (await backups.getRestore({ restoreId })).restore ?? {};
  expect(events.at(-1), error?.message).toMatchObject({ state: JobState.SUCCEEDED });
  expect(report?.every(({ equal }) => equal)).toBe(true);
  expect(await app.mongodb.db(target).collection("documents").countDocuments()).toBe(100);
  expect(await redis.get(`${restoredKeys}text`)).toBe("value");
  const [left, restoredLeft] = await Promise.all([redis.pttl(`${keys}text`), redis.pttl(`${restoredKeys}text`)]);
  expect(left).toBeGreaterThan(0);
  // What a server without PEXPIRETIME tells is rounded, when it is backed up as much as here.
  expect(Math.abs(restoredLeft - left)).toBeLessThan(60_000);
  expect(await redis.hgetall(`${restoredKeys}hash`)).toEqual({ one: "1", two: "2" });
  await search.client.indices.refresh({ index: restoredIndex });
  const found = await search.client.search({ index: restoredIndex, sort: "number" });
  expect(found.hits.hits).toMatchObject([
    { _id: "1", _routing: "shard", _source: { number: 1 } },
    { _id: "2", _routing: "shard", _source: { number: 2 } },
  ]);
  expect(await redis.zscore(`${restoredKeys}scores`, "member")).toBe("1.5");
});
