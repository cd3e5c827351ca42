import { randomUUID } from "node:crypto";

import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";

import { type Block, BlockStatus } from "../../gen/lucid/repository/v1/block_pb.ts";
import { allOf, type BlocksApp, blockInit, blocksApp, newBlock, newChain } from "./block-support.ts";
import { type Refusal, refusalOf } from "./support.ts";

let service: BlocksApp;
beforeAll(async () => {
  service = await blocksApp();
});
afterAll(() => service[Symbol.asyncDispose]());
beforeEach(() => service.clear());

const many = (count: number) => Array.from({ length: count }, (_, index) => index);

/** Runs calls at once; gives what those that succeeded returned and why the others failed. */
async function race<T>(calls: readonly Promise<T>[]): Promise<{ won: T[]; lost: Refusal[] }> {
  const outcomes = await Promise.allSettled(calls);
  const won = outcomes.flatMap((outcome) => (outcome.status === "fulfilled" ? [outcome.value] : []));
  const lost: Refusal[] = [];
  for (const outcome of outcomes) {
    if (outcome.status === "rejected") lost.push(await refusalOf(Promise.reject(outcome.reason as Error)));
  }
  return { won, lost };
}

async function expectWholeChain(length: number): Promise<void> {
  const { blocks, db, faults } = service;
  expect(faults).toEqual([]);
  const chain = (await allOf(blocks.streamBlocks({ endHeight: 9999n }))).map(({ block }) => block);
  expect(chain.map((block) => block?.height)).toEqual(many(length).map(BigInt));
  for (const [index, block] of chain.entries()) {
    expect(block?.nextBlockHash).toBe(chain[index + 1]?.blockId);
    if (index > 0) expect(block?.previousHash).toBe(chain[index - 1]?.blockId);
  }
  if (length > 0)
    expect((await allOf(blocks.verifyChain({}))).at(-1)).toMatchObject({ done: true, endHeight: BigInt(length - 1) });
  // Nothing waits.
  expect(await db.collection("blocks").countDocuments({ _next: { $exists: true } })).toBe(0);
}

test.for([0, 2])(
  "of 50 creators at height %i one wins, and the others are told that the height is taken",
  async (height) => {
    const { blocks, overHttp, db } = service;
    const last = (await newChain(blocks, height)).at(-1);
    const { won, lost } = await race(
      many(50).map((index) =>
        (index % 2 === 0 ? blocks : overHttp).createBlock({
          block: blockInit(last),
          internals: { rawHeader: Buffer.from(`${index}`) },
        }),
      ),
    );
    expect(won).toHaveLength(1);
    for (const refusal of lost) {
      expect(refusal).toMatchObject({
        code: "AlreadyExists",
        reason: "BLOCK_ALREADY_EXISTS",
        metadata: { field: "height" },
      });
    }
    expect((await blocks.getLatestBlock({})).block).toStrictEqual(won[0]?.block);
    expect(await db.collection("blocks").countDocuments({})).toBe(height + 1);
    const internals = await db.collection("block_internals").find({}).toArray();
    expect(internals.map(({ block_id }) => block_id as string)).toEqual([won[0]?.block?.blockId]);
    await expectWholeChain(height + 1);
  },
);

test.for([0, 1])(
  "of 20 creates with one request_id at height %i one creates, and all return its block",
  async (height) => {
    const { blocks, db } = service;
    const last = (await newChain(blocks, height)).at(-1);
    const request = { block: blockInit(last), internals: { rawHeader: Buffer.from("h") }, requestId: randomUUID() };
    const made = await Promise.all(many(20).map(() => blocks.createBlock(request)));
    expect(new Set(made.map(({ block }) => block?.blockId))).toEqual(new Set([request.block.blockId]));
    expect(await db.collection("block_internals").countDocuments({})).toBe(1);
    await expectWholeChain(height + 1);
  },
);

