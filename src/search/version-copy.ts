import type { Document } from "bson";

import { fail, isReason } from "../errors.ts";
import type { SearchedMessage } from "../schema/search-mapping.ts";
import { sessionFromNow } from "../stores/cluster-time.ts";
import { messageOf } from "./indices.ts";
import type { RefusedCopies } from "./refused-copies.ts";
import type { Source, SyncAccess } from "./sync/access.ts";
import { compare } from "./sync/compare.ts";
import { inOrder } from "./sync/in-order.ts";
import { fillSection } from "./sync/pages.ts";
import { ChangeTail } from "./sync/tail.ts";
import { copyWriter, type Writer } from "./sync/writer.ts";

/** How far the copy of a collection is; enough for another process to go on. */
export interface Position {
  /** The version that is written, and the server's own name of it. */
  readonly place: string;
  readonly uuid: string;
  /** What stands for the fields that its copies know of. */
  readonly digest?: string;
  /** All changes up to this resume token are in it; absent until one is known. */
  token?: Document;
  /** `_id` of the last document that was read. */
  fill_after?: unknown;
  filled: number;
  is_filled: boolean;
  is_compared: boolean;
}

/** What is copied where. */
export interface VersionCopyOptions {
  /** Logical name of the index. */
  readonly name: string;
  readonly access: SyncAccess;
  /** The alias by which the version is read. */
  readonly alias: string;
  readonly refused: RefusedCopies;
  readonly signal: AbortSignal;
  /** Is told when the position has moved. */
  readonly moved: (position: Position) => void;
  /** Is told how many copies were compared. */
  readonly compared: (count: number) => void;
}

/** How long changes are taken between two sections of reading, and waits for changes, in milliseconds. */
const takeMs = 5000;
const waits = { idleMs: 1000, roundMs: 200 };
/** Pages that are on their way at once. */
const mostAtOnce = 3;

/** Brings a version of an index, which nobody searches yet, to what its collection is, by the changes it follows from the start. */
export class VersionCopy implements AsyncDisposable {
  readonly position: Position;
  readonly #options: VersionCopyOptions;
  readonly #message: SearchedMessage;
  readonly #source: Source;
  readonly #writer: Writer;
  readonly #tail: ChangeTail;

  private constructor(options: VersionCopyOptions, position: Position, parts: { tail: ChangeTail; writer: Writer }) {
    this.position = position;
    this.#options = options;
    this.#message = messageOf(options.name);
    this.#source = options.access.sourceOf(options.name);
    this.#writer = parts.writer;
    this.#tail = parts.tail;
  }

  /** Follows the changes from the position on. Where MongoDB no longer has them, all is read anew. */
  static async open(options: VersionCopyOptions, position: Position): Promise<VersionCopy> {
    // The client of the server would not say why.
    options.signal.throwIfAborted();
    const writer = await writerOf(options, position.place);
    return new VersionCopy(options, position, { writer, tail: await followed(options, position) });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#tail[Symbol.asyncDispose]();
  }

