import { expect, test } from "vitest";

import { ConflictPolicy } from "../../../gen/lucid/admin/v1/backup_service_pb.ts";
import { reasonOf } from "../../../src/errors.ts";
import { failureOf } from "../repository/support.ts";
import { backedUp, contents, ownRedis, prepared, recordsOf, reportOf, restored, type TakenBackup } from "./support.ts";

/** A server with `a:1` … `a:5`, `b:1`, and a large hash, and its backup; parts are small. */
async function backedUpKeys() {
  await using stack = new AsyncDisposableStack();
  const redis = stack.use(await ownRedis());
  const { client } = redis;
  for (let index = 1; index <= 5; index++) await client.set(`a:${index}`, `value ${index}`);
  await client.set("b:1", "value");
  await client.hset("large", Object.fromEntries(Array.from({ length: 3000 }, (_, index) => [`field ${index}`, index])));
  const backup = await backedUp(client, { largeValueBytes: 50_000 });
  expect(recordsOf(backup).length).toBeGreaterThan(8);
  const owned = stack.move();
  return { client, backup, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

test("with FAIL, keys that are there end a restore before anything is changed", async () => {
  await using redis = await backedUpKeys();
  const { client, backup } = redis;
  await client.del("a:1", "a:2", "large");
  const before = await contents(client);
  const { reason, metadata } = await failureOf(() => prepared(client, backup));
  expect([reason, metadata["conflict_count"]]).toEqual(["RESTORE_CONFLICT", "4"]);
  expect(metadata["conflicts"]?.split(", ").toSorted()).toEqual(["a:3", "a:4", "a:5", "b:1"]);
  expect(await contents(client)).toEqual(before);
});

/** A restore that meets a key which came after it was prepared. */
async function endedHalfWay(...[client, backup]: Parameters<typeof prepared>) {
  await client.flushall();
  const run = await prepared(client, backup);
  await client.set("large", "somebody else's");
  expect(await failureOf(() => run.restore())).toMatchObject({ reason: "RESTORE_CONFLICT" });
  return run;
}

test("with FAIL, a key that comes after the restore was prepared is not touched", async () => {
  await using redis = await backedUpKeys();
  const { client, backup } = redis;
  await using run = await endedHalfWay(client, backup);
  expect(await client.get("large")).toBe("somebody else's");
  const [report] = reportOf(run);
  expect(report).toMatchObject({ equal: false, expectedItems: 7n });
  expect(report?.remark).toBe(`${report?.writtenItems} of 7 keys were written`);
  await run[Symbol.asyncDispose]();
  expect(await client.keys("lucid_restore*")).toEqual([]);
});

test("what was not completed is removed, though the server stands still for some seconds", async () => {
  await using redis = await backedUpKeys();
  const { client, backup } = redis;
  await using run = await endedHalfWay(client, backup);
  expect(await client.keys("lucid_restore*")).not.toEqual([]);
  await client.client("PAUSE", 6000, "WRITE");
  await run[Symbol.asyncDispose]();
  expect(await client.keys("lucid_restore*")).toEqual([]);
});

test("with SKIP, what is there is kept and what is missing comes back", async () => {
  await using redis = await backedUpKeys();
  const { client, backup } = redis;
  await client.set("a:1", "changed");
  await client.del("a:2", "large");
  await client.hset("large", "mine", "kept");
  const [report] = await restored(client, backup, { policy: ConflictPolicy.SKIP });
  expect(report).toMatchObject({ equal: true, expectedItems: 7n, writtenItems: 1n, skippedItems: 6n, equalItems: 1n });
  expect(await client.mget("a:1", "a:2")).toEqual(["changed", "value 2"]);
  expect(await client.hgetall("large")).toEqual({ mine: "kept" });
});

test.for([ConflictPolicy.DROP, ConflictPolicy.OVERWRITE])(
  "with policy %s, keys are replaced and others stay",
  async (policy) => {
    await using redis = await backedUpKeys();
    const { client, backup } = redis;
    const before = await contents(client);
    await client.set("a:1", "changed", "EX", 1000);
    await client.del("large");
    await client.rpush("large", "now a list");
    await client.set("other", "stays");
    const [report] = await restored(client, backup, { policy });
    expect(report).toMatchObject({ equal: true, writtenItems: 7n, equalItems: 7n });
    expect(await client.getdel("other")).toBe("stays");
    expect(await contents(client)).toEqual(before);
  },
);

test("a part comes back under other names", async () => {
  await using redis = await backedUpKeys();
  const { client, backup } = redis;
  const options = {
    patterns: ["a:[1-3]", "large"],
    renames: [
      ["a:", "copy/"],
      ["", "other/"],
    ] as const,
  };
  const [report] = await restored(client, backup, options);
  expect(report).toMatchObject({ equal: true, expectedItems: 4n, writtenItems: 4n });
  expect((await client.keys("*/*")).toSorted()).toEqual(["copy/1", "copy/2", "copy/3", "other/large"]);
  expect(await client.hgetall("other/large")).toEqual(await client.hgetall("large"));
});

test("two keys that would get one name are refused", async () => {
  await using redis = await backedUpKeys();
  const { client, backup } = redis;
  const policy = ConflictPolicy.OVERWRITE;
  const clash = prepared(client, backup, { renames: [["a:", "b:"]], policy });
  expect(reasonOf(await clash.catch((error: unknown) => error))?.reason).toBe("RESTORE_REFUSED");
  const [report] = await restored(client, backup, { renames: [["a:", "b:"]], patterns: ["a:*"], policy });
  expect(report).toMatchObject({ equal: true, writtenItems: 5n });
});

test.for([1, 1_000_000])(
  "keys that have expired are passed over and counted, large above %s bytes",
  async (largeValueBytes) => {
    await using source = await ownRedis();
    await using target = await ownRedis();
    const { client } = source;
    await client.set("long", "x", "PX", 100_000);
    const backedUpWithin = async (ms: number): Promise<TakenBackup> => {
      const lists = client.multi().del("short list").rpush("short list", "a", "b").pexpire("short list", ms);
      await Promise.all([lists.exec(), client.set("short", "x", "PX", ms)]);
      const backup = await backedUp(client, { largeValueBytes });
      const whole = recordsOf(backup).filter(({ part }) => part === undefined || part.last);
      // On a busy machine they have expired before they are read.
      return whole.length === 3 ? backup : backedUpWithin(2 * ms);
    };
    const backup = await backedUpWithin(500);
    while ((await client.exists("short", "short list")) > 0) await client.ping();
    const [report] = await restored(target.client, backup);
    expect(report).toMatchObject({ equal: true, expectedItems: 3n, writtenItems: 1n, skippedItems: 2n });
    expect(await target.client.keys("*")).toEqual(["long"]);
  },
);

test("what differs after the restore is found: value, expiry, a missing key, one element of many", async () => {
  await using redis = await backedUpKeys();
  const { client, backup } = redis;
  await client.flushall();
  const [report] = await restored(client, backup, {
    afterRestore: async () => {
      await client.append("a:1", "!");
      await client.expire("a:2", 1000);
      await client.del("a:3");
      await client.hincrby("large", "field 7", 1);
    },
  });
  expect(report).toMatchObject({
    equal: false,
    equalItems: 3n,
    remark: "1 keys are missing, 3 are not as in the backup",
  });
});

test("a backup of a newer version than the server's is refused with both versions", async () => {
  await using redis = await backedUpKeys();
  const { client, backup } = redis;
  const [unit] = backup.units;
  if (unit?.description.case !== "redisKeys") throw new Error("no unit");
  const { rdbVersion } = unit.description.value;
  unit.description.value.rdbVersion = 999;
  unit.description.value.serverVersion = "99.0";
  const { reason, metadata } = await failureOf(() => prepared(client, backup, { policy: ConflictPolicy.OVERWRITE }));
  expect(reason).toBe("RESTORE_REFUSED");
  expect(metadata).toMatchObject({ backup_version: "99.0", rdb_version: "999" });
  unit.description.value.rdbVersion = rdbVersion;
  unit.description.value.database = 99;
  expect(await failureOf(() => prepared(client, backup))).toMatchObject({ reason: "RESTORE_REFUSED" });
});

test("tables that the server has laid out anew are equal all the same", async () => {
  await using redis = await backedUpKeys();
  const { client, backup } = redis;
  await client.flushall();
  const [report] = await restored(client, backup, {
    policy: ConflictPolicy.OVERWRITE,
    afterRestore: async () => {
      // Grows and shrinks: the same elements, in another order.
      const more = Object.fromEntries(Array.from({ length: 20_000 }, (_, index) => [`more ${index}`, "x"]));
      await client.hset("large", more);
      await client.hdel("large", ...Object.keys(more));
    },
  });
  expect(report).toMatchObject({ equal: true, remark: "" });
});
