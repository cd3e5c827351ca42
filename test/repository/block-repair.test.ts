import type { Document } from "mongodb";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";

import { type Block, BlockStatus } from "../../gen/lucid/repository/v1/block_pb.ts";
import {
  type BrokenLink,
  BrokenLinkCause as Cause,
  BrokenLinkKind as Kind,
  ChainRepair,
} from "../../gen/lucid/repository/v1/block_service_pb.ts";
import { waitUntil } from "../../local/wait.ts";
import { allOf, type BlocksApp, blocksApp, newBlock, newChain, newHash } from "./block-support.ts";
import { refusalOf } from "./support.ts";

let service: BlocksApp;
let chain: readonly Block[];
beforeAll(async () => {
  service = await blocksApp();
  // The first block waits for the unique indexes, which a busy server takes its time to make.
  const isMade = () => newBlock(service.blocks).then(Boolean, () => false);
  if (!(await waitUntil(isMade, { withinMs: 120_000 }))) throw new Error("No block can be made");
});
afterAll(() => service[Symbol.asyncDispose]());

const length = 8;
/** What the service would not let anybody do: a fork is stored without the unique index. */
const heightIndex = [
  "height_1",
  { height: 1 },
  { unique: true, partialFilterExpression: { orphaned_at: null } },
] as const;

beforeEach(async () => {
  await service.clear();
  chain = await newChain(service.blocks, length);
});

const stored = () => service.db.collection("blocks");
const hash = (height: number) => chain[height]?.blockId ?? "";
const orphaned = () => ({ $set: { status: "ORPHANED", orphaned_at: new Date() } });
const setParent = (height: number, previous_hash: string) =>
  stored().updateOne({ block_id: hash(height) }, { $set: { previous_hash } });

async function finalize(height: number): Promise<void> {
  const blockId = hash(height);
  await service.blocks.updateBlockStatus({ blockId, status: BlockStatus.VALIDATING });
  await service.blocks.updateBlockStatus({ blockId, status: BlockStatus.CONFIRMED });
  await service.blocks.finalizeBlock({ blockId });
}

async function fork(height: number): Promise<void> {
  await stored().dropIndex(heightIndex[0]);
  const twin = (await stored().findOne({ block_id: hash(height) })) as Document; // it is there
  const { _id: _, ...fields } = twin;
  await stored().insertOne({ ...fields, block_id: newHash(), status: "PENDING", finalized: false });
}

const recreate = { repair: ChainRepair.RECREATE_BLOCKS };
const restore = { repair: ChainRepair.RESTORE_BLOCKS };

