import { createHash } from "node:crypto";

import { serialize } from "bson";
import { Redis } from "ioredis";
import { MongoClient } from "mongodb";
import { expect, test } from "vitest";

import { startRedis } from "../../local/redis.ts";
import { writeSeed } from "../../local/seed.ts";
import { collections, planFor } from "../../local/seed/documents.ts";
import { keyOf } from "../../local/seed/keys.ts";
import { random } from "../../local/seed/random.ts";
import { tronAddress } from "../../local/seed/tron.ts";
import { patientCollections } from "../repository/support.ts";
import { storeAddresses, uniqueName } from "../support/stores.ts";

function digest(seed: number): string {
  const hash = createHash("sha256");
  for (const { count, document } of collections(seed, 1000)) {
    for (let index = 0; index < count; index++) hash.update(serialize(document(index)));
  }
  for (let index = 0; index < 1000; index++) hash.update(JSON.stringify(keyOf(planFor(seed, 1000), index)));
  return hash.digest("hex");
}

test("the same number gives the same bytes, another one others", () => {
  expect(digest(7)).toBe(digest(7));
  expect(digest(8)).not.toBe(digest(7));
});

test("the bytes of a seed stay the same over the project's life", () => {
  // Written down: a change of it changes what every reader of the README and every comparison of benchmarks sees.
  expect(digest(1)).toBe("e376ab3e99bbad0b6af329907a510308adf4e981ddcc95cc36f43a2eb370bab5");
});

test.for([
  ["0000000000000000000000000000000000000000", "T9yD14Nj9j7xAB4dbGeiX9h8unkKHxuWwb"],
  ["a614f803b6fd780986a42c78ec9c7f77e6ded13c", "TR7NHqjeKQxGTCi8q8ZY4pL8otSzgjLj6t"],
] as const)("a TRON address carries its checksum: %s", ([account, address]) => {
  expect(tronAddress(Buffer.from(account, "hex"))).toBe(address);
});

test("random streams are even and independent", () => {
  const chance = random(1, "test");
  const counts = Array.from({ length: 10 }, () => 0);
  for (let i = 0; i < 10_000; i++) {
    const drawn = chance.whole(0, 9);
    counts[drawn] = (counts[drawn] ?? 0) + 1;
  }
  expect(Math.min(...counts)).toBeGreaterThan(850);
  expect(Math.max(...counts)).toBeLessThan(1150);
});

test("what a seed writes fits the collections of the service", async () => {
  await using client = await MongoClient.connect(storeAddresses().mongodbUri);
  const db = client.db(uniqueName("seeded"));
  using kept = patientCollections(db);
  try {
    await kept.ready();
    for (const { name, count, document } of collections(1, 1000)) {
      const { insertedCount } = await db
        .collection(name)
        .insertMany(Array.from({ length: count }, (_, index) => document(index)));
      expect(insertedCount).toBe(count);
    }
  } finally {
    await db.dropDatabase();
  }
});

test("ids, natural keys and key names are unique, and blocks are linked", () => {
  const all = new Map(collections(3, 5000).map((collection) => [collection.name, collection]));
  const idFields = {
    users: "user_id",
    sessions: "session_id",
    chunks: "chunk_id",
    blocks: "block_id",
    wallets: "tron_address",
  };
  for (const [name, field] of Object.entries(idFields)) {
    const collection = all.get(name);
    const ids = Array.from({ length: collection?.count ?? 0 }, (_, index) =>
      String(collection?.document(index)[field]),
    );
    expect(ids.length).toBeGreaterThan(0);
    expect(new Set(ids).size).toBe(ids.length);
  }
  const blocks = all.get("blocks");
  for (let height = 1; height < (blocks?.count ?? 0); height++) {
    expect(blocks?.document(height)["previous_hash"]).toBe(blocks?.document(height - 1)["block_id"]);
  }
  const names = Array.from({ length: 5000 }, (_, index) => keyOf(planFor(3, 100), index).name);
  expect(new Set(names).size).toBe(names.length);
});

test("seeding again replaces what an earlier seed wrote and leaves the rest", async () => {
  await using server = await startRedis(); // keys of a seed have fixed names: the shared one belongs to all tests
  const addresses = { ...storeAddresses(), redisUri: server.uri };
  const database = uniqueName("seed");
  const names = { database, indexPrefix: `${database}-` };
  await using client = new MongoClient(addresses.mongodbUri);
  const db = client.db(database);
  const redis = new Redis(server.uri);
  try {
    await db.collection("users").insertOne({ user_id: "mine", created_by: "me" });
    await redis.set("mine", "kept");
    const size = { documents: 1000, keys: 400, searchDocuments: 100 };
    await writeSeed(addresses, { seed: 1, ...size }, names);
    const written = await writeSeed(addresses, { seed: 2, ...size, keys: 200 }, names);

    const counts = await Promise.all(collections(2, 1000).map(({ name }) => db.collection(name).countDocuments()));
    expect(counts.reduce((sum, count) => sum + count, 0)).toBe(1001);
    expect(await db.collection("users").findOne({ created_by: "me" })).not.toBeNull();
    expect(await redis.dbsize()).toBe(200 + 2); // with the seed's own record
    expect(await redis.get("mine")).toBe("kept");
    const found = await fetch(
      `${addresses.searchUri}/${database}-users,${database}-sessions,${database}-blocks/_count`,
    );
    expect(await found.json()).toMatchObject({ count: 25 + 30 + 5 });
    expect(written).toEqual({ seed: 2, ...size, keys: 200 });
  } finally {
    redis.disconnect();
    await db.dropDatabase();
    await fetch(`${addresses.searchUri}/${database}-*`, { method: "DELETE" });
  }
});
