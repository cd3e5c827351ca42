import type { ClientSession } from "mongodb";

import { timeNow } from "../../stores/cluster-time.ts";
import type { Change } from "./change.ts";
import { tokenTooOld } from "./failures.ts";
import { Feed, type FeedOptions } from "./feed.ts";
import { passing, type Position } from "./position.ts";

/** How a collection is followed. */
export interface FeedsOptions extends FeedOptions {
  /** How long the stream stays open after the last follower has left, in milliseconds. */
  readonly lingerMs: number;
}

/**
 * The followers of one collection in this process, and the one change stream that serves them. Only while one has to catch up
 * with what came before that stream, there is a second; once it has caught up it takes the place of the first.
 */
export class Feeds implements AsyncDisposable {
  readonly #options: FeedsOptions;
  #current: Promise<Feed> | undefined;
  #older: Promise<Feed> | undefined;
  /** Taking turns, so that there are never three streams. */
  #turn: Promise<void> = Promise.resolve();
  #holders = 0;
  #lingering: NodeJS.Timeout | undefined;

  constructor(options: FeedsOptions) {
    this.#options = options;
  }

  /**
   * Follows from a position on, or from now on; what `session` reads afterwards is no older than that. Fails as `Feed.open`.
   */
  async follow(from: Position | undefined, session: ClientSession): Promise<Follower> {
    this.#hold();
    try {
      if (from !== undefined) return await this.#followerAt(from);
      const feed = await this.#shared();
      const { resume: token } = feed;
      const time = (await timeNow(this.#options.db, session))?.toBigInt() ?? 0n;
      return this.#follower(feed, { token, time, last: undefined });
    } catch (error) {
      this.#release();
      throw error;
    }
  }

  /** Follows a feed that has all that comes after a position. */
  async #followerAt(from: Position): Promise<Follower> {
    for (;;) {
      const feed = await this.#shared();
      if (feed.covers(from)) return this.#follower(feed, from);
      const older = await this.#catchUp(from);
      if (older?.covers(from)) return this.#follower(older, from);
      if (older?.isOverFor(from) === true) throw tokenTooOld();
      await this.#turn;
    }
  }

  /** The feed that all share; opened now where there is none, so that what came before concerns only those who ask for it. */
  async #shared(): Promise<Feed> {
    for (;;) {
      const opening = (this.#current ??= this.#open());
      try {
        const feed = await opening;
        if (feed.failure === undefined) return feed;
        await this.#drop(opening);
      } catch (error) {
        if (this.#current === opening) this.#current = undefined;
        throw error;
      }
    }
  }

  /** A feed that starts at this position, or that of another who is catching up, if it could be opened. */
  async #catchUp(from: Position): Promise<Feed | undefined> {
    if (this.#older !== undefined) return await this.#older.catch(() => undefined);
    const opening = this.#open(from);
    this.#older = opening;
    this.#turn = this.#takeOver(opening);
    return await opening;
  }

  /** Never rejects: those who follow the feed see how it ends. */
  async #takeOver(opening: Promise<Feed>): Promise<void> {
    try {
      const feed = await opening;
      await feed.caughtUp();
      const replaced = this.#current;
      this.#current = opening;
      await replaced?.then(
        (old) => old.replaceBy(feed),
        () => undefined,
      );
    } catch {
      await opening.then(
        (feed) => feed[Symbol.asyncDispose](),
        () => undefined,
      );
    } finally {
      this.#older = undefined;
    }
  }

  async #drop(opening: Promise<Feed>): Promise<void> {
    if (this.#current === opening) this.#current = undefined;
    await (await opening)[Symbol.asyncDispose]();
  }

  #open(from?: Position): Promise<Feed> {
    return Feed.open(this.#options, from);
  }

  #follower(feed: Feed, position: Position): Follower {
    return new Follower(feed, position, () => this.#release());
  }

  #hold(): void {
    this.#holders += 1;
    clearTimeout(this.#lingering);
    this.#lingering = undefined;
  }

  #release(): void {
    this.#holders -= 1;
    if (this.#holders > 0) return;
    this.#lingering = setTimeout(() => void this.#close(), this.#options.lingerMs);
    this.#lingering.unref();
  }

  async #close(): Promise<void> {
    const current = this.#current;
    this.#current = undefined;
    for (const opening of [current, this.#older]) {
      await opening?.then(
        (feed) => feed[Symbol.asyncDispose](),
        () => undefined,
      );
    }
    await this.#turn;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearTimeout(this.#lingering);
    await this.#close();
  }
}

/** One who follows: a place among what the feed has told. */
export class Follower implements Disposable {
  /** After the last change that was taken. */
  position: Position;
  /** Number of the change that is next. */
  next = -1;
  #feed: Feed;
  #passes: (change: Change) => boolean = () => false;
  #rounds = 0;
  readonly #left: () => void;

  constructor(feed: Feed, position: Position, left: () => void) {
    this.position = position;
    this.#left = left;
    this.#feed = feed;
    this.#join(feed);
  }

  /** The next change; undefined where there is none yet, `lost` where it is no longer kept, `over` where there is none to come. */
  take(): Change | "lost" | "over" | undefined {
    while (this.#feed.successor !== undefined) {
      this.#leave();
      this.#join(this.#feed.successor);
    }
    for (;;) {
      if (this.next < this.#feed.first && !this.#find()) {
        return this.#feed.isOverFor(this.position) ? "over" : "lost";
      }
      const change = this.#feed.at(this.next);
      if (change === undefined) return undefined;
      this.next += 1;
      if (!this.#passes(change)) continue;
      this.position = { token: change.token, time: change.time, last: change.text };
      return change;
    }
  }

  /** Where one who has taken all there is stands: after the same change, with the newest token. */
  get standing(): Position {
    const { successor, resume, end } = this.#feed;
    return successor === undefined && this.next === end ? { ...this.position, token: resume } : this.position;
  }

  /** Rounds without a change that have ended since it began to follow. */
  get rounds(): number {
    return this.#rounds + this.#feed.emptyRounds;
  }

  /** Why there will be no more changes. */
  get failure(): { readonly error: unknown } | undefined {
    return this.#feed.successor === undefined ? this.#feed.failure : undefined;
  }

  /** Resolves when there may be another change, after `ms`, or when `signal` aborts. */
  async wait(ms: number, signal: AbortSignal): Promise<void> {
    const { successor, failure, end } = this.#feed;
    // Something has come since it took what there was.
    if (successor !== undefined || failure !== undefined || this.next !== end) return;
    this.#feed.taken();
    await this.#feed.wait(ms, signal);
  }

  [Symbol.dispose](): void {
    this.#leave();
    this.#left();
  }

  #join(feed: Feed): void {
    this.#feed = feed;
    this.#rounds -= feed.emptyRounds;
    feed.followers.add(this);
    if (!this.#find()) this.next = -1;
  }

  #leave(): void {
    this.#feed.followers.delete(this);
    this.#rounds += this.#feed.emptyRounds;
  }

  /** Goes to where the position is to be found among what is kept; false where it no longer is. */
  #find(): boolean {
    if (!this.#feed.covers(this.position)) return false;
    this.next = this.#feed.first;
    this.#passes = passing(this.position, this.#feed.floor);
    return true;
  }
}
