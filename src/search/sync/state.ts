import type { Db, Document } from "mongodb";

import { fail } from "../../errors.ts";
import { auditPush } from "../../schema/audited-call.ts";
import { callTime } from "../../schema/call-options.ts";

/** Why an index is filled anew. */
export type ResyncReason =
  /** Nothing is known of it yet. */
  | "FIRST_FILL"
  /** MongoDB no longer has the changes that follow the last ones that are in the index. */
  | "HISTORY_LOST"
  /** The collection was dropped, or another took its name. */
  | "COLLECTION_REPLACED"
  /** Another index is behind the alias: it was deleted or restored. */
  | "INDEX_REPLACED"
  /** It got fields of which its copies know nothing. */
  | "MAPPING_EXTENDED"
  /** An operator wants it. */
  | "REQUESTED";

/**
 * What an index is at: `filling` reads the whole collection, `sweeping` then looks for copies whose documents have gone, and both
 * take the changes meanwhile; `following` only takes changes.
 */
export type SyncPhase = "new" | "filling" | "sweeping" | "following";

/** How far one index is. */
export interface SyncState {
  /** The alias of the index. */
  readonly _id: string;
  /** Number of the lease that its writer has: one with a lower number cannot write here any more. */
  readonly fence: number;
  /** Process that last had the lease, for people. */
  readonly holder: string;
  readonly phase: SyncPhase;
  /** The age of the copies that are being written; see `version.ts`. */
  readonly epoch: number;
  /** The index behind the alias, the server's own name of it, and the fields that it has. */
  readonly index: string;
  readonly uuid: string;
  readonly digest: string;
  /** All changes up to this resume token are in the index or among the dead letters. */
  readonly token?: Document;
  /** When that was stored, by MongoDB's clock. */
  readonly token_time?: Date;
  /** `_id` of the last document that was read; absent where none was. */
  readonly fill_after?: unknown;
  /** Documents that were read of the collection. */
  readonly filled: number;
  /** Whether the index may hold copies of documents that are not there. */
  readonly needs_sweep: boolean;
  /** Why and when it was last filled anew, and how often it was. */
  readonly resync_reason?: ResyncReason;
  readonly resync_time?: Date;
  readonly resyncs: number;
  /** An operator's wish to fill it anew, which the next look grants. */
  readonly resync_wanted?: boolean;
  /**
   * The version that a rebuild has replaced, kept for a rollback; and where that is known, up to where it has the changes, and the fields
   * that it has.
   */
  readonly previous?: {
    readonly index: string;
    readonly uuid: string;
    readonly token?: Document;
    readonly digest?: string;
  };
  /** Until then, by MongoDB's clock, whoever keeps the index stops and lets another have it. */
  readonly yield_until?: Date;
  /** How often documents were read whose copies were written beside whoever keeps the index; see `WriterOptions`. */
  readonly beside?: number;
  /** Why it does not get on, as a caller may know it, and since when. */
  readonly problem?: string;
  readonly problem_time?: Date;
}

/** What is stored anew of it; what is undefined is removed. */
export type SyncChange = { readonly [K in keyof SyncState]?: SyncState[K] | undefined };

/** What the synchronisation keeps of all indices, in `search_sync` of the service's own database. */
export interface SyncStates {
  /** Takes an index over: whoever has a lower number can write no more. Fails with `LEASE_LOST` where one has a higher. */
  begin(alias: string, by: { readonly fence: number; readonly holder: string }): Promise<SyncState>;
  /** Fails with `LEASE_LOST` where another has taken over. */
  save(alias: string, fence: number, change: SyncChange): Promise<SyncState>;
  /** Makes the next epoch, after `above`. Returns it. */
  raiseEpoch(alias: string, above: number): Promise<number>;
  /** Asks for a fill, and carries what the audit log is to say of it; false where nothing is known of the index yet. */
  wantResync(alias: string, record: Document | undefined): Promise<boolean>;
  find(alias: string): Promise<SyncState | undefined>;
  /** Counts a reading beside whoever keeps the index, before it; and says how many there were. */
  noteBeside(alias: string): Promise<void>;
  besides(alias: string): Promise<number>;
  /** Asks whoever keeps the index to stop for so long. */
  askToYield(alias: string, ms: number): Promise<void>;
  isToYield(alias: string): Promise<boolean>;
}

export const statesCollection = "search_sync";

export function syncStates(system: Db): SyncStates {
  const states = system.collection<SyncState>(statesCollection, {
    writeConcern: { w: "majority" },
    readPreference: "primary",
    // `fill_after` must keep its type: it is where the next page begins.
    promoteValues: true,
    promoteLongs: true,
  });
  const after = { returnDocument: "after", ...callTime } as const;
  return {
    async begin(alias, { fence, holder }) {
      const made = {
        fence: 0,
        phase: "new",
        epoch: 0,
        index: "",
        uuid: "",
        digest: "",
        filled: 0,
        needs_sweep: true,
        resyncs: 0,
      } as const;
      await states.updateOne({ _id: alias }, { $setOnInsert: { ...made, holder } }, { upsert: true, ...callTime });
      const state = await states.findOneAndUpdate(
        { _id: alias, fence: { $lte: fence } },
        { $set: { fence, holder } },
        after,
      );
      if (state === null) throw takenOver(alias);
      return state;
    },

    async save(alias, fence, change) {
      const entries = Object.entries(change);
      const set = Object.fromEntries(entries.filter(([, value]) => value !== undefined));
      const unset = Object.fromEntries(
        entries.filter(([, value]) => value === undefined).map(([name]) => [name, "" as const]),
      );
      const update = {
        ...(Object.keys(set).length > 0 && { $set: set }),
        ...(Object.keys(unset).length > 0 && { $unset: unset }),
        ...("token" in change && { $currentDate: { token_time: true as const } }),
      };
      const state = await states.findOneAndUpdate({ _id: alias, fence }, update, after);
      if (state === null) throw takenOver(alias);
      return state;
    },

    async raiseEpoch(alias, above) {
      const epoch = { $add: [{ $max: ["$epoch", above] }, 1] };
      const state = await states.findOneAndUpdate({ _id: alias }, [{ $set: { epoch } }], after);
      if (state === null) throw takenOver(alias);
      return state.epoch;
    },

    async wantResync(alias, record) {
      const change = { $set: { resync_wanted: true }, ...auditPush(record) };
      return (await states.updateOne({ _id: alias }, change, callTime)).matchedCount === 1;
    },

    async find(alias) {
      return (await states.findOne({ _id: alias }, callTime)) ?? undefined;
    },

    async noteBeside(alias) {
      await states.updateOne({ _id: alias }, { $inc: { beside: 1 } }, callTime);
    },

    async besides(alias) {
      return (await states.findOne({ _id: alias }, { projection: { beside: 1 }, ...callTime }))?.beside ?? 0;
    },

    async askToYield(alias, ms) {
      await states.updateOne({ _id: alias }, [{ $set: { yield_until: { $add: ["$$NOW", ms] } } }], callTime);
    },

    async isToYield(alias) {
      // Through a number: one of the servers that speak this protocol holds $$NOW to be equal to every stored date.
      const now = { $toDate: { $toLong: "$$NOW" } };
      const isAsked = { $expr: { $gt: [{ $ifNull: ["$yield_until", new Date(0)] }, now] } };
      return (await states.findOne({ _id: alias, ...isAsked }, { projection: { _id: 1 }, ...callTime })) !== null;
    },
  };
}

function takenOver(alias: string) {
  return fail("LEASE_LOST", `Another process synchronises ${alias} now`, { metadata: { lease: alias } });
}
