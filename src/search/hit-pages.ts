import { fail } from "../errors.ts";
import type { SearchStore } from "../stores/search.ts";
import { statusOf } from "../stores/search/requests.ts";
import { abortable } from "../stores/waiting.ts";
import { type AnswerHit, ask, type Call, type ExactSortKey, type NamedIndex, PointInTimeLost, refusal } from "./ask.ts";
import type { HitOrder } from "./order.ts";
import type { Clause } from "./query.ts";

/** Where a search goes on, in the point in time, where there is one. */
export interface Position {
  /** What is searched: see `HitSearch`. */
  readonly of: string;
  /** Sort keys of the last hit before; none at the beginning. */
  readonly after: readonly ExactSortKey[];
  readonly pointInTime: string;
}

/** What is searched for, page by page. */
export interface HitSearch {
  readonly indices: readonly NamedIndex[];
  readonly clause: Clause;
  readonly order: HitOrder;
  /** What the server calls the very indices of operators that are searched: a place in others is none in these. */
  readonly of: string;
  /**
   * Fields of which no two documents of an index have all alike, so that a place among hits is known without a point in time; none
   * where only a point in time gives them a place.
   */
  readonly unique: readonly string[];
  /**
   * Whether a hit's value of the first of these is its id, and nothing of it is wanted that is stored in the index. What is stored lies in
   * compressed blocks: not to open one for each hit takes a fifth off a search for 25 (`bench/search.ts`).
   */
  readonly byUnique: boolean;
  /** More of the body: highlights, and whether hits have their source. */
  readonly more: Readonly<Record<string, unknown>>;
  /** Whether all hits are counted, up to a limit. */
  readonly counts: boolean;
  readonly preference: string | undefined;
}

/** A page of hits. */
export interface HitPage {
  readonly hits: readonly AnswerHit[];
  /** Whether there are hits behind these. */
  readonly hasMore: boolean;
  /** Of the point in time that the hits are of; empty where there is none. */
  readonly pointInTime: string;
  readonly total: { readonly value: number; readonly relation: string };
}

/** How long the server keeps a point in time between two pages. `SEARCH_POSITION_EXPIRED` names it in minutes. */
const keepAlive = "5m";
/** Hits are counted up to here; who wants to know exactly asks for it. */
const countedHits = 10_000;

/** How long opening one may take, whoever waits for it, and giving it back. */
const [openMs, releaseMs] = [30_000, 2000];

type Store = Pick<SearchStore, "client" | "dialect">;

/**
 * Reads a page of hits. Servers keep a limited number of points in time, and most searches are looked at no further than their
 * first page. So one opens a point in time only with its second page, and goes on from sort keys in a new one where it has expired.
 * An operator's index of several shards, or beside those of the domain, needs one from the start, since only there hits have a place.
 */
export async function readHits(
  search: Store,
  call: Call,
  wanted: HitSearch,
  { size, position }: { readonly size: number; readonly position: Position | undefined },
): Promise<HitPage> {
  const isPlaced = wanted.unique.length > 0;
  const known = position?.pointInTime ?? "";
  const page = { size, position };
  if (position !== undefined && position.of !== wanted.of) throw expired();
  if (isPlaced && position === undefined) return readPage(search, call, wanted, { ...page, pointInTime: "" });
  try {
    if (known === "") return await readInNew(search, call, wanted, page);
    return await readPage(search, call, wanted, { ...page, pointInTime: known });
  } catch (error) {
    if (!(error instanceof PointInTimeLost)) throw error;
    if (!isPlaced) throw expired(error);
    return readInNew(search, call, wanted, page);
  }
}

function expired(cause?: unknown) {
  return fail("SEARCH_POSITION_EXPIRED", "The search server no longer knows this place; search anew", {
    metadata: { kept_minutes: Number.parseInt(keepAlive).toString() },
    cause,
  });
}

/** Reads a page in a point in time of its own, which is given back where nobody is told of it. */
async function readInNew(
  search: Store,
  call: Call,
  wanted: HitSearch,
  page: Omit<Place, "pointInTime">,
): Promise<HitPage> {
  const pointInTime = await open(search, call, wanted);
  try {
    return await readPage(search, call, wanted, { ...page, pointInTime });
  } catch (error) {
    await release(search, pointInTime);
    throw error;
  }
}

/** Opens a point in time; where only sort keys need it, a server that has no room for one is searched as it is. */
async function open(search: Store, { signal }: Call, { indices, unique, preference }: HitSearch): Promise<string> {
  const dialect = await search.dialect(signal);
  const aliases = indices.map(({ alias }) => alias);
  // Not with the signal of the call: a server whose caller has gone opens one all the same, and it has to be known to be given back.
  const opening = dialect.openPointInTime(aliases, keepAlive, { signal: AbortSignal.timeout(openMs), preference });
  try {
    return await abortable(opening, signal);
  } catch (error) {
    if (signal.aborted) {
      void opening.then(
        (opened) => release(search, opened),
        () => {}, // there is none
      );
    }
    if (unique.length > 0 && statusOf(error) === 429) return "";
    throw refusal(error, indices);
  }
}

interface Place {
  readonly size: number;
  readonly position: Position | undefined;
  readonly pointInTime: string;
}

async function readPage(
  search: Store,
  call: Call,
  { indices, clause, order, unique, byUnique, more, counts, preference }: HitSearch,
  { size, position, pointInTime }: Place,
): Promise<HitPage> {
  const equals = unique.length > 0 ? unique.map(byValue) : [(await search.dialect(call.signal)).tieBreak];
  const body = {
    // One more than wanted tells whether there are more.
    size: size + 1,
    query: clause,
    sort: [...order.sort, ...equals, ...(indices.length > 1 ? [byValue("_index")] : [])],
    version: true,
    track_total_hits: counts ? countedHits : false,
    ...more,
    ...(byUnique && { stored_fields: "_none_" }),
    ...(pointInTime !== "" && { pit: { id: pointInTime, keep_alive: keepAlive } }),
    ...(position !== undefined && position.after.length > 0 && { search_after: position.after }),
  };
  const asked = pointInTime === "" ? { indices, body, preference } : { indices: [], body };
  const { hits, pit_id: renewed } = await ask(search, call, asked);
  const page = hits.hits.slice(0, size);
  // Not the last key: in a point in time Elasticsearch puts one of its own behind.
  return {
    hits: byUnique ? page.map((hit) => ({ ...hit, _id: String(hit.sort?.[order.sort.length]) })) : page,
    hasMore: hits.hits.length > size,
    pointInTime: renewed ?? pointInTime,
    total: hits.total ?? { value: 0, relation: "eq" },
  };
}

/** Of several indices, some lack what others are told apart by; one that never had a field has not even `_seq_no` and `_index`. */
function byValue(field: string): object {
  return { [field]: { order: "asc", unmapped_type: field === "_seq_no" ? "long" : "keyword" } };
}

/** Gives a point in time back that nobody goes on in. It would go by itself: a failure is none of the caller's. */
export async function release(search: Store, pointInTime: string): Promise<void> {
  if (pointInTime === "") return;
  // Not with the signal of the call: one that its caller has left gives back what it holds, too.
  const signal = AbortSignal.timeout(releaseMs);
  try {
    const dialect = await search.dialect(signal);
    await dialect.closePointInTime(pointInTime, { signal });
  } catch {
    // The server drops it in a few minutes.
  }
}
