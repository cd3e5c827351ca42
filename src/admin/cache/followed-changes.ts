import { pause } from "../../stores/waiting.ts";

/** What happens to documents: a change of one, or, without an id, that all changes so far have been told. */
export interface DocumentChange {
  readonly id: string;
  readonly revision: bigint;
}

/** A moment of the cache's. */
export interface CacheTime {
  /** By its clock, in milliseconds. */
  readonly atMs: number;
  /** Which servers it is made of: others where one was restarted or replaced, and may have what it had some time before. */
  readonly servers: string;
}

/** Follows the changes of one kind of document while anybody asks. */
export interface FollowedChanges extends AsyncDisposable {
  /**
   * Since when all changes have been seen and dealt with, in milliseconds of the cache's clock; undefined where that is not so.
   * Has them followed for the next ten minutes.
   */
  since(): number | undefined;
}

/** How long changes are followed that nobody asks for. */
const idleMs = 600_000;
/** Pause after a failure, in milliseconds. */
const retryMs = 1000;
/** Changes that are dealt with at once; taking a copy out minds no order of those of one document. */
const mostAtOnce = 16;

export function followedChanges(options: {
  /** Tells changes, first that it has begun. */
  readonly follow: (signal: AbortSignal) => AsyncIterable<DocumentChange>;
  /** Deals with a change. */
  readonly changed: (change: DocumentChange) => Promise<void>;
  readonly now: () => Promise<CacheTime>;
}): FollowedChanges {
  const closing = new AbortController();
  const { signal } = closing;
  let since: CacheTime | undefined;
  let askedMs = 0;
  let running: Promise<void> | undefined;

  const followOnce = async (): Promise<void> => {
    const underWay = new Set<Promise<void>>();
    const failures: unknown[] = [];
    const deal = async (change: DocumentChange): Promise<void> => {
      try {
        await options.changed(change);
      } catch (error) {
        // A change that could not be dealt with ends the trust in what is in the cache, and with the next one this.
        since = undefined;
        failures.push(error);
      }
    };
    try {
      for await (const change of options.follow(signal)) {
        if (change.id !== "") {
          const dealing: Promise<void> = deal(change).finally(() => underWay.delete(dealing));
          underWay.add(dealing);
          if (underWay.size >= mostAtOnce) await Promise.race(underWay);
        } else {
          await Promise.all(underWay);
        }
        if (failures.length > 0) throw failures[0];
        if (change.id !== "") continue;
        if (performance.now() - askedMs > idleMs) return;
        const now = await options.now();
        // A copy that had been taken out may be back where a server has lost some of its time.
        if (since?.servers !== now.servers) since = now;
      }
    } finally {
      await Promise.all(underWay);
    }
  };

  const run = async (): Promise<void> => {
    while (!signal.aborted && performance.now() - askedMs <= idleMs) {
      try {
        await followOnce();
      } catch {
        since = undefined;
        await pause(retryMs, signal);
      }
      since = undefined;
    }
    running = undefined;
  };

  return {
    since() {
      askedMs = performance.now();
      if (!signal.aborted) running ??= run();
      return since?.atMs;
    },

    async [Symbol.asyncDispose]() {
      closing.abort();
      await running;
    },
  };
}
