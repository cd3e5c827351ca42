import { calculateObjectSize } from "bson";
import { type Document, MongoClient } from "mongodb";
import { expect, test } from "vitest";

import { ChangeTail } from "../../../src/search/sync/tail.ts";
import { storeAddresses, uniqueName } from "../../support/stores.ts";

// MongoDB sends no event above 16 MB, and a document may nearly have them: its event would end the stream for good.
test("large documents are told of, and not sent", async () => {
  await using client = await MongoClient.connect(storeAddresses().mongodbUri, { monitorCommands: true });
  const db = client.db(uniqueName("tail"));
  const signal = AbortSignal.timeout(150_000);
  try {
    const users = db.collection<Document & { _id: string }>("users");
    await users.insertOne({ _id: "first", user_id: "0" });
    const events: Document[] = [];
    client.on("commandSucceeded", ({ reply }) => {
      const { firstBatch = [], nextBatch = [] } = ((reply as Document)["cursor"] ?? {}) as Record<string, Document[]>;
      events.push(...firstBatch, ...nextBatch);
    });
    await using tail = await ChangeTail.open({ db, collection: "users", id: "user_id" }, undefined);
    const large = "x".repeat(15 * 1024 * 1024);
    await users.insertOne({ _id: "large", user_id: "1", revision: 1n, large });
    await users.insertOne({ _id: "small", user_id: "2", revision: 1n });
    await users.updateOne({ _id: "small" }, { $set: { large }, $inc: { revision: 1n } });
    await users.replaceOne({ _id: "large" }, { user_id: "1", revision: 2n });
    await users.updateOne({ _id: "large" }, { $set: { name: "no new revision" } });

    const ids = new Map<string, string>();
    let [count, alone] = [0, false];
    while (count < 5) {
      const batch = await tail.next(1000, signal);
      count += batch.events;
      alone ||= batch.alone;
      for (const [key, { id }] of batch.changed) if (id !== undefined) ids.set(key, id);
    }
    expect([...ids.values()].toSorted()).toEqual(["1", "2"]);
    // The last change makes no new revision.
    expect(alone).toBe(true);
    expect(events.length).toBeGreaterThanOrEqual(5);
    for (const event of events) expect(calculateObjectSize(event)).toBeLessThan(10_000);
  } finally {
    await db.dropDatabase();
  }
});
