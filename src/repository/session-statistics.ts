import type { MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import type { HandlerContext } from "@connectrpc/connect";
import type { Db } from "mongodb";

import type { Session } from "../../gen/lucid/repository/v1/session_pb.ts";
import type {
  SessionManifestSchema,
  SessionStatisticsSchema,
} from "../../gen/lucid/repository/v1/session_service_pb.ts";
import { fail } from "../errors.ts";
import { hex } from "../proofs/merkle.ts";
import { cancellable } from "../schema/call-options.ts";
import { chunkCount, chunkLeaves } from "./chunk-leaves.ts";

/** What the aggregation below returns of the chunks in one state. */
interface OfStatus {
  readonly _id: string;
  readonly count: bigint | number;
  readonly bytes: bigint | number;
  readonly least: bigint | number;
  readonly most: bigint | number;
  readonly ratios: number;
  readonly withRatio: bigint | number;
  readonly uploadedBytes: bigint | number;
  readonly first: Date | null;
  readonly last: Date | null;
}

const hasRatio = { $gt: ["$compression_ratio", null] };
const isUploaded = { $gt: ["$uploaded_at", null] };

const byStatus = {
  _id: "$status",
  count: { $sum: 1n },
  bytes: { $sum: "$size_bytes" },
  least: { $min: "$size_bytes" },
  most: { $max: "$size_bytes" },
  ratios: { $sum: "$compression_ratio" },
  withRatio: { $sum: { $cond: [hasRatio, 1n, 0n] } },
  uploadedBytes: { $sum: { $cond: [isUploaded, "$size_bytes", 0n] } },
  first: { $min: "$uploaded_at" },
  last: { $max: "$uploaded_at" },
};

/** Computes a session's statistics from its chunks, in the store. */
export async function statisticsOf(
  db: Db,
  session: Session,
  context: HandlerContext,
): Promise<MessageInitShape<typeof SessionStatisticsSchema>> {
  const { sessionId, durationSeconds, processingTimeSeconds, blockchainAnchor } = session;
  const groups = await db
    .collection("chunks")
    .aggregate<OfStatus>([{ $match: { session_id: sessionId } }, { $group: byStatus }], {
      // Along keys that never change, so that each chunk is seen once.
      hint: { session_id: 1, chunk_index: 1 },
      useBigInt64: true,
      ...cancellable(context),
    })
    .toArray();
  const sum = (name: "count" | "bytes" | "withRatio" | "uploadedBytes") =>
    groups.reduce((total, group) => total + BigInt(group[name]), 0n);
  const [chunks, bytes, withRatio] = [sum("count"), sum("bytes"), sum("withRatio")];
  const times = groups.flatMap(({ first, last }) => [first, last].filter((time) => time !== null)).map(Number);
  const [firstMs, lastMs] = [Math.min(...times), Math.max(...times)];
  const seconds = (lastMs - firstMs) / 1000;
  return {
    sessionId,
    totalChunks: chunks,
    chunksByStatus: Object.fromEntries(groups.map(({ _id, count }) => [_id, BigInt(count)])),
    totalSizeBytes: bytes,
    ...(chunks > 0n && {
      minChunkSizeBytes: groups.map(({ least }) => BigInt(least)).reduce((one, other) => (one < other ? one : other)),
      maxChunkSizeBytes: groups.map(({ most }) => BigInt(most)).reduce((one, other) => (one > other ? one : other)),
      avgChunkSizeBytes: Number(bytes) / Number(chunks),
    }),
    ...(withRatio > 0n && {
      avgCompressionRatio: groups.reduce((total, { ratios }) => total + ratios, 0) / Number(withRatio),
    }),
    ...(durationSeconds !== undefined && { durationSeconds }),
    ...(processingTimeSeconds !== undefined && { processingTimeSeconds }),
    ...(times.length > 0 && {
      firstUploadedAt: timestampFromDate(new Date(firstMs)),
      lastUploadedAt: timestampFromDate(new Date(lastMs)),
    }),
    ...(seconds > 0 && { uploadBytesPerSecond: Number(sum("uploadedBytes")) / seconds }),
    ...(processingTimeSeconds !== undefined &&
      processingTimeSeconds > 0 && { processingBytesPerSecond: Number(bytes) / processingTimeSeconds }),
    anchored: blockchainAnchor !== undefined,
    confirmationCount: blockchainAnchor?.confirmationCount ?? 0n,
  };
}

/** As many hashes as a message holds that clients take at once, 4 MiB, with what else it says. */
const mostHashes = 40_000;

/** What a session consists of. Fails with `CHUNK_MISSING` and `SESSION_TOO_LARGE`. */
export async function sessionManifest(
  db: Db,
  session: Session,
  context: HandlerContext,
): Promise<MessageInitShape<typeof SessionManifestSchema>> {
  const { sessionId, userId, createdAt, merkleTree, metadata } = session;
  const count = await chunkCount(db, sessionId, context);
  // One that has a gap may have fewer than its last index says; that is told below.
  const isTooLarge = count > mostHashes && (await hasMoreThan(mostHashes, db, sessionId, context));
  if (isTooLarge) {
    throw fail("SESSION_TOO_LARGE", `Session ${sessionId} has ${count} chunks, more than ${mostHashes}`, {
      metadata: { session_id: sessionId, chunk_count: String(count), most: String(mostHashes) },
    });
  }
  const chunkHashes: string[] = [];
  let totalSizeBytes = 0n;
  for await (const { hash, sizeBytes } of chunkLeaves(db, { sessionId, count }, context)) {
    chunkHashes.push(hex(hash));
    totalSizeBytes += sizeBytes;
  }
  return {
    sessionId,
    userId,
    ...(createdAt !== undefined && { createdAt }),
    totalChunks: BigInt(count),
    totalSizeBytes,
    merkleRoot: merkleTree?.rootHash ?? "",
    ...(merkleTree !== undefined && { merkleAlgorithm: merkleTree.algorithm }),
    chunkHashes,
    ...(metadata !== undefined && { metadata }),
  };
}

async function hasMoreThan(most: number, db: Db, sessionId: string, context: HandlerContext): Promise<boolean> {
  const counted = { limit: most + 1, ...cancellable(context) };
  return (await db.collection("chunks").countDocuments({ session_id: sessionId }, counted)) > most;
}
