import type { Document } from "bson";
import type { Db } from "mongodb";

import { isReason } from "../../errors.ts";
import type { SearchedMessage } from "../../schema/search-mapping.ts";
import type { SearchStore } from "../../stores/search.ts";
import { requestMs } from "../../stores/search/requests.ts";
import type { EnsuredIndex, SearchIndices } from "../indices.ts";
import type { DeadLetters } from "./dead-letters.ts";
import { type InOrder, inOrder } from "./in-order.ts";
import { copiesAfter, type FillPage, fillSection } from "./pages.ts";
import type { ResyncReason, SyncState, SyncStates } from "./state.ts";
import { ChangeTail } from "./tail.ts";
import { copyWriter, type Outcome, type Writer } from "./writer.ts";

/** What one index is kept equal with, and how. */
export interface FollowOptions {
  readonly message: SearchedMessage;
  /** The database and the name of its collection. */
  readonly db: Db;
  readonly collection: string;
  readonly search: Pick<SearchStore, "client" | "dialect">;
  readonly indices: SearchIndices;
  readonly states: SyncStates;
  readonly deadLetters: DeadLetters;
  readonly log: { info(facts: object, message: string): void; warn(facts: object, message: string): void };
}

/** The right to do so. */
export interface FollowRight {
  readonly fence: number;
  /** Aborted when the right is lost, or the process stops. */
  readonly signal: AbortSignal;
  /** Who has it, for people. */
  readonly holder: string;
}

/** How long changes wait while copies are looked at, and how often an idle index is looked at, in milliseconds. */
const sectionMs = 5000;
const lookMs = 5000;
/** How often is looked whether a rebuild waits for the index, in milliseconds. */
const yieldLookMs = 500;
/** Shortest time between two checkpoints, and longest one where nothing happens, in milliseconds. */
const checkpointMs = 500;
const idleCheckpointMs = 5000;
/** How long the loop waits for a change, in milliseconds. */
const waitMs = 1000;
/** Batches that are on their way at once: the server works on two while documents of the next are read. */
const mostAtOnce = 3;
/** Copies that are looked at together when those of gone documents are sought. */
const sweepSize = 1000;
/**
 * How long a tombstone stays, which is far longer than anything that was sent before it can take to arrive, and how often old
 * ones are removed, in milliseconds.
 */
const tombstoneMs = 86_400_000;
const tidyMs = 600_000;

/**
 * Keeps an index equal to its collection, for as long as the right lasts. Goes on where the last holder of the right ended. Only
 * returns where the signal is aborted, or a rebuild asks for the index; fails where a store does, and is to be called again then.
 */
export async function follow(options: FollowOptions, right: FollowRight): Promise<void> {
  const { message, indices, states, db, collection } = options;
  const { signal } = right;
  const alias = indices.alias(message.name);
  const state = await states.begin(alias, right);
  const ensured = await indices.ensure(message.name, signal);
  const run = new Run(options, right, state, ensured);
  try {
    let reason = whyAnew(state, ensured);
    for (;;) {
      if (reason !== undefined) await run.beginAnew(reason);
      reason = await run.goOn({ db, collection, id: message.id }).catch((error: unknown) => whyEnded(error, run));
      if (signal.aborted || reason === undefined) return;
    }
  } finally {
    await run.close();
  }
}

/** Why an index has to be filled anew; undefined where it can go on. */
function whyAnew(state: SyncState, { uuid, digest, state: found }: EnsuredIndex): ResyncReason | undefined {
  if (state.phase === "new" || state.token === undefined) return "FIRST_FILL";
  if (state.uuid !== uuid) return "INDEX_REPLACED";
  if (found !== "outdated" && state.digest !== digest) return "MAPPING_EXTENDED";
  return state.resync_wanted === true ? "REQUESTED" : undefined;
}

/** Why an index has to be filled anew that could not go on; undefined where it can after all. Fails where a fill would not help. */
async function whyEnded(error: unknown, run: Run): Promise<ResyncReason | undefined> {
  if (isReason(error, "SEARCH_HISTORY_LOST")) return "HISTORY_LOST";
  if (isReason(error, "SEARCH_COLLECTION_REPLACED")) return "COLLECTION_REPLACED";
  // A server that has just started says so too.
  if (isReason(error, "SEARCH_INDEX_REPLACED")) return run.look();
  throw error;
}

/** How far the copies are of which nothing can be lost any more. */
interface Mark {
  token: Document;
  fillAfter: unknown;
  filled: number;
}

class Run {
  readonly #options: FollowOptions;
  readonly #right: FollowRight;
  readonly #alias: string;
  #writer: Writer;
  #state: SyncState;
  #ensured: EnsuredIndex;
  #tail: ChangeTail | undefined;
  #pieces: InOrder = inOrder(mostAtOnce);
  #mark: Mark;
  /** Id of the last copy that was looked at. */
  #swept = "";
  #savedMs = 0;
  #askedMs = performance.now();
  #isSaved = true;
  /** Whether anything came to its end: what was told of an earlier run is not over before. */
  #hasGotOn = false;
  #saving: Promise<void> = Promise.resolve();
  #lookedMs = performance.now();
  #tidiedMs = performance.now();

