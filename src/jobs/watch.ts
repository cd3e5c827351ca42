import { performance } from "node:perf_hooks";

import { fail } from "../errors.ts";
import type { Head, JobStore } from "./job-store.ts";
import { isFinal, type JobEvent } from "./record.ts";
import type { TailSubscription } from "./tail.ts";

/** How a job is watched. */
export interface WatchOptions {
  /** Number of the last event that is not wanted again; 0 for all. */
  readonly afterSequence: number;
  /** Longest time without an event, in milliseconds. */
  readonly heartbeatMs: number;
  readonly signal: AbortSignal;
}

/** Events that a watcher reads from the store at once. */
const pageEvents = 100;

/** A watch that has not heard from the store for so long says so rather than repeat what was true then. */
const staleMs = 20_000;

/**
 * Yields the events of a job after `afterSequence`, each once and in order, and ends after the final one. It is sent also to
 * one who has seen it, so that every watch that ends well has told the outcome. Throws `WATCH_INTERRUPTED` when `closing`
 * aborts, and the signal's reason when `signal` does.
 */
export async function* watch(
  {
    head,
    follow,
    store,
    closing,
  }: { head: Head; follow: () => TailSubscription; store: JobStore; closing: AbortSignal },
  { afterSequence, heartbeatMs, signal }: WatchOptions,
): AsyncGenerator<JobEvent> {
  const { jobId } = head;
  if (afterSequence > head.event.sequence) {
    const field = { field: "after_sequence", description: `the job has no event beyond ${head.event.sequence}` };
    throw fail("BAD_REQUEST", "The job has no such event yet", { fields: [field] });
  }
  const ending = AbortSignal.any([signal, closing]);
  using tail = follow();
  let last = isFinal(head.event.state) ? Math.min(afterSequence, head.event.sequence - 1) : afterSequence;
  let sentMs = performance.now();
  for (;;) {
    const { head: newest, recent } = tail.current();
    const first = recent[0]?.sequence ?? newest.event.sequence;
    if (last + 1 < first) {
      const page = await historyPage(last, first);
      yield* page;
      // Events outlive their job, so an empty page is history that someone removed.
      last = page.at(-1)?.sequence ?? first - 1;
      sentMs = performance.now();
      continue;
    }
    for (const event of recent) {
      if (event.sequence <= last) continue;
      yield event;
      last = event.sequence;
      sentMs = performance.now();
    }
    if (isFinal(newest.event.state)) return;
    await tail.next(Math.max(0, sentMs + heartbeatMs - performance.now()), ending);
    signal.throwIfAborted();
    const { head: now, seenMs } = tail.current();
    if (closing.aborted || performance.now() - seenMs > staleMs) throw interrupted();
    const { event, progress } = now;
    if (event.sequence !== last || performance.now() - sentMs < heartbeatMs) continue;
    yield { ...event, eventTime: new Date(), progress, heartbeat: true };
    sentMs = performance.now();
  }

  async function historyPage(after: number, before: number): Promise<JobEvent[]> {
    try {
      return await store.history(jobId, { after, before, limit: pageEvents }, ending);
    } catch (error) {
      signal.throwIfAborted();
      throw closing.aborted ? interrupted() : error;
    }
  }
}

function interrupted(): Error {
  return fail("WATCH_INTERRUPTED", "The watch was interrupted; watch again after the last event to go on", {
    retryAfterMs: 1000,
  });
}
