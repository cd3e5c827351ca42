import { deserialize, type Document, serialize } from "bson";

import { fail, isReason, reasonOf } from "../errors.ts";
import { type HeldRight, type Leases, leasesOf } from "../jobs/leases.ts";
import type { SearchedMessage } from "../schema/search-mapping.ts";
import { requestMs } from "../stores/search/requests.ts";
import { noPrevious, noteSwapped, type Version } from "./index-swap.ts";
import { type IndexVersions, indexVersions } from "./index-versions.ts";
import { messageOf } from "./indices.ts";
import { patiently } from "./patience.ts";
import { refusedCopies, type RefusedCopies } from "./refused-copies.ts";
import type { Source, SyncAccess } from "./sync/access.ts";
import { compare } from "./sync/compare.ts";
import { fillPages } from "./sync/pages.ts";
import { untilHeld, whileStopped } from "./sync/standstill.ts";
import { ChangeTail } from "./sync/tail.ts";
import { copyWriter, type Writer } from "./sync/writer.ts";

/** What a rebuild is doing. */
export type RebuildPhase = "filling" | "comparing" | "swapping";

/** How far a rebuild is. */
export interface RebuildProgress {
  readonly phase: RebuildPhase;
  /** Documents of the collection, as they were counted at first. */
  readonly documents: number;
  /** Documents that were read and copied. */
  readonly filled: number;
  readonly compared: number;
  readonly refused: number;
  readonly examples: readonly { readonly documentId: string; readonly errorType: string }[];
}

/** What a rebuild needs. */
export interface RebuildOptions {
  readonly access: SyncAccess;
  readonly leaseMs: number;
}

/** The job that it is a part of. */
export interface RebuildWork {
  readonly signal: AbortSignal;
  /** What an earlier run has kept. */
  readonly kept: Uint8Array | undefined;
  keep(position: Uint8Array): void;
  progress(progress: RebuildProgress): void;
  /** Resolves when this process has just been proved to be the one that works on it. */
  prove(): Promise<void>;
}

/** Where a rebuild is; enough for another process to go on. */
interface Position {
  /** The version that is written, and the server's own name of it. */
  readonly place: string;
  readonly uuid: string;
  /** All changes up to this resume token are in it; absent until one is known. */
  token?: Document;
  /** `_id` of the last document that was read. */
  fill_after?: unknown;
  filled: number;
  is_filled: boolean;
  is_compared: boolean;
}

/** How long changes wait while a collection is read, and waits for changes, in milliseconds. */
const sectionMs = 1000;
const waits = { idleMs: 1000, roundMs: 200 };
const pingMs = 5000;
/** Dead letters that are looked at together. */
const lettersAtOnce = 200;

/**
 * Fills a new version of an index beside the live one, follows the changes meanwhile, compares it with the collection, and puts it in
 * the place of the live one in one step, at a moment when it has all that the live one ever showed. The old version is kept. Goes
 * on where an earlier run ended, and where a store was away for less than a quarter of an hour. Fails with
 * `SEARCH_COPY_INCOMPLETE` where the new version does not take what the old one took.
 */
export function rebuildIndex(name: string, options: RebuildOptions, work: RebuildWork): Promise<void> {
  return swapped(name, { ...options, begin: (rebuild) => rebuild.begun() }, work);
}

/**
 * Puts the version that the last rebuild has replaced in its place again, once it has the changes since then. Fails with
 * `SEARCH_NO_PREVIOUS_VERSION` where there is none.
 */
export function rollBackIndex(name: string, options: RebuildOptions, work: RebuildWork): Promise<void> {
  return swapped(name, { ...options, begin: (rebuild) => rebuild.previous() }, work);
}

async function swapped(
  name: string,
  { begin, ...options }: RebuildOptions & { readonly begin: (rebuild: Rebuild) => Promise<Position> },
  work: RebuildWork,
): Promise<void> {
  const rebuild = new Rebuild(name, options, work);
  await rebuild.alone(() =>
    patiently(
      async () => {
        const position = (await rebuild.resumed()) ?? (await begin(rebuild));
        if (position !== "swapped") await rebuild.run(position);
        await rebuild.retryDeadLetters();
      },
      { signal: work.signal, gotOnMs: () => rebuild.gotOnMs },
    ),
  );
}

