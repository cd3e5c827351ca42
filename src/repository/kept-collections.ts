import type { DescMessage } from "@bufbuild/protobuf";
import type { Db } from "mongodb";

import { fail } from "../errors.ts";
import {
  collectionKeeper,
  type CollectionKeeper,
  type Ensured,
  type WantedCollection,
} from "../schema/collection-keeper.ts";
import { collectionOf } from "../schema/collection.ts";
import { abortable, pause } from "../stores/waiting.ts";

/** How one collection stands. */
export interface CollectionReport {
  readonly collection: string;
  readonly things: readonly Ensured[];
}

/** Collections with their validators and indexes, seen to when they are needed. Disposing stops asking the server for more. */
export interface KeptCollections extends Disposable {
  /**
   * Waits until writes are safe: of one message's collection, or of all. A writer awaits this: without its index a key is not
   * unique. Indexes of large collections that are not unique are made beside it, and nobody waits for them. A try that fails, as
   * it does while MongoDB is away, fails those that wait for it, and the next one to come tries again. Fails with
   * `COLLECTION_NOT_READY` where it takes too long.
   */
  ready(schema?: DescMessage): Promise<void>;
  /**
   * Sees to all collections where there is one of them already, so that a new version brings its indexes; tries again while
   * MongoDB is away. In an empty database it makes nothing: who restores a backup into it finds it empty.
   */
  refresh(): Promise<void>;
  /** How each collection stands, as far as this process has looked. */
  report(): readonly CollectionReport[];
}

export interface KeptOptions {
  /** Gets what conflicts with something that is there, once. */
  readonly conflict: (conflict: Ensured & { readonly collection: string }) => void;
  /** Gets why seeing to the collections has failed; it is tried again. */
  readonly failed?: (error: unknown) => void;
  /** Called when everything was seen to. */
  readonly done?: (report: readonly CollectionReport[]) => void;
  /** Documents up to which all indexes of a collection are made at once: the server reads so many in no time. */
  readonly smallDocuments?: number;
  /** Longest that a writer waits, in milliseconds; 20 s where not given. */
  readonly waitMs?: number;
}

/** Collections that are seen to at once. */
const concurrency = 4;
/** Wait between two tries in milliseconds, while MongoDB is away. */
const retryMs = 1000;

export function keptCollections(
  db: Db,
  wanted: readonly WantedCollection[],
  { conflict, failed, done, smallDocuments = 10_000, waitMs = 20_000 }: KeptOptions,
): KeptCollections {
  const keepers = new Map(wanted.map((each) => [each.name, collectionKeeper(db, each, { smallDocuments })]));
  const ending = new AbortController();
  const { signal } = ending;
  const told = new Set<string>();
  const report = (): CollectionReport[] =>
    [...keepers.values()].map((keeper) => ({ collection: keeper.name, things: keeper.report() }));

  const tell = (keeper: CollectionKeeper): void => {
    const collection = keeper.name;
    for (const one of keeper.report()) {
      const key = `${collection} ${one.name}`;
      if (one.state !== "conflicting" || told.has(key)) continue;
      told.add(key);
      conflict({ ...one, collection });
    }
  };

  /** The same work for all who want it; what has failed is forgotten. */
  const shared = (work: (keeper: CollectionKeeper) => Promise<void>) => {
    const running = new Map<CollectionKeeper, Promise<void>>();
    return (keeper: CollectionKeeper): Promise<void> => {
      const begun = running.get(keeper) ?? work(keeper).then(() => tell(keeper));
      running.set(keeper, begun);
      begun.catch(() => running.delete(keeper));
      return begun;
    };
  };
  const prepare = shared((keeper) => keeper.prepare(signal));
  const finish = shared((keeper) => keeper.finish(signal));

  const ensureAll = async (): Promise<void> => {
    const waiting = [...keepers.values()];
    const work = async (): Promise<void> => {
      for (let keeper = waiting.shift(); keeper !== undefined; keeper = waiting.shift()) await prepare(keeper);
    };
    await Promise.all(Array.from({ length: concurrency }, work));
    // One after the other: each reads a large collection, and a server has better things to do.
    for (const keeper of keepers.values()) await finish(keeper);
  };

  /** Tries until it has worked or is stopped; never fails. */
  const persist = async (work: () => Promise<void>): Promise<void> => {
    while (!signal.aborted) {
      try {
        return await work();
      } catch (error) {
        if (signal.aborted) return;
        failed?.(error);
        await pause(retryMs, signal);
      }
    }
  };

  let all: Promise<void> | undefined;
  const begin = (): Promise<void> => {
    all ??= persist(async () => {
      await ensureAll();
      done?.(report());
    });
    return all;
  };

  return {
    async ready(schema) {
      const needed = schema === undefined ? [...keepers.values()] : [keeperOf(keepers, schema)];
      if (needed.every((keeper) => keeper.isSafe())) return;
      const limit = AbortSignal.timeout(waitMs);
      const prepared = Promise.all(needed.map(prepare));
      // Whatever was asked for comes first; the rest follows beside the running service.
      void prepared.then(begin, begin);
      try {
        await abortable(prepared, limit);
      } catch (error) {
        if (!limit.aborted) throw error;
        const collections = needed.filter((keeper) => !keeper.isSafe()).map(({ name }) => name);
        throw fail("COLLECTION_NOT_READY", "The unique indexes of what is written to are still being made", {
          metadata: { collections: collections.join(", ") },
          retryAfterMs: 5000,
        });
      }
    },

    refresh: () =>
      persist(async () => {
        const filter = { name: { $in: [...keepers.keys()] } };
        const [found] = await db.listCollections(filter, { nameOnly: true }).toArray();
        if (found !== undefined) await begin();
      }),

    report,

    [Symbol.dispose]: () => ending.abort(new Error("The collections are no longer seen to")),
  };
}

function keeperOf(keepers: ReadonlyMap<string, CollectionKeeper>, schema: DescMessage): CollectionKeeper {
  const found = keepers.get(collectionOf(schema).name);
  if (found === undefined) throw new Error(`Nobody sees to the collection of ${schema.typeName}`);
  return found;
}
