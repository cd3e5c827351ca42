import { hostname } from "node:os";

import { leasesOf } from "../../jobs/leases.ts";
import type { SearchedMessage } from "../../schema/search-mapping.ts";
import { pause } from "../../stores/waiting.ts";
import { searchedMessages } from "../messages.ts";
import type { SyncAccess } from "./access.ts";
import { follow, type FollowOptions } from "./follow.ts";

/** What the synchronisation needs. */
export interface SearchSyncOptions extends Pick<FollowOptions, "log"> {
  readonly access: SyncAccess;
  readonly leaseMs: number;
  /** The messages whose indices are kept; all where not given. */
  readonly messages?: Iterable<SearchedMessage>;
  /** Says of an error what a caller may know. */
  readonly problemOf: (error: unknown) => string;
}

/** Keeps all indices equal to their collections, each by one process at a time. Disposing it hands them on. */
export interface SearchSync extends AsyncDisposable {
  start(): void;
}

/** Wait between two tries while a store is away, in milliseconds. */
const retryMs = { first: 500, last: 5000 };

export function searchSync(options: SearchSyncOptions): SearchSync {
  const { access, leaseMs, log, problemOf, messages = searchedMessages.values() } = options;
  const { indices, states } = access;
  const leases = leasesOf(access.system, { leaseMs });
  const closing = new AbortController();
  const holder = `${hostname()}/${process.pid}`;
  let running: Promise<unknown> | undefined;

  /** Follows one index while nobody else does. Returns false where another process does. */
  const hold = async (message: SearchedMessage): Promise<boolean> => {
    const alias = indices.alias(message.name);
    // A rebuild waits for it, and is quicker where it need not outrun this.
    if (await states.isToYield(alias)) return true;
    await using right = await leases.hold(`search_sync/${alias}`);
    if (right === undefined) return false;
    const signal = AbortSignal.any([right.signal, closing.signal]);
    try {
      const source = access.sourceOf(message.name);
      await follow({ ...access, ...source, message, log }, { fence: right.fence, signal, holder });
    } catch (error) {
      if (signal.aborted) return true;
      // It is told beside the checkpoint where MongoDB can still be written to.
      const tell = async (): Promise<void> => {
        // It is cleared as soon as the index gets on; until then it is the first failure that tells since when it does not.
        const { problem_time: since = new Date() } = (await states.find(alias)) ?? {};
        await states.save(alias, right.fence, { problem: problemOf(error), problem_time: since });
      };
      await tell().catch(() => undefined);
      throw error;
    }
    return true;
  };

  const keep = async (message: SearchedMessage): Promise<void> => {
    let [waitMs, told]: [number, string] = [retryMs.first, ""];
    while (!closing.signal.aborted) {
      try {
        const isOurs = await hold(message);
        told = "";
        waitMs = isOurs ? retryMs.first : leaseMs / 4;
      } catch (error) {
        // Another process may have more luck, so the right was given back. What lasts is told once.
        const problem = problemOf(error);
        if (problem !== told) log.warn({ err: error, index: message.name }, "A search index cannot be kept up to date");
        told = problem;
        waitMs = Math.min(retryMs.last, waitMs * 2);
      }
      await pause(waitMs, closing.signal);
    }
  };

  return {
    start() {
      running ??= Promise.all(Array.from(messages, keep));
    },
    async [Symbol.asyncDispose]() {
      closing.abort(new Error("The synchronisation of search is stopped"));
      await running;
    },
  };
}
