import { performance } from "node:perf_hooks";

import type { Head, JobStore } from "./job-store.ts";
import { pause, type Pause } from "./pause.ts";
import type { JobEvent } from "./record.ts";
import type { JobLog } from "./runner.ts";

/** The newest of one job, as far as this process has seen, for all its watchers together. */
export interface Tail {
  readonly head: Head;
  /** The events up to the head's, without a gap, at most `recentEvents`. */
  readonly recent: readonly JobEvent[];
  /** When the store last answered, `performance.now()`. */
  readonly seenMs: number;
}

/** A watcher's hold on a tail. */
export interface TailSubscription extends Disposable {
  /** The tail as it is now. */
  current(): Tail;
  /** Resolves with the next event, at `signal`'s end, or after `ms`. */
  next(ms: number, signal: AbortSignal): Promise<void>;
}

/** Events that are kept for watchers that are a little behind; those further behind read them from the store. */
const recentEvents = 32;

/** Jobs asked for by one statement. */
const jobsAtOnce = 500;

interface Followed {
  head: Head;
  recent: JobEvent[];
  seenMs: number;
  watchers: Set<Pause>;
}

/**
 * Follows jobs that are watched in this process: one statement for up to 500 jobs in each interval, however many watchers
 * there are, and none while there is none.
 */
export function tails(store: JobStore, { pollMs, log }: { readonly pollMs: number; readonly log: JobLog }) {
  const followed = new Map<string, Followed>();
  const rounds = pause();
  const closing = new AbortController();
  let polling: Promise<void> | undefined;

  async function poll(): Promise<void> {
    while (followed.size > 0 && !closing.signal.aborted) {
      await rounds.wait(pollMs);
      const jobIds = [...followed.keys()];
      try {
        for (let at = 0; at < jobIds.length; at += jobsAtOnce) {
          for (const head of await store.heads(jobIds.slice(at, at + jobsAtOnce), closing.signal)) await advance(head);
        }
      } catch (error) {
        if (!closing.signal.aborted) log.warn({ err: error }, "Jobs could not be followed; trying again");
      }
    }
    polling = undefined;
  }

  async function advance(head: Head): Promise<void> {
    const tail = followed.get(head.jobId);
    const from = tail?.head.event.sequence ?? 0;
    const to = head.event.sequence;
    // A watcher that came meanwhile may have brought a newer head than the statement that was under way.
    if (tail === undefined || to < from) return;
    if (to > from) {
      // What does not fit into `recent` is not read here; watchers do if they need it.
      const after = Math.max(from, to - recentEvents);
      const range = { after, before: to, limit: recentEvents };
      const between = to - from > 1 ? await store.history(head.jobId, range, closing.signal) : [];
      tail.recent = [...tail.recent, ...between, head.event].slice(-recentEvents);
    }
    tail.head = head;
    tail.seenMs = performance.now();
    if (to > from) for (const watcher of tail.watchers) watcher.wake();
  }

  return {
    /** The newest that is known of a job, where it is followed. */
    headOf(jobId: string): Head | undefined {
      return followed.get(jobId)?.head;
    },

    /** Follows a job, from `head` on where it is not followed yet. */
    follow(head: Head): TailSubscription {
      const { jobId } = head;
      const fresh = { head, recent: [head.event], seenMs: performance.now(), watchers: new Set<Pause>() };
      const tail: Followed = followed.get(jobId) ?? fresh;
      const watcher = pause();
      followed.set(jobId, tail);
      tail.watchers.add(watcher);
      polling ??= poll();
      return {
        current: () => ({ head: tail.head, recent: tail.recent, seenMs: tail.seenMs }),
        async next(ms, signal) {
          const wake = (): void => watcher.wake();
          signal.addEventListener("abort", wake, { once: true });
          if (signal.aborted) wake();
          await watcher.wait(ms);
          signal.removeEventListener("abort", wake);
        },
        [Symbol.dispose]() {
          tail.watchers.delete(watcher);
          if (tail.watchers.size > 0) return;
          followed.delete(jobId);
          rounds.wake();
        },
      };
    },

    /** Polls now: this process has stored an event of that job. */
    nudge(jobId: string): void {
      if (followed.has(jobId)) rounds.wake();
    },

    async close(): Promise<void> {
      closing.abort();
      rounds.wake();
      await polling;
    },
  };
}
