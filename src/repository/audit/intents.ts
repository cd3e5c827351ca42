import { randomUUIDv7 } from "node:crypto";

import { Code, ConnectError } from "@connectrpc/connect";
import type { Collection, Db } from "mongodb";

import { auditKey, auditRecord, type CarryOut, doubtful } from "../../schema/audited-call.ts";
import { callTime } from "../../schema/call-options.ts";
import type { AuditLog } from "./log.ts";
import type { CarriedRecord } from "./record.ts";

/**
 * Finds out for the rpc that it is named by whether what a call of it began has happened to a resource. Of an rpc that is not among
 * them nobody can tell afterwards.
 */
export type Outcomes = Readonly<Record<string, (name: string) => Promise<boolean>>>;

/** A change that is to be made to something that is no document. Afterwards it carries the record as any other document does. */
interface StoredIntent {
  /** A version 7 UUID, so that intents sort by their time. */
  readonly _id: string;
  /** The record, until it is known that the change was made. */
  readonly intended?: CarriedRecord;
  readonly [auditKey]?: readonly CarriedRecord[];
}

/** Where such changes are told of. */
export interface Intents {
  readonly collection: Collection;
  readonly carryOut: CarryOut;
  /** Settles what was intended before the time of `beforeId` and has come to no end since its process died. */
  settle(beforeId: string): Promise<void>;
}

/** The sweeper settles what could not be told now. */
const leave = (): void => {};

/** Where they are kept. */
export const intentsCollection = "audit_intents";

/** What is said of a change of which nobody knows whether it happened. */
const unknown = { effect: "UNKNOWN", outcome: "UNKNOWN" } as const;

export function auditIntents(system: Db, { log, outcomes }: { log: AuditLog; outcomes: Outcomes }): Intents {
  const options = { writeConcern: { w: "majority" }, readPreference: "primary" } as const;
  const intents = system.collection<StoredIntent>(intentsCollection, options);

  const carried = (record: CarriedRecord) => ({
    $set: { [auditKey]: [record] },
    $unset: { intended: "" as const },
  });

  /**
   * Whether it happened; undefined where nobody can tell. Where another call has done it, this one has not: what is gone cannot be
   * removed again.
   */
  const happened = async ({ rpc, resource }: CarriedRecord): Promise<boolean | undefined> => {
    const look = outcomes[rpc];
    if (look === undefined) return undefined;
    if (!(await look(resource?.name ?? ""))) return false;
    const by = { "resource.type": resource?.type, "resource.name": resource?.name, rpc, effect: "CHANGED" };
    return (await log.records.findOne(by, { projection: { _id: 1 }, ...callTime })) === null;
  };

  const settleOne = async ({ _id, intended }: StoredIntent): Promise<void> => {
    if (intended === undefined) return;
    const isKnown = await happened(intended);
    // The process that called died, so that there is no outcome either.
    if (isKnown === undefined) await intents.updateOne({ _id }, carried({ ...intended, ...unknown }), callTime);
    else if (isKnown) await intents.updateOne({ _id }, carried(intended), callTime);
    else await intents.deleteOne({ _id }, callTime);
  };

  /** Tells of what failed. Whether it changed anything is looked up where that can be, and is what the code says where it cannot. */
  const settleFailed = async (_id: string, intended: CarriedRecord, error: unknown): Promise<void> => {
    const code = error instanceof ConnectError ? error.code : Code.Unknown;
    const isLooked = outcomes[intended.rpc] !== undefined;
    if (isLooked ? code === Code.NotFound : !doubtful.has(code)) await intents.deleteOne({ _id }, callTime);
    else if (isLooked) await settleOne({ _id, intended });
    else {
      // The same object that the relay moves, which adds the outcome of the call.
      Object.assign(intended, { effect: unknown.effect });
      await intents.updateOne({ _id }, carried(intended), callTime);
    }
  };

  return {
    collection: intents as unknown as Collection,

    async carryOut(context, resource, run) {
      const _id = randomUUIDv7();
      const record = auditRecord(context, { collection: intentsCollection, key: { _id }, resource });
      if (record === undefined) return run();
      // The interceptor began it.
      const intended = record as CarriedRecord;
      await intents.insertOne({ _id, intended }, callTime);
      let result;
      try {
        result = await run();
      } catch (error) {
        await settleFailed(_id, intended, error).catch(leave);
        throw error;
      }
      await intents.updateOne({ _id }, carried(intended), callTime).catch(leave);
      return result;
    },

    async settle(beforeId) {
      for await (const intent of intents.find({ _id: { $lt: beforeId } }, { sort: { _id: 1 }, ...callTime })) {
        if (intent.intended !== undefined) await settleOne(intent);
        // What it carried is in the log.
        else if (intent[auditKey] === undefined) await intents.deleteOne({ _id: intent._id }, callTime);
      }
    },
  };
}
