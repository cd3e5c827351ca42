import { deserialize, serialize } from "bson";

import { reasonOf } from "../errors.ts";
import { type HeldRight, type Leases, leasesOf } from "../jobs/leases.ts";
import { requestMs } from "../stores/search/requests.ts";
import { noPrevious, noteSwapped, type Version } from "./index-swap.ts";
import { type IndexVersions, indexVersions } from "./index-versions.ts";
import { patiently } from "./patience.ts";
import { refusedCopies, type RefusedCopies } from "./refused-copies.ts";
import type { SyncAccess } from "./sync/access.ts";
import { untilHeld, whileStopped } from "./sync/standstill.ts";
import { type Position, VersionCopy } from "./version-copy.ts";

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
  await rebuild.alone(async () => {
    const position = (await rebuild.resumed()) ?? (await begin(rebuild));
    if (position !== "swapped") await rebuild.run(position);
    await rebuild.retryDeadLetters();
  });
}

class Rebuild {
  readonly #name: string;
  readonly #alias: string;
  readonly #versions: IndexVersions;
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
    this.#access = access;
    this.#leases = leasesOf(system, { leaseMs });
    this.#work = work;
  }

  /**
   * Runs, again where a store was away, while no other rebuild of the index does. What comes to no end is removed, unless another
   * process is to go on with it.
   */
  async alone(run: () => Promise<void>): Promise<void> {
    const { signal } = this.#work;
    const patience = { signal, gotOnMs: () => this.gotOnMs };
    const right = `search_rebuild/${this.#alias}`;
    await using _ = await patiently(() => untilHeld(this.#leases, right, signal), patience);
    this.gotOnMs = performance.now();
    try {
      // A store that is away for long takes the right to stop the synchronisation with it, which can be had again.
      await patiently(run, { ...patience, passing: ["LEASE_LOST"] });
    } catch (error) {
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
    if ((await this.#live()) !== position.place) return this.#completed(position);
    await this.#handOver(position);
    return "swapped";
  }

  /** Makes the next version, after what a rebuild that came to no end may have left. */
  async begun(): Promise<Position> {
    const { indices } = this.#access;
    await this.#versions.removeLeft(this.#work.signal);
    const place = await indices.makeNext(this.#name, this.#work.signal, { [this.#versions.nextAlias]: {} });
    const uuid = await this.#uuidOf(place);
    return this.#completed({ place, uuid, filled: 0, is_filled: false, is_compared: false });
  }

  /** The version that was live before, to be followed from where it was left. */
  async previous(): Promise<Position> {
    const previous = (await this.#access.states.find(this.#alias))?.previous;
    if (previous === undefined || (await this.#uuidOf(previous.index)) !== previous.uuid) {
      throw noPrevious(this.#name);
    }
    await this.#versions.removeLeft(this.#work.signal);
    const { index: place, uuid, token, digest } = previous;
    const added = { index: place, alias: this.#versions.nextAlias };
    await this.#versions.changeAliases([{ add: added }], this.#work.signal);
    // It was equal to its collection then, and only lacks the changes since.
    const position = { place, uuid, filled: 0, is_filled: true, is_compared: true };
    const known = { ...(token !== undefined && { token }), ...(digest !== undefined && { digest }) };
    return this.#completed({ ...position, ...known });
  }

  async run(position: Position): Promise<void> {
    const { db, collection } = this.#access.sourceOf(this.#name);
    this.#documents = await db.collection(collection).estimatedDocumentCount({ maxTimeMS: requestMs });
    this.#report(position);
    await using copy = await VersionCopy.open(
      {
        name: this.#name,
        access: this.#access,
        alias: this.#versions.nextAlias,
        refused: this.#refused,
        signal: this.#work.signal,
        moved: () => {
          // What is not compared again, as a version that comes back is not, would be missed by who goes on behind a refusal.
          if (!position.is_compared || this.#refused.keys().length === 0) this.#kept(position);
          this.#report(position);
        },
        compared: (count) => {
          this.#compared = count;
          this.#report(position);
        },
      },
      position,
    );
    await copy.fill();
    this.#phase = "comparing";
    await copy.compare();
    this.#phase = "swapping";
    this.#report(position);
    await this.#swap(copy);
  }

  /**
   * Stops the synchronisation, takes what it may have taken before, and swaps the alias: so no search ever finds an earlier state
   * than one before it. Then the synchronisation goes on with the new version, from where this has come to.
   */
  async #swap(copy: VersionCopy): Promise<void> {
    const { search } = this.#access;
    const { signal } = this.#work;
    const { position } = copy;
    await this.#whileStopped(async (right) => {
      await copy.passNow();
      await copy.requireTaken();
      await search.client.indices.refresh({ index: position.place }, { signal, requestTimeout: requestMs });
      const before = await this.#live();
      const replaced = before === undefined ? undefined : { index: before, uuid: await this.#uuidOf(before) };
      await this.#work.prove();
      right.signal.throwIfAborted();
      const actions = [
        ...(before === undefined ? [] : [{ remove: { index: before, alias: this.#alias, must_exist: true } }]),
        { add: { index: position.place, alias: this.#alias } },
        { remove: { index: position.place, alias: this.#versions.nextAlias, must_exist: true } },
      ];
      await this.#versions.changeAliases(actions, signal);
      await this.#noteSwapped(position, right, replaced);
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

  /** Gives a version the fields that are declared now. Where its copies know nothing of some of them, all is read anew. */
  async #completed(position: Position): Promise<Position> {
    const { place, uuid } = position;
    const digest = await this.#access.indices.complete(this.#name, place, this.#work.signal);
    if (position.digest === digest) return this.#kept(position);
    return this.#kept({ place, uuid, digest, filled: 0, is_filled: false, is_compared: false });
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
