import { setTimeout as pause } from "node:timers/promises";

import { fail } from "../errors.ts";
import type { SearchStore } from "../stores/search.ts";
import { ask, type Call } from "./ask.ts";
import { indexedRevision, type Target } from "./targets.ts";

/** A write that has to be searchable. */
export interface AwaitedWrite {
  readonly index: Target;
  /** Id of the document in the index. */
  readonly id: string;
  readonly revision: bigint;
  /** Where searches that have to see it go to. */
  readonly preference: string;
}

/** Pauses between two looks, in milliseconds: the first, and the longest. */
const [firstPauseMs, longestPauseMs] = [25, 250];
/** How long is waited where a call has no deadline, and what is left of one for the search itself. */
const [longestMs, searchMs] = [30_000, 250];

/**
 * Waits until a document's copy in the index is of that revision or a later one, and is found. Looks where the search will: other
 * copies of a shard may not have seen the write yet. Fails with `SEARCH_NOT_CAUGHT_UP` shortly before the call's deadline.
 */
export async function untilSearchable(
  search: Pick<SearchStore, "client">,
  call: Call,
  { index, id, revision, preference }: AwaitedWrite,
): Promise<void> {
  const until = performance.now() + Math.min(call.timeoutMs() ?? longestMs, longestMs) - searchMs;
  const body = { query: { ids: { values: [id] } }, size: 1, version: true, _source: false, track_total_hits: false };
  for (let pauseMs = firstPauseMs; ; pauseMs = Math.min(pauseMs * 2, longestPauseMs)) {
    const { hits } = await ask(search, call, { indices: [index], body, preference });
    const [copy] = hits.hits;
    const found = copy === undefined ? 0n : indexedRevision(index, copy);
    if (found >= revision) return;
    if (performance.now() + pauseMs > until) {
      throw fail("SEARCH_NOT_CAUGHT_UP", `The index ${index.name} has not caught up with the write`, {
        metadata: { index: index.name, id, revision: String(revision), indexed_revision: String(found) },
        retryAfterMs: 1000,
      });
    }
    await pause(pauseMs, undefined, { signal: call.signal });
  }
}
