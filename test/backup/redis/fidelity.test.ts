import type { Redis } from "ioredis";
import { expect, test } from "vitest";

import { backedUp, contents, ownRedis, recordsOf, restored } from "./support.ts";

/** Every type in every form that Redis keeps it in. */
async function fillAllTypes(client: Redis): Promise<void> {
  const bytes = Buffer.from(Array.from({ length: 256 }, (_, index) => index));
  const many = Array.from({ length: 2000 }, (_, index) => `element ${index}`);
  await client.set("", "the empty key");
  await client.set("empty", "");
  await client.set(bytes, bytes);
  await client.set("integer", "-9223372036854775808");
  await client.set("shared integer", "42");
  await client.set("embedded", "x".repeat(44));
  await client.set("raw", "x".repeat(100_000));
  await client.setbit("bitmap", 100_001, 1);
  await client.pfadd("sparse hyperloglog", ...many.slice(0, 10));
  await client.pfadd("dense hyperloglog", ...Array.from({ length: 20_000 }, (_, index) => index));
  await client.rpush("listpack list", "a", "", "1", bytes);
  await client.rpush("quicklist", ...many, "x".repeat(20_000));
  await client.sadd("intset", 1, -5, "9223372036854775807");
  await client.sadd("small set", "a", "", bytes);
  await client.sadd("large set", ...many);
  await client.hset("small hash", "field", "value", "", "", bytes, bytes);
  await client.hset("large hash", ...many);
  await client.zadd("small zset", "-inf", "lowest", "inf", "highest", 0.1, bytes, "1e300", "big", -0, "zero", 1, "");
  await client.zadd("large zset", ...many.flatMap((member, index) => [index / 3, member]));
  await client.geoadd("geo", 13.361389, 38.115556, "Palermo", 15.087269, 37.502669, "Catania");
  for (const [index, text] of many.slice(0, 300).entries())
    await client.xadd("stream", `${index + 1}-5`, "text", text, "", "");
  await client.xgroup("CREATE", "stream", "group", "0");
  await client.xgroup("CREATE", "stream", "untouched", "$");
  await client.xreadgroup("GROUP", "group", "one", "COUNT", 100, "STREAMS", "stream", ">");
  await client.xreadgroup("GROUP", "group", "two", "COUNT", 50, "STREAMS", "stream", ">");
  await client.xack("stream", "group", "1-5", "2-5", "120-5");
  await client.xdel("stream", "3-5", "4-5", "200-5");
  for (let index = 1; index < 300; index++) await client.xadd("plain stream", `${index}-1`, "text", "x".repeat(index));
  await client.xgroup("CREATE", "plain stream", "group", "0");
  await client.xreadgroup("GROUP", "group", "one", "COUNT", 100, "STREAMS", "plain stream", ">");
  await client.xgroup("CREATECONSUMER", "plain stream", "group", "idle");
  await client.xack("plain stream", "group", "1-1", "2-1");
  await client.xdel("plain stream", "299-1", "250-1");
  await client.xadd("emptied stream", "7-7", "a", "b");
  await client.xdel("emptied stream", "7-7");
  await client.xadd("group only", "1-1", "a", "b");
  await client.xtrim("group only", "MAXLEN", 0);
  await client.xgroup("CREATE", "group only", "g", "$");
}

test("every type comes back with its value and its expiry, from every database", async () => {
  await using source = await ownRedis();
  await using target = await ownRedis();
  await fillAllTypes(source.client);
  const later = Date.now() + 3_600_000;
  let index = 0;
  for (const key of await source.client.keys("*a*")) await source.client.pexpireat(key, later + index++);
  await source.client.select(5);
  await fillAllTypes(source.client);
  await source.client.select(0);

  const backup = await backedUp(source.client);
  expect(backup.units.map(({ name, recordCount }) => [name, recordCount])).toEqual([
    ["db0", BigInt(await source.client.dbsize())],
    ["db5", BigInt(await source.client.dbsize())],
  ]);
  const report = await restored(target.client, backup);
  expect(report).toMatchObject([
    { source: "db0", target: "db0", equal: true, remark: "" },
    { source: "db5", target: "db5", equal: true, remark: "" },
  ]);
  for (const database of [0, 5]) {
    const expected = await contents(source.client, database);
    expect(expected.size).toBeGreaterThan(20);
    expect(await contents(target.client, database)).toEqual(expected);
  }
  expect(report[0]?.writtenItems).toBe(report[0]?.expectedItems);
});

test("values that are too large for one record come back from parts", async () => {
  await using source = await ownRedis();
  await using target = await ownRedis();
  await fillAllTypes(source.client);
  await source.client.pexpireat("stream", Date.now() + 3_600_000);
  await source.client.pexpireat("large hash", Date.now() + 3_600_000);

  const backup = await backedUp(source.client, { largeValueBytes: 1 });
  const records = recordsOf(backup);
  const types = new Set(records.map(({ part }) => part?.type));
  expect(types).toEqual(new Set(["hash", "list", "set", "stream", "string", "zset", undefined]));
  // Neither values without elements nor deleted entries that are pending can be in parts.
  const whole = records.filter(({ part }) => part === undefined).map(({ key }) => Buffer.from(key).toString());
  expect(whole.toSorted()).toEqual(["emptied stream", "empty", "group only", "stream"]);
  const [report] = await restored(target.client, backup);
  expect(report).toMatchObject({ equal: true, remark: "", expectedItems: BigInt(await source.client.dbsize()) });
  // Times of delivery are exact to the millisecond of a clock that is read between.
  const blurred = (all: Map<string, string>) =>
    new Map([...all].map(([key, value]) => [key, value.replaceAll(/1[67]\d{11}/g, "T")]));
  expect(blurred(await contents(target.client))).toEqual(blurred(await contents(source.client)));
});
