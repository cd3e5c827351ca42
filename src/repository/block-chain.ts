import type { HandlerContext } from "@connectrpc/connect";
import { Binary, deserialize, type Document, type ObjectId, serialize } from "bson";
import { MongoServerError } from "mongodb";

import { BlockStatus } from "../../gen/lucid/repository/v1/block_pb.ts";
import { fail } from "../errors.ts";
import { auditApplied } from "../schema/audited-call.ts";
import { deadlineOf } from "../schema/call-options.ts";
import { createdBefore, type Created, duplicateKey, marked, type RequestMark } from "../schema/create-once.ts";
import type { Entity } from "../schema/entity.ts";
import { statuses } from "./block-document.ts";
import { inChain } from "./block-query.ts";

/** Where a block waits beside the one that it goes upon, until it is stored. No message has it, so no reader sees it. */
const waitingKey = "_next";

/** A block that waits: its document, as BSON, so that what callers put into it is stored as it is. */
interface Waiting {
  readonly _id: ObjectId;
  readonly document: Binary;
}

/** What is asked of a block here. */
interface Place {
  readonly _id: ObjectId;
  readonly block_id: string;
  /** A long, unless another program has stored it. */
  readonly height: bigint | number;
  readonly previous_hash: string;
  readonly status: string;
  readonly next_block_hash?: string;
  readonly [waitingKey]?: Waiting;
}

/** A new block as it is to be stored, with its own `_id`, and where it goes. */
export interface NewBlock {
  readonly document: Document;
  readonly blockId: string;
  readonly height: bigint;
  readonly previousHash: string;
}

/**
 * Lets a chain grow and shrink at its end.
 *
 * Whether a block gets a successor or is orphaned is decided in that block's own document, by a single statement: a creator
 * sets `next_block_hash` where it is absent and the block is not orphaned; who orphans the block does so where it is absent. So
 * of many creators, and of a creator and one who orphans, exactly one comes first, without a transaction.
 *
 * The statement that sets `next_block_hash` puts the whole new block beside it. From there it is inserted into the collection,
 * by its creator or, where that one died or is slow, by whoever needs the place next. Since no block is ever removed and
 * hashes are unique, inserting it twice, however late, does no harm. A `next_block_hash` that is left behind by an orphaned block
 * is cleared by whoever comes across it. What is left half done is therefore never wrong, only unfinished.
 */
export interface Chain {
  /** Stores a block upon the last one. */
  append(block: NewBlock, mark: RequestMark | undefined, context: HandlerContext): Promise<Created>;
  /** Orphans the last block; returns it afterwards. */
  orphan(blockId: string, context: HandlerContext): Promise<Uint8Array>;
}

/** Every attempt that does not decide has seen another writer get ahead. */
const mostAttempts = 100;

