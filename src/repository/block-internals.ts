import { clone } from "@bufbuild/protobuf";
import type { HandlerContext } from "@connectrpc/connect";
import type { Document } from "bson";
import type { Db } from "mongodb";

import { type BlockInternals, BlockInternalsSchema } from "../../gen/lucid/repository/v1/block_internals_pb.ts";
import { isReason } from "../errors.ts";
import { deadlineOf } from "../schema/call-options.ts";
import { codecFor } from "../schema/codec.ts";
import { collectionOf } from "../schema/collection.ts";
import type { Created } from "../schema/create-once.ts";
import { onlyWritable } from "../schema/field-mask.ts";

const codec = codecFor(BlockInternalsSchema);

const refusals = ["BLOCK_ALREADY_EXISTS", "BLOCK_NOT_LINKED", "REQUEST_ID_REUSED"] as const;

/** What only nodes care about in a block, in a collection of its own. */
export function blockInternals(db: Db) {
  const collection = db.collection(collectionOf(BlockInternalsSchema).name);
  return {
    /**
     * Stores the internals of a block and then the block, so that one that is seen has them. They have the block's `_id`, which
     * nobody else knows: what a crash in between leaves belongs to no block.
     */
    async create(
      block: Document,
      sent: BlockInternals | undefined,
      append: () => Promise<Created>,
      context: HandlerContext,
    ): Promise<Created> {
      if (sent === undefined) return append();
      const { _id, block_id } = block;
      const now = new Date();
      const document = codec.encode(clone(BlockInternalsSchema, onlyWritable(BlockInternalsSchema, sent)), "internals");
      await collection.insertOne(
        { ...document, _id, block_id, created_at: now, updated_at: now, revision: 1n },
        deadlineOf(context),
      );
      const forget = async () => collection.deleteOne({ _id }, deadlineOf(context));
      try {
        const created = await append();
        if (!created.isNew) await forget();
        return created;
      } catch (error) {
        // Only where it was refused is it sure that the block is not stored, and will not be.
        if (refusals.some((reason) => isReason(error, reason))) await forget();
        throw error;
      }
    },
  };
}
