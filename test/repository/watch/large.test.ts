import { calculateObjectSize, deserialize, type Document } from "bson";
import { type Db, MongoClient } from "mongodb";
import { afterAll, beforeAll, expect, test } from "vitest";

import { UserSchema } from "../../../gen/lucid/repository/v1/user_pb.ts";
import { WatchEventType } from "../../../gen/lucid/repository/v1/watch_pb.ts";
import { type Watches, watchesOf } from "../../../src/repository/watch/watches.ts";
import { pageTokens } from "../../../src/schema/page-tokens.ts";
import { openRouter } from "../../admin/database/router.ts";
import { storeAddresses, uniqueName } from "../../support/stores.ts";
import { refusalOf } from "../support.ts";

// MongoDB sends no event above 16 MB, and one of an update has the document beside what was changed of it.
const large = "x".repeat(9 * 1024 * 1024);
const limit = 16 * 1024 * 1024;

const { mongodbUri } = storeAddresses();
const name = uniqueName("watch");
let client: MongoClient;
beforeAll(async () => {
  client = await MongoClient.connect(mongodbUri);
});
afterAll(async () => {
  await client.db(name).dropDatabase();
  await client.close();
});

function watches(db: Db): Watches {
  const tokens = pageTokens("");
  return watchesOf({
    db,
    settings: { bufferedChanges: 1000, bufferedBytes: 1024 * 1024 },
    pageTokens: async () => tokens,
    draining: new AbortController().signal,
  });
}

test("a change that is too large for one event is told whole, and so is what follows it", async () => {
  await using watcher = await MongoClient.connect(mongodbUri, { monitorCommands: true });
  const sizes: number[] = [];
  watcher.on("commandSucceeded", ({ reply }) => {
    const { firstBatch = [], nextBatch = [] } = ((reply as Document)["cursor"] ?? {}) as Record<string, Document[]>;
    sizes.push(...[...firstBatch, ...nextBatch].map((event) => calculateObjectSize(event)));
  });
  await using served = watches(watcher.db(name, { useBigInt64: true }));
  const leaving = new AbortController();
  const told = served.of({ schema: UserSchema, id: "user_id" }).follow(leaving.signal);
  expect((await told.next()).value?.type).toBe(WatchEventType.CHECKPOINT);

  const users = client.db(name).collection("users");
  await users.insertOne({ user_id: "1", revision: 1n, small: 1 });
  await users.updateOne({ user_id: "1" }, { $set: { large }, $inc: { revision: 1n } });
  const events = [(await told.next()).value, (await told.next()).value];
  await users.updateOne({ user_id: "1" }, { $unset: { large: 1 }, $inc: { revision: 1n } });
  events.push((await told.next()).value);

  expect(events.map((event) => event?.revision)).toEqual([1n, 2n, 3n]);
  expect(deserialize(events[1]?.document ?? new Uint8Array())).toMatchObject({ user_id: "1", small: 1, large });
  expect(deserialize(events[2]?.document ?? new Uint8Array())).not.toHaveProperty("large");
  expect(Math.max(...sizes)).toBeGreaterThan(large.length);
  expect(Math.max(...sizes)).toBeLessThan(limit);
  leaving.abort();
  await refusalOf(told.next());
});

test("a server that sends no event in parts is watched, and a change that it cannot send ends the watch from before it", async () => {
  let isLarge = false;
  await using server = await openRouter(mongodbUri, ({ pipeline }, command) => {
    if (command === "aggregate" && JSON.stringify(pipeline).includes("$changeStreamSplitLargeEvent")) {
      const errmsg = "Unrecognized pipeline stage name: '$changeStreamSplitLargeEvent'";
      return { ok: 0, code: 40_324, codeName: "Location40324", errmsg };
    }
    if (command !== "getMore" || !isLarge) return undefined;
    return { ok: 0, code: 10_334, codeName: "BSONObjectTooLarge", errmsg: "BSONObj size is invalid" };
  });
  await using old = await MongoClient.connect(server.uri);
  await using served = watches(old.db(name, { useBigInt64: true }));
  const told = served.of({ schema: UserSchema, id: "user_id" }).follow(new AbortController().signal);
  expect((await told.next()).value?.type).toBe(WatchEventType.CHECKPOINT);
  const users = client.db(name).collection("users");
  await users.insertOne({ user_id: "2", revision: 1n });
  expect((await told.next()).value).toMatchObject({ id: "2", revision: 1n });
  isLarge = true;
  expect(await refusalOf(told.next())).toMatchObject({ code: "OutOfRange", reason: "WATCH_TOKEN_TOO_OLD" });
});
