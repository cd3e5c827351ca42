import type { MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import type { Db } from "mongodb";

import type { User } from "../../gen/lucid/repository/v1/user_pb.ts";
import type { UserStatisticsSchema } from "../../gen/lucid/repository/v1/user_service_pb.ts";

/** States that a session does not leave. */
const finalStates = ["COMPLETED", "FAILED", "CANCELLED"];

/** What the aggregation below returns; sums are int64, read as such. */
interface Sums {
  readonly sessions: bigint | number;
  readonly active: bigint | number;
  readonly completed: bigint | number;
  readonly chunks: bigint | number;
  readonly storage: bigint | number;
  readonly bandwidth: bigint | number;
  readonly duration: number | null;
  readonly changed: Date | null;
  readonly uploaded: Date | null;
}

/** Computes a user's statistics from its sessions and their chunks, in the store. */
export async function statisticsOf(
  db: Db,
  user: User,
  options: { maxTimeMS?: number; signal: AbortSignal },
): Promise<MessageInitShape<typeof UserStatisticsSchema>> {
  const [sums] = await db
    .collection("sessions")
    .aggregate<Sums>(pipelineFor(user.userId), { ...options, useBigInt64: true })
    .toArray();
  const lastLogin =
    user.lastLogin === undefined ? undefined : Number(user.lastLogin.seconds) * 1000 + user.lastLogin.nanos / 1e6;
  const times = [lastLogin, sums?.changed?.getTime(), sums?.uploaded?.getTime()].filter((time) => time !== undefined);
  return {
    userId: user.userId,
    totalSessions: BigInt(sums?.sessions ?? 0),
    activeSessions: BigInt(sums?.active ?? 0),
    completedSessions: BigInt(sums?.completed ?? 0),
    totalChunks: BigInt(sums?.chunks ?? 0),
    totalStorageBytes: BigInt(sums?.storage ?? 0),
    totalBandwidthBytes: BigInt(sums?.bandwidth ?? 0),
    avgSessionDurationSeconds: sums?.duration ?? 0,
    ...(user.nodeCount !== undefined && { nodesOperated: user.nodeCount }),
    ...(user.totalPootScore !== undefined && { totalPootScore: user.totalPootScore }),
    ...(times.length > 0 && { lastActivity: timestampFromDate(new Date(Math.max(...times))) }),
  };
}

function pipelineFor(userId: string): object[] {
  const count = (condition: object) => ({ $sum: { $cond: [condition, 1n, 0n] } });
  const bytes = (condition: object) => ({ $sum: { $cond: [condition, "$size_bytes", 0n] } });
  return [
    { $match: { user_id: userId, deleted_at: null } },
    {
      $lookup: {
        from: "chunks",
        localField: "session_id",
        foreignField: "session_id",
        // One small document for each session: a session has tens of thousands of chunks.
        pipeline: [
          {
            $group: {
              _id: null,
              chunks: { $sum: 1n },
              storage: bytes({ $ne: ["$status", "FAILED"] }),
              bandwidth: bytes({ $eq: [{ $type: "$uploaded_at" }, "date"] }),
              uploaded: { $max: "$uploaded_at" },
            },
          },
        ],
        as: "found",
      },
    },
    { $set: { found: { $first: "$found" } } },
    {
      $group: {
        _id: null,
        sessions: { $sum: 1n },
        active: count({ $not: [{ $in: ["$status", finalStates] }] }),
        completed: count({ $eq: ["$status", "COMPLETED"] }),
        chunks: { $sum: "$found.chunks" },
        storage: { $sum: "$found.storage" },
        bandwidth: { $sum: "$found.bandwidth" },
        duration: { $avg: "$duration_seconds" },
        changed: { $max: "$updated_at" },
        uploaded: { $max: "$found.uploaded" },
      },
    },
  ];
}
