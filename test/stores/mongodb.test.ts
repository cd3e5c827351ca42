import { expect, test } from "vitest";

import { translateStoreError } from "../../src/stores/errors.ts";
import { latencyRecorder } from "../../src/stores/latency.ts";
import { openMongodb } from "../../src/stores/mongodb.ts";
import { patient } from "../support/app.ts";
import { storeAddresses, uniqueName } from "../support/stores.ts";

function opened(latency = latencyRecorder()) {
  const names = { database: uniqueName("store"), systemDatabase: uniqueName("store") };
  return openMongodb({ uri: patient(storeAddresses().mongodbUri), ...names }, { latency });
}

test("the server says what it can do", async () => {
  await using store = opened();
  const features = await store.features(AbortSignal.timeout(150_000));
  expect(features.version).toMatch(/^\d+\.\d+/);
  const replicated = features.sharded || features.replicaSet !== "";
  expect(features).toMatchObject({ changeStreams: replicated, transactions: replicated });
  expect(["primary", "mongos", "standalone"]).toContain(features.role);
});

test("int64 of the domain is exact in both directions", async () => {
  await using store = opened();
  const numbers = store.domain.collection("numbers");
  const values = [2n ** 63n - 1n, -(2n ** 63n), 2n ** 53n + 1n, 0n, 7n];
  try {
    await numbers.insertMany(values.map((value, order) => ({ order, value })));
    const found = await numbers.find().sort({ order: 1 }).toArray();
    expect(found.map(({ value }) => value)).toEqual(values);
    // What is no int64 stays a number.
    expect(found.map(({ order }) => order)).toEqual([0, 1, 2, 3, 4]);
  } finally {
    await store.domain.dropDatabase();
  }
});

test("the domain is read from the primary, whatever the connection string prefers", async () => {
  const uri = "mongodb://127.0.0.1:1/?readPreference=secondaryPreferred";
  await using store = openMongodb({ uri, database: "any", systemDatabase: "other" });
  expect(store.domain.collection("any").readPreference?.mode).toBe("primary");
});

test("every operation of the domain is measured once, however it is called", async () => {
  const latency = latencyRecorder();
  await using store = opened(latency);
  const things = store.domain.collection<{ _id: number; n?: number }>("things");
  try {
    await things.insertMany(Array.from({ length: 5 }, (_, _id) => ({ _id })));
    await expect(things.insertOne({ _id: 1 })).rejects.toMatchObject({ code: 11_000 });
    await things.updateOne({ _id: 1 }, { $set: { n: 1 } });
    await things.findOneAndUpdate({ _id: 2 }, { $set: { n: 2 } });
    await things.findOne({ _id: 1 });
    expect(await things.find({}, { batchSize: 2 }).toArray()).toHaveLength(5);
    for await (const _ of things.find({}, { batchSize: 4 }));
    await things.find({}, { raw: true }).next();
    expect(await things.countDocuments()).toBe(5);
    await things.aggregate([{ $match: {} }]).toArray();
    await things.deleteMany({ _id: 4 });
    await store.system.collection("unmeasured").countDocuments();
    await expect(store.domain.command({ noSuchCommandAnywhere: 1 })).rejects.toMatchObject({ code: 59 });
    const counted = latency.report(60_000).scopes.mongodb;
    const byName = Object.fromEntries(counted.map(({ operation, count, failures }) => [operation, [count, failures]]));
    expect(byName).toEqual({
      aggregate: [2, 0],
      bulkWrite: [1, 0],
      deleteMany: [1, 0],
      find: [4, 0],
      findOneAndUpdate: [1, 0],
      // Two for the rest of five in batches of two, one for the rest in batches of four.
      getMore: [3, 0],
      insertOne: [1, 0],
      noSuchCommandAnywhere: [1, 1],
      updateOne: [1, 0],
    });
  } finally {
    await store.domain.dropDatabase();
  }
});

test("a server that is away is told within seconds, unless the connection string says otherwise", async () => {
  const away = (options: string) =>
    openMongodb({ uri: `mongodb://127.0.0.1:1/?directConnection=true${options}`, database: "a", systemDatabase: "b" });
  const beganMs = performance.now();
  await using named = away("&serverselectiontimeoutms=100&maxPoolSize=7");
  await using usual = away("");
  const refusal: unknown = await usual.domain.command({ ping: 1 }).catch((error: unknown) => error);
  // One of those who wait for the same first connection is told why there is none.
  expect(translateStoreError(refusal)).toMatchObject({ rawMessage: "MongoDB cannot be reached" });
  // Two seconds, and what a busy machine adds; the driver by itself waits for half a minute.
  expect(performance.now() - beganMs).toBeLessThan(28_000);
  expect(named.client.options).toMatchObject({ maxPoolSize: 7, serverSelectionTimeoutMS: 100 });
  expect(usual.client.options).toMatchObject({ maxPoolSize: 100, serverSelectionTimeoutMS: 2000 });
});
