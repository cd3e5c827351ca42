import { randomUUID } from "node:crypto";
import { setTimeout as pause } from "node:timers/promises";

import { BSON, type ClientSession, type MongoClient, type RunCommandCursor } from "mongodb";

import { fail } from "../../errors.ts";
import { serverDatabases } from "../../stores/mongodb.ts";
import type { StreamWriter } from "../contracts.ts";
import type { Namespaces } from "./catalog.ts";
import {
  type ChangeEvent,
  changeEventOf,
  documentRecord,
  EventParts,
  isDocumentChange,
  otherRecord,
} from "./change-record.ts";
import type { TrackedCollection, TrackedCollections } from "./collections.ts";
import { hasCode, isInterruption, serverCode } from "./errors.ts";
import { keyText, textElement } from "./raw-bson.ts";

/** Collection of the system database that marks are written to. */
const marksCollection = "backup_marks";

/** How long the server waits for a change before it answers that there is none, in milliseconds. */
const awaitMs = 500;

/** How long a mark may take to come back, in milliseconds. */
const markDeadlineMs = 120_000;

/** How long the stream may stay interrupted, in milliseconds. */
const interruptionMs = 60_000;

const retryMs = 250;

/** A batch of records is written when it has this many bytes. */
const batchBytes = 1024 * 1024;

interface Mark {
  readonly arrived: (time: bigint) => void;
  readonly failed: (error: unknown) => void;
  /** Called with the mark's time while the stream stands at the mark. */
  readonly at: ((time: bigint) => void) | undefined;
}

/** What a tail needs. */
export interface TailOptions {
  readonly client: MongoClient;
  readonly namespaces: Namespaces;
  /** Marks are written here; changes in it are not captured. */
  readonly systemDatabase: string;
  readonly collections: TrackedCollections;
  readonly signal: AbortSignal;
  /** Told of every change of a document that is recorded. */
  readonly noted: (collection: TrackedCollection, event: ChangeEvent) => void;
  /** Called once when the stream cannot go on. */
  readonly failed: (error: unknown) => void;
}

/**
 * Follows the changes of a whole deployment and records those of the selected namespaces, as long as it is not disposed. It
 * never waits for anything but the repository, so that the server's history does not run away.
 *
 * A *mark* is a document that is written and then comes along in the stream: when it does, every change that was made before
 * it has come. This proves where the stream stands on every kind of deployment, while operation times of replies and resume
 * tokens of empty batches do so on some only.
 */
export class ChangeTail implements AsyncDisposable {
  /** Cluster time of the last change that has come: reads that begin now see it and all before it. */
  position = 0n;
  readonly #options: TailOptions;
  readonly #run = randomUUID();
  readonly #marks = new Map<string, Mark>();
  readonly #parts = new EventParts();
  #markCount = 0;
  #token: Uint8Array | undefined;
  #splitsEvents = true;
  #cursor: RunCommandCursor | undefined;
  #session: ClientSession | undefined;
  #writer: StreamWriter | undefined;
  #batch: Uint8Array[] = [];
  #batchBytes = 0;
  #until: bigint | undefined;
  #lastToken: Uint8Array | undefined;
  #running: Promise<void> | undefined;
  #stopped = false;
  #failure: { readonly error: unknown } | undefined;

  private constructor(options: TailOptions) {
    this.#options = options;
  }

