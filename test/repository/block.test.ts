import { randomBytes, randomUUID } from "node:crypto";

import { type DescMessage, toBinary, toJsonString } from "@bufbuild/protobuf";
import { timestampDate } from "@bufbuild/protobuf/wkt";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";

import { BlockInternalsSchema } from "../../gen/lucid/repository/v1/block_internals_pb.ts";
import { type Block, BlockStatus, ConsensusAlgorithm } from "../../gen/lucid/repository/v1/block_pb.ts";
import { BlockService, CreateBlockResponseSchema } from "../../gen/lucid/repository/v1/block_service_pb.ts";
import {
  allOf,
  type Blocks,
  type BlocksApp,
  blockInit,
  blocksApp,
  hashOf,
  newBlock,
  newChain,
  newHash,
  noHash,
} from "./block-support.ts";
import { refusalOf } from "./support.ts";

let service: BlocksApp;
beforeAll(async () => {
  service = await blocksApp();
});
afterAll(() => service[Symbol.asyncDispose]());
beforeEach(() => service.clear());

async function confirmed(blocks: Blocks, { blockId }: Block): Promise<void> {
  await blocks.updateBlockStatus({ blockId, status: BlockStatus.VALIDATING });
  await blocks.updateBlockStatus({ blockId, status: BlockStatus.CONFIRMED });
}

test("a new block is pending, has its counts and defaults, and nothing that only the service sets", async () => {
  const [one, two] = [newHash(), newHash()];
  const before = Date.now();
  const made = await newBlock(service.blocks, undefined, {
    transactions: [one, two],
    transactionCount: 99,
    sessionAnchors: [{ sessionId: "s1", userId: "u1", merkleRoot: one, chunkCount: 3n, totalSizeBytes: 30n }],
    consensusInfo: { validatorCount: 21, voteCount: 19, consensusReached: true, pootScores: { "node.1": 0.5, $n: 2 } },
    status: BlockStatus.FINALIZED,
    finalized: true,
    confirmations: 9n,
    nextBlockHash: one,
    orphanedAt: { seconds: 1n },
    revision: 9n,
    etag: "x",
    nonce: 2n ** 63n - 1n,
    difficulty: 1.5,
    chainWork: "ff",
    sizeBytes: 1000n,
    metadata: { $set: { "a.b": [1, null] }, 10: "ten", 9: "nine" },
  });
  expect(made).toMatchObject({
    height: 0n,
    version: 1,
    previousHash: noHash,
    status: BlockStatus.PENDING,
    transactions: [one, two],
    transactionCount: 2,
    sessionAnchorCount: 1,
    consensusInfo: { algorithm: ConsensusAlgorithm.POOT, pootScores: { "node.1": 0.5, $n: 2 } },
    finalized: false,
    confirmations: 0n,
    nonce: 2n ** 63n - 1n,
    revision: 1n,
    etag: '"1"',
  });
  for (const name of ["nextBlockHash", "confirmedAt", "finalizedAt", "orphanedAt"]) {
    expect(made[name as "orphanedAt"]).toBeUndefined();
  }
  const createdAt = made.createdAt === undefined ? 0 : timestampDate(made.createdAt).getTime();
  expect(createdAt).toBeGreaterThanOrEqual(before);
  expect(createdAt).toBeLessThanOrEqual(Date.now());
});

test.for(["blocks", "overHttp"] as const)("a block is found by its hash and its height (%s)", async (listener) => {
  const blocks = service[listener];
  const metadata = { $set: { "a.b": [1, null, { "": "$email" }] }, text: "é".repeat(1000) };
  const genesis = await newBlock(blocks, undefined, { metadata });
  const second = await newBlock(blocks, genesis, { metadata, transactions: [newHash()] });
  expect(second.metadata).toStrictEqual(metadata);
  const first = (await blocks.getGenesisBlock({})).block;
  expect(first).toMatchObject({ ...genesis, nextBlockHash: second.blockId, updatedAt: {}, revision: 2n, etag: '"2"' });
  expect((await blocks.getBlock({ blockId: genesis.blockId })).block).toStrictEqual(first);
  expect((await blocks.getBlockByHeight({ height: 0n })).block).toStrictEqual(first);
  expect((await blocks.getBlock({ blockId: second.blockId })).block).toStrictEqual(second);
  expect((await blocks.getBlockByHeight({ height: 1n })).block).toStrictEqual(second);
  expect((await blocks.getLatestBlock({})).block).toStrictEqual(second);
  expect(await blocks.getChainHeight({})).toMatchObject({ height: 1n, blockId: second.blockId });
});

