import { createHash } from "node:crypto";

import { type Db, MongoClient } from "mongodb";
import { afterAll, beforeAll, expect, test } from "vitest";

import { chunkCount, chunkLeaves } from "../../src/repository/chunk-leaves.ts";
import { storeAddresses, uniqueName } from "../support/stores.ts";
import { refusalOf } from "./support.ts";

let client: MongoClient;
let db: Db;
beforeAll(async () => {
  client = await MongoClient.connect(storeAddresses().mongodbUri);
  db = client.db(uniqueName("leaves"), { useBigInt64: true });
  await db.collection("chunks").createIndex({ session_id: 1, chunk_index: 1 }, { unique: true });
});
afterAll(async () => {
  await db.dropDatabase();
  await client.close();
});

const context = { timeoutMs: () => undefined, signal: new AbortController().signal };
const hash = (index: number) => createHash("sha256").update(`${index}`).digest("hex");

/** Stores chunks with these indexes, in another order than theirs. */
async function store(sessionId: string, indexes: readonly number[], init: object = {}) {
  const chunks = indexes.map((index) => ({
    session_id: sessionId,
    chunk_index: index,
    hash: hash(index),
    size_bytes: BigInt(index + 1),
    ...init,
  }));
  await db.collection("chunks").insertMany(chunks.toReversed());
}

async function read(sessionId: string, count: number) {
  const leaves: string[] = [];
  let bytes = 0n;
  for await (const leaf of chunkLeaves(db, { sessionId, count }, context)) {
    leaves.push(Buffer.from(leaf.hash).toString("hex"));
    bytes += leaf.sizeBytes;
  }
  return { leaves, bytes };
}

const many = (count: number) => Array.from({ length: count }, (_, index) => index);

test("chunks come in the order of their indexes, as many as are asked for, over any number of windows", async () => {
  await store("whole", many(10_001));
  await store("another", [0, 1, 2]);
  for (const count of [0, 1, 4999, 5000, 5001, 10_000, 10_001]) {
    const { leaves, bytes } = await read("whole", count);
    expect(leaves).toEqual(many(count).map(hash));
    expect(bytes).toBe((BigInt(count) * BigInt(count + 1)) / 2n);
  }
  expect(await chunkCount(db, "whole", context)).toBe(10_001);
  expect(await chunkCount(db, "nothing", context)).toBe(0);
});

test.for([
  ["the first", [1, 2], 3, "0"],
  ["one in between", [0, 1, 3, 4], 5, "2"],
  ["the last", [0, 1, 2], 4, "3"],
  ["the first of a window", [...many(5000), 5001], 5002, "5000"],
  ["all", [], 1, "0"],
  ["nearly all", [0, 2_000_000_000], 2_000_000_001, "1"],
] as const)("where %s is missing, the first missing index is named", async ([name, indexes, count, missing]) => {
  if (indexes.length > 0) await store(name, indexes);
  expect(await refusalOf(read(name, count))).toMatchObject({
    code: "FailedPrecondition",
    reason: "CHUNK_MISSING",
    metadata: { session_id: name, chunk_index: missing },
  });
});

test.for([[null], [7], ["ab"], [hash(0).toUpperCase()], [`${hash(0)}00`]])(
  "%s is no hash, and no leaf is made of it",
  async ([wrong]) => {
    const name = `damaged ${String(wrong)}`;
    await store(name, [0]);
    await store(name, [1], { hash: wrong });
    expect((await read(name, 1)).leaves).toEqual([hash(0)]);
    expect(await refusalOf(read(name, 2))).toMatchObject({
      code: "DataLoss",
      reason: "DOCUMENT_DAMAGED",
      metadata: { field: "hash", session_id: name, chunk_index: "1" },
    });
  },
);

test("a call that has ended stops the reading", async () => {
  await store("long", many(5001));
  const controller = new AbortController();
  const ended = { timeoutMs: () => undefined, signal: controller.signal };
  let taken = 0;
  const reading = async () => {
    for await (const _ of chunkLeaves(db, { sessionId: "long", count: 5001 }, ended)) {
      if (++taken === 10) controller.abort(new Error("It has ended"));
    }
  };
  await expect(reading()).rejects.toThrow("It has ended");
  expect(taken).toBe(5000);
});
