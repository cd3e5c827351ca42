import type { Db } from "mongodb";

import { collectionOf } from "../../schema/collection.ts";
import type { SearchStore } from "../../stores/search.ts";
import { pause } from "../../stores/waiting.ts";
import { messageOf, type SearchIndices } from "../indices.ts";
import { type DeadLetter, deadLetters, type DeadLetters } from "./dead-letters.ts";
import { syncStates, type SyncStates } from "./state.ts";
import { changeCount, type IndexStatus, mostCounted, statusOf as statusOfIndex } from "./status.ts";
import { copyWriter, type Writer } from "./writer.ts";

/** Where the documents of a message are. */
export interface Source {
  readonly db: Db;
  readonly collection: string;
}

/** What everything needs that looks after copies. */
export interface SyncAccess {
  readonly search: Pick<SearchStore, "client" | "dialect">;
  readonly indices: SearchIndices;
  readonly system: Db;
  readonly states: SyncStates;
  readonly deadLetters: DeadLetters;
  /** Where the documents of an index are, by its logical name. Fails with `SEARCH_INDEX_NOT_FOUND`. */
  sourceOf(name: string): Source;
  /** Writes copies beside whoever keeps the index. */
  writer(name: string, signal: AbortSignal): Promise<Writer>;
  status(name: string, signal: AbortSignal): Promise<IndexStatus>;
  /** Reads the documents of dead letters again and writes their copies. Returns the ids of those that were refused again. */
  retry(name: string, letters: readonly DeadLetter[], signal: AbortSignal): Promise<string[]>;
  /** Resolves when all that had happened before is in the index, or does not come there within `ms`. */
  caughtUp(name: string, ms: number, signal: AbortSignal): Promise<void>;
}

/** Waits between two looks, in milliseconds. */
const lookMs = { first: 20, last: 500 };

export function syncAccess(options: {
  readonly search: Pick<SearchStore, "client" | "dialect">;
  readonly indices: SearchIndices;
  /** The database of the domain's collections, and that of what the service keeps for itself, which has the audit log. */
  readonly domain: Db;
  readonly system: Db;
}): SyncAccess {
  const { search, indices, domain, system } = options;
  const states = syncStates(system);
  const letters = deadLetters(system, indices);

  const sourceOf = (name: string): Source => {
    const { name: collection } = collectionOf(messageOf(name).schema);
    return { db: collection === "audit_logs" ? system : domain, collection };
  };

  const writer = async (name: string, signal: AbortSignal): Promise<Writer> => {
    const alias = indices.alias(name);
    const ensured = await indices.ensure(name, signal);
    const raiseEpoch = async (above: number): Promise<number> => {
      const epoch = await states.raiseEpoch(alias, above);
      await indices.setEpoch(ensured, epoch, signal);
      return epoch;
    };
    const made = copyWriter({
      ...sourceOf(name),
      message: messageOf(name),
      search,
      alias,
      writes: ensured.writes,
      deadLetters: letters,
      raiseEpoch,
      beside: { tell: () => states.noteBeside(alias) },
    });
    made.epoch = (await states.find(alias))?.epoch ?? ensured.epoch;
    return made;
  };

  const looking = { indices, states, deadLetters: letters, sourceOf, count: changeCount() };

  return {
    search,
    indices,
    system,
    states,
    deadLetters: letters,
    sourceOf,
    writer,
    status: (name, signal) => statusOfIndex(name, looking, { signal, most: mostCounted }),

    async retry(name, wanted, signal) {
      const made = await writer(name, signal);
      const start = `${indices.alias(name)}/`.length;
      const all = wanted.map(({ _id, source_id, document_id }) => ({
        key: _id.slice(start),
        source_id,
        id: document_id,
      }));
      await made.mend(
        all.filter(({ id }) => id !== ""),
        signal,
      );
      // Of these only the `_id` is known.
      const changed = new Map(
        all
          .filter(({ id }) => id === "")
          .map(({ key, source_id }) => [key, { _id: source_id, isRemoved: true, id: undefined }] as const),
      );
      await made.note(await made.bring({ changed, time: undefined }, signal));
      const left = await letters.find(wanted.map(({ _id }) => _id));
      return left.map(({ _id }) => _id);
    },

    async caughtUp(name, ms, signal) {
      const beganMs = Date.now();
      const limit = AbortSignal.any([signal, AbortSignal.timeout(ms)]);
      for (let waitMs = lookMs.first; !limit.aborted; waitMs = Math.min(lookMs.last, waitMs * 2)) {
        const { lagDocuments, lagMs } = await statusOfIndex(name, looking, { signal, most: 1 });
        // Whatever waits now has come later. Times of changes are told to a second.
        if (lagDocuments === 0 || Date.now() - lagMs > beganMs + 1000) return;
        await pause(waitMs, limit);
      }
      signal.throwIfAborted();
    },
  };
}