test("a block gets a successor or is orphaned, and never both", async () => {
  const { blocks } = service;
  for (const round of many(6)) {
    await service.clear();
    const [genesis, last] = (await newChain(blocks, 2)) as [Block, Block];
    const create = async () => (await blocks.createBlock({ block: blockInit(last) })).block;
    const orphan = async () => (await blocks.markBlockOrphaned({ blockId: last.blockId })).block;
    const { won, lost } = await race(round % 2 === 0 ? [create(), orphan()] : [orphan(), create()]);
    expect(won).toHaveLength(1);
    const isOrphaned = won[0]?.blockId === last.blockId;
    const reason = isOrphaned ? "BLOCK_NOT_LINKED" : "BLOCK_HAS_SUCCESSOR";
    expect(lost).toMatchObject([{ code: "FailedPrecondition", reason }]);
    await expectWholeChain(isOrphaned ? 1 : 3);
    expect((await blocks.getGenesisBlock({})).block?.blockId).toBe(genesis.blockId);
  }
});

test("a block is finalised or orphaned, and never both", async () => {
  const { blocks } = service;
  for (const round of many(4)) {
    await service.clear();
    const { blockId } = await newBlock(blocks);
    await blocks.updateBlockStatus({ blockId, status: BlockStatus.VALIDATING });
    await blocks.updateBlockStatus({ blockId, status: BlockStatus.CONFIRMED });
    const finalize = async () => (await blocks.finalizeBlock({ blockId })).block;
    const orphan = async () => (await blocks.markBlockOrphaned({ blockId })).block;
    const { won, lost } = await race(round % 2 === 0 ? [finalize(), orphan()] : [orphan(), finalize()]);
    expect(won).toHaveLength(1);
    const names = ["FINALIZED", "ORPHANED"];
    const [from, to] = won[0]?.finalized === true ? names : names.toReversed();
    expect(lost).toMatchObject([{ reason: "ILLEGAL_TRANSITION", metadata: { from, to } }]);
    expect((await blocks.getBlock({ blockId })).block).toStrictEqual(won[0]);
  }
});

test("of many steps to one status exactly one is taken, and confirmations at once end at the highest", async () => {
  const { blocks } = service;
  const { blockId } = await newBlock(blocks);
  const { won } = await race(many(10).map(() => blocks.updateBlockStatus({ blockId, status: BlockStatus.VALIDATING })));
  expect(won).toHaveLength(1);
  const numbers = many(30).map((index) => BigInt((index * 7) % 30));
  await Promise.all(numbers.map((confirmations) => blocks.updateConfirmations({ blockId, confirmations })));
  expect((await blocks.getBlock({ blockId })).block).toMatchObject({ confirmations: 29n });
});

test("a hash that an orphaned block has left behind is cleared by the next writer", async () => {
  const { blocks, db } = service;
  const [, one, two] = (await newChain(blocks, 3)) as [Block, Block, Block];
  // As where the process ended between the two writes.
  const leftBehind = async (left: Block, gone: Block) => {
    await blocks.markBlockOrphaned({ blockId: gone.blockId });
    await db.collection("blocks").updateOne({ block_id: left.blockId }, { $set: { next_block_hash: gone.blockId } });
  };
  await leftBehind(one, two);
  const again = await newBlock(blocks, one);
  await expectWholeChain(3);
  await leftBehind(one, again);
  await blocks.markBlockOrphaned({ blockId: one.blockId });
  await expectWholeChain(1);
  expect((await blocks.countBlocks({ showOrphaned: true })).count).toBe(4n);
});

test("what another program has stored without a link at the block before is a successor all the same", async () => {
  const { blocks, db } = service;
  const [genesis, one] = (await newChain(blocks, 2)) as [Block, Block];
  await db.collection("blocks").updateOne({ block_id: genesis.blockId }, { $unset: { next_block_hash: "" } });
  expect(await refusalOf(blocks.markBlockOrphaned({ blockId: genesis.blockId }))).toMatchObject({
    reason: "BLOCK_HAS_SUCCESSOR",
    metadata: { next_block_hash: one.blockId },
  });
  expect(await refusalOf(newBlock(blocks, genesis))).toMatchObject({ metadata: { field: "height" } });
});
