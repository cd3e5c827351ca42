import { randomUUID } from "node:crypto";

import { create, type MessageInitShape } from "@bufbuild/protobuf";
import type { HandlerContext } from "@connectrpc/connect";
import { MongoClient } from "mongodb";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";

import { type Block, BlockStatus } from "../../gen/lucid/repository/v1/block_pb.ts";
import {
  BrokenLinkKind,
  type ListBlocksRequestSchema,
  StreamBlocksRequestSchema,
  type VerifyChainResponse,
} from "../../gen/lucid/repository/v1/block_service_pb.ts";
import { blockService } from "../../src/repository/block.ts";
import { storeAddresses } from "../support/stores.ts";
import { allOf, type BlocksApp, blocksApp, hashOf, newBlock, newChain, newHash, noHash } from "./block-support.ts";
import { refusalOf, noWatches } from "./support.ts";

let service: BlocksApp;
beforeAll(async () => {
  service = await blocksApp();
  // Makes the collections with their indexes.
  await newBlock(service.blocks);
});
afterAll(() => service[Symbol.asyncDispose]());
beforeEach(() => service.clear());

interface Stored {
  readonly block_id: string;
  readonly height: bigint;
  readonly previous_hash: string;
}

const firstMs = Date.UTC(2026, 0, 1);

/** Stores a chain of so many blocks; readers do not care how it came there. Blocks are a second apart. */
async function store(count: number, fields: (height: number) => object = () => ({})): Promise<Stored[]> {
  const collection = service.db.collection("blocks");
  const hash = (height: number) => (height < 0 ? noHash : hashOf(`block ${height}`));
  const documents = Array.from({ length: count }, (_, height) => ({
    block_id: hash(height),
    height: BigInt(height),
    previous_hash: hash(height - 1),
    merkle_root: hash(height),
    timestamp: new Date(firstMs + height * 1000),
    status: "PENDING",
    transaction_count: 0,
    created_at: new Date(),
    revision: 1n,
    ...fields(height),
  }));
  for (let at = 0; at < count; at += 1000) await collection.insertMany(documents.slice(at, at + 1000));
  return documents;
}

type ListRequest = MessageInitShape<typeof ListBlocksRequestSchema>;

/** Reads a list of blocks to its end, in small pages. */
async function all<R extends { pageToken?: string }>(
  page: (request: R) => Promise<{ blocks: { height: bigint }[]; nextPageToken: string }>,
  request: R,
): Promise<number[]> {
  const found: number[] = [];
  let pageToken = "";
  do {
    const { blocks, nextPageToken } = await page({ ...request, pageSize: 2, pageToken });
    found.push(...blocks.map(({ height }) => Number(height)));
    pageToken = nextPageToken;
  } while (pageToken !== "");
  return found;
}

test("a list is restricted by status, times and orphaning, ordered, and counted alike", async () => {
  const { blocks } = service;
  const status = (height: number) => ["FINALIZED", "FINALIZED", "CONFIRMED", "PENDING", "ORPHANED"][height];
  // The third is as old as the first.
  await store(5, (height) => ({
    status: status(height),
    ...(height === 2 && { timestamp: new Date(firstMs) }),
    ...(height === 4 && { orphaned_at: new Date() }),
  }));
  const at = (second: number, nanos = 0) => ({ seconds: BigInt(firstMs / 1000 + second), nanos });
  const { FINALIZED, ORPHANED, VALIDATING } = BlockStatus;
  const cases: readonly [ListRequest, readonly number[]][] = [
    [{}, [3, 2, 1, 0]],
    [{ showOrphaned: true }, [4, 3, 2, 1, 0]],
    [{ orderBy: "height" }, [0, 1, 2, 3]],
    [{ filter: { status: FINALIZED } }, [1, 0]],
    [{ filter: { status: ORPHANED } }, [4]],
    [{ filter: { status: VALIDATING } }, []],
    [{ filter: { status: FINALIZED }, orderBy: "timestamp" }, [0, 1]],
    [{ filter: { timestampFrom: at(1) } }, [3, 1]],
    [{ filter: { timestampFrom: at(1) }, orderBy: "timestamp" }, [1, 3]],
    [{ filter: { timestampFrom: at(0, 1), timestampBefore: at(3) } }, [1]],
    [{ filter: { timestampBefore: at(1) }, orderBy: " timestamp  desc" }, [0, 2]],
    [{ filter: { timestampFrom: at(0), status: FINALIZED } }, [1, 0]],
  ];
  for (const [request, expected] of cases) {
    const found = await all((page: ListRequest) => blocks.listBlocks(page), request);
    const isTied = request.filter?.timestampBefore !== undefined && expected.length === 2;
    expect(isTied ? found.toSorted((one, other) => one - other) : found, JSON.stringify(expected)).toEqual(expected);
    const { count } = await blocks.countBlocks({ filter: request.filter, showOrphaned: request.showOrphaned ?? false });
    expect(count).toBe(BigInt(expected.length));
  }
});

