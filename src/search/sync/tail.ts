import { type Document, serialize, type Timestamp } from "bson";
import { type ChangeStream, type Db, MongoServerError } from "mongodb";

import { fail } from "../../errors.ts";
import { auditKey } from "../../schema/audited-call.ts";
import { documentBytes } from "../../schema/document-bytes.ts";
import { documentKey } from "../../schema/search-copy.ts";
import { pause } from "../../stores/waiting.ts";

/** A document that has changed. */
export interface Changed {
  /** Its `_id`, as the driver takes it. */
  readonly _id: unknown;
  /** Whether the last that is known of it is that it was removed. */
  readonly isRemoved: boolean;
  /** Its natural id, where it was created among these changes. */
  readonly id: string | undefined;
  /** What it is now, where the last change told the whole of it and that is not much. */
  readonly document?: Uint8Array | undefined;
}

/** Changes that came one after the other. */
export interface Batch {
  /** By their `_id` as text; each once. */
  readonly changed: ReadonlyMap<string, Changed>;
  readonly events: number;
  /** Whether one of them makes a document. */
  readonly creates: boolean;
  /** Whether one of them makes another state of a revision that a document had before, as a restore or another program does it. */
  readonly rewrites: boolean;
  /** Whether one does that, or removes a document. Copies of one version come in any order, so that nothing may be taken beside this batch. */
  readonly alone: boolean;
  /** Where to go on after them. */
  readonly token: Document;
  /** When the last one happened. */
  readonly time: Timestamp | undefined;
}

/** Which collection is followed. */
export interface Followed {
  readonly db: Db;
  readonly collection: string;
  /** Stored name of the field that identifies a document, for example `user_id`. */
  readonly id: string;
}

/** How long the server waits for a change before it says that there is none, in milliseconds; closing waits as long. */
const awaitMs = 1000;
const shortWaitMs = 100;
/** Changes that are read ahead, and bytes of documents in them. */
const mostAhead = { events: 4000, bytes: 8 * 1024 * 1024 };
/** Changes that are taken together. */
const mostTogether = { events: 1000, bytes: 4 * 1024 * 1024 };
/** A document that is larger is read when its change is taken. */
const mostDocumentBytes = 64 * 1024;

/**
 * How MongoDB says that a change stream cannot go on where it was: the token is none it knows, a fatal error, history lost. Then
 * some for a token that is of another server altogether: not to be parsed, of a wrong type, no key, of another version.
 */
const lostCodes = new Set<number | string | undefined>([260, 280, 286, 9, 40_649, 50_811, 50_795]);

/** What a stream tells. */
interface Told {
  readonly _id: Document;
  readonly operationType: string;
  readonly documentKey?: { readonly _id: unknown };
  /**
   * Of documents that were created or replaced, where they are not large; others are read afterwards, many at once, and as they are by
   * then.
   */
  readonly fullDocument?: Document;
  /** The natural id of one that was created or replaced. */
  readonly id?: unknown;
  readonly updateDescription?: { readonly updatedFields?: { readonly revision?: unknown } };
  readonly clusterTime?: Timestamp;
}

/** What is kept of that until it is taken. */
interface Event {
  readonly token: Document;
  readonly time: Timestamp | undefined;
  /** Undefined where it is of the whole collection. */
  readonly key: { readonly _id: unknown } | undefined;
  readonly isCreation: boolean;
  readonly isRemoval: boolean;
  readonly raisesRevision: boolean;
  readonly id: string | undefined;
  readonly document: Uint8Array | undefined;
}

/** Follows the changes of a collection, a bounded number ahead of who takes them. */
export class ChangeTail implements AsyncDisposable {
  readonly #stream: ChangeStream;
  readonly #closing = new AbortController();
  readonly #waiting = new Set<() => void>();
  readonly #waitingForRoom = new Set<() => void>();
  readonly #ahead: Event[] = [];
  #aheadBytes = 0;
  #token: Document;
  #failure: { readonly error: unknown } | undefined;
  #rounds = 0;
  #pumping: Promise<void> | undefined;

  private constructor(stream: ChangeStream, token: Document) {
    this.#stream = stream;
    this.#token = token;
  }