class Rebuild {
  readonly #name: string;
  readonly #alias: string;
  readonly #versions: IndexVersions;
  readonly #message: SearchedMessage;
  readonly #source: Source;
  readonly #access: SyncAccess;
  readonly #leases: Leases;
  readonly #work: RebuildWork;
  readonly #refused: RefusedCopies = refusedCopies();
  #documents = 0;
  #compared = 0;
  #phase: RebuildPhase = "filling";
  /** What was kept last, and when, by `performance.now()`. */
  #last: Uint8Array | undefined;
  gotOnMs = performance.now();

  constructor(name: string, { access, leaseMs }: RebuildOptions, work: RebuildWork) {
    const { indices, system } = access;
    this.#name = name;
    this.#alias = indices.alias(name);
    this.#versions = indexVersions(access, name);
    this.#message = messageOf(name);
    this.#source = access.sourceOf(name);
    this.#access = access;
    this.#leases = leasesOf(system, { leaseMs });
    this.#work = work;
  }

  /** Runs while no other rebuild of the index does. What comes to no end is removed, unless another process is to go on with it. */
  async alone(run: () => Promise<void>): Promise<void> {
    await using _ = await untilHeld(this.#leases, `search_rebuild/${this.#alias}`, this.#work.signal);
    try {
      await run();
    } catch (error) {
      const { signal } = this.#work;
      const isHandedOn = signal.aborted && reasonOf(signal.reason)?.reason !== "CANCELLED";
      if (!isHandedOn) await this.#versions.removeLeft(AbortSignal.timeout(requestMs)).catch(() => undefined);
      throw error;
    }
  }

  /** What the version before has refused, this one may take. */
  async retryDeadLetters(): Promise<void> {
    const { deadLetters } = this.#access;
    for (let after = ""; ;) {
      const limit = lettersAtOnce;
      const letters = await deadLetters.list({ index: this.#name, withDiscarded: true, after, limit });
      const last = letters.at(-1);
      if (last === undefined) return;
      await this.#access.retry(this.#name, letters, this.#work.signal);
      after = last._id;
    }
  }

  /** Where an earlier run has come to, if what it wrote is there; `swapped` where it had only to end. */
  async resumed(): Promise<Position | "swapped" | undefined> {
    const kept = this.#last ?? this.#work.kept;
    if (kept === undefined || kept.byteLength === 0) return undefined;
    const position = deserialize(kept, { promoteValues: true }) as Position; // this is what is kept
    if ((await this.#uuidOf(position.place)) !== position.uuid) return undefined;
    if ((await this.#live()) !== position.place) return position;
    await this.#handOver(position);
    return "swapped";
  }

  /** Makes the next version, after what a rebuild that came to no end may have left. */
  async begun(): Promise<Position> {
    const { indices } = this.#access;
    await this.#versions.removeLeft(this.#work.signal);
    const place = await indices.makeNext(this.#name, this.#work.signal, { [this.#versions.nextAlias]: {} });
    return this.#kept({ place, uuid: await this.#uuidOf(place), filled: 0, is_filled: false, is_compared: false });
  }

  /** The version that was live before, to be followed from where it was left. */
  async previous(): Promise<Position> {
    const previous = (await this.#access.states.find(this.#alias))?.previous;
    if (previous === undefined || (await this.#uuidOf(previous.index)) !== previous.uuid) {
      throw noPrevious(this.#name);
    }
    await this.#versions.removeLeft(this.#work.signal);
    const { index: place, uuid, token } = previous;
    const added = { index: place, alias: this.#versions.nextAlias };
    await this.#versions.changeAliases([{ add: added }], this.#work.signal);
    // It was equal to its collection then, and only lacks the changes since.
    const position = { place, uuid, filled: 0, is_filled: true, is_compared: true };
    return this.#kept({ ...position, ...(token !== undefined && { token }) });
  }

  async run(position: Position): Promise<void> {
    const { signal } = this.#work;
    const { db, collection } = this.#source;
    this.#documents = await db.collection(collection).estimatedDocumentCount({ maxTimeMS: requestMs });
    this.#report(position);
    const writer = await this.#writer();
    await using tail = await this.#followed(position);
    while (!position.is_filled) {
      if (await this.#fill(position, writer)) position.is_filled = true;
      await this.#take(tail, { position, writer, mostMs: sectionMs });
      signal.throwIfAborted();
    }
    if (!position.is_compared) await this.#compare(tail, { position, writer });
    await this.#swap(tail, { position, writer });
  }

  // -------------------------------------------------------------- filling

  /** Reads on for a while; true where all was read. Nothing that was read is kept for the next time, so that no removal is missed. */
  async #fill(position: Position, writer: Writer): Promise<boolean> {
    const { signal } = this.#work;
    const { db } = this.#source;
    const untilMs = performance.now() + sectionMs;
    await using session = db.client.startSession({ causalConsistency: true });
    await db.command({ ping: 1, maxTimeMS: pingMs }, { session, readPreference: "primary" });
    const pages = fillPages(this.#source, { after: position.fill_after, session, signal });
    for await (const { documents, last } of pages) {
      await writer.write(documents, signal);
      position.fill_after = last;
      position.filled += documents.length;
      this.#kept(position);
      this.#report(position);
      if (performance.now() > untilMs) return false;
    }
    return true;
  }

  /** Takes changes until there are none, or for so long. */
  async #take(
    tail: ChangeTail,
    { position, writer, mostMs }: { position: Position; writer: Writer; mostMs: number },
  ): Promise<void> {
    const untilMs = performance.now() + mostMs;
    while (performance.now() < untilMs && (await this.#bring(tail, { position, writer, waitMs: 0 })).events > 0);
  }

  async #bring(tail: ChangeTail, { position, writer, waitMs }: { position: Position; writer: Writer; waitMs: number }) {
    const { signal } = this.#work;
    const batch = await tail.next(waitMs, signal);
    if (batch.changed.size > 0) await writer.bring(batch, signal);
    position.token = batch.token;
    this.#kept(position);
    return batch;
  }

  /** Takes all changes that have happened by now. */
  async #passNow(tail: ChangeTail, { position, writer }: { position: Position; writer: Writer }): Promise<void> {
    const { db } = this.#source;
    await using session = db.client.startSession({ causalConsistency: true });
    await db.command({ ping: 1, maxTimeMS: pingMs }, { session, readPreference: "primary" });
    const now = session.operationTime;
    const { rounds } = tail;
    for (;;) {
      const { events, time } = await this.#bring(tail, { position, writer, waitMs: waits.idleMs });
      if (events > 0 && time !== undefined && now !== undefined && time.greaterThan(now)) return;
      // The first of these may have been asked for before.
      if (events === 0 && tail.rounds >= rounds + 2) return;
    }
  }

  // -------------------------------------------------------------- comparing

  async #compare(tail: ChangeTail, at: { position: Position; writer: Writer }): Promise<void> {
    const { search } = this.#access;
    const { signal } = this.#work;
    this.#phase = "comparing";
    const tally = await compare({
      ...this.#source,
      message: this.#message,
      search,
      alias: this.#versions.nextAlias,
      deadLetters: this.#refused,
      writer: at.writer,
      repair: true,
      caughtUp: () => this.#passNow(tail, at),
      signal,
      progress: ({ compared }) => {
        this.#compared = compared;
        this.#report(at.position);
      },
    });
    await this.#requireTaken();
    if (tally.different > tally.repaired) {
      throw fail("SEARCH_REBUILD_NOT_EQUAL", `The new version of ${this.#name} is not equal to its collection`, {
        metadata: { index: this.#name, different_count: String(tally.different - tally.repaired) },
      });
    }
  }

  /** Fails where the new version has refused a document that the live one has taken: it would be missed. */
  async #requireTaken(): Promise<void> {
    const keys = this.#refused.keys();
    const known = await this.#access.deadLetters.among(this.#name, keys);
    const more = keys.filter((key) => !known.has(key)).length;
    if (more === 0) return;
    throw fail("SEARCH_COPY_INCOMPLETE", `The new version of ${this.#name} does not take all documents`, {
      metadata: { index: this.#name, refused_count: String(more) },
    });
  }

  // -------------------------------------------------------------- swapping

  /**
   * Stops the synchronisation, takes what it may have taken before, and swaps the alias: so no search ever finds an earlier state
   * than one before it. Then the synchronisation goes on with the new version, from where this has come to.
   */
  async #swap(tail: ChangeTail, at: { position: Position; writer: Writer }): Promise<void> {
    const { search } = this.#access;
    const { signal } = this.#work;
    this.#phase = "swapping";
    this.#report(at.position);
    await this.#whileStopped(async (right) => {
      await this.#passNow(tail, at);
      await this.#requireTaken();
      await search.client.indices.refresh({ index: at.position.place }, { signal, requestTimeout: requestMs });
      const before = await this.#live();
      const replaced = before === undefined ? undefined : { index: before, uuid: await this.#uuidOf(before) };
      await this.#work.prove();
      right.signal.throwIfAborted();
      const actions = [
        ...(before === undefined ? [] : [{ remove: { index: before, alias: this.#alias, must_exist: true } }]),
        { add: { index: at.position.place, alias: this.#alias } },
        { remove: { index: at.position.place, alias: this.#versions.nextAlias, must_exist: true } },
      ];
      await this.#versions.changeAliases(actions, signal);
      await this.#noteSwapped(at.position, right, replaced);
    });
  }

  /** Tells the synchronisation of a swap whose process died before it could. */
  async #handOver(position: Position): Promise<void> {
    await this.#whileStopped(async (right) => this.#noteSwapped(position, right));
  }

  #noteSwapped({ place, uuid, token }: Position, { fence }: HeldRight, replaced?: Version): Promise<void> {
    const about = { fence, documents: this.#documents, versions: this.#versions, signal: this.#work.signal };
    return noteSwapped(this.#name, this.#access, { ...about, place, uuid, token, replaced });
  }

  #whileStopped(run: (right: HeldRight) => Promise<void>): Promise<void> {
    const { states } = this.#access;
    return whileStopped(this.#alias, { states, leases: this.#leases, signal: this.#work.signal }, run);
  }

  // -------------------------------------------------------------- parts

  async #writer(): Promise<Writer> {
    const { search, states } = this.#access;
    const writer = copyWriter({
      ...this.#source,
      message: this.#message,
      search,
      alias: this.#versions.nextAlias,
      deadLetters: this.#refused,
      // The epochs of all versions of an index are one sequence, so that whoever goes on is above all that was written.
      raiseEpoch: (above) => states.raiseEpoch(this.#alias, above),
    });
    writer.epoch = (await states.find(this.#alias))?.epoch ?? 0;
    return writer;
  }

  /** The changes after a position. Where MongoDB no longer has them, all is read anew from here on. */
  async #followed(position: Position): Promise<ChangeTail> {
    const followed = { ...this.#source, id: this.#message.id };
    if (position.token !== undefined) {
      try {
        return await ChangeTail.open(followed, position.token, waits.roundMs);
      } catch (error) {
        if (!isReason(error, "SEARCH_HISTORY_LOST")) throw error;
      }
    }
    const tail = await ChangeTail.open(followed, undefined, waits.roundMs);
    delete position.fill_after;
    Object.assign(position, { token: tail.token, filled: 0, is_filled: false, is_compared: false });
    this.#kept(position);
    return tail;
  }

  #live(): Promise<string | undefined> {
    return this.#versions.live(this.#work.signal);
  }

  #uuidOf(place: string): Promise<string> {
    return this.#versions.uuidOf(place, this.#work.signal);
  }

  #kept(position: Position): Position {
    this.gotOnMs = performance.now();
    this.#last = serialize(position, { ignoreUndefined: true });
    this.#work.keep(this.#last);
    return position;
  }

  #report({ filled }: Position): void {
    this.#work.progress({
      phase: this.#phase,
      documents: this.#documents,
      filled,
      compared: this.#compared,
      refused: this.#refused.keys().length,
      examples: this.#refused.examples(),
    });
  }
}