test("an empty chain has no height, no first and no last block", async () => {
  const { blocks } = service;
  const height = await blocks.getChainHeight({});
  expect(height.height).toBeUndefined();
  expect(height.blockId).toBe("");
  const empty = { code: "NotFound", reason: "CHAIN_EMPTY" };
  expect(await refusalOf(blocks.getGenesisBlock({}))).toMatchObject(empty);
  expect(await refusalOf(blocks.getLatestBlock({}))).toMatchObject(empty);
  expect(await refusalOf(allOf(blocks.verifyChain({})))).toMatchObject(empty);
  expect(await allOf(blocks.streamBlocks({ endHeight: 9n }))).toEqual([]);
  expect((await blocks.getBlockStatistics({})).statistics).toMatchObject({ blockCount: 0n, orphanedCount: 0n });
});

test("a block goes upon the last one and nowhere else", async () => {
  const { blocks } = service;
  const notLinked = (height: bigint, expected: string, found: string) => ({
    code: "FailedPrecondition",
    reason: "BLOCK_NOT_LINKED",
    metadata: { height: String(height), expected, found },
  });
  const stray = { blockId: newHash(), height: 4n };
  expect(await refusalOf(newBlock(blocks, stray))).toMatchObject(notLinked(5n, "", stray.blockId));
  const [genesis, one, two] = (await newChain(blocks, 3)) as [Block, Block, Block];
  const taken = (field: string) => ({
    code: "AlreadyExists",
    reason: "BLOCK_ALREADY_EXISTS",
    metadata: { field },
    fields: [`block.${field}`],
  });
  expect(await refusalOf(newBlock(blocks))).toEqual(taken("height"));
  expect(await refusalOf(newBlock(blocks, genesis))).toEqual(taken("height"));
  expect(await refusalOf(newBlock(blocks, one))).toEqual(taken("height"));
  expect(await refusalOf(newBlock(blocks, two, { blockId: one.blockId }))).toEqual(taken("block_id"));
  expect(await refusalOf(newBlock(blocks, undefined, { blockId: genesis.blockId }))).toEqual(taken("block_id"));
  const skipping = { ...two, height: 3n };
  expect(await refusalOf(newBlock(blocks, skipping))).toMatchObject(notLinked(4n, "", two.blockId));
  const wrong = { ...two, blockId: one.blockId };
  expect(await refusalOf(newBlock(blocks, wrong))).toMatchObject(notLinked(3n, two.blockId, one.blockId));
  expect((await blocks.getChainHeight({})).blockId).toBe(two.blockId);
  expect((await blocks.countBlocks({ showOrphaned: true })).count).toBe(3n);
});

