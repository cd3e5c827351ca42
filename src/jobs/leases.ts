import { randomUUID } from "node:crypto";
import { performance } from "node:perf_hooks";

import type { Db } from "mongodb";

import { fail } from "../errors.ts";
import { heldLease } from "./lease.ts";
import { pause } from "./pause.ts";

/** Rights that one process has at a time, by name: for work that has no end, so that it is no job. */
export interface Leases {
  /**
   * Takes a right that nobody has, or prolongs one that `owner` has. Resolves with its fencing number, which counts up whenever
   * the right changes hands; undefined where another has it.
   */
  take(name: string, owner: string): Promise<number | undefined>;
  /** Takes a right that nobody has, and keeps it until it is disposed, which gives it back. */
  hold(name: string): Promise<HeldRight | undefined>;
}

/** A right that this process has. */
export interface HeldRight extends AsyncDisposable {
  readonly fence: number;
  /** Aborted with `LEASE_LOST` no later than another may take it. */
  readonly signal: AbortSignal;
}

interface StoredLease {
  readonly _id: string;
  readonly owner: string;
  readonly fence: number;
  readonly expire_time: Date;
}

/** How long a statement may take at least, in milliseconds. */
const statementMs = 5000;

/** Opens the collection `leases` of `db`. Nothing is read or written yet. All times are the server's. */
export function leasesOf(db: Db, { leaseMs }: { readonly leaseMs: number }): Leases {
  const leases = db.collection<StoredLease>("leases", {
    writeConcern: { w: "majority" },
    promoteLongs: true,
    promoteValues: true,
  });
  // A right that is taken by a statement whose answer does not come is nobody's until it has run out.
  const bounded = { maxTimeMS: Math.max(statementMs, Math.ceil(leaseMs / 2)) };
  const made = new Set<string>();

  /** No upsert may compare with the server's clock, so the lease is there before it is taken. */
  const make = async (name: string): Promise<void> => {
    if (made.has(name)) return;
    const lease = { owner: "", fence: 0, expire_time: new Date(0) };
    await leases.updateOne({ _id: name }, { $setOnInsert: lease }, { upsert: true, ...bounded });
    made.add(name);
  };

  const take = async (name: string, owner: string): Promise<number | undefined> => {
    await make(name);
    // Through a number: one of the servers that speak this protocol holds $$NOW to be equal to every stored date.
    const now = { $toDate: { $toLong: "$$NOW" } };
    const isFree = { $or: [{ owner }, { $expr: { $lte: ["$expire_time", now] } }] };
    const fence = { $add: [{ $ifNull: ["$fence", 0] }, { $cond: [{ $eq: ["$owner", { $literal: owner }] }, 0, 1] }] };
    const taken = { owner: { $literal: owner }, fence, expire_time: { $add: ["$$NOW", leaseMs] } };
    const after = { returnDocument: "after", ...bounded } as const;
    const lease = await leases.findOneAndUpdate({ _id: name, ...isFree }, [{ $set: taken }], after);
    // Another has it, or the collection has been dropped.
    if (lease === null) made.delete(name);
    return lease?.fence;
  };

  return {
    take,

    async hold(name) {
      const owner = randomUUID();
      const sentMs = performance.now();
      const fence = await take(name, owner);
      if (fence === undefined) return undefined;
      const lost = () => fail("LEASE_LOST", `The lease ${name} was lost`, { metadata: { lease: name } });
      const held = heldLease(lost, { leaseMs, sentMs });
      const rounds = pause();
      const closing = new AbortController();
      const keep = async (): Promise<void> => {
        for (;;) {
          await rounds.wait(leaseMs / 4);
          if (closing.signal.aborted || held.signal.aborted) return;
          // What cannot be prolonged now may be in the next round; the lease ends by itself where it cannot.
          await held.use(() => take(name, owner)).catch(() => undefined);
        }
      };
      const keeping = keep();
      return {
        fence,
        signal: held.signal,
        async [Symbol.asyncDispose]() {
          closing.abort();
          rounds.wake();
          await keeping;
          held[Symbol.dispose]();
          // It ends by itself where it cannot be given back.
          await leases
            .updateOne({ _id: name, owner }, { $set: { expire_time: new Date(0) } }, bounded)
            .catch(() => undefined);
        },
      };
    },
  };
}