const damages: readonly {
  readonly name: string;
  readonly damage: () => Promise<unknown>;
  readonly want: Partial<BrokenLink>;
  readonly hint: string;
}[] = [
  {
    name: "a block that is gone",
    damage: () => stored().deleteOne({ block_id: hash(3) }),
    want: { kind: Kind.MISSING_BLOCK, height: 3n, nextHeight: 4n, cause: Cause.PARENT_NOT_STORED, ...recreate },
    hint: "down to height 4, then create the chain anew from height 3 on",
  },
  {
    name: "the first block that is gone",
    damage: () => stored().deleteOne({ block_id: hash(0) }),
    want: { kind: Kind.MISSING_BLOCK, height: 0n, nextHeight: 1n, cause: Cause.PARENT_NOT_STORED, ...recreate },
    hint: "is not stored; orphan the blocks from the last one down to height 1",
  },
  {
    name: "a block that is orphaned below others",
    damage: () => stored().updateOne({ block_id: hash(3) }, orphaned()),
    want: { kind: Kind.MISSING_BLOCK, height: 3n, cause: Cause.PARENT_ORPHANED, parentHeight: 3n, ...recreate },
    hint: "was at height 3 and is orphaned; orphan",
  },
  {
    name: "a height that is left out",
    damage: async () => {
      for (const { blockId, height } of chain.slice(4).toReversed()) {
        await stored().updateOne({ block_id: blockId }, { $set: { height: height + 1n } });
      }
    },
    want: {
      kind: Kind.MISSING_BLOCK,
      height: 4n,
      nextHeight: 5n,
      cause: Cause.PARENT_ELSEWHERE,
      parentHeight: 3n,
      ...recreate,
    },
    hint: "The block at height 5 names a block before it that the chain has at height 3",
  },
  {
    name: "a parent that nobody has",
    damage: () => setParent(4, newHash()),
    want: { kind: Kind.WRONG_PREVIOUS_HASH, height: 4n, cause: Cause.PARENT_NOT_STORED, ...recreate },
    hint: "down to height 4, then create the chain anew from height 4 on",
  },
  {
    name: "a parent of another height",
    damage: () => setParent(4, hash(1)),
    want: { kind: Kind.WRONG_PREVIOUS_HASH, height: 4n, cause: Cause.PARENT_ELSEWHERE, parentHeight: 1n, ...recreate },
    hint: "the chain has at height 1",
  },
  {
    name: "a parent that has left the chain",
    damage: async () => {
      const { _id: _, ...fields } = (await stored().findOne({ block_id: hash(3) })) as Document; // it is there
      const gone = newHash();
      await stored().insertOne({ ...fields, block_id: gone, ...orphaned().$set });
      await setParent(4, gone);
    },
    want: { kind: Kind.WRONG_PREVIOUS_HASH, height: 4n, cause: Cause.PARENT_ORPHANED, parentHeight: 3n, ...recreate },
    hint: "was at height 3 and is orphaned",
  },
  {
    name: "two blocks at a height",
    damage: () => fork(3),
    want: { kind: Kind.FORK, height: 3n, cause: Cause.SEVERAL_BLOCKS, ...recreate },
    hint: "down to height 3, but for one there, then create the chain anew from height 4 on",
  },
  {
    name: "two blocks at a height, of which one is finalised",
    damage: async () => {
      await finalize(7);
      await fork(7);
    },
    want: { kind: Kind.FORK, height: 7n, cause: Cause.SEVERAL_BLOCKS, ...recreate },
    hint: "but for the finalised one there",
  },
  {
    name: "a block that is gone below a finalised one",
    damage: async () => {
      await finalize(5);
      await stored().deleteOne({ block_id: hash(3) });
    },
    want: { kind: Kind.MISSING_BLOCK, height: 3n, cause: Cause.PARENT_NOT_STORED, ...restore },
    hint: "the one at height 5 is finalised and cannot be orphaned, so restore the collection blocks",
  },
  {
    name: "two blocks at a height below a finalised one",
    damage: async () => {
      await finalize(5);
      await fork(3);
    },
    want: { kind: Kind.FORK, height: 3n, cause: Cause.SEVERAL_BLOCKS, ...restore },
    hint: "the one at height 5 is finalised",
  },
];

async function brokenLink(): Promise<BrokenLink | undefined> {
  const last = (await allOf(service.blocks.verifyChain({}))).at(-1);
  expect(last?.done).toBe(true);
  return last?.brokenLink;
}

/** The blocks of the chain, the last one first, as an operator finds them. */
const fromLast = async () => (await service.blocks.listBlocks({ orderBy: "height desc" })).blocks;

/** Does what the hint of RECREATE_BLOCKS says, by the service alone. */
async function recreated({ kind, height, nextHeight = height }: BrokenLink): Promise<void> {
  const { blocks } = service;
  for (const { blockId, height: at, finalized } of await fromLast()) {
    const isLastThere = (await fromLast()).filter((block) => block.height === at).length === 1;
    if (at < nextHeight || finalized || (kind === Kind.FORK && at === height && isLastThere)) continue;
    await blocks.markBlockOrphaned({ blockId });
  }
  for (;;) {
    const [last] = await fromLast();
    if (last?.height === BigInt(length - 1)) return;
    await newBlock(blocks, last);
  }
}

test.for(damages)("$name: why, and what makes the chain whole again", async ({ damage, want, hint }) => {
  try {
    await damage();
    const broken = await brokenLink();
    expect(broken).toMatchObject(want);
    expect(broken?.parentHeight).toBe(want.parentHeight);
    expect(broken?.hint).toContain(hint);
    if (broken?.repair === ChainRepair.RECREATE_BLOCKS) {
      await recreated(broken);
      expect(await brokenLink()).toBeUndefined();
    } else {
      for (const { blockId } of chain.slice(6).toReversed()) await service.blocks.markBlockOrphaned({ blockId });
      expect(await refusalOf(service.blocks.markBlockOrphaned({ blockId: hash(5) }))).toMatchObject({
        reason: "ILLEGAL_TRANSITION",
        metadata: { from: "FINALIZED" },
      });
    }
  } finally {
    await service.clear();
    const [name, keys, options] = heightIndex;
    if (want.kind === Kind.FORK) await stored().createIndex(keys, { name, ...options });
  }
});
