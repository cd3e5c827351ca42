import type { MessageInitShape } from "@bufbuild/protobuf";
import type { HandlerContext } from "@connectrpc/connect";
import type { Collection, Document } from "mongodb";

import {
  BrokenLinkCause as Cause,
  BrokenLinkKind as Kind,
  type BrokenLinkSchema,
  ChainRepair,
} from "../../gen/lucid/repository/v1/block_service_pb.ts";
import { cancellable } from "../schema/call-options.ts";
import { inChain } from "./block-query.ts";

/** What is read of a block. */
export interface Link {
  readonly block_id: string;
  readonly height: bigint | number;
  readonly previous_hash: string;
  readonly status: string;
}

export const linkFields = { _id: 0, block_id: 1, height: 1, previous_hash: 1, status: 1 } as const;

/** A link that does not hold, as it was read. */
export interface Break {
  readonly expectedHeight: bigint;
  /** Undefined where the block before was not looked at. */
  readonly expectedHash: string | undefined;
  /** The block whose link it is, or that is one too many. */
  readonly found: Link;
}

/** Tells what is wrong with a link, why, and how the chain becomes whole again. */
export async function diagnosed(
  broken: Break,
  blocks: Collection,
  context: HandlerContext,
): Promise<MessageInitShape<typeof BrokenLinkSchema>> {
  const { expectedHeight: height, expectedHash: expectedPreviousHash = "", found } = broken;
  const { block_id: blockId, previous_hash: foundPreviousHash } = found;
  const at = BigInt(found.height);
  if (at < height) {
    const { repair, todo } = await repairOf({ lowest: at, from: at + 1n, oneStays: true }, blocks, context);
    const hint = `More than one block is at height ${at}, since the unique index is missing; ${todo}`;
    return { kind: Kind.FORK, cause: Cause.SEVERAL_BLOCKS, repair, height: at, blockId, foundPreviousHash, hint };
  }
  const parent = await parentOf(found, blocks, context);
  const { repair, todo } = await repairOf({ lowest: at, from: height, oneStays: false }, blocks, context);
  const hint = `The block at height ${at} names a block before it that ${parent.why}; ${todo}`;
  const why = {
    cause: parent.cause,
    repair,
    hint,
    ...(parent.height !== undefined && { parentHeight: parent.height }),
  };
  return at === height
    ? { kind: Kind.WRONG_PREVIOUS_HASH, height, blockId, expectedPreviousHash, foundPreviousHash, ...why }
    : { kind: Kind.MISSING_BLOCK, height, expectedPreviousHash, nextHeight: at, ...why };
}

/** What is stored of the block that another names as the one before it. */
async function parentOf({ previous_hash: block_id }: Link, blocks: Collection, context: HandlerContext) {
  const projection = { _id: 0, height: 1, orphaned_at: 1 };
  const parent = await blocks.findOne<Document>({ block_id }, { projection, ...cancellable(context) });
  if (parent === null) return { cause: Cause.PARENT_NOT_STORED, why: "is not stored", height: undefined };
  const height = BigInt(parent["height"] as bigint | number); // as every block has it
  return (parent["orphaned_at"] ?? null) === null
    ? { cause: Cause.PARENT_ELSEWHERE, why: `the chain has at height ${height}`, height }
    : { cause: Cause.PARENT_ORPHANED, why: `was at height ${height} and is orphaned`, height };
}

/** How the chain becomes whole again: by what the service allows or, where that stops at a finalised block, by a restore. */
async function repairOf(
  { lowest, from, oneStays }: { readonly lowest: bigint; readonly from: bigint; readonly oneStays: boolean },
  blocks: Collection,
  context: HandlerContext,
) {
  const [first, second] = await blocks
    .find<Document>({ status: "FINALIZED", height: { $gte: lowest }, ...inChain }, cancellable(context))
    .project<{ readonly height: bigint | number }>({ _id: 0, height: 1 })
    .sort({ height: 1 })
    .limit(2)
    .toArray();
  const mayStay = oneStays && first !== undefined && BigInt(first.height) === lowest;
  const inTheWay = mayStay ? second : first;
  if (inTheWay !== undefined) {
    const why = `the one at height ${inTheWay.height} is finalised and cannot be orphaned`;
    const todo = `${why}, so restore the collection blocks from a backup in which the chain was whole`;
    return { repair: ChainRepair.RESTORE_BLOCKS, todo };
  }
  const kept = oneStays ? `, but for ${mayStay ? "the finalised one" : "one"} there` : "";
  const todo = `orphan the blocks from the last one down to height ${lowest}${kept}, then create the chain anew from height ${from} on`;
  return { repair: ChainRepair.RECREATE_BLOCKS, todo };
}