test("a create that is repeated with its request_id returns the first block as it is now", async () => {
  const { blocks, db } = service;
  const genesis = await newBlock(blocks);
  for (const [previous, at] of [[undefined, 0n] as const, [genesis, 1n] as const]) {
    if (at === 0n) await service.clear();
    else await newBlock(blocks, undefined, { blockId: genesis.blockId }).catch(() => {});
    const request = {
      block: blockInit(previous, { metadata: { a: 1, b: { c: 2, d: 3 } } }),
      internals: { rawHeader: Buffer.from("h") },
      requestId: randomUUID(),
    };
    const { block } = await blocks.createBlock(request);
    const blockId = block?.blockId ?? "";
    await blocks.updateConfirmations({ blockId, confirmations: 5n });
    const shuffled = { ...request.block, metadata: { b: { d: 3, c: 2 }, a: 1 } };
    const again = await blocks.createBlock({ ...request, block: shuffled, requestId: request.requestId.toUpperCase() });
    expect(again.block).toMatchObject({ blockId, confirmations: 5n, revision: 2n });
    expect(await db.collection("block_internals").countDocuments({ block_id: blockId })).toBe(1);
    expect(await refusalOf(blocks.createBlock({ ...request, block: blockInit(previous) }))).toEqual({
      code: "InvalidArgument",
      reason: "REQUEST_ID_REUSED",
      metadata: { request_id: request.requestId },
      fields: ["request_id"],
    });
    expect(await db.collection("block_internals").countDocuments({})).toBe(1);
    await service.clear();
    if (at === 0n) await newBlock(blocks, undefined, { blockId: genesis.blockId });
  }
});

test("a status goes step by step, and says when", async () => {
  const { blocks } = service;
  const { blockId } = await newBlock(blocks);
  const illegal = (from: string, to: string) => ({
    code: "FailedPrecondition",
    reason: "ILLEGAL_TRANSITION",
    metadata: { block_id: blockId, from, to },
  });
  const step = (status: BlockStatus) => blocks.updateBlockStatus({ blockId, status });
  expect(await refusalOf(step(BlockStatus.CONFIRMED))).toMatchObject(illegal("PENDING", "CONFIRMED"));
  expect(await refusalOf(blocks.finalizeBlock({ blockId }))).toMatchObject(illegal("PENDING", "FINALIZED"));
  const validating = (await step(BlockStatus.VALIDATING)).block;
  expect(validating).toMatchObject({ status: BlockStatus.VALIDATING, revision: 2n });
  expect(validating?.confirmedAt).toBeUndefined();
  expect(await refusalOf(step(BlockStatus.VALIDATING))).toMatchObject(illegal("VALIDATING", "VALIDATING"));
  const confirmedBlock = (await step(BlockStatus.CONFIRMED)).block;
  expect(confirmedBlock).toMatchObject({ status: BlockStatus.CONFIRMED, confirmedAt: confirmedBlock?.updatedAt });
  const final = (await blocks.finalizeBlock({ blockId })).block;
  expect(final).toMatchObject({ status: BlockStatus.FINALIZED, finalized: true, finalizedAt: final?.updatedAt });
  expect(await refusalOf(blocks.finalizeBlock({ blockId }))).toMatchObject(illegal("FINALIZED", "FINALIZED"));
  expect(await refusalOf(blocks.markBlockOrphaned({ blockId }))).toMatchObject(illegal("FINALIZED", "ORPHANED"));
  expect((await blocks.getBlock({ blockId })).block).toStrictEqual(final);
});

test("confirmations never fall, and an orphaned block has no more of them", async () => {
  const { blocks } = service;
  const { blockId } = await newBlock(blocks);
  const confirm = async (confirmations: bigint) =>
    (await blocks.updateConfirmations({ blockId, confirmations })).block?.confirmations;
  expect(await confirm(3n)).toBe(3n);
  const { block } = await blocks.getBlock({ blockId });
  expect(await confirm(1n)).toBe(3n);
  expect(await confirm(3n)).toBe(3n);
  // Late news are no change: nobody who watches or searches hears of them.
  expect((await blocks.getBlock({ blockId })).block).toStrictEqual(block);
  expect(await confirm(2n ** 63n - 1n)).toBe(2n ** 63n - 1n);
  expect((await blocks.getBlock({ blockId })).block?.status).toBe(BlockStatus.PENDING);
  await blocks.markBlockOrphaned({ blockId });
  expect(await refusalOf(blocks.updateConfirmations({ blockId, confirmations: 9n }))).toMatchObject({
    code: "FailedPrecondition",
    reason: "BLOCK_ORPHANED",
    metadata: { block_id: blockId },
  });
});

