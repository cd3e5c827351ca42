import { deserialize, Long } from "bson";
import { type Document, MongoClient } from "mongodb";
import { expect, test } from "vitest";

import { fillSection } from "../../../src/search/sync/pages.ts";
import { storeAddresses, uniqueName } from "../../support/stores.ts";

test("a collection is asked for in the order of _id, and read on after any of them, of whatever type", async () => {
  await using client = await MongoClient.connect(storeAddresses().mongodbUri, { monitorCommands: true });
  const db = client.db(uniqueName("pages"));
  try {
    const ids = [null, -1, Long.fromString("9007199254740993"), 1e300, "", "a", { a: 1 }, new Date(0)];
    const documents = ids.toReversed().map((_id): Document => ({ _id }));
    await db.collection("users").insertMany(documents);
    const asked: unknown[] = [];
    client.on("commandStarted", ({ command }) => {
      if ("find" in command) asked.push(command["sort"]);
    });
    const readFrom = async (after: unknown): Promise<unknown[]> => {
      const found: unknown[] = [];
      const source = { db, collection: "users" };
      await fillSection(source, { after, signal: AbortSignal.timeout(150_000) }, async (page) => {
        for (const document of page.documents) found.push(deserialize(document)["_id"]);
      });
      return found;
    };
    const all = await readFrom(undefined);
    expect(all).toHaveLength(ids.length);
    for (const [at, id] of all.entries()) expect(await readFrom(id)).toEqual(all.slice(at + 1));
    // Several shards keep to it only where they are asked to.
    expect(asked).toHaveLength(all.length + 1);
    for (const sort of asked) expect(sort).toEqual(new Map([["_id", 1]]));
  } finally {
    await db.dropDatabase();
  }
});
