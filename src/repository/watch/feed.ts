import { performance } from "node:perf_hooks";

import type { Document } from "bson";
import { type ChangeStream, type ChangeStreamDocument, type Db, MongoServerError } from "mongodb";

import { fail, reasonOf } from "../../errors.ts";
import { sessionFromNow } from "../../stores/cluster-time.ts";
import { translateStoreError } from "../../stores/errors.ts";
import { pause } from "../../stores/waiting.ts";
import { type Change, meaningOf } from "./change.ts";
import { EventParts, splitting, unknownStageCode } from "./event-parts.ts";
import { failureOf, tokenTooOld, watchInterrupted } from "./failures.ts";
import { isSame, type Place, type Position, tokenText } from "./position.ts";

/** What a feed follows, and how. */
export interface FeedOptions {
  readonly db: Db;
  readonly collection: string;
  /** Stored name of the field that identifies a document, for example `user_id`. */
  readonly id: string;
  /** Most changes, and most bytes of their documents, that are kept for those who have not taken them. */
  readonly bufferedChanges: number;
  readonly bufferedBytes: number;
  /** How long the stream may stay interrupted before its followers are told, in milliseconds. */
  readonly interruptionMs: number;
}

/** How long the server waits for a change before it answers that there is none, in milliseconds; closing waits as long. */
const awaitMs = 1000;

const retryMs = 250;

/** How long in all the feed waits for those who catch up before it goes on without them, in milliseconds. */
const patienceMs = 10_000;

/** Events of the whole database that end it. */
const endings = ["dropDatabase", "invalidate"];

/** The stream can be opened again after these. */
const passingReasons = new Set(["STORE_UNAVAILABLE", "STORE_CONFLICT", "DEADLINE_EXCEEDED", "CANCELLED"]);

/**
 * One change stream over a collection and the latest of what it has told, for any number of followers. Each has its own place
 * in that; who falls behind further than is kept has lost it. Nobody holds up the others.
 */
export class Feed implements AsyncDisposable {
  /** Everything after this is, or will be, among the changes. */
  floor: Place;
  /** The server's token to resume after all that has come. */
  resume: Document;
  /** Rounds that have ended without a change. */
  emptyRounds = 0;
  /** Where those who follow go on when this feed has ended in favour of another. */
  successor: Feed | undefined;
  /** Why there will be no more changes. */
  failure: { readonly error: unknown } | undefined;
  readonly followers = new Set<{ readonly next: number }>();
  readonly #options: FeedOptions;
  readonly #changes: Change[] = [];
  readonly #waiting = new Set<() => void>();
  readonly #waitingForRoom = new Set<() => void>();
  readonly #closing = new AbortController();
  readonly #caughtUp = Promise.withResolvers<void>();
  readonly #parts = new EventParts();
  #stream: ChangeStream | undefined;
  #first = 0;
  #bytes = 0;
  /** When the collection was dropped or replaced, where that was passed on the way. */
  #replacedAt: bigint | undefined;
  /** It has caught up when it comes to this time, or a round ends without a change; undefined where it has. */
  #behindUntil: bigint | undefined;
  #patienceMs = patienceMs;
  #running: Promise<void> | undefined;

  private constructor(options: FeedOptions, from: Position | undefined) {
    this.#options = options;
    // Known when the stream is open.
    this.floor = from ?? { time: 0n, last: undefined };
    this.resume = from?.token ?? {};
    // A failure is kept in `failure`, and nobody need wait for this.
    this.#caughtUp.promise.catch(() => undefined);
  }

  /**
   * Opens the stream after a position, or now. Fails with `WATCH_TOKEN_TOO_OLD` where the history no longer has what follows
   * the position, `CHANGE_STREAMS_UNAVAILABLE`, or as the store does.
   */
  static async open(options: FeedOptions, from?: Position): Promise<Feed> {
    const feed = new Feed(options, from);
    try {
      const { first } = await feed.#open(from?.token);
      await using session = await sessionFromNow(options.db);
      const time = session.operationTime?.toBigInt() ?? 0n;
      if (from === undefined) feed.floor = { time, last: undefined };
      else feed.#behindUntil = time;
      feed.#running = feed.#follow(first);
      return feed;
    } catch (error) {
      await feed[Symbol.asyncDispose]();
      throw failureOf(error);
    }
  }

