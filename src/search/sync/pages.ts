import { deserialize, serialize } from "bson";
import type { ClientSession, Db } from "mongodb";

import { documentKey } from "../../schema/search-copy.ts";
import { digestField, keyField, removedField, type SearchedMessage } from "../../schema/search-mapping.ts";
import { sessionFromNow } from "../../stores/cluster-time.ts";
import type { SearchStore } from "../../stores/search.ts";
import { requestMs } from "../../stores/search/requests.ts";
import { groups, majority } from "./groups.ts";
import { revisionOf } from "./version.ts";

/** Documents of a collection that are written at once. */
export interface FillPage {
  readonly documents: readonly Uint8Array[];
  /** `_id` of the last one. */
  readonly last: unknown;
}

/** How long changes wait while a collection is read, in milliseconds: at least, and at most. */
const sectionMs = { least: 5000, most: 60_000 };

/**
 * When to end a section of reading that was begun at `beganMs` and whose first page has come now, by `performance.now()`. A server
 * that is slow to begin gets a longer one, so that beginning takes no more than a fifth of the time.
 */
function sectionEnd(beganMs: number): number {
  const nowMs = performance.now();
  return nowMs + Math.min(sectionMs.most, Math.max(sectionMs.least, 4 * (nowMs - beganMs)));
}

/**
 * Reads a whole collection in the order of `_id`, after one of them, as it is at the time of the session or later. The order holds
 * for `_id`s of all types together.
 */
async function* fillPages(
  { db, collection }: { readonly db: Db; readonly collection: string },
  {
    after,
    session,
    signal,
  }: { readonly after: unknown; readonly session: ClientSession; readonly signal: AbortSignal },
): AsyncGenerator<FillPage> {
  const all = db.collection(collection, majority);
  // One server answers in the order of the index anyway. Of several shards a router makes one order only where it is asked to.
  const order = { hint: { _id: 1 }, sort: { _id: 1 } } as const;
  const cursor = all.find<Uint8Array>({}, { raw: true, ...order, batchSize: 1000, session, signal });
  // Not $gt: that knows values of one type only. What it begins with has been read, unless it has gone.
  if (after !== undefined) cursor.min({ _id: after });
  let before = after === undefined ? undefined : documentKey(serialize({ _id: after }));
  try {
    for await (const documents of groups(cursor)) {
      const last = documents.at(-1);
      if (last === undefined) return;
      const known = before;
      before = undefined;
      const rest = known === undefined ? documents : documents.filter((one) => documentKey(one) !== known);
      yield { documents: rest, last: deserialize(last)["_id"] as unknown };
    }
  } catch (error) {
    // The driver closes the cursor then, and what was read ahead may fail by that first.
    signal.throwIfAborted();
    throw error;
  }
}

/**
 * Reads on in a collection for a while, after one `_id`, and hands over each page; true where all was read. Nothing that was read is
 * to be kept for the next time, so that no removal is missed.
 */
export async function fillSection(
  source: { readonly db: Db; readonly collection: string },
  { after, signal }: { readonly after: unknown; readonly signal: AbortSignal },
  take: (page: FillPage) => Promise<void>,
): Promise<boolean> {
  const beganMs = performance.now();
  let untilMs: number | undefined;
  await using session = await sessionFromNow(source.db);
  for await (const page of fillPages(source, { after, session, signal })) {
    await take(page);
    untilMs ??= sectionEnd(beganMs);
    if (performance.now() > untilMs || signal.aborted) return false;
  }
  return true;
}

/** A copy in an index, without what it holds. */
export interface IndexedCopy {
  readonly id: string;
  readonly key: string;
  readonly revision: bigint;
  /** Empty where it was edited since it was written. */
  readonly digest: string;
  readonly isRemoved: boolean;
}

/** What has to be asked for of a copy, to know it without what it holds; its version too. */
export const aboutCopy = [keyField, removedField, digestField, "revision"];

/** A copy as the server tells it. */
export function indexedCopy(hit: {
  readonly _id?: string;
  readonly _version?: number;
  readonly _source?: Readonly<Record<string, unknown>>;
}): IndexedCopy {
  const { _id: id = "", _version: version = 0, _source: source = {} } = hit;
  const { [keyField]: key, [removedField]: isRemoved, [digestField]: digest = "", revision: told = 1 } = source;
  const revision = BigInt(Number(told));
  // Whoever edits one raises its version alone. Those that JavaScript does not tell exactly are believed.
  const isAsWritten = !Number.isSafeInteger(version) || revisionOf(BigInt(version)) === revision;
  return { id, key: String(key), revision, digest: isAsWritten ? String(digest) : "", isRemoved: isRemoved === true };
}

/** How the copies of an index are walked through. */
export interface CopyWalk {
  readonly after: string;
  /** Id of the last one that is wanted; all where there is none. */
  readonly upTo?: string;
  readonly size: number;
  readonly signal: AbortSignal;
}

/** Copies after an id in the order of their ids, tombstones too; as of the last refresh. */
export async function copiesAfter(
  { client }: Pick<SearchStore, "client">,
  { alias, message }: { readonly alias: string; readonly message: SearchedMessage },
  { after, upTo, size, signal }: CopyWalk,
): Promise<IndexedCopy[]> {
  const range = { ...(after !== "" && { gt: after }), ...(upTo !== undefined && { lte: upTo }) };
  const query = Object.keys(range).length === 0 ? { match_all: {} } : { range: { [message.id]: range } };
  const { hits, _shards } = await client.search<Record<string, unknown>>(
    {
      index: alias,
      query,
      size,
      sort: [{ [message.id]: "asc" }],
      track_total_hits: false,
      allow_partial_search_results: false,
      version: true,
      _source: aboutCopy,
    },
    { signal, requestTimeout: requestMs },
  );
  if (_shards.failed > 0) throw new Error(`The search server could not read all shards of ${alias}`);
  return hits.hits.map(indexedCopy);
}
