import type { MessageInitShape } from "@bufbuild/protobuf";
import type { HandlerContext } from "@connectrpc/connect";
import type { Document } from "bson";
import type { Collection } from "mongodb";

import type {
  BlockStatisticsSchema,
  GetBlockStatisticsRequest,
} from "../../gen/lucid/repository/v1/block_service_pb.ts";
import { cancellable } from "../schema/call-options.ts";
import { wholeSum } from "../schema/expressions.ts";
import { inChain } from "./block-query.ts";

type Whole = bigint | number;

/** What the aggregation below returns: null for what no block tells. */
interface Sums {
  readonly first: Whole;
  readonly last: Whole;
  readonly blocks: Whole;
  readonly pending: Whole;
  readonly validating: Whole;
  readonly confirmed: Whole;
  readonly finalized: Whole;
  readonly transactions: Whole;
  readonly anchors: Whole;
  readonly bytes: Whole;
  readonly avgBytes: number | null;
  readonly minBytes: Whole | null;
  readonly maxBytes: Whole | null;
  readonly avgSeconds: number | null;
  readonly minSeconds: number | null;
  readonly maxSeconds: number | null;
  readonly consensus: Whole;
  readonly agreed: Whole;
  readonly validators: number | null;
  readonly votes: number | null;
}

/** Computes statistics of the chain between two heights, in the store. */
export async function statisticsOf(
  blocks: Collection,
  { startHeight = 0n, endHeight }: GetBlockStatisticsRequest,
  context: HandlerContext,
): Promise<MessageInitShape<typeof BlockStatisticsSchema>> {
  const limits = { ...cancellable(context), useBigInt64: true };
  const upTo = endHeight === undefined ? {} : { $lte: endHeight };
  const orphaned = { status: "ORPHANED", height: { $gte: startHeight, ...upTo } };
  const orphanedCount = BigInt(await blocks.countDocuments(orphaned, limits));
  const [sums] = await blocks.aggregate<Sums>(pipelineFor(startHeight, upTo), limits).toArray();
  if (sums === undefined) return { orphanedCount };
  return {
    firstHeight: BigInt(sums.first),
    lastHeight: BigInt(sums.last),
    blockCount: BigInt(sums.blocks),
    pendingCount: BigInt(sums.pending),
    validatingCount: BigInt(sums.validating),
    confirmedCount: BigInt(sums.confirmed),
    finalizedCount: BigInt(sums.finalized),
    orphanedCount,
    transactionCount: BigInt(sums.transactions),
    avgTransactionCount: Number(sums.transactions) / Number(sums.blocks),
    sessionAnchorCount: BigInt(sums.anchors),
    totalSizeBytes: wholeSum(sums.bytes),
    ...(sums.avgBytes !== null && { avgSizeBytes: sums.avgBytes }),
    ...(sums.minBytes !== null && { minSizeBytes: BigInt(sums.minBytes) }),
    ...(sums.maxBytes !== null && { maxSizeBytes: BigInt(sums.maxBytes) }),
    ...(sums.avgSeconds !== null && { avgSecondsSincePrevious: sums.avgSeconds }),
    ...(sums.minSeconds !== null && { minSecondsSincePrevious: sums.minSeconds }),
    ...(sums.maxSeconds !== null && { maxSecondsSincePrevious: sums.maxSeconds }),
    consensusBlockCount: BigInt(sums.consensus),
    consensusReachedCount: BigInt(sums.agreed),
    ...(sums.validators !== null && { avgValidatorCount: sums.validators }),
    ...(sums.votes !== null && { avgVoteCount: sums.votes }),
  };
}

function pipelineFor(startHeight: bigint, upTo: Document): Document[] {
  const count = (condition: Document) => ({ $sum: { $cond: [condition, 1n, 0n] } });
  const inStatus = (status: string) => count({ $eq: ["$status", status] });
  const hasConsensus = { $eq: [{ $type: "$consensus_info" }, "object"] };
  return [
    // The block before the first one is read for its time only.
    { $match: { height: { $gte: startHeight - 1n, ...upTo }, ...inChain } },
    {
      $project: {
        height: 1,
        timestamp: 1,
        status: 1,
        transaction_count: 1,
        session_anchor_count: 1,
        size_bytes: 1,
        "consensus_info.validator_count": 1,
        "consensus_info.vote_count": 1,
        "consensus_info.consensus_reached": 1,
      },
    },
    {
      $setWindowFields: {
        sortBy: { height: 1 },
        output: { previous: { $shift: { output: "$timestamp", by: -1 } } },
      },
    },
    { $match: { height: { $gte: startHeight } } },
    { $set: { seconds: { $divide: [{ $subtract: ["$timestamp", "$previous"] }, 1000] } } },
    {
      $group: {
        _id: null,
        first: { $min: "$height" },
        last: { $max: "$height" },
        blocks: { $sum: 1n },
        pending: inStatus("PENDING"),
        validating: inStatus("VALIDATING"),
        confirmed: inStatus("CONFIRMED"),
        finalized: inStatus("FINALIZED"),
        transactions: { $sum: "$transaction_count" },
        anchors: { $sum: "$session_anchor_count" },
        bytes: { $sum: "$size_bytes" },
        avgBytes: { $avg: "$size_bytes" },
        minBytes: { $min: "$size_bytes" },
        maxBytes: { $max: "$size_bytes" },
        avgSeconds: { $avg: "$seconds" },
        minSeconds: { $min: "$seconds" },
        maxSeconds: { $max: "$seconds" },
        consensus: count(hasConsensus),
        agreed: count({ $eq: ["$consensus_info.consensus_reached", true] }),
        validators: { $avg: "$consensus_info.validator_count" },
        votes: { $avg: "$consensus_info.vote_count" },
      },
    },
  ];
}