  constructor(options: FollowOptions, right: FollowRight, state: SyncState, ensured: EnsuredIndex) {
    this.#options = options;
    this.#right = right;
    this.#alias = ensured.alias;
    this.#state = state;
    this.#ensured = ensured;
    this.#mark = markOf(state);
    const { deadLetters, message } = options;
    deadLetters.lookAgain(message.name);
    this.#writer = this.#writerOf(ensured);
    this.#writer.epoch = state.epoch;
  }

  #writerOf(ensured: EnsuredIndex): Writer {
    const { states, indices } = this.#options;
    const raiseEpoch = async (above: number): Promise<number> => {
      const epoch = await states.raiseEpoch(this.#alias, above);
      await indices.setEpoch(ensured, epoch, this.#right.signal);
      return epoch;
    };
    const beside = { count: () => states.besides(this.#alias) };
    return copyWriter({ ...this.#options, alias: this.#alias, writes: ensured.writes, raiseEpoch, beside });
  }

  /** Begins to fill the index. Its copies are of a new epoch, so that they replace whatever is there. */
  async beginAnew(reason: ResyncReason): Promise<void> {
    const { states, indices, message, db, collection, log } = this.#options;
    const { fence, signal } = this.#right;
    await this.close();
    const before = this.#ensured;
    this.#ensured = await indices.ensure(message.name, signal);
    const { index, uuid, digest, epoch: known } = this.#ensured;
    const isEmpty = this.#ensured.state === "made" || (before.state === "made" && before.uuid === uuid);
    const epoch = await states.raiseEpoch(this.#alias, known);
    await indices.setEpoch(this.#ensured, epoch, signal);
    // What changes from here on is taken as a change, all that was before is read.
    this.#tail = await ChangeTail.open({ db, collection, id: message.id }, undefined);
    this.#state = await states.save(this.#alias, fence, {
      phase: "filling",
      index,
      uuid,
      digest,
      token: this.#tail.token,
      fill_after: undefined,
      filled: 0,
      needs_sweep: !isEmpty,
      resync_reason: reason,
      resync_time: new Date(),
      resyncs: this.#state.resyncs + 1,
      resync_wanted: undefined,
    });
    this.#writer = this.#writerOf(this.#ensured);
    this.#writer.epoch = epoch;
    this.#mark = markOf(this.#state);
    this.#pieces = inOrder(mostAtOnce);
    this.#swept = "";
    const about = { index: this.#alias, reason };
    if (reason === "FIRST_FILL") log.info(about, "A search index is filled");
    else log.warn(about, "A search index is filled anew");
  }

  /** Takes changes, and fills beside it; returns why it has to be begun anew, or nothing where another is to have the index. */
  async goOn(followed: Parameters<typeof ChangeTail.open>[0]): Promise<ResyncReason | undefined> {
    const { signal } = this.#right;
    const isResumed = this.#tail === undefined;
    this.#tail ??= await ChangeTail.open(followed, this.#mark.token);
    const tail = this.#tail;
    // Who filled before may have sent what is gone by now, and it may arrive only now.
    if (isResumed && this.#state.phase === "filling" && !this.#state.needs_sweep) {
      this.#state = await this.#options.states.save(this.#alias, this.#right.fence, { needs_sweep: true });
    }
    while (!signal.aborted && !(await this.#isToYield())) {
      const { phase } = this.#state;
      if (phase === "filling") await this.#section(() => this.#fill(), "sweeping");
      else if (phase === "sweeping") await this.#section(() => this.#sweep(), "following");
      await this.#take(tail, phase === "following" ? waitMs : 0);
      const why = await this.#lookSometimes();
      if (why !== undefined) return why;
      await this.#tidy();
    }
    await this.#pieces.idle();
    await this.#save();
    return undefined;
  }

  async close(): Promise<void> {
    const tail = this.#tail;
    this.#tail = undefined;
    await tail?.[Symbol.asyncDispose]();
    // What was under way moves no mark of a fill that is begun after this.
    await this.#pieces.ended();
    await this.#saving.catch(() => undefined);
  }

  async #take(tail: ChangeTail, ms: number): Promise<void> {
    const { signal } = this.#right;
    // What comes while there is no room is taken together then.
    await this.#pieces.room();
    const batch = await tail.next(ms, signal);
    await this.#writer.prepare(batch, signal);
    const work = async () => (batch.changed.size > 0 ? this.#writer.bring(batch, signal) : undefined);
    const done = async (outcome: Outcome | undefined) => {
      if (outcome !== undefined) await this.#writer.note(outcome);
      this.#reached({ token: batch.token }, batch.events > 0);
    };
    await this.#pieces.begin(work, done, batch);
    await this.#checkpoint();
  }

  /** Works for a while on what is no change; the next phase begins when there is no more of it. */
  async #section(work: () => Promise<boolean>, next: "sweeping" | "following"): Promise<void> {
    const isOver = await work();
    // What was read before a removal must be there when the removal is taken.
    await this.#pieces.idle();
    if (!isOver) return;
    await this.#save();
    const phase = next === "sweeping" && !this.#state.needs_sweep ? "following" : next;
    const swept = phase === "following" && { needs_sweep: false };
    this.#state = await this.#options.states.save(this.#alias, this.#right.fence, { phase, ...swept });
    this.#options.log.info({ index: this.#alias, phase, documents: this.#mark.filled }, "A search index gets on");
  }

  /** Reads on for a while; true where all was read. */
  #fill(): Promise<boolean> {
    const { signal } = this.#right;
    return fillSection(this.#options, { after: this.#mark.fillAfter, signal }, async (page) => {
      const write = () => this.#writer.write(page.documents, signal);
      await this.#pieces.begin(write, () => this.#filled(page));
      await this.#checkpoint();
    });
  }

  #filled({ last, documents }: FillPage): void {
    this.#reached({ fillAfter: last, filled: this.#mark.filled + documents.length }, true);
  }

  /** Looks for a while whether the documents of all copies are there: of others, the fill has found nothing. */
  async #sweep(): Promise<boolean> {
    const { search, message } = this.#options;
    const { signal } = this.#right;
    const untilMs = performance.now() + sectionMs;
    if (this.#swept === "") {
      await search.client.indices.refresh({ index: this.#alias }, { signal, requestTimeout: requestMs });
    }
    while (performance.now() < untilMs && !signal.aborted) {
      const walk = { after: this.#swept, size: sweepSize, signal };
      const copies = await copiesAfter(search, { alias: this.#alias, message }, walk);
      await this.#writer.prune(
        copies.filter(({ isRemoved }) => !isRemoved),
        signal,
      );
      this.#swept = copies.at(-1)?.id ?? "";
      if (copies.length < sweepSize) return true;
    }
    return false;
  }

  #reached(mark: Partial<Mark>, isNews: boolean): void {
    Object.assign(this.#mark, mark);
    this.#hasGotOn = true;
    if (isNews) this.#isSaved = false;
  }

  /** Stores now and then how far the copies are, while the work goes on. Fails as the last time has. */
  async #checkpoint(): Promise<void> {
    const sinceMs = performance.now() - this.#savedMs;
    if (sinceMs < (this.#isSaved ? idleCheckpointMs : checkpointMs)) return;
    await this.#saving;
    this.#saving = this.#store();
    // Whoever waits for it next is told; nobody may be waiting when it fails.
    this.#saving.catch(() => undefined);
  }

  async #save(): Promise<void> {
    await this.#saving;
    await this.#store();
  }

  async #store(): Promise<void> {
    const { token, fillAfter, filled } = this.#mark;
    const change = { token, filled, ...(fillAfter !== undefined && { fill_after: fillAfter }) };
    this.#savedMs = performance.now();
    this.#isSaved = true;
    const isOver = this.#hasGotOn && this.#state.problem !== undefined;
    const clear = isOver && { problem: undefined, problem_time: undefined };
    this.#state = await this.#options.states.save(this.#alias, this.#right.fence, { ...change, ...clear });
    // Somebody else may have begun a new epoch, such as a comparison that repairs.
    this.#writer.epoch = Math.max(this.#writer.epoch, this.#state.epoch);
  }

  async #tidy(): Promise<void> {
    if (performance.now() - this.#tidiedMs < tidyMs) return;
    this.#tidiedMs = performance.now();
    await this.#writer.tidy(new Date(Date.now() - tombstoneMs), this.#right.signal);
  }

  /** Looks now and then whether a rebuild waits for the index. */
  async #isToYield(): Promise<boolean> {
    if (performance.now() - this.#askedMs < yieldLookMs) return false;
    this.#askedMs = performance.now();
    return this.#options.states.isToYield(this.#alias);
  }

  /** Looks whether the index is still the one that is followed. */
  async look(): Promise<ResyncReason | undefined> {
    const { indices, message } = this.#options;
    this.#ensured = await indices.ensure(message.name, this.#right.signal);
    return whyAnew(this.#state, this.#ensured);
  }

  /** The same, now and then. */
  async #lookSometimes(): Promise<ResyncReason | undefined> {
    if (performance.now() - this.#lookedMs < lookMs) return undefined;
    this.#lookedMs = performance.now();
    return this.look();
  }
}

function markOf({ token = {}, fill_after: fillAfter, filled }: SyncState): Mark {
  return { token, fillAfter, filled };
}