  /** Reads what has not been read, and takes the changes meanwhile. */
  async fill(): Promise<void> {
    while (!this.position.is_filled) {
      if (await this.#section()) this.position.is_filled = true;
      await this.#takeChanges(takeMs);
      this.#options.signal.throwIfAborted();
    }
  }

  /** Compares both sides and mends what differs. Fails where that is not enough, and as `requireTaken` does. */
  async compare(): Promise<void> {
    if (this.position.is_compared) return;
    const { name, access, alias, refused, signal, compared } = this.#options;
    const tally = await compare({
      ...this.#source,
      message: this.#message,
      search: access.search,
      alias,
      deadLetters: refused,
      writer: this.#writer,
      repair: true,
      caughtUp: () => this.passNow(),
      signal,
      progress: (progress) => compared(progress.compared),
    });
    await this.requireTaken();
    if (tally.different > tally.repaired) {
      throw fail("SEARCH_REBUILD_NOT_EQUAL", `The new version of ${name} is not equal to its collection`, {
        metadata: { index: name, different_count: String(tally.different - tally.repaired) },
      });
    }
  }

  /** Takes all changes that have happened by now. */
  async passNow(): Promise<void> {
    const { db } = this.#source;
    await using session = await sessionFromNow(db);
    const now = session.operationTime;
    const { rounds } = this.#tail;
    for (;;) {
      const { events, time } = await this.#bring(waits.idleMs);
      if (events > 0 && time !== undefined && now !== undefined && time.greaterThan(now)) return;
      // The first of these may have been asked for before.
      if (events === 0 && this.#tail.rounds >= rounds + 2) return;
    }
  }

  /** Fails with `SEARCH_COPY_INCOMPLETE` where a document was refused that the live version has taken: it would be missed. */
  async requireTaken(): Promise<void> {
    const { name, access, refused } = this.#options;
    const keys = refused.keys();
    const known = await access.deadLetters.among(name, keys);
    const more = keys.filter((key) => !known.has(key)).length;
    if (more === 0) return;
    throw fail("SEARCH_COPY_INCOMPLETE", `The new version of ${name} does not take all documents`, {
      metadata: { index: name, refused_count: String(more) },
    });
  }

  /** Reads on for a while; true where all was read. */
  async #section(): Promise<boolean> {
    const { signal } = this.#options;
    const pieces = inOrder(mostAtOnce);
    try {
      const isOver = await fillSection(
        this.#source,
        { after: this.position.fill_after, signal },
        ({ documents, last }) =>
          pieces.begin(
            () => this.#writer.write(documents, signal),
            () => this.#moved({ fill_after: last, filled: this.position.filled + documents.length }),
          ),
      );
      await pieces.idle();
      return isOver;
    } finally {
      // Whoever begins again must not meet what this had sent.
      await pieces.ended();
    }
  }

  /** Takes changes until there are none, or for so long. */
  async #takeChanges(mostMs: number): Promise<void> {
    const untilMs = performance.now() + mostMs;
    while (performance.now() < untilMs && (await this.#bring(0)).events > 0);
  }

  async #bring(waitMs: number) {
    const { signal } = this.#options;
    const batch = await this.#tail.next(waitMs, signal);
    await this.#writer.prepare(batch, signal);
    if (batch.changed.size > 0) await this.#writer.note(await this.#writer.bring(batch, signal));
    this.#moved({ token: batch.token });
    return batch;
  }

  #moved(change: Partial<Position>): void {
    Object.assign(this.position, change);
    this.#options.moved(this.position);
  }
}

async function writerOf({ name, access, refused, signal }: VersionCopyOptions, place: string): Promise<Writer> {
  const { search, states, indices } = access;
  const live = indices.alias(name);
  const writer = copyWriter({
    ...access.sourceOf(name),
    message: messageOf(name),
    search,
    alias: live,
    writes: await indices.writesTo(name, place, signal),
    deadLetters: refused,
    // The epochs of all versions of an index are one sequence, so that whoever goes on is above all that was written.
    raiseEpoch: (above) => states.raiseEpoch(live, above),
  });
  writer.epoch = (await states.find(live))?.epoch ?? 0;
  return writer;
}

async function followed({ name, access, moved }: VersionCopyOptions, position: Position): Promise<ChangeTail> {
  const source = { ...access.sourceOf(name), id: messageOf(name).id };
  if (position.token !== undefined) {
    try {
      return await ChangeTail.open(source, position.token, waits.roundMs);
    } catch (error) {
      if (!isReason(error, "SEARCH_HISTORY_LOST")) throw error;
    }
  }
  const tail = await ChangeTail.open(source, undefined, waits.roundMs);
  delete position.fill_after;
  Object.assign(position, { token: tail.token, filled: 0, is_filled: false, is_compared: false });
  moved(position);
  return tail;
}