test("blocks are orphaned from the last one down, leave the chain, and make room", async () => {
  const { blocks } = service;
  const [genesis, one, two] = (await newChain(blocks, 3)) as [Block, Block, Block];
  expect(await refusalOf(blocks.markBlockOrphaned({ blockId: one.blockId }))).toMatchObject({
    code: "FailedPrecondition",
    reason: "BLOCK_HAS_SUCCESSOR",
    metadata: { block_id: one.blockId, next_block_hash: two.blockId },
  });
  const gone = (await blocks.markBlockOrphaned({ blockId: two.blockId })).block;
  expect(gone).toMatchObject({ status: BlockStatus.ORPHANED, orphanedAt: gone?.updatedAt, previousHash: one.blockId });
  expect((await blocks.getLatestBlock({})).block).toMatchObject({ blockId: one.blockId });
  expect((await blocks.getLatestBlock({})).block?.nextBlockHash).toBeUndefined();
  expect((await blocks.getBlock({ blockId: two.blockId })).block).toStrictEqual(gone);
  expect(await refusalOf(blocks.getBlockByHeight({ height: 2n }))).toMatchObject({ reason: "BLOCK_NOT_FOUND" });
  expect(await refusalOf(blocks.markBlockOrphaned({ blockId: two.blockId }))).toMatchObject({
    reason: "ILLEGAL_TRANSITION",
    metadata: { from: "ORPHANED", to: "ORPHANED" },
  });
  // The hash of an orphaned block is not used again; its height is.
  expect(await refusalOf(newBlock(blocks, one, { blockId: two.blockId }))).toMatchObject({
    metadata: { field: "block_id" },
  });
  const other = await newBlock(blocks, one);
  expect((await blocks.getBlockByHeight({ height: 2n })).block).toStrictEqual(other);
  for (const { blockId } of [other, one, genesis]) await blocks.markBlockOrphaned({ blockId });
  expect((await blocks.getChainHeight({})).height).toBeUndefined();
  const again = await newBlock(blocks);
  expect((await blocks.getGenesisBlock({})).block).toStrictEqual(again);
  expect((await blocks.countBlocks({ showOrphaned: true })).count).toBe(5n);
});

test("a block upon a finalised one can be orphaned, the finalised one not", async () => {
  const { blocks } = service;
  const [genesis, one] = (await newChain(blocks, 2)) as [Block, Block];
  await confirmed(blocks, genesis);
  await blocks.finalizeBlock({ blockId: genesis.blockId });
  expect(await refusalOf(blocks.markBlockOrphaned({ blockId: genesis.blockId }))).toMatchObject({
    reason: "ILLEGAL_TRANSITION",
    metadata: { from: "FINALIZED", to: "ORPHANED" },
  });
  await blocks.markBlockOrphaned({ blockId: one.blockId });
  expect((await blocks.getChainHeight({})).blockId).toBe(genesis.blockId);
});

/** Every message that a message holds, itself included. */
function within(message: DescMessage, found = new Set<DescMessage>()): Set<DescMessage> {
  if (found.has(message)) return found;
  found.add(message);
  for (const { message: inner } of message.fields) if (inner !== undefined) within(inner, found);
  return found;
}