test("summaries have the last block first, and of each only what they show", async () => {
  const { blocks } = service;
  const made = await newChain(blocks, 3);
  const summaries = (await blocks.listBlockSummaries({ pageSize: 2 })).blocks;
  const [, one, two] = made as [Block, Block, Block];
  expect(summaries).toMatchObject([
    { blockId: two.blockId, height: 2n, previousHash: one.blockId, status: BlockStatus.PENDING },
    { blockId: one.blockId, height: 1n, timestamp: one.timestamp },
  ]);
  await blocks.markBlockOrphaned({ blockId: two.blockId });
  expect(await all((page) => blocks.listBlockSummaries(page), {})).toEqual([1, 0]);
});

test("the blocks that anchor a session are found by it", async () => {
  const { blocks } = service;
  const [mine, other] = [randomUUID(), randomUUID()];
  const anchor = (sessionId: string) => ({ sessionId, userId: "u", merkleRoot: newHash() });
  const genesis = await newBlock(blocks, undefined, { sessionAnchors: [anchor(other), anchor(mine)] });
  const one = await newBlock(blocks, genesis, { sessionAnchors: [anchor(other)] });
  const two = await newBlock(blocks, one, { sessionAnchors: [anchor(mine), anchor(mine)] });
  const bySession = (sessionId: string, showOrphaned = false) =>
    all((page: object) => blocks.listBlocksBySession({ sessionId, showOrphaned, ...page }), {});
  expect(await bySession(mine)).toEqual([2, 0]);
  expect(await bySession(other)).toEqual([1, 0]);
  for (const sessionId of ["nobody", '{"$ne":null}', ".*", "$where"]) expect(await bySession(sessionId)).toEqual([]);
  await blocks.markBlockOrphaned({ blockId: two.blockId });
  expect(await bySession(mine)).toEqual([0]);
  expect(await bySession(mine, true)).toEqual([2, 0]);
});

test("a search finds blocks by the start of a hash and by a height", async () => {
  const { blocks } = service;
  const hash = (start: string) => start + newHash().slice(start.length);
  const genesis = await newBlock(blocks, undefined, { blockId: hash("ab12") });
  const one = await newBlock(blocks, genesis, { blockId: hash("2f") });
  const two = await newBlock(blocks, one, { blockId: hash("ab2") });
  const gone = await newBlock(blocks, two, { blockId: hash("abc") });
  await blocks.markBlockOrphaned({ blockId: gone.blockId });
  const search = (query: string) => all((page: object) => blocks.searchBlocks({ query, ...page }), {});
  expect(await search("ab")).toEqual([0, 2, 3]);
  expect(await search("AB1")).toEqual([0]);
  expect(await search(gone.blockId)).toEqual([3]);
  // The height first: its hash is the greater.
  expect(await search("2")).toEqual([1, 2]);
  expect(await search("0")).toEqual([0]);
  expect(await search("9".repeat(64))).toEqual([]);
  expect(await search("9223372036854775808")).toEqual([]);
});

