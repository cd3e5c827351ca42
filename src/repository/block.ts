import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";
import { type Document, ObjectId } from "bson";

import { BlockInternalsSchema } from "../../gen/lucid/repository/v1/block_internals_pb.ts";
import {
  BlockSchema,
  BlockStatus,
  BlockStatusSchema,
  BlockSummarySchema,
} from "../../gen/lucid/repository/v1/block_pb.ts";
import * as rpc from "../../gen/lucid/repository/v1/block_service_pb.ts";
import { fail } from "../errors.ts";
import { cancellable, deadlineOf } from "../schema/call-options.ts";
import { codecFor } from "../schema/codec.ts";
import { requestMark } from "../schema/create-once.ts";
import { documentResponse } from "../schema/document-response.ts";
import { entity } from "../schema/entity.ts";
import { badRequest } from "../schema/refusals.ts";
import { blockChain, busy } from "./block-chain.ts";
import { chainEmpty, documentOf, prepared, statuses } from "./block-document.ts";
import { filterOf, inChain, searchFilter } from "./block-query.ts";
import { statisticsOf } from "./block-statistics.ts";
import { verifyChain } from "./block-verify.ts";
import type { Repositories } from "./collections.ts";
import { secretsOf } from "./secrets.ts";
import { storedNumber, type Watches } from "./watch/watches.ts";

const codec = codecFor(BlockSchema);

const created = documentResponse(rpc.CreateBlockResponseSchema, "block");
const got = documentResponse(rpc.GetBlockResponseSchema, "block");
const gotByHeight = documentResponse(rpc.GetBlockByHeightResponseSchema, "block");
const gotGenesis = documentResponse(rpc.GetGenesisBlockResponseSchema, "block");
const gotLatest = documentResponse(rpc.GetLatestBlockResponseSchema, "block");
const streamed = documentResponse(rpc.StreamBlocksResponseSchema, "block");
const listed = documentResponse(rpc.ListBlocksResponseSchema, "blocks");
const summarised = documentResponse(rpc.ListBlockSummariesResponseSchema, "blocks");
const listedBySession = documentResponse(rpc.ListBlocksBySessionResponseSchema, "blocks");
const searched = documentResponse(rpc.SearchBlocksResponseSchema, "blocks");
const told = documentResponse(rpc.WatchBlocksResponseSchema, "block");
const counted = documentResponse(rpc.UpdateConfirmationsResponseSchema, "block");
const stepped = documentResponse(rpc.UpdateBlockStatusResponseSchema, "block");
const finalized = documentResponse(rpc.FinalizeBlockResponseSchema, "block");
const orphaned = documentResponse(rpc.MarkBlockOrphanedResponseSchema, "block");