export function blockChain(blocks: Entity, ready: () => Promise<void>): Chain {
  const { collection } = blocks;
  const projection = { block_id: 1, height: 1, previous_hash: 1, status: 1, next_block_hash: 1, [waitingKey]: 1 };
  const find = async (filter: Document, context: HandlerContext) =>
    collection.findOne<Place>(filter, { projection, ...deadlineOf(context) });

  /** The block that a new one goes upon; undefined for the first. Fails where its place or hash is taken or its link is wrong. */
  const below = async ({ blockId, height, previousHash }: NewBlock, context: HandlerContext) => {
    if ((await find({ block_id: blockId }, context)) !== null) throw blocks.taken("block_id");
    if ((await find({ height, ...inChain }, context)) !== null) throw blocks.taken("height");
    if (height === 0n) return undefined;
    const last = await find({ height: height - 1n, ...inChain }, context);
    if (last?.block_id === previousHash) return last;
    const expected = last?.block_id ?? "";
    const why =
      last === null ? `There is no block at height ${height - 1n}` : "previous_hash is not that of the block before";
    throw fail("BLOCK_NOT_LINKED", why, { metadata: { height: String(height), expected, found: previousHash } });
  };

  /** Takes the place after a block, where it is free. */
  const claim = async (last: Place, { blockId }: NewBlock, document: Document, context: HandlerContext) => {
    const waiting = { _id: document["_id"] as ObjectId, document: new Binary(serialize(document)) }; // it has its own
    const { matchedCount } = await collection.updateOne(
      { block_id: last.block_id, height: last.height, ...inChain, next_block_hash: null },
      { $set: { next_block_hash: blockId, [waitingKey]: waiting, updated_at: new Date() }, $inc: { revision: 1n } },
      deadlineOf(context),
    );
    return matchedCount === 1 ? waiting : undefined;
  };

  /** Forgets that a block has a successor, where it has this one still. */
  const release = async (blockId: string, successor: Document, context: HandlerContext): Promise<void> => {
    await collection.updateOne(
      { block_id: blockId, ...successor },
      {
        $unset: { next_block_hash: "", [waitingKey]: "" },
        $set: { updated_at: new Date() },
        $inc: { revision: 1n },
      },
      deadlineOf(context),
    );
  };

  /**
   * Stores the block that waits after another; `content` is its document, where that is at hand. False where the store refuses it for
   * its hash or mark: then it waits no longer.
   */
  const complete = async (
    last: string,
    { _id, document }: Waiting,
    context: HandlerContext,
    content = deserialize(document.value(), { promoteValues: false }),
  ): Promise<boolean> => {
    const waiting = { [`${waitingKey}._id`]: _id };
    try {
      await collection.insertOne(content, deadlineOf(context));
    } catch (error) {
      const isDuplicate = duplicateKey(error) !== undefined;
      // Somebody else may have stored it already.
      const isThere = isDuplicate && (await find({ _id }, context)) !== null;
      if (!isThere) {
        if (isDuplicate || isInvalid(error)) await release(last, waiting, context);
        if (isDuplicate) return false;
        throw error;
      }
    }
    await collection.updateOne({ block_id: last, ...waiting }, { $unset: { [waitingKey]: "" } }, deadlineOf(context));
    return true;
  };

  /** Forgets what waits beside the block before, if it is this one still: its creator has died once it was stored. */
  const tidy = async ({ _id, previous_hash }: Place, context: HandlerContext): Promise<void> => {
    const filter = { block_id: previous_hash, [`${waitingKey}._id`]: _id };
    await collection.updateOne(filter, { $unset: { [waitingKey]: "" } }, deadlineOf(context));
  };

  /** Sees to what another writer has left after a block: a block that waits, or the hash of one that is in the chain no more. */
  const settle = async (last: Place, context: HandlerContext): Promise<void> => {
    const { block_id, next_block_hash: next = null, [waitingKey]: waiting } = last;
    if (waiting !== undefined) {
      await complete(block_id, waiting, context);
      return;
    }
    const successor = await find({ block_id: next, height: BigInt(last.height) + 1n, ...inChain }, context);
    if (successor === null) await release(block_id, { next_block_hash: next, [waitingKey]: null }, context);
  };

  return {
    async append(block, mark, context) {
      await ready();
      const before = async () => (mark === undefined ? null : createdBefore(collection, mark, deadlineOf(context)));
      for (let attempt = 1; attempt <= mostAttempts; attempt++) {
        // Whoever was ahead may have completed this very block, and a claim that was sent twice has failed the second time.
        const own = attempt === 1 ? null : await blocks.find({ _id: block.document["_id"] as ObjectId }, context);
        if (own !== null) return { document: own, isNew: true };
        const earlier = await before();
        if (earlier !== null) return { document: earlier, isNew: false };
        const last = await below(block, context).catch(async (refusal: unknown) => {
          // The first try with its id may have come in between.
          const first = await before();
          if (first === null) throw refusal;
          return first;
        });
        if (last instanceof Uint8Array) return { document: last, isNew: false };
        // The unique height decides between first blocks.
        if (last === undefined) return blocks.insert(block.document, context, mark);
        if (last.next_block_hash !== undefined) {
          await settle(last, context);
          continue;
        }
        await tidy(last, context);
        const { stored, carrier } = blocks.made(block.document, context);
        const content = marked(stored, mark);
        const waiting = await claim(last, block, content, context);
        if (waiting === undefined || !(await complete(last.block_id, waiting, context, content))) continue;
        auditApplied(carrier, true);
        return { document: waiting.document.value(), isNew: true };
      }
      throw busy(block.blockId);
    },

    async orphan(blockId, context) {
      for (let attempt = 1; attempt <= mostAttempts; attempt++) {
        const block = await find({ block_id: blockId }, context);
        if (block === null) throw blocks.notFound({ block_id: blockId });
        if (statuses.before(BlockStatus.ORPHANED).includes(block.status)) {
          // Asked by height, so that it is seen also where another program has stored it and not its hash here.
          const next = await find({ height: BigInt(block.height) + 1n, ...inChain }, context);
          if (next !== null) throw hasSuccessor(blockId, next.block_id);
          if (block.next_block_hash !== undefined) {
            await settle(block, context);
            continue;
          }
        }
        const now = new Date();
        const step = { machine: statuses, to: BlockStatus.ORPHANED, set: { orphaned_at: now }, now };
        const found = await blocks.step(blockId, { ...step, filter: { next_block_hash: null } }, context);
        if (found === null) continue; // another block has come upon it
        await release(block.previous_hash, { next_block_hash: blockId }, context);
        return found;
      }
      throw busy(blockId);
    },
  };
}

function hasSuccessor(blockId: string, next: string) {
  return fail("BLOCK_HAS_SUCCESSOR", `Another block is upon the block ${blockId}`, {
    metadata: { block_id: blockId, next_block_hash: next },
  });
}

/** The refusal of a call that other writers were always ahead of. */
export function busy(blockId: string) {
  return fail("STORE_CONFLICT", "Other writers got ahead too often", {
    metadata: { block_id: blockId },
    retryAfterMs: 1000,
  });
}

/** Whether the collection's validator has refused a document. */
function isInvalid(error: unknown): boolean {
  return error instanceof MongoServerError && error.code === 121;
}