test("a range is streamed in order, without what is orphaned or beyond", async () => {
  const { blocks, overHttp } = service;
  await store(300, (height) => (height === 299 ? { status: "ORPHANED", orphaned_at: new Date() } : {}));
  for (const client of [blocks, overHttp]) {
    const heights = async (startHeight: bigint, endHeight: bigint) =>
      (await allOf(client.streamBlocks({ startHeight, endHeight }))).map(({ block }) => Number(block?.height));
    expect(await heights(0n, 9999n)).toEqual(Array.from({ length: 299 }, (_, height) => height));
    expect(await heights(7n, 9n)).toEqual([7, 8, 9]);
    expect(await heights(298n, 298n)).toEqual([298]);
    expect(await heights(299n, 400n)).toEqual([]);
  }
});

test("a stream reads from the store what its reader takes, and no more", async () => {
  await store(350);
  const uri = storeAddresses().mongodbUri;
  await using client = await MongoClient.connect(uri, { monitorCommands: true });
  const db = client.db(service.db.databaseName, { useBigInt64: true });
  const { streamBlocks } = blockService({
    db,
    collections: { ready: async () => {} },
    pageTokens: expect.unreachable,
    watches: noWatches,
  });
  let asked = 0;
  client.on("commandStarted", ({ commandName }) => {
    if (commandName === "find" || commandName === "getMore") asked += 1;
  });
  const { signal } = new AbortController();
  const request = create(StreamBlocksRequestSchema, { endHeight: 9999n });
  const context = { signal, timeoutMs: () => undefined } as unknown as HandlerContext; // all that is asked of it
  let taken = 0;
  for await (const _ of streamBlocks(request, context)) {
    taken += 1;
    // A batch has 100 blocks.
    expect(asked).toBeLessThanOrEqual(Math.ceil(taken / 100));
  }
  expect(taken).toBe(350);
  expect(asked).toBe(4);
});

/** The last message of a check, and how far the messages before it had come. */
async function verified(request: object = {}): Promise<{ last: VerifyChainResponse | undefined; heights: number[] }> {
  const messages = await allOf(service.blocks.verifyChain(request));
  expect(messages.filter(({ done }) => done)).toHaveLength(1);
  return {
    last: messages.at(-1),
    heights: messages.map(({ verifiedHeight }) => (verifiedHeight === undefined ? -1 : Number(verifiedHeight))),
  };
}

test("a whole chain is verified, with progress, from any height on", async () => {
  await store(2500);
  const whole = await verified();
  expect(whole.last).toMatchObject({ done: true, verifiedHeight: 2499n, endHeight: 2499n });
  expect(whole.last?.brokenLink).toBeUndefined();
  expect(whole.heights).toEqual(expect.arrayContaining([999, 1999, 2499]));
  const resumed = await verified({ startHeight: 1999n, progressBlocks: 100 });
  expect(resumed.heights).toEqual(expect.arrayContaining([2098, 2198, 2298, 2398, 2499]));
  expect(resumed.heights.every((height) => height >= 1999)).toBe(true);
  expect((await verified({ endHeight: 10n })).last).toMatchObject({ verifiedHeight: 10n, endHeight: 10n });
  expect((await verified({ startHeight: 2499n })).last).toMatchObject({ verifiedHeight: 2499n });
  const beyond = (await verified({ startHeight: 5000n })).last;
  expect(beyond?.done).toBe(true);
  expect(beyond?.verifiedHeight).toBeUndefined();
  expect(beyond?.brokenLink).toBeUndefined();
});

