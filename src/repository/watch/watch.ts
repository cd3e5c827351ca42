import { performance } from "node:perf_hooks";

import { deserialize, type Document } from "bson";
import type { ClientSession, Db } from "mongodb";

import { WatchEventType } from "../../../gen/lucid/repository/v1/watch_pb.ts";
import { type DocumentFilter, documentFilter } from "../../schema/document-filter.ts";
import type { ListOrder } from "../../schema/list-query.ts";
import { readPage } from "../../schema/page.ts";
import type { Change } from "./change.ts";
import { tokenTooOld, watchInterrupted, watchTooSlow, withToken } from "./failures.ts";
import type { Feeds } from "./feeds.ts";
import type { Position } from "./position.ts";

/** What a watcher is told. */
export interface WatchEvent {
  readonly type: WatchEventType;
  /** Empty for a checkpoint, with revision 0. */
  readonly id: string;
  readonly revision: bigint;
  /** As raw BSON, at that revision; none for a checkpoint, and where the document had moved on before it was read. */
  readonly document: Uint8Array | undefined;
  /** What is known of it at that revision, even where it had moved on. */
  readonly known: Document;
  /** After this event; undefined for what exists, which has no order. */
  readonly position: Position | undefined;
}

/** What is watched, and how. */
export interface WatchOptions {
  readonly db: Db;
  readonly collection: string;
  /** Stored name of the field that identifies a document. */
  readonly id: string;
  /** The documents that are meant: of the operators that `documentFilter` knows. */
  readonly filter: Document;
  /** What exists and is told first; without it, nothing is. */
  readonly existing?: {
    readonly filter: Document;
    /** An order that an index gives with the filter, by fields that never change. */
    readonly order: ListOrder;
  };
  /** Which changes are told; all where nothing is said, and only the last one of some in quick succession. */
  readonly steps?: {
    /** Stored name of a field, each of whose values is told: also where the document has moved on, without the document then. */
    readonly field: string;
    /** Whether changes of other fields are left out, as far as the server says what was changed. */
    readonly only: boolean;
  };
  /** Where to go on; what exists is not told again then. */
  readonly from?: Position;
  /** Longest time without an event, in milliseconds. */
  readonly checkpointMs: number;
  /** Makes a token of a position, for failures. */
  readonly seal: (position: Position) => string;
  readonly signal: AbortSignal;
  /** Aborted when the process stops. */
  readonly closing: AbortSignal;
}

/** Documents that are read at once, and how long that may take in milliseconds. */
const pageDocuments = 500;
const pageMs = 30_000;

/** Ids and revisions of what exists, as it was read: changes up to these revisions have been told with it. */
type Seen = Map<string, bigint>;

/** A quiet stream that has come so far after the reads, in milliseconds, has told all that they have seen. */
const settledMs = 60_000;

/**
 * Tells what exists and then what changes, without gap or repetition: it takes its place among the changes first, then reads,
 * then takes the changes and leaves out those that the reads have seen. Ends by throwing only.
 */