  /** Whether all that comes after a position is or will be among the changes. */
  covers(place: Place): boolean {
    const { time, last } = place;
    if (time > this.floor.time || isSame(place, this.floor)) return true;
    return last === undefined ? time === this.floor.time : this.#changes.some(({ text }) => text === last);
  }

  /** Whether the collection was dropped or replaced after a position that is not covered. */
  isOverFor({ time }: Place): boolean {
    return this.#replacedAt !== undefined && time <= this.#replacedAt;
  }

  /** Number of the oldest change that is kept. */
  get first(): number {
    return this.#first;
  }

  /** The number that the next change to come will have. */
  get end(): number {
    return this.#first + this.#changes.length;
  }

  /** A change by its number. */
  at(number: number): Change | undefined {
    return this.#changes[number - this.#first];
  }

  /** Resolves when something has come, or the feed has ended, or after `ms`, or when `signal` aborts. */
  wait(ms: number, signal: AbortSignal): Promise<void> {
    return pause(ms, signal, this.#waiting);
  }

  /** Resolves when all that had happened before it was opened has come; rejects where the feed ends before. */
  caughtUp(): Promise<void> {
    if (this.#behindUntil === undefined) this.#caughtUp.resolve();
    return this.#caughtUp.promise;
  }

  /** Ends it in favour of one that covers more. */
  async replaceBy(successor: Feed): Promise<void> {
    this.successor = successor;
    this.#wake();
    await this[Symbol.asyncDispose]();
  }

  /** To be called when a follower has taken all there is. */
  taken(): void {
    for (const wake of this.#waitingForRoom) wake();
  }

  #wake(): void {
    for (const wake of this.#waiting) wake();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort();
    if (this.successor === undefined && this.failure === undefined) this.#end(watchInterrupted());
    await this.#running;
    await this.#close();
  }

  async #follow(first: Promise<unknown>): Promise<void> {
    const { interruptionMs } = this.#options;
    let interruptedMs: number | undefined;
    let next = first;
    while (!this.#closing.signal.aborted && this.failure === undefined) {
      try {
        await this.#take(await next);
        interruptedMs = undefined;
      } catch (error) {
        // The driver has resumed by itself where a new primary came soon; this is for what lasts longer.
        await this.#close();
        interruptedMs ??= performance.now();
        const isPassing = passingReasons.has(reasonOf(translateStoreError(error))?.reason ?? "");
        if (!isPassing) this.#end(failureOf(error));
        else if (performance.now() - interruptedMs > interruptionMs) this.#end(watchInterrupted(undefined, error));
        else await pause(retryMs, this.#closing.signal);
      }
      // Awaited in the same turn, at the top of the loop.
      next = this.#next();
    }
  }

  async #next(): Promise<unknown> {
    if (this.#closing.signal.aborted || this.failure !== undefined) return null;
    if (this.#stream !== undefined) return await this.#stream.tryNext();
    const { first } = await this.#open(this.resume);
    return await first;
  }

  #end(error: unknown): void {
    this.failure = { error };
    this.#caughtUp.reject(error);
    this.#wake();
  }

  async #take(event: unknown): Promise<void> {
    const stream = this.#stream;
    if (stream === undefined) return;
    if (event === null) {
      // A closed cursor answers at once and for ever that there is nothing. Without a database, that of a mongos is closed.
      if (stream.closed) throw fail("STORE_UNAVAILABLE", "The change stream was closed", { retryAfterMs: 1000 });
      this.resume = tokenOf(stream) ?? this.resume;
      this.emptyRounds += 1;
      this.#hasCaughtUp();
      return;
    }
    const told = this.#parts.add(event as ChangeStreamDocument); // as every stream tells
    // Who resumes before it is whole needs all of it.
    if (told === undefined) return;
    const meaning = meaningOf(told, this.#options.id);
    if (meaning === "over") this.#pass(told);
    else if (meaning !== "nothing") {
      const { change } = meaning;
      if (this.#behindUntil !== undefined) {
        await this.#room();
        if (change.time >= this.#behindUntil) this.#hasCaughtUp();
      }
      this.#push(change);
    }
    this.resume = tokenOf(stream) ?? this.resume;
  }

  /** Goes on after the end of the collection where that is long past: it concerns only those who follow from before it. */
  #pass({ operationType, clusterTime, _id: token }: ChangeStreamDocument): void {
    const time = clusterTime?.toBigInt();
    const isPast = time !== undefined && this.#behindUntil !== undefined && time < this.#behindUntil;
    // The stream itself ends with the database.
    if (!isPast || (operationType !== "drop" && operationType !== "rename")) throw tokenTooOld();
    // One more than there were, so that all see that they have to find their place anew.
    this.#first += this.#changes.length + 1;
    this.#changes.length = 0;
    this.#bytes = 0;
    this.floor = { time, last: tokenText(token as Document) };
    this.#replacedAt = time;
    this.#wake();
  }

  #hasCaughtUp(): void {
    this.#behindUntil = undefined;
    this.#caughtUp.resolve();
  }

  #push(change: Change): void {
    const { bufferedChanges, bufferedBytes } = this.#options;
    this.#changes.push(change);
    this.#bytes += weightOf(change);
    while (this.#changes.length > 1 && (this.#changes.length > bufferedChanges || this.#bytes > bufferedBytes)) {
      const dropped = this.#changes.shift();
      if (dropped === undefined) break;
      this.#first += 1;
      this.#bytes -= weightOf(dropped);
      this.floor = { time: dropped.time, last: dropped.text };
    }
    this.#wake();
  }

  /** While it catches up, which it does as fast as the server reads its log, those who follow set the pace. */
  async #room(): Promise<void> {
    const { bufferedChanges, bufferedBytes } = this.#options;
    while (!this.#closing.signal.aborted && this.#patienceMs > 0) {
      const isFull = this.#changes.length >= bufferedChanges || this.#bytes >= bufferedBytes;
      const isWanted = this.followers.values().some(({ next }) => next === this.#first);
      if (!isFull || !isWanted) return;
      const beganMs = performance.now();
      await pause(this.#patienceMs, this.#closing.signal, this.#waitingForRoom);
      this.#patienceMs -= performance.now() - beganMs;
    }
  }

  /** Opens the stream; resolves with the promise of what comes first when it is positioned. */
  async #open(after: Document | undefined): Promise<{ first: Promise<unknown> }> {
    try {
      return await this.#openWith([splitting], after);
    } catch (error) {
      if (!(error instanceof MongoServerError) || error.code !== unknownStageCode) throw error;
      await this.#close();
      return await this.#openWith([], after);
    }
  }

  async #openWith(stages: readonly Document[], after: Document | undefined): Promise<{ first: Promise<unknown> }> {
    const { db, collection } = this.#options;
    // A stream over the database outlives the collection, and its tokens are good whatever they were made at: some servers
    // make them at an event that concerns the collection and is none of its own, and refuse those of a stream over it.
    const ours = {
      $or: [{ "ns.coll": collection }, { "to.coll": collection }, { operationType: { $in: [...endings] } }],
    };
    const stream = db.watch([{ $match: ours }, ...stages], {
      fullDocument: "updateLookup",
      maxAwaitTimeMS: awaitMs,
      ...(after !== undefined && { resumeAfter: after }),
    });
    this.#stream = stream;
    const { promise: positioned, resolve } = Promise.withResolvers<void>();
    stream.once("resumeTokenChanged", () => resolve());
    const first = stream.tryNext();
    // The server has answered when there is a token, which is before there is a change.
    await Promise.race([first, positioned]);
    // A first change has moved the stream's token already; nobody may go on after that before it is taken.
    if (after === undefined) this.resume = tokenOf(stream) ?? this.resume;
    return { first };
  }

  async #close(): Promise<void> {
    const stream = this.#stream;
    this.#stream = undefined;
    this.#parts.clear();
    // The server forgets it by itself where it cannot be told.
    await stream?.close().catch(() => undefined);
  }
}

/** What a change takes in memory, roughly: its bytes, the values that they were read from, and all around. */
function weightOf({ bytes }: Change): number {
  return 1024 + 3 * bytes;
}

function tokenOf(stream: ChangeStream): Document | undefined {
  return stream.resumeToken as Document | undefined; // as all resume tokens
}
