import type { Document } from "bson";

import {
  type Block,
  BlockSchema,
  BlockStatus,
  BlockStatusSchema,
  ConsensusAlgorithm,
} from "../../gen/lucid/repository/v1/block_pb.ts";
import { fail } from "../errors.ts";
import { codecFor } from "../schema/codec.ts";
import { onlyWritable } from "../schema/field-mask.ts";
import { badRequest, tooLarge, type WrongField } from "../schema/refusals.ts";
import { type StateMachine, stateMachine } from "../schema/state-machine.ts";

const codec = codecFor(BlockSchema);

/** The `previous_hash` of the first block. */
export const noHash = "0".repeat(64);

/** Which status of a block may follow which. */
export const statuses: StateMachine = stateMachine(BlockStatusSchema, {
  [BlockStatus.PENDING]: [BlockStatus.VALIDATING, BlockStatus.ORPHANED],
  [BlockStatus.VALIDATING]: [BlockStatus.CONFIRMED, BlockStatus.ORPHANED],
  [BlockStatus.CONFIRMED]: [BlockStatus.FINALIZED, BlockStatus.ORPHANED],
  [BlockStatus.FINALIZED]: [],
  [BlockStatus.ORPHANED]: [],
});

/** The new block that is stored for what a caller sent: counts of what it holds, defaults where nothing is set. */
export function prepared(sent: Block): Block {
  const block = onlyWritable(BlockSchema, sent);
  if (block.version === 0) block.version = 1;
  if (block.consensusInfo?.algorithm === ConsensusAlgorithm.UNSPECIFIED) {
    block.consensusInfo.algorithm = ConsensusAlgorithm.POOT;
  }
  block.status = BlockStatus.PENDING;
  block.transactionCount = block.transactions.length;
  block.sessionAnchorCount = block.sessionAnchors.length;
  return block;
}

/** The document of a prepared block. Fails with `BAD_REQUEST` where a rule is broken that the proto cannot state. */
export function documentOf(block: Block): Document {
  const wrong: WrongField[] = [];
  if ((block.height === 0n) !== (block.previousHash === noHash)) {
    wrong.push({ field: "block.previous_hash", description: "must be 64 zeros at height 0 and only there" });
  }
  if (block.blockId === noHash) wrong.push({ field: "block.block_id", description: "must not be 64 zeros" });
  if (new Set(block.transactions).size < block.transactions.length) {
    wrong.push({ field: "block.transactions", description: "must have each transaction once" });
  }
  const document = codec.encode(block, "block");
  wrong.push(...tooLarge("block.metadata", document["metadata"]));
  if (wrong.length > 0) throw badRequest(...wrong);
  return document;
}

export function chainEmpty() {
  return fail("CHAIN_EMPTY", "The chain has no blocks");
}
