import { setTimeout as pause } from "node:timers/promises";

import { fail } from "../errors.ts";
import type { DocumentState } from "../schema/found-documents.ts";
import type { SearchStore } from "../stores/search.ts";
import { type AnswerHit, ask, type Call } from "./ask.ts";
import { indexedRevision, type Target } from "./targets.ts";

/** A write that has to be searchable. */
export interface AwaitedWrite {
  readonly index: Target;
  /** Id of the document in the index. */
  readonly id: string;
  readonly revision: bigint;
  /** Where searches that have to see it go to. */
  readonly preference: string;
  /** How its document is now; undefined where it is not there, or the index is an operator's. */
  readonly current: () => Promise<DocumentState | undefined>;
}

/** Pauses between two looks, in milliseconds: the first, and the longest. */
const [firstPauseMs, longestPauseMs] = [25, 250];
/** How long is waited where a call has no deadline, and what is left of one at least for the search itself. */
const [longestMs, searchMs] = [30_000, 250];

/**
 * Waits until a document's copy in the index is of that revision or a later one, and is found. Looks where the search will: other
 * copies of a shard may not have seen the write yet. A copy of a state that a restore has undone does not count. Fails with
 * `SEARCH_NOT_CAUGHT_UP` before the call's deadline, as soon as there is no time for another look and the search.
 */
export async function untilSearchable(
  search: Pick<SearchStore, "client">,
  call: Call,
  { index, id, revision, preference, current }: AwaitedWrite,
): Promise<void> {
  const until = performance.now() + (call.timeoutMs() ?? longestMs);
  const body = {
    query: { ids: { values: [id] } },
    size: 1,
    version: true,
    _source: ["updated_at"],
    track_total_hits: false,
  };
  for (let pauseMs = firstPauseMs; ; pauseMs = Math.min(pauseMs * 2, longestPauseMs)) {
    const beganMs = performance.now();
    const { hits } = await ask(search, call, { indices: [index], body, preference });
    const [copy] = hits.hits;
    const found = copy === undefined ? 0n : indexedRevision(index, copy);
    if (found >= revision && !isUndone({ revision: found, copy }, await current())) return;
    const nowMs = performance.now();
    // A busy server takes as long again.
    if (nowMs + pauseMs + Math.max(searchMs, 2 * (nowMs - beganMs)) > until) {
      throw fail("SEARCH_NOT_CAUGHT_UP", `The index ${index.name} has not caught up with the write`, {
        metadata: { index: index.name, id, revision: String(revision), indexed_revision: String(found) },
        retryAfterMs: 1000,
      });
    }
    await pause(pauseMs, undefined, { signal: call.signal });
  }
}

/** Whether a copy is ahead of its document, or another one of the same revision: only a restore takes documents back. */
function isUndone(
  { revision, copy }: { readonly revision: bigint; readonly copy: AnswerHit | undefined },
  current: DocumentState | undefined,
): boolean {
  if (current === undefined || revision < current.revision) return false;
  const time = copy?._source?.["updated_at"];
  const isSame = typeof time !== "string" || time === current.updateTime?.toISOString();
  return revision > current.revision || !isSame;
}