test("the first link that is broken is named, with what was expected and what was found", async () => {
  const { db } = service;
  const collection = db.collection("blocks");
  const chain = await store(30);
  const hash = (height: number) => chain[height]?.block_id ?? "";
  const wrong = { kind: BrokenLinkKind.WRONG_PREVIOUS_HASH };
  const missing = { kind: BrokenLinkKind.MISSING_BLOCK };
  const broken = async (request: object = {}) => (await verified(request)).last;

  await collection.updateOne({ height: 20n }, { $set: { previous_hash: hash(3) } });
  await collection.updateOne({ height: 25n }, { $set: { previous_hash: hash(4) } });
  const at20 = { ...wrong, height: 20n, blockId: hash(20), expectedPreviousHash: hash(19), foundPreviousHash: hash(3) };
  expect(await broken()).toMatchObject({ verifiedHeight: 19n, brokenLink: at20 });
  expect(await broken({ startHeight: 20n })).toMatchObject({ brokenLink: at20 });
  expect((await broken({ startHeight: 20n }))?.verifiedHeight).toBeUndefined();
  expect(await broken({ startHeight: 21n })).toMatchObject({ verifiedHeight: 24n, brokenLink: { height: 25n } });
  expect((await broken({ endHeight: 19n }))?.brokenLink).toBeUndefined();

  await collection.deleteMany({ height: { $in: [10n, 11n] } });
  const at10 = { ...missing, height: 10n, blockId: "", expectedPreviousHash: hash(9), nextHeight: 12n };
  expect(await broken()).toMatchObject({ verifiedHeight: 9n, brokenLink: at10 });
  expect((await broken())?.brokenLink?.hint).not.toBe("");
  expect(await broken({ endHeight: 10n })).toMatchObject({ brokenLink: at10 });
  expect(await broken({ startHeight: 12n })).toMatchObject({
    brokenLink: { ...missing, height: 11n, expectedPreviousHash: "", nextHeight: 12n },
  });

  await collection.updateOne({ height: 0n }, { $set: { previous_hash: hash(1) } });
  expect(await broken()).toMatchObject({
    brokenLink: { ...wrong, height: 0n, expectedPreviousHash: noHash, foundPreviousHash: hash(1) },
  });
  await collection.deleteOne({ height: 0n });
  expect(await broken()).toMatchObject({ brokenLink: { ...missing, height: 0n, nextHeight: 1n } });
});

test("two blocks at a height, as only a store without the index has them, are named", async () => {
  const { db } = service;
  const chain = await store(5);
  await db.collection("blocks").dropIndex("height_1");
  try {
    const { _id: _, ...twin } = { _id: undefined, ...chain[2], block_id: newHash() };
    await db.collection("blocks").insertOne(twin);
    expect((await verified()).last).toMatchObject({
      done: true,
      verifiedHeight: 2n,
      brokenLink: { kind: BrokenLinkKind.FORK, height: 2n },
    });
  } finally {
    await service.clear();
    const partialFilterExpression = { orphaned_at: null };
    await db
      .collection("blocks")
      .createIndex({ height: 1 }, { name: "height_1", unique: true, partialFilterExpression });
  }
});

test("a chain that loses its end and grows again while it is verified is not called broken", async () => {
  const { blocks } = service;
  await store(1200, (height) => (height < 1190 ? { status: "FINALIZED", finalized: true } : {}));
  const over = new AbortController();
  const reorganise = async () => {
    while (!over.signal.aborted) {
      const gone: bigint[] = [];
      for (let depth = 0; depth < 3; depth++) {
        const last = (await blocks.getLatestBlock({})).block as Block;
        await blocks.markBlockOrphaned({ blockId: last.blockId });
        gone.push(last.height);
      }
      for (const _ of gone) await newBlock(blocks, (await blocks.getLatestBlock({})).block);
    }
  };
  const busy = reorganise();
  try {
    for (let round = 0; round < 15; round++) {
      const { last } = await verified({ startHeight: 1000n, progressBlocks: 1 });
      expect(last?.brokenLink).toBeUndefined();
      expect(Number(last?.verifiedHeight)).toBeGreaterThanOrEqual(1190);
    }
  } finally {
    over.abort();
    await busy;
  }
  expect(await refusalOf(blocks.getBlockByHeight({ height: 1200n }))).toMatchObject({ reason: "BLOCK_NOT_FOUND" });
});