test("internals are stored apart, under the block's own _id, and returned by nothing", async () => {
  const { blocks, db } = service;
  const returned = new Set(BlockService.methods.flatMap(({ output }) => [...within(output)]));
  expect([...returned]).not.toContain(BlockInternalsSchema);
  const internals = {
    blockId: hashOf("another"),
    rawHeader: randomBytes(80),
    rawTransactions: randomBytes(1000),
    validatedBy: ["node_1"],
    validationSignatures: { "node.1": randomUUID() },
    processingTimeMs: 12n,
    importedAt: { seconds: 5n },
  };
  const genesis = await newBlock(blocks);
  const response = await blocks.createBlock({ block: blockInit(genesis), internals });
  const { blockId = "" } = response.block ?? {};
  const stored = await db.collection("block_internals").findOne({ block_id: blockId }, { promoteBuffers: true });
  const block = await db.collection("blocks").findOne({ block_id: blockId });
  expect(stored).toEqual({
    _id: block?._id,
    block_id: blockId,
    raw_header: internals.rawHeader,
    raw_transactions: internals.rawTransactions,
    validated_by: ["node_1"],
    validation_signatures: internals.validationSignatures,
    processing_time_ms: 12n,
    imported_at: new Date(5000),
    created_at: expect.any(Date) as Date,
    updated_at: expect.any(Date) as Date,
    revision: 1n,
  });
  expect(Object.keys(block ?? {}).filter((name) => name.startsWith("raw") || name.startsWith("valid"))).toEqual([]);
  const sent = [
    Buffer.from(toBinary(CreateBlockResponseSchema, response)),
    Buffer.from(toJsonString(CreateBlockResponseSchema, response)),
  ];
  for (const bytes of sent) expect(bytes.includes(internals.rawHeader)).toBe(false);
  // What was refused leaves none behind.
  await expect(blocks.createBlock({ block: blockInit(genesis), internals })).rejects.toThrow("already_exists");
  await expect(blocks.createBlock({ block: blockInit({ ...genesis, height: 7n }), internals })).rejects.toThrow(
    "failed_precondition",
  );
  expect(await db.collection("block_internals").countDocuments({})).toBe(1);
});

test("statistics are computed from the stored blocks", async () => {
  const { blocks } = service;
  const sizes = [undefined, 100n, 300n, 201n];
  const made: Block[] = [];
  for (const [index, sizeBytes] of sizes.entries()) {
    const height = BigInt(index);
    made.push(
      await newBlock(blocks, made.at(-1), {
        ...(sizeBytes !== undefined && { sizeBytes }),
        timestamp: { seconds: 1_700_000_000n + height * height * 10n, nanos: 500_000_000 },
        transactions: Array.from({ length: index }, newHash),
        ...(index > 1 && {
          consensusInfo: { validatorCount: 20 + index, voteCount: 10 * index, consensusReached: index === 3 },
          sessionAnchors: [{ sessionId: "s", userId: "u", merkleRoot: newHash() }],
        }),
      }),
    );
  }
  const [genesis, one] = made as [Block, Block];
  await confirmed(blocks, genesis);
  await blocks.finalizeBlock({ blockId: genesis.blockId });
  await confirmed(blocks, one);
  const gone = await newBlock(blocks, made.at(-1), { sizeBytes: 9999n });
  await blocks.markBlockOrphaned({ blockId: gone.blockId });
  expect((await blocks.getBlockStatistics({})).statistics).toMatchObject({
    firstHeight: 0n,
    lastHeight: 3n,
    blockCount: 4n,
    pendingCount: 2n,
    validatingCount: 0n,
    confirmedCount: 1n,
    finalizedCount: 1n,
    orphanedCount: 1n,
    transactionCount: 6n,
    avgTransactionCount: 1.5,
    sessionAnchorCount: 2n,
    totalSizeBytes: 601n,
    avgSizeBytes: 601 / 3,
    minSizeBytes: 100n,
    maxSizeBytes: 300n,
    avgSecondsSincePrevious: 30,
    minSecondsSincePrevious: 10,
    maxSecondsSincePrevious: 50,
    consensusBlockCount: 2n,
    consensusReachedCount: 1n,
    avgValidatorCount: 22.5,
    avgVoteCount: 25,
  });
  const second = (await blocks.getBlockStatistics({ startHeight: 2n, endHeight: 2n })).statistics;
  expect(second).toMatchObject({
    firstHeight: 2n,
    lastHeight: 2n,
    blockCount: 1n,
    orphanedCount: 0n,
    transactionCount: 2n,
    avgSecondsSincePrevious: 30,
    avgSizeBytes: 300,
  });
  const first = (await blocks.getBlockStatistics({ endHeight: 0n })).statistics;
  expect(first).toMatchObject({ blockCount: 1n, totalSizeBytes: 0n });
  for (const name of ["avgSecondsSincePrevious", "avgSizeBytes", "minSizeBytes", "avgVoteCount"] as const) {
    expect(first?.[name]).toBeUndefined();
  }
});