export async function* watch(feeds: Feeds, options: WatchOptions): AsyncGenerator<WatchEvent> {
  const { db, steps, from, checkpointMs, seal, signal, closing } = options;
  const ending = AbortSignal.any([signal, closing]);
  const filter = documentFilter(options.filter);
  await using session = db.client.startSession({ causalConsistency: true });
  using follower = await feeds.follow(from, session);
  const seen: Seen = new Map();
  if (from === undefined) {
    if (options.existing !== undefined) yield* existing(options, options.existing, seen, session);
    yield checkpoint(follower.position);
  }
  await session.endSession();
  const readAll = { time: session.operationTime?.toBigInt() ?? 0n, rounds: follower.rounds, ms: performance.now() };
  /** Whether no change is to come any more that the reads have seen: of a later time, or long after them and none at all. */
  const hasPassed = (change: Change | undefined) =>
    change === undefined
      ? follower.rounds > readAll.rounds + 1 && performance.now() - readAll.ms > settledMs
      : change.time > readAll.time;
  let toldMs = performance.now();
  for (;;) {
    signal.throwIfAborted();
    if (closing.aborted) throw watchInterrupted(seal(follower.position));
    const change = follower.take();
    if (change === "lost") throw watchTooSlow(seal(follower.position));
    if (change === "over") throw tokenTooOld();
    const event = change && told(change, { filter, seen, steps });
    if (event !== undefined) {
      yield { ...event, position: follower.position };
      toldMs = performance.now();
    } else if (performance.now() - toldMs >= checkpointMs) {
      yield checkpoint(change === undefined ? follower.standing : follower.position);
      toldMs = performance.now();
    }
    if (seen.size > 0 && hasPassed(change)) seen.clear();
    if (change !== undefined) continue;
    if (follower.failure !== undefined) throw withToken(follower.failure.error, seal(follower.position));
    await follower.wait(toldMs + checkpointMs - performance.now(), ending);
  }
}

async function* existing(
  { db, collection, id: idName, signal, closing }: WatchOptions,
  { filter, order }: NonNullable<WatchOptions["existing"]>,
  seen: Seen,
  session: ClientSession,
): AsyncGenerator<WatchEvent> {
  // No older than the place among the changes, and nothing that a failover could take back.
  const reads = { session, readConcern: { level: "majority" }, readPreference: "primary", maxTimeMS: pageMs } as const;
  let token = "";
  do {
    if (closing.aborted) throw watchInterrupted();
    const page = await readPage({
      collection: db.collection(collection),
      filter,
      order,
      size: pageDocuments,
      query: new Uint8Array(),
      token,
      tokens: plainTokens,
      limits: { ...reads, signal },
    });
    for (const document of page.documents) {
      const known = deserialize(document, { useBigInt64: true });
      // What another program has stored may lack it.
      const [id, revision] = [String(known[idName]), BigInt((known["revision"] ?? 0) as bigint | number)];
      seen.set(id, revision);
      yield { type: WatchEventType.EXISTING, id, revision, document, known, position: undefined };
    }
    token = page.nextPageToken;
  } while (token !== "");
}

/** Positions of pages that nobody sees. */
const plainTokens = {
  encode: (_: Uint8Array, position: string) => position,
  decode: (_: Uint8Array, token: string) => (token === "" ? undefined : token),
};

interface Telling {
  readonly filter: DocumentFilter;
  readonly seen: Seen;
  readonly steps: WatchOptions["steps"];
}

/** What a change is to one who watches with a filter; undefined where it is nothing. */
function told(change: Change, { filter, seen, steps }: Telling): Omit<WatchEvent, "position"> | undefined {
  const { kind, id, revision, known, document, touched } = change;
  if (revision <= (seen.get(id) ?? -1n)) return undefined;
  const about = { id, revision, document, known };
  if (document === undefined) {
    // A later change has the document; only what that could not tell is told.
    if (!filter.matches(known, touched)) return { ...about, type: WatchEventType.REMOVED };
    const isStep = steps !== undefined && touched?.has(steps.field) === true && filter.matches(known);
    return isStep ? { ...about, type: WatchEventType.CHANGED } : undefined;
  }
  if (steps?.only === true && touched?.has(steps.field) === false && touched.isDisjointFrom(filter.fields)) {
    return undefined;
  }
  if (filter.matches(known)) {
    return { ...about, type: kind === "created" ? WatchEventType.CREATED : WatchEventType.CHANGED };
  }
  // It was not meant before either where it was just created, or nothing was changed that the filter looks at.
  const wasMaybeMeant = kind === "changed" && touched?.isDisjointFrom(filter.fields) !== true;
  return wasMaybeMeant ? { ...about, type: WatchEventType.REMOVED } : undefined;
}

function checkpoint(position: Position): WatchEvent {
  return { type: WatchEventType.CHECKPOINT, id: "", revision: 0n, document: undefined, known: {}, position };
}
