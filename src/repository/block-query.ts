import type { Document } from "bson";

import { BlockStatusSchema } from "../../gen/lucid/repository/v1/block_pb.ts";
import type { BlockFilter } from "../../gen/lucid/repository/v1/block_service_pb.ts";
import { mostLong } from "../schema/expressions.ts";
import { textPart, timeRange } from "../schema/filters.ts";
import type { Restrictions } from "../schema/list-query.ts";
import { storedName } from "../schema/stored-field.ts";

/** The blocks of the chain: those that no height is taken from. */
export const inChain = { orphaned_at: null } as const;

/** The documents that a filter means, what an index must serve for it, and the order where the caller names none. */
export function filterOf(filter: BlockFilter | undefined, showOrphaned: boolean) {
  const { status = 0, timestampFrom, timestampBefore } = filter ?? {};
  const equal: Document = status === 0 ? {} : { status: storedName(BlockStatusSchema, status) };
  const made = timeRange(timestampFrom, timestampBefore);
  const restrictions: Restrictions = {
    equal: Object.keys(equal),
    ...(made !== undefined && { range: "timestamp" }),
  };
  const unlessOrphaned = showOrphaned || status !== 0 ? {} : inChain;
  return {
    filter: { ...equal, ...(made !== undefined && { timestamp: made }), ...unlessOrphaned },
    restrictions,
    fallback: made === undefined ? "height desc" : "timestamp desc",
  };
}

/** The documents that a search finds: its text starts a hash, or is a height. */
export function searchFilter(query: string): Document {
  const height = /^\d{1,19}$/.test(query) ? BigInt(query) : undefined;
  const hash = { block_id: textPart(query.toLowerCase(), "start") };
  return height === undefined || height > mostLong ? hash : { $or: [hash, { height }] };
}
