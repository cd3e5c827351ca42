import { create } from "@bufbuild/protobuf";
import { type Document, MongoClient } from "mongodb";
import { expect, test, vi } from "vitest";

import { SelectionSchema } from "../../../gen/lucid/admin/v1/backup_service_pb.ts";
import { documentChangeOf } from "../../../src/backup/mongodb/change-record.ts";
import { mongodbSource } from "../../../src/backup/mongodb/source.ts";
import { cuttable } from "../../jobs/proxy.ts";
import { storeAddresses } from "../../support/stores.ts";
import { contentNames, rawContent, restore, rig, take } from "./harness.ts";
import { memoryStreams, quietWork } from "./memory.ts";

// Servers that look documents up slowly take their time.
vi.setConfig({ testTimeout: 180_000 });

interface Doc extends Document {
  _id: number;
}

test("connections that are cut while documents are read lose and repeat nothing", async () => {
  await using here = await rig();
  const [db, restored] = [here.database(), here.database()];
  const text = "x".repeat(10_000);
  for (let start = 0; start < 3000; start += 500) {
    await db
      .collection<Doc>("cut")
      .insertMany(Array.from({ length: 500 }, (_, index) => ({ _id: start + index, text, number: 0 })));
  }
  await using wire = await cuttable(storeAddresses().mongodbUri);
  await using client = await MongoClient.connect(wire.uri, { monitorCommands: true });
  const orders: unknown[] = [];
  client.on("commandStarted", ({ command }) => {
    if (command["find"] === "cut") orders.push(command["sort"]);
  });
  let writes = 0;
  const streams = memoryStreams({
    async onWrite() {
      writes++;
      if (writes > 6) return;
      await db.collection<Doc>("cut").updateMany({ _id: { $mod: [300, writes] } }, { $inc: { number: 1 } });
      wire.cut();
      wire.mend();
    },
  });
  const { units, cut } = await take({ client, systemDatabase: here.systemDatabase }, [db.databaseName], streams);
  expect(writes).toBeGreaterThan(6);
  // Several shards keep to an order only where they are asked to, and reading went on after the last document that had come.
  for (const order of orders) expect(order).toEqual({ _id: 1 });
  expect(cut.mongodbConsistent).toBe(true);
  const [unit] = units;
  expect(unit?.recordCount).toBe(3000n);
  const report = await restore(here, units, streams, { renames: [[db.databaseName, restored.databaseName]] });
  expect(report).toMatchObject([{ equal: true, equalItems: 3000n }]);
  expect(await rawContent(restored, "cut")).toEqual(await rawContent(db, "cut"));
});

test("a selection takes what it names, by its names at the cut", async () => {
  await using here = await rig();
  const [whole, single, other, restored] = [here.database(), here.database(), here.database(), here.database()];
  await whole.collection("a").insertOne({});
  await single.collection("wanted").insertMany([{}, {}]);
  await single.collection("unwanted").insertOne({});
  await single.collection("leaves").insertOne({});
  await other.collection("a").insertOne({});
  const names = [whole.databaseName, ...["wanted", "comes", "leaves"].map((name) => `${single.databaseName}.${name}`)];
  const streams = memoryStreams();
  const { units } = await take(here, names, streams, {
    async read() {
      await single.collection("wanted").insertOne({});
      await single.collection("unwanted").rename("comes");
      await single.collection("comes").insertOne({});
      await single.collection("leaves").rename("left");
      await other.collection("b").insertOne({});
    },
  });
  expect(units.map(({ name }) => name)).toEqual([
    ...[`${whole.databaseName}.a`, `${single.databaseName}.comes`, `${single.databaseName}.wanted`].toSorted(),
    "changes",
  ]);
  await restore(here, units, streams, {
    renames: [
      [whole.databaseName, restored.databaseName],
      [single.databaseName, restored.databaseName],
    ],
  });
  expect(await contentNames(restored)).toEqual(["a", "comes", "wanted"]);
  expect(await rawContent(restored, "comes")).toEqual(await rawContent(single, "comes"));
  expect(await restored.collection("wanted").countDocuments()).toBe(3);
});

test("a collection that is dropped and made again is the new one", async () => {
  await using here = await rig();
  const [db, restored] = [here.database(), here.database()];
  await db.collection<Doc>("again").insertMany([{ _id: 1, of: "old" }, { _id: 2 }]);
  await db.collection<Doc>("goes").insertOne({ _id: 1 });
  const streams = memoryStreams();
  const { units } = await take(here, [db.databaseName], streams, {
    async begun() {
      await db.dropCollection("goes");
      await db.dropCollection("again");
      await db.createCollection("again", { validator: { of: "new" } });
      await db.collection<Doc>("again").insertOne({ _id: 1, of: "new" });
    },
    async read() {
      await db.collection("again").createIndex({ of: 1 });
    },
  });
  const report = await restore(here, units, streams, { renames: [[db.databaseName, restored.databaseName]] });
  expect(report).toMatchObject([{ source: `${db.databaseName}.again`, equal: true, expectedItems: 1n }]);
  expect(await rawContent(restored, "again")).toEqual(await rawContent(db, "again"));
});

test("what happens is recorded in order, up to the cut", async () => {
  await using here = await rig();
  const db = here.database();
  const documents = db.collection<Doc>("recorded");
  await documents.insertOne({ _id: 0 });
  const streams = memoryStreams();
  const { units, cut } = await take(here, [db.databaseName], streams, {
    async read() {
      await documents.insertOne({ _id: 1 });
      await documents.updateOne({ _id: 1 }, { $set: { a: 1 } });
      await documents.replaceOne({ _id: 1 }, { b: 1 });
      await documents.deleteOne({ _id: 1 });
    },
  });
  const stream = units.at(-1)?.streams[0];
  if (stream === undefined) throw new Error("There are no changes");
  const changes = streams.recordsOf(stream).map(documentChangeOf);
  expect(changes.map((change) => change?.operation)).toEqual(["insert", "update", "replace", "delete"]);
  const times = changes.map((change) => change?.time ?? 0n);
  expect(times).toEqual(times.toSorted((one, other) => (one < other ? -1 : 1)));
  expect(times.at(-1)).toBeLessThanOrEqual(cut.mongodbClusterTime ?? 0n);
});

test("a backup whose repository breaks ends, and leaves nothing open", async () => {
  await using here = await rig();
  const db = here.database();
  await db.collection("a").insertOne({});
  const streams = memoryStreams({ onWrite: () => Promise.reject(new Error("The repository broke")) });
  await expect(take(here, [db.databaseName], streams)).rejects.toThrow("The repository broke");
});

test("a backup that is cancelled ends", async () => {
  await using here = await rig();
  const db = here.database();
  await db.collection("a").insertOne({});
  const cancel = new AbortController();
  const cancelled = new Error("Cancelled");
  const streams = memoryStreams({ onWrite: async () => cancel.abort(cancelled) });
  const source = mongodbSource({ client: here.client, systemDatabase: here.systemDatabase });
  const selection = create(SelectionSchema, { mongodbNamespaces: [db.databaseName] });
  await using run = await source.begin(selection, streams, quietWork({ signal: cancel.signal }));
  await expect(run.read().then(() => run.cut())).rejects.toBe(cancelled);
});