/** Keeps the chain. Reads go from stored bytes to wire bytes; `block-chain.ts` tells how writes keep the chain whole. */
export function blockService({
  db,
  collections,
  pageTokens,
  watches,
}: Repositories & { readonly watches: Pick<Watches, "of"> }): ServiceImpl<typeof rpc.BlockService> {
  const blocks = entity({
    db,
    schema: BlockSchema,
    id: "block_id",
    name: "block",
    reasons: { notFound: "BLOCK_NOT_FOUND", alreadyExists: "BLOCK_ALREADY_EXISTS" },
    ready: collections.ready,
    pageTokens,
  });
  const chain = blockChain(blocks, () => collections.ready(BlockSchema));
  // What only nodes care about in a block.
  const internals = secretsOf(db, {
    schema: BlockInternalsSchema,
    name: "internals",
    resource: BlockSchema.name,
    refusals: ["BLOCK_ALREADY_EXISTS", "BLOCK_NOT_LINKED"],
  });
  const watched = watches.of({ schema: BlockSchema, id: "block_id", steps: { field: "status", only: true } });

  /** The last block of the chain. The bound lets the index of heights serve the order. */
  const last = async (context: HandlerContext, options: { raw?: true; projection?: Document }) =>
    blocks.collection.findOne(
      { height: { $gte: 0n }, ...inChain },
      { sort: { height: -1 }, ...options, ...deadlineOf(context) },
    );

  /** Takes a block to another state; only its state decides. */
  const step = async (blockId: string, to: BlockStatus, set: object, now: Date, context: HandlerContext) => {
    const found = await blocks.step(blockId, { machine: statuses, to, set, now }, context);
    if (found === null) throw busy(blockId);
    return found;
  };

  return {
    async createBlock(request, context) {
      const block = prepared(request.block ?? codec.decode({}));
      const document = { _id: new ObjectId(), ...documentOf(block) };
      // Its internals are looked at before that.
      const mark = () => requestMark(rpc.CreateBlockRequestSchema, request);
      const { blockId, height, previousHash } = block;
      await collections.ready(BlockInternalsSchema);
      const { document: stored } = await internals.create(
        // By the `_id` of the block, since others may have had its hash before.
        { _id: document._id, block_id: blockId },
        request.internals,
        () => chain.append({ document, blockId, height, previousHash }, mark(), context),
        context,
      );
      return created([stored]);
    },

    async getBlock({ blockId }, context) {
      return got([await blocks.get({ block_id: blockId }, context, { block_id: blockId })]);
    },

    async getBlockByHeight({ height }, context) {
      return gotByHeight([await blocks.get({ height, ...inChain }, context, { height: String(height) })]);
    },

    async getGenesisBlock(_, context) {
      const found = await blocks.find({ height: 0n, ...inChain }, context);
      if (found === null) throw chainEmpty();
      return gotGenesis([found]);
    },

    async getLatestBlock(_, context) {
      const found = await last(context, { raw: true });
      if (found === null) throw chainEmpty();
      return gotLatest([found as unknown as Uint8Array]); // which `raw` makes it
    },

    async getChainHeight(_, context) {
      const found = await last(context, { projection: { _id: 0, block_id: 1, height: 1 } });
      return found === null ? {} : { height: BigInt(found["height"]), blockId: String(found["block_id"]) };
    },

    async *streamBlocks({ startHeight, endHeight }, context) {
      if (endHeight < startHeight || endHeight - startHeight >= mostStreamed) {
        throw badRequest({ field: "end_height", description: "must be start_height or up to 9,999 more" });
      }
      const cursor = blocks.collection.find<Uint8Array>(
        { height: { $gte: startHeight, $lte: endHeight }, ...inChain },
        { sort: { height: 1 }, raw: true, batchSize: 100, ...cancellable(context) },
      );
      for await (const document of cursor) yield streamed([document]);
    },

    async listBlocks(request, context) {
      const query = filterOf(request.filter, request.showOrphaned);
      const { documents, nextPageToken } = await blocks.list(
        { ...query, schema: rpc.ListBlocksRequestSchema, request },
        context,
      );
      return listed(documents, { nextPageToken });
    },

    async listBlockSummaries(request, context) {
      const schema = rpc.ListBlockSummariesRequestSchema;
      const { documents, nextPageToken } = await blocks.list(
        { filter: inChain, fallback: "height desc", part: BlockSummarySchema, schema, request },
        context,
      );
      return summarised(documents, { nextPageToken });
    },

    async listBlocksBySession(request, context) {
      const session = "session_anchors.session_id";
      const { documents, nextPageToken } = await blocks.list(
        {
          filter: { [session]: request.sessionId, ...(!request.showOrphaned && inChain) },
          restrictions: { equal: [session] },
          fallback: "height desc",
          schema: rpc.ListBlocksBySessionRequestSchema,
          request,
        },
        context,
      );
      return listedBySession(documents, { nextPageToken });
    },

    async countBlocks({ filter, showOrphaned }, context) {
      return { count: await blocks.count(filterOf(filter, showOrphaned).filter, context) };
    },

    async searchBlocks(request, context) {
      const { documents, nextPageToken } = await blocks.list(
        {
          filter: searchFilter(request.query),
          fallback: "block_id",
          schema: rpc.SearchBlocksRequestSchema,
          request,
        },
        context,
      );
      return searched(documents, { nextPageToken });
    },

    async updateConfirmations({ blockId, confirmations }, context) {
      // As many or more stay as they are, and nothing is written: late news do not move the block's revision.
      const filter = { ...inChain, confirmations: { $not: { $gte: confirmations } } };
      const found = await blocks.change(blockId, { stages: [{ $set: { confirmations } }], filter }, context);
      if (found !== null) return counted([found]);
      const there = await blocks.find({ block_id: blockId, ...inChain }, context);
      if (there !== null) return counted([there]);
      await blocks.get({ block_id: blockId }, context, { block_id: blockId });
      throw fail("BLOCK_ORPHANED", `The block ${blockId} is orphaned`, { metadata: { block_id: blockId } });
    },

    async updateBlockStatus({ blockId, status }, context) {
      const now = new Date();
      const set = status === BlockStatus.CONFIRMED ? { confirmed_at: now } : {};
      return stepped([await step(blockId, status, set, now, context)]);
    },

    async finalizeBlock({ blockId }, context) {
      const now = new Date();
      return finalized([
        await step(blockId, BlockStatus.FINALIZED, { finalized: true, finalized_at: now }, now, context),
      ]);
    },

    async markBlockOrphaned({ blockId }, context) {
      return orphaned([await chain.orphan(blockId, context)]);
    },

    async getBlockStatistics(request, context) {
      inOrder(request);
      return { statistics: await statisticsOf(blocks.collection, request, context) };
    },

    async *verifyChain(request, context) {
      inOrder(request);
      yield* verifyChain(blocks.collection, request, context);
    },

    async *watchBlocks(request, context) {
      const { afterHeight } = request;
      // What is told of it later is the whole chain: a block below may be replaced.
      const existing =
        afterHeight === undefined
          ? undefined
          : {
              filter: { height: { $gt: afterHeight }, ...inChain },
              order: { sort: { height: 1, block_id: 1 } } as const,
            };
      // A token stands for itself: whoever goes on with one may keep the height up to date beside it.
      const bound = { ...request, afterHeight: undefined };
      const call = { schema: rpc.WatchBlocksRequestSchema, request: bound, filter: inChain, existing };
      for await (const { type, id: blockId, revision, document, known, resumeToken } of watched.watch(call, context)) {
        const status = storedNumber(BlockStatusSchema, known["status"]);
        const height = BigInt((known["height"] ?? 0) as bigint | number); // as every block has it
        yield told(document === undefined ? [] : [document], { type, blockId, height, revision, status, resumeToken });
      }
    },
  };
}

/** Most blocks of one stream, so that a call has an end. */
const mostStreamed = 10_000n;

/** Refuses a range that ends before it begins. */
function inOrder({
  startHeight = 0n,
  endHeight,
}: {
  startHeight?: bigint | undefined;
  endHeight?: bigint | undefined;
}): void {
  if (endHeight === undefined || endHeight >= startHeight) return;
  throw badRequest({ field: "end_height", description: "must not be less than start_height" });
}