  /**
   * Opens it after a token, or now; the server waits `waitMs` for a change before it says that there is none. What follows a token that
   * the server no longer has fails with `SEARCH_HISTORY_LOST`, as does a collection that is dropped or replaced with
   * `SEARCH_COLLECTION_REPLACED`, when it comes to that.
   */
  static async open(followed: Followed, after: Document | undefined, waitMs = awaitMs): Promise<ChangeTail> {
    const stream = streamOf(followed, { after, waitMs });
    try {
      const { promise: positioned, resolve } = Promise.withResolvers<void>();
      stream.once("resumeTokenChanged", () => resolve());
      const first = stream.tryNext();
      // The server has answered when there is a token, which is before there is a change.
      await Promise.race([first, positioned]);
      const token = after ?? tokenOf(stream);
      if (token === undefined) throw new Error("The change stream has no resume token");
      const tail = new ChangeTail(stream, token);
      tail.#pumping = tail.#pump(first);
      return tail;
    } catch (error) {
      await stream.close().catch(() => undefined);
      throw lostOr(error);
    }
  }

  /** Where who has taken all goes on. */
  get token(): Document {
    return this.#token;
  }

  /** Times that the server has said that there is nothing. */
  get rounds(): number {
    return this.#rounds;
  }

  /** Takes what has come; waits for it up to `ms`. */
  async next(ms: number, signal: AbortSignal): Promise<Batch> {
    if (this.#ahead.length === 0 && this.#failure === undefined && ms > 0) await pause(ms, signal, this.#waiting);
    signal.throwIfAborted();
    const changed = new Map<string, Changed>();
    let [events, bytes, over, creates, rewrites, alone] = [0, 0, false, false, false, false];
    let time: Timestamp | undefined;
    while (events < mostTogether.events && bytes < mostTogether.bytes && !over) {
      const event = this.#ahead.shift();
      if (event === undefined) break;
      events += 1;
      bytes += event.document?.byteLength ?? 0;
      this.#token = event.token;
      time = event.time ?? time;
      creates ||= event.isCreation;
      rewrites ||= !event.raisesRevision && !event.isRemoval;
      alone ||= !event.raisesRevision;
      if (event.key === undefined) over = true;
      else note(changed, event, event.key._id);
    }
    this.#aheadBytes -= bytes;
    for (const wake of this.#waitingForRoom) wake();
    if (over) throw replaced();
    if (events === 0 && this.#failure !== undefined) throw lostOr(this.#failure.error);
    return { changed, events, creates, rewrites, alone, token: this.#token, time };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort();
    // The server forgets it by itself where it cannot be told.
    await this.#stream.close().catch(() => undefined);
    await this.#pumping;
  }

  async #pump(first: Promise<unknown>): Promise<void> {
    const { signal } = this.#closing;
    let next = first;
    while (!signal.aborted) {
      try {
        const told = (await next) as Told | null; // as every stream tells
        if (told !== null) this.#keep(told);
        // A closed cursor answers at once and for ever that there is nothing.
        else if (this.#stream.closed) throw replaced();
        else this.#idle();
      } catch (error) {
        this.#failure = { error };
      }
      for (const wake of this.#waiting) wake();
      if (this.#failure !== undefined) return;
      while (this.#isFull() && !signal.aborted) await pause(60_000, signal, this.#waitingForRoom);
      next = signal.aborted ? Promise.resolve(null) : this.#stream.tryNext();
    }
  }

  #keep(told: Told): void {
    const event = kept(told);
    this.#ahead.push(event);
    this.#aheadBytes += event.document?.byteLength ?? 0;
  }

  #isFull(): boolean {
    return this.#ahead.length >= mostAhead.events || this.#aheadBytes >= mostAhead.bytes;
  }

  #idle(): void {
    this.#rounds += 1;
    if (this.#ahead.length === 0) this.#token = tokenOf(this.#stream) ?? this.#token;
  }
}

/** Changes that follow a token. */
export interface Following {
  readonly events: number;
  /** When the first of them happened, in milliseconds since 1970; to a second. */
  readonly first: number | undefined;
  /** Whether there are no more. */
  readonly isOver: boolean;
  /** Where to go on after them. */
  readonly end: Document;
}

/** Counts the changes after a token, up to `most` of them or until `limit` is aborted. Fails with `SEARCH_HISTORY_LOST`. */
export async function changesAfter(
  followed: Followed,
  after: Document,
  { most, limit, signal }: { readonly most: number; readonly limit: AbortSignal; readonly signal: AbortSignal },
): Promise<Following> {
  const stream = streamOf(followed, { after, waitMs: shortWaitMs, onlyTimes: true });
  try {
    let [events, first, end]: [number, number | undefined, Document] = [0, undefined, after];
    while (events < most && !limit.aborted) {
      signal.throwIfAborted();
      const event = (await stream.tryNext()) as Pick<Told, "_id" | "clusterTime"> | null; // with that projection
      if (event === null) return { events, first, isOver: true, end };
      first ??= (event.clusterTime?.getHighBits() ?? 0) * 1000;
      end = event._id;
      events += 1;
    }
    return { events, first, isOver: false, end };
  } catch (error) {
    throw lostOr(error);
  } finally {
    await stream.close().catch(() => undefined);
  }
}

function streamOf(
  { db, collection, id }: Followed,
  {
    after,
    waitMs,
    onlyTimes = false,
  }: { readonly after: Document | undefined; readonly waitMs: number; readonly onlyTimes?: boolean },
): ChangeStream {
  // A stream over the database outlives the collection, and tells of one that is renamed to its name.
  const ours = [
    { "ns.coll": collection },
    { "to.coll": collection },
    { operationType: { $in: ["dropDatabase", "invalidate"] } },
  ];
  const all = { $match: { $or: ours, $nor: [movedRecord] } };
  return db.watch([all, { $project: onlyTimes ? { clusterTime: 1 } : toldOf(id) }], {
    maxAwaitTimeMS: waitMs,
    batchSize: mostTogether.events,
    ...(after !== undefined && { resumeAfter: after }),
    // An `_id` must keep all its digits. Other values are what the driver makes of them: it would not know its own errors.
    promoteLongs: false,
    useBigInt64: false,
  });
}

/**
 * What the server is to tell of a change. No more than is needed: an event is larger than its document, servers send none above 16 MB,
 * and a stream that comes upon one goes no further.
 */
function toldOf(id: string): Document {
  const isLarge = { $gt: [{ $bsonSize: "$fullDocument" }, mostDocumentBytes] };
  return {
    operationType: 1,
    documentKey: 1,
    clusterTime: 1,
    id: `$fullDocument.${id}`,
    fullDocument: { $cond: [isLarge, "$$REMOVE", "$fullDocument"] },
    [`${updated}.revision`]: 1,
  };
}

const updated = "updateDescription.updatedFields";

/** Taking an audit record out of a document makes no new revision: it is no change. */
const movedRecord = {
  operationType: "update",
  [`${updated}.revision`]: { $exists: false },
  $or: [
    { [`${updated}.${auditKey}`]: { $exists: true } },
    { "updateDescription.removedFields": auditKey },
    { "updateDescription.truncatedArrays.field": auditKey },
  ],
};

function kept(told: Told): Event {
  const { operationType, updateDescription, id } = told;
  return {
    token: told._id,
    time: told.clusterTime,
    key: told.documentKey,
    isCreation: operationType === "insert",
    isRemoval: operationType === "delete",
    raisesRevision: operationType === "insert" || Object.hasOwn(updateDescription?.updatedFields ?? {}, "revision"),
    id: typeof id === "string" ? id : undefined,
    document: told.fullDocument && documentBytes(told.fullDocument),
  };
}

function note(changed: Map<string, Changed>, { isRemoval, id, document }: Event, _id: unknown): void {
  const key = documentKey(serialize({ _id }));
  changed.set(key, { _id, isRemoved: isRemoval, id: id ?? changed.get(key)?.id, document });
}

function tokenOf(stream: ChangeStream): Document | undefined {
  return stream.resumeToken as Document | undefined; // as all resume tokens
}

function lostOr(error: unknown): unknown {
  if (!(error instanceof MongoServerError) || !lostCodes.has(error.code)) return error;
  return fail("SEARCH_HISTORY_LOST", "MongoDB no longer has the changes that follow", { cause: error });
}

function replaced() {
  return fail("SEARCH_COLLECTION_REPLACED", "The collection was dropped or another took its name");
}
