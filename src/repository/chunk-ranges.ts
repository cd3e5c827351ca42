import type { HandlerContext } from "@connectrpc/connect";
import type { Db } from "mongodb";

import { cancellable } from "../schema/call-options.ts";

/** Indexes without a gap. */
interface Range {
  readonly firstIndex: bigint;
  lastIndex: bigint;
}

const mostRanges = 1000;
/** Indexes in memory at once. Each window is a query of its own, as in `chunk-leaves.ts`. */
const windowIndexes = 5000;

/** The ranges of indexes that a session has chunks for, from one index on; where to go on where there are too many. */
export async function chunkRanges(
  db: Db,
  { sessionId, fromIndex }: { readonly sessionId: string; readonly fromIndex: bigint },
  context: Pick<HandlerContext, "signal" | "timeoutMs">,
): Promise<{ ranges: Range[]; nextIndex?: bigint }> {
  const ranges: Range[] = [];
  for (let from = fromIndex; ;) {
    const found = await db
      .collection("chunks")
      .find({ session_id: sessionId, chunk_index: { $gte: from } }, cancellable(context))
      .project<{ chunk_index: bigint | number }>({ _id: 0, chunk_index: 1 })
      .sort({ session_id: 1, chunk_index: 1 })
      .limit(windowIndexes)
      .batchSize(windowIndexes + 1)
      .toArray();
    for (const { chunk_index: stored } of found) {
      const index = BigInt(stored);
      const last = ranges.at(-1);
      if (last !== undefined && last.lastIndex === index - 1n) last.lastIndex = index;
      else if (ranges.length === mostRanges) return { ranges, nextIndex: index };
      else ranges.push({ firstIndex: index, lastIndex: index });
      from = index + 1n;
    }
    if (found.length < windowIndexes) return { ranges };
  }
}
