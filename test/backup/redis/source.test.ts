import { Redis } from "ioredis";
import { expect, test } from "vitest";

import { isOwnCopy } from "../../../src/admin/cache/keys.ts";
import { memoryStreams, quietWork } from "../mongodb/memory.ts";
import { failureOf } from "../repository/support.ts";
import { backedUp, contents, ownRedis, recordsOf, restored } from "./support.ts";

test("100,000 keys are backed up and restored while writers write, and what nobody touched is there exactly once", async () => {
  await using source = await ownRedis();
  await using target = await ownRedis();
  const { client } = source;
  for (let at = 0; at < 100_000; at += 1000) {
    const pipeline = client.pipeline();
    for (let index = at; index < at + 1000; index++) pipeline.set(`still:${index}`, `value ${index}`);
    await pipeline.exec();
  }
  await using stack = new AsyncDisposableStack();
  const writing = new AbortController();
  const writers = [0, 1].map(async (which) => {
    const writer = client.duplicate();
    stack.defer(() => writer.disconnect());
    for (let turn = 0; !writing.signal.aborted; turn++) {
      await writer
        .pipeline()
        .set(`busy:${which}:${turn}`, turn)
        .del(`busy:${which}:${turn - 3}`)
        .lpush(`busy:${which}`, "x".repeat(100))
        .ltrim(`busy:${which}`, 0, 1000)
        .exec();
    }
  });
  const backup = await backedUp(client, { largeValueBytes: 20_000 });
  writing.abort();
  await Promise.all(writers);

  const names = recordsOf(backup)
    .filter(({ part }) => part === undefined || part.last)
    .map(({ key }) => Buffer.from(key).toString());
  expect(new Set(names).size).toBe(names.length);
  expect(names.filter((name) => name.startsWith("still:")).length).toBe(100_000);
  const [report] = await restored(target.client, backup);
  expect(report).toMatchObject({ equal: true, remark: "" });
  expect(report?.expectedItems).toBe(BigInt(names.length));
});

/** What the table of keys takes: the server resizes it now and then. */
async function tableBytes(client: Redis): Promise<number> {
  return Number(/overhead\.hashtable\.main,(\d+)/.exec(String(await client.call("MEMORY", "STATS")))?.[1]);
}

test("keys that SCAN returns twice, while the table shrinks, are in the backup once", async () => {
  await using source = await ownRedis();
  const { client } = source;
  for (let at = 0; at < 100_000; at += 1000) {
    const pipeline = client.pipeline();
    for (let index = at; index < at + 1000; index++)
      pipeline.set(index < 2000 ? `still:${index}` : `gone:${index}`, "");
    await pipeline.exec();
  }
  // In the middle of the scan the table loses nearly all of its keys, so that it is made smaller.
  let writes = 0;
  const streams = memoryStreams({
    onWrite: async () => {
      if (++writes !== 30) return;
      for (let at = 2000; at < 100_000; at += 1000) {
        await client.unlink(...Array.from({ length: 1000 }, (_, index) => `gone:${at + index}`));
      }
      // It had 131,072 slots of 8 bytes; how small it gets depends on how many keys are left when the server looks.
      while ((await tableBytes(client)) > 500_000) await client.ping();
    },
  });
  const backup = await backedUp(client, { streams });
  const names = recordsOf(backup).map(({ key }) => Buffer.from(key).toString());
  expect(new Set(names).size).toBe(names.length);
  expect(names.filter((name) => name.startsWith("still:")).length).toBe(2000);
});

test("only keys that a pattern selects are in the backup, and in its count", async () => {
  await using source = await ownRedis();
  const { client } = source;
  for (let index = 0; index < 3000; index++) await client.set(`${index % 3 === 0 ? "user" : "session"}:${index}`, "x");
  await client.set("wallet", "x");
  const named = async (patterns: string[]) =>
    recordsOf(await backedUp(client, { patterns })).map(({ key }) => Buffer.from(key).toString());
  expect((await named(["user:*"])).length).toBe(1000);
  const several = await named(["user:*", "wal?et", "user:3*"]);
  expect([several.length, new Set(several).size]).toEqual([1001, 1001]);
  expect(await named(["nothing*"])).toEqual([]);
  expect((await backedUp(client, { patterns: ["nothing*"] })).units).toEqual([]);
  await client.set("lucid:copy:session:1", "made of a document");
  const whole = await backedUp(client, { isDerived: isOwnCopy });
  const keys = recordsOf(whole).map(({ key }) => Buffer.from(key).toString());
  expect(keys).not.toContain("lucid:copy:session:1");
  expect(keys).toHaveLength((await client.dbsize()) - 1);
});

test.for(["now and then", "all the time"])(
  "a large value that is changed %s while it is read comes back as it was at one moment",
  async (how) => {
    await using source = await ownRedis();
    await using target = await ownRedis();
    const { client } = source;
    const elements = 40_000;
    await client.rpush("list", ...Array.from({ length: elements }, (_, index) => `${index} ${"x".repeat(50)}`));
    // Takes the last element to the front: a list that is read while this happens has elements twice, or not at all.
    let writes = 0;
    const streams = memoryStreams({
      onWrite: async () => {
        if (how === "all the time" || ++writes === 3) await client.rpoplpush("list", "list");
      },
    });
    const backup = await backedUp(client, { streams, largeValueBytes: 100_000 });
    const records = recordsOf(backup);
    expect(records.some(({ part }) => part?.number === 2)).toBe(true);
    expect(records.at(-1)?.part?.last).toBe(how === "all the time" ? undefined : true);
    expect(await restored(target.client, backup)).toMatchObject([{ equal: true, expectedItems: 1n, writtenItems: 1n }]);
    const found = (await target.client.lrange("list", 0, -1)).map((element) => Number(element.split(" ")[0]));
    expect([...found].toSorted((one, other) => one - other)).toEqual(
      Array.from({ length: elements }, (_, index) => index),
    );
  },
);

test("the replication position of the cut is the server's", async () => {
  await using source = await ownRedis();
  const info = await source.client.info("replication");
  const { cut } = await backedUp(source.client);
  expect(cut.redisReplicationIds).toEqual([/master_replid:(\w+)/.exec(info)?.[1]]);
  expect(cut.redisReplicationOffsets?.length).toBe(1);
});

test("a server that is restarted meanwhile ends the backup, and a server that is away does", async () => {
  await using source = await ownRedis();
  const { client, server } = source;
  await client.set("key", "value");
  expect(
    await failureOf(() =>
      backedUp(client, {
        afterCut: async () => {
          await server.kill();
          await server.start();
          await client.set("key", "value");
        },
      }),
    ),
  ).toMatchObject({ reason: "BACKUP_SOURCE_CHANGED" });
  await server.kill();
  expect(await failureOf(() => backedUp(client))).toMatchObject({ reason: "STORE_UNAVAILABLE" });
});

test("a backup that is stopped ends at once and closes its connections", async () => {
  await using source = await ownRedis();
  const { client } = source;
  for (let index = 0; index < 3000; index++) await client.set(`key:${index}`, "x");
  const stop = new AbortController();
  const streams = memoryStreams({ onWrite: async () => stop.abort(new Error("stopped")) });
  await expect(backedUp(client, { streams, work: quietWork({ signal: stop.signal }) })).rejects.toThrow("stopped");
  const observer = new Redis(source.server.uri);
  for (let list = "lucid-backup"; list.includes("lucid-backup");) list = String(await observer.client("LIST"));
  observer.disconnect();
  expect((await contents(client)).size).toBe(3000);
});
