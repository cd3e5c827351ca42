import type { Db, Filter } from "mongodb";

import { callTime } from "../../schema/call-options.ts";

/** A document that is not in its index as it is, since the server or the service refused its copy. */
export interface DeadLetter {
  /** Alias of the index and `_id` of the document as text. */
  readonly _id: string;
  /** Logical name of the index. */
  readonly index: string;
  /** The document's natural id; empty where it has none. */
  readonly document_id: string;
  /** `_id` of the document. */
  readonly source_id: unknown;
  /** Revision that was refused. */
  readonly revision: bigint;
  /** What the server calls it, for example `mapper_parsing_exception`, or a reason of this service. */
  readonly error_type: string;
  /** What was behind it, where the server says so. */
  readonly cause_type: string;
  /** The field that is to blame, where the server says so. */
  readonly field: string;
  readonly attempts: number;
  readonly first_time: Date;
  readonly last_time: Date;
  /** Whether an operator knows, and does not want to hear of this revision again. */
  readonly discarded: boolean;
}

/** A copy that was refused. */
export interface Refusal {
  readonly key: string;
  readonly source_id: unknown;
  readonly document_id: string;
  readonly revision: bigint;
  readonly error_type: string;
  readonly cause_type: string;
  readonly field: string;
}

/** Documents whose copies were refused, in `search_dead_letters` of the service's own database. */
export interface DeadLetters {
  record(index: string, refusals: readonly Refusal[]): Promise<void>;
  /** To be called when this process begins to keep an index: another one that kept it may have recorded some. */
  lookAgain(index: string): void;
  /** Forgets those of documents whose copies are in the index now, or which have gone. */
  clear(index: string, keys: readonly string[]): Promise<void>;
  /** Those of an index, or all, after an id, in the order of their ids. */
  list(wanted: {
    readonly index: string;
    readonly withDiscarded: boolean;
    readonly after: string;
    readonly limit: number;
  }): Promise<DeadLetter[]>;
  find(ids: readonly string[]): Promise<DeadLetter[]>;
  /** Of these keys, those that are among the dead letters, with the revisions that were refused. */
  among(index: string, keys: readonly string[]): Promise<ReadonlyMap<string, bigint>>;
  /** Returns it as it is then; undefined where there is none. */
  discard(id: string): Promise<DeadLetter | undefined>;
  /** How many there are of an index that were not discarded. */
  count(index: string): Promise<number>;
}

export function deadLetters(system: Db, { alias }: { readonly alias: (name: string) => string }): DeadLetters {
  const letters = system.collection<DeadLetter>("search_dead_letters", {
    // The checkpoint moves past a document once it is here.
    writeConcern: { w: "majority" },
    readPreference: "primary",
    useBigInt64: true,
  });
  const idOf = (index: string, key: string): string => `${alias(index)}/${key}`;
  /** Ids of one index are next to each other. */
  const of = (index: string): Filter<DeadLetter> =>
    index === "" ? {} : { _id: { $gte: idOf(index, ""), $lt: `${alias(index)}0` } };
  /** Whether there may be some. Asking for each batch would cost more than there is to find. */
  const mayHave = new Map<string, boolean>();

  return {
    async record(index, refusals) {
      if (refusals.length === 0) return;
      mayHave.set(index, true);
      const operations = refusals.map(({ key, ...refusal }) => {
        const fields = { ...refusal, index };
        const isKnown = { $and: ["$discarded", { $eq: ["$revision", { $literal: refusal.revision }] }] };
        const set = {
          ...Object.fromEntries(Object.entries(fields).map(([name, value]) => [name, { $literal: value }])),
          attempts: { $add: [{ $ifNull: ["$attempts", 0] }, 1] },
          first_time: { $ifNull: ["$first_time", "$$NOW"] },
          last_time: "$$NOW",
          discarded: { $ifNull: [isKnown, false] },
        };
        return { updateOne: { filter: { _id: idOf(index, key) }, update: [{ $set: set }], upsert: true } };
      });
      await letters.bulkWrite(operations, { ordered: false, ...callTime });
    },

    lookAgain(index) {
      mayHave.delete(index);
    },

    async clear(index, keys) {
      if (keys.length === 0 || mayHave.get(index) === false) return;
      if (!mayHave.has(index)) {
        const found = await letters.findOne(of(index), { projection: { _id: 1 }, ...callTime });
        // Unless some were recorded meanwhile.
        if (!mayHave.has(index)) mayHave.set(index, found !== null);
        if (found === null) return;
      }
      await letters.deleteMany({ _id: { $in: keys.map((key) => idOf(index, key)) } }, callTime);
    },

    async list({ index, withDiscarded, after, limit }) {
      const filter = {
        $and: [
          of(index),
          ...(withDiscarded ? [] : [{ discarded: false }]),
          ...(after === "" ? [] : [{ _id: { $gt: after } }]),
        ],
      };
      return letters.find(filter, { sort: { _id: 1 }, limit, ...callTime }).toArray();
    },

    async find(ids) {
      const found = await letters.find({ _id: { $in: [...ids] } }, callTime).toArray();
      for (const { index } of found) mayHave.set(index, true);
      return found;
    },

    async among(index, keys) {
      const filter = { _id: { $in: keys.map((key) => idOf(index, key)) } };
      const found = await letters.find(filter, { projection: { revision: 1 }, ...callTime }).toArray();
      const start = idOf(index, "").length;
      return new Map(found.map(({ _id, revision }) => [_id.slice(start), revision]));
    },

    async discard(id) {
      const change = { $set: { discarded: true } };
      return (
        (await letters.findOneAndUpdate({ _id: id }, change, { returnDocument: "after", ...callTime })) ?? undefined
      );
    },

    count: (index) => letters.countDocuments({ $and: [of(index), { discarded: false }] }, callTime),
  };
}
