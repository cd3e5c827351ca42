import { type Document, serialize } from "bson";
import type { Db } from "mongodb";

import { isReason } from "../../errors.ts";
import { callTime } from "../../schema/call-options.ts";
import { type SearchIndices, messageOf } from "../indices.ts";
import type { DeadLetters } from "./dead-letters.ts";
import type { SyncState, SyncStates } from "./state.ts";
import { changesAfter, type Followed, type Following } from "./tail.ts";

/** How one index stands. */
export interface IndexStatus {
  readonly name: string;
  /** Undefined where nothing has been done yet. */
  readonly state: SyncState | undefined;
  /** Changes and documents that are not in the index yet; there may be more than `atLeast` says. */
  readonly lagDocuments: number;
  readonly isAtLeast: boolean;
  /** How long the oldest of them waits. */
  readonly lagMs: number;
  readonly deadLetters: number;
  /** Whether MongoDB no longer has what the index lacks, so that it will be filled anew. */
  readonly isLost: boolean;
  readonly problem: string;
}

/** What looking at an index needs. */
export interface StatusOptions {
  readonly indices: SearchIndices;
  readonly states: SyncStates;
  readonly deadLetters: DeadLetters;
  readonly sourceOf: (name: string) => { readonly db: Db; readonly collection: string };
  readonly count: ChangeCount;
}

/** How a look is made. */
export interface Look {
  readonly signal: AbortSignal;
  /** Changes that are counted at most; 1 says whether there are some, and since when. */
  readonly most: number;
}

/** Changes that are counted for people. */
export const mostCounted = 10_000;
/** How long counting may take, in milliseconds; more is told as at least so many. */
const countMs = 2000;

/**
 * Looks how an index stands. What it is behind is counted from the checkpoint on in MongoDB's own history, so that it is
 * true whether or not any process keeps the index, and whether or not search is there.
 */
export async function statusOf(name: string, options: StatusOptions, look: Look): Promise<IndexStatus> {
  const { indices, states, deadLetters } = options;
  const { db, collection } = options.sourceOf(name);
  const [state, letters] = await Promise.all([states.find(indices.alias(name)), deadLetters.count(name)]);
  const problem = state?.problem ?? "";
  const about = { name, state, deadLetters: letters, isLost: false, problem };
  const all = async () => db.collection(collection).estimatedDocumentCount(callTime);
  if (state?.token === undefined) return { ...about, lagDocuments: await all(), isAtLeast: false, lagMs: 0 };
  const unread = state.phase === "filling" ? Math.max(0, (await all()) - state.filled) : 0;
  try {
    const { events, first, isOver } = await options.count(
      { db, collection, id: messageOf(name).id },
      state.token,
      look,
    );
    const sinceMs = state.phase === "following" ? first : (state.resync_time?.getTime() ?? first);
    const lagMs = sinceMs === undefined ? 0 : Math.max(0, Date.now() - sinceMs);
    return { ...about, lagDocuments: unread + events, isAtLeast: !isOver, lagMs };
  } catch (error) {
    if (!isReason(error, "SEARCH_HISTORY_LOST")) throw error;
    const lagMs = Math.max(0, Date.now() - (state.token_time?.getTime() ?? Date.now()));
    const lost = "MongoDB no longer has the changes that the index lacks; it will be filled anew";
    // What keeps that from being done comes after it.
    const both = problem === "" ? lost : `${lost}. ${problem}`;
    return { ...about, lagDocuments: await all(), isAtLeast: false, lagMs, isLost: true, problem: both };
  }
}

/** Counts the changes after a checkpoint. Fails with `SEARCH_HISTORY_LOST`. */
export type ChangeCount = (followed: Followed, checkpoint: Document, look: Look) => Promise<Omit<Following, "end">>;

/**
 * Counts changes of some collections again and again. While a checkpoint stands still, as it does where search is away, what was
 * counted after it is not read again.
 */
export function changeCount(): ChangeCount {
  const counted = new Map<
    string,
    { readonly checkpoint: Uint8Array; readonly events: number; readonly end: Document }
  >();
  return async (followed, checkpoint, { signal, most }) => {
    const limits = { signal, limit: AbortSignal.timeout(countMs) };
    // Always the first one: the history may have been lost since.
    const first = await changesAfter(followed, checkpoint, { most: 1, ...limits });
    if (first.isOver || most === 1) return first;
    const [collection, place] = [`${followed.db.databaseName}.${followed.collection}`, serialize(checkpoint)];
    const known = counted.get(collection);
    const before = known !== undefined && Buffer.compare(known.checkpoint, place) === 0 ? known : first;
    if (before.events >= most) return { ...first, events: before.events };
    const more = await changesAfter(followed, before.end, { most: most - before.events, ...limits });
    const events = before.events + more.events;
    counted.set(collection, { checkpoint: place, events, end: more.end });
    return { events, first: first.first, isOver: more.isOver };
  };
}