  /** Opens the stream; it is positioned when this resolves. Throws the server's error where it has no change streams. */
  static async open(options: TailOptions): Promise<ChangeTail> {
    const tail = new ChangeTail(options);
    try {
      await tail.#open();
      tail.#running = tail.#follow();
      await tail.mark();
      // What processes that died have left.
      await tail.#marksAt().deleteMany({ create_time: { $lt: new Date(Date.now() - markDeadlineMs * 10) } });
      return tail;
    } catch (error) {
      await tail[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Records document changes and all else from now on. What came before is in everything that is read from now on. */
  record(writer: StreamWriter): void {
    this.#writer = writer;
  }

  /**
   * Resolves with its cluster time when a change that is made now has come along: all that happened before this call is known
   * then. `at` is called just when it comes, before anything later is looked at.
   */
  async mark(at?: (time: bigint) => void): Promise<bigint> {
    this.#check();
    const id = `${this.#run}:${++this.#markCount}`;
    const key = keyText(textElement("_id", id));
    const { promise, resolve, reject } = Promise.withResolvers<bigint>();
    this.#marks.set(key, { arrived: resolve, failed: reject, at });
    const late = fail("STORE_UNAVAILABLE", "The change stream of MongoDB does not keep up", {
      metadata: { store: "mongodb" },
      retryAfterMs: 10_000,
    });
    const timer = setTimeout(() => reject(late), markDeadlineMs);
    // Awaited below; until then a failure is nobody's.
    promise.catch(() => undefined);
    try {
      await this.#marksAt().insertOne({ _id: id, create_time: new Date() }, { writeConcern: { w: "majority" } });
      return await promise;
    } finally {
      clearTimeout(timer);
      this.#marks.delete(key);
    }
  }

  #marksAt() {
    const { client, systemDatabase } = this.#options;
    return client.db(systemDatabase).collection<{ _id: string; create_time: Date }>(marksCollection);
  }

  /** Records nothing later than `time`. To be called in `at` of a mark of that time. */
  recordUntil(time: bigint): void {
    this.#until = time;
  }

  /** Resume token of the last change that has come up to the end of what is recorded. */
  get resumeToken(): Uint8Array {
    return this.#lastToken ?? new Uint8Array(0);
  }

  /** Resolves when all up to the time of `recordUntil` is with the writer. */
  async drain(): Promise<void> {
    // Changes of one transaction have one time, and on a sharded cluster others may share it: only a later one ends it.
    // Stopped at the mark, not after it: the stream would go on to wait for changes once more.
    await this.mark(() => {
      this.#stopped = true;
    });
    await this.#stop();
    this.#check();
    await this.#flush();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stop();
    try {
      await this.#marksAt().deleteMany({ _id: { $gte: `${this.#run}:`, $lt: `${this.#run};` } });
    } catch (error) {
      // The next backup removes them.
      if (!isInterruption(error)) throw error;
    }
    for (const mark of this.#marks.values()) mark.failed(new Error("The change stream was closed"));
  }

  async #stop(): Promise<void> {
    this.#stopped = true;
    await this.#running;
    await this.#close();
  }

  #check(): void {
    if (this.#failure !== undefined) throw this.#failure.error;
    this.#options.signal.throwIfAborted();
  }

  /** Does not throw: what goes wrong is kept and told to those who wait for marks. */
  async #follow(): Promise<void> {
    const { signal, failed } = this.#options;
    try {
      let interruptedAt: number | undefined;
      while (!this.#stopped) {
        signal.throwIfAborted();
        try {
          if (this.#cursor === undefined) await this.#open();
          const events = await this.#next();
          interruptedAt = undefined;
          for (const event of events) await this.#take(event);
          if (events.length === 0) await this.#flush();
        } catch (error) {
          await this.#close();
          if (isLost(error)) throw historyLost(error);
          interruptedAt ??= performance.now();
          if (!isInterruption(error) || performance.now() - interruptedAt >= interruptionMs) throw error;
          this.#parts.clear();
          await pause(retryMs);
        }
      }
    } catch (error) {
      this.#failure = { error };
      for (const mark of this.#marks.values()) mark.failed(error);
      failed(error);
    }
  }

  /** The next changes, none after some waiting where there are none. */
  async #next(): Promise<Uint8Array[]> {
    const cursor = this.#cursor;
    if (cursor === undefined) return [];
    const first = await cursor.tryNext();
    if (first !== null) {
      // With `raw`, documents are their bytes.
      return [first, ...cursor.readBufferedDocuments()];
    }
    // A closed cursor answers at once and for ever that there is nothing.
    if (cursor.closed) await this.#close();
    return [];
  }

  async #take(part: Uint8Array): Promise<void> {
    const whole = this.#parts.add(part);
    if (whole === undefined) return;
    const event = changeEventOf(whole);
    this.#token = event.token;
    if (event.time > this.position) this.position = event.time;
    if (this.#until === undefined || event.time <= this.#until) {
      this.#lastToken = event.token;
      if (this.#isMark(event)) this.#arrived(event);
      else this.#note(event);
    } else if (this.#isMark(event)) {
      this.#arrived(event);
    }
    if (this.#batchBytes >= batchBytes) await this.#flush();
  }

  #isMark({ database, collection }: ChangeEvent): boolean {
    return database === this.#options.systemDatabase && collection === marksCollection;
  }

  #arrived(event: ChangeEvent): void {
    if (event.operation !== "insert" || event.id === undefined) return;
    const mark = this.#marks.get(keyText(event.id));
    mark?.at?.(event.time);
    mark?.arrived(event.time);
  }

  #note(event: ChangeEvent): void {
    const { collections, namespaces } = this.#options;
    const { database, collection } = event;
    if (!isDocumentChange(event)) {
      collections.note(event);
      const touches =
        event.collection === "" ? namespaces.holdsDatabase(database) : namespaces.holds(database, collection);
      if (touches || (event.to !== undefined && namespaces.holds(event.to.database, event.to.collection))) {
        this.#append(() => otherRecord(event));
      }
      return;
    }
    if (!namespaces.holds(database, collection) || this.#writer === undefined) return;
    // Not every server tells that a collection was made by the first insert into it.
    const tracked =
      collections.find(database, collection) ??
      collections.add({ database, collection, kind: "collection" }, { read: false });
    // A time series is copied as a whole; servers do not tell its changes, or tell them in their own way.
    if (tracked.kind !== "collection") return;
    this.#options.noted(tracked, event);
    this.#append(() => documentRecord(event, tracked.number));
  }

  /** Records something of the time of a mark. To be called in its `at`. */
  append(record: Uint8Array): void {
    this.#append(() => record);
  }

  #append(record: () => Uint8Array): void {
    if (this.#writer === undefined) return;
    const bytes = record();
    this.#batch.push(bytes);
    this.#batchBytes += bytes.byteLength;
  }

  async #flush(): Promise<void> {
    if (this.#batch.length === 0) return;
    const batch = this.#batch;
    this.#batch = [];
    this.#batchBytes = 0;
    await this.#writer?.write(batch);
  }

  async #open(): Promise<void> {
    const { client, signal } = this.#options;
    signal.throwIfAborted();
    // There is a token before anything is recorded: the first mark's.
    const from = this.#token !== undefined && { resumeAfter: BSON.deserialize(this.#token, { promoteValues: false }) };
    const stage = { $changeStream: { allChangesForCluster: true, showExpandedEvents: true, ...from } };
    const split = this.#splitsEvents ? [{ $changeStreamSplitLargeEvent: {} }] : [];
    const session = client.startSession({ causalConsistency: false });
    const cursor = client.db("admin").runCursorCommand(
      {
        aggregate: 1,
        pipeline: [stage, { $match: this.#match() }, ...split],
        cursor: {},
        readConcern: { level: "majority" },
      },
      { raw: true, session, tailable: true, awaitData: true },
    );
    // The stream stands where it shall once the server has answered; there is no need to wait for a first change.
    cursor.setMaxTimeMS(1);
    this.#session = session;
    this.#cursor = cursor;
    try {
      const first = await cursor.tryNext();
      cursor.setMaxTimeMS(awaitMs);
      // With `raw`, documents are their bytes.
      if (first !== null) await this.#take(first);
    } catch (error) {
      await this.#close();
      // Servers before 6.0.9 do not know it, and have no events that are too large either: they fail.
      if (!this.#splitsEvents || !hasCode(error, serverCode.unrecognizedStage)) throw error;
      this.#splitsEvents = false;
      await this.#open();
    }
  }

  /** What the server need not send is left out there; what is selected in detail is looked at here. */
  #match(): Record<string, unknown> {
    const { namespaces, systemDatabase } = this.#options;
    const marks = { "ns.db": systemDatabase, "ns.coll": marksCollection };
    if (namespaces.databases === undefined) {
      return { $or: [{ "ns.db": { $nin: [...serverDatabases, systemDatabase] } }, marks] };
    }
    const databases = { $in: [...namespaces.databases] };
    return { $or: [{ "ns.db": databases }, { "to.db": databases }, marks] };
  }

  async #close(): Promise<void> {
    const [cursor, session] = [this.#cursor, this.#session];
    this.#cursor = undefined;
    this.#session = undefined;
    try {
      await cursor?.close();
    } catch (error) {
      // The server forgets it by itself.
      if (!isInterruption(error)) throw error;
    } finally {
      await session?.endSession();
    }
  }
}

function isLost(error: unknown): boolean {
  const { changeStreamHistoryLost, changeStreamFatalError, invalidResumeToken } = serverCode;
  return [changeStreamHistoryLost, changeStreamFatalError, invalidResumeToken].some((code) => hasCode(error, code));
}

function historyLost(cause: unknown) {
  return fail("BACKUP_HISTORY_LOST", "MongoDB no longer has the changes that were made while the backup ran", {
    metadata: { store: "mongodb" },
    cause,
  });
}
