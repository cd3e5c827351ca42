import { randomUUIDv7 } from "node:crypto";

import { Code, ConnectError } from "@connectrpc/connect";
import type { Collection, Db } from "mongodb";

import { auditKey, auditRecord, type CarryOut } from "../../schema/audited-call.ts";
import type { AuditLog } from "./log.ts";
import type { CarriedRecord } from "./record.ts";

/** Finds out for the rpc that it is named by whether what a call of it began has happened to a resource. */
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
const bounded = { timeoutMS: 5000 };

export function auditIntents(system: Db, { log, outcomes }: { log: AuditLog; outcomes: Outcomes }): Intents {
  const options = { writeConcern: { w: "majority" }, readPreference: "primary" } as const;
  const intents = system.collection<StoredIntent>(intentsCollection, options);

  const carried = (record: CarriedRecord) => ({
    $set: { [auditKey]: [record] },
    $unset: { intended: "" as const },
  });

  /** Whether it happened. Where another call has done it, this one has not: what is gone cannot be removed again. */
  const happened = async ({ rpc, resource }: CarriedRecord): Promise<boolean> => {
    const look = outcomes[rpc];
    if (look === undefined) throw new Error(`Nobody can tell whether ${rpc} has happened`);
    if (!(await look(resource?.name ?? ""))) return false;
    const by = { "resource.type": resource?.type, "resource.name": resource?.name, rpc, effect: "CHANGED" };
    return (await log.records.findOne(by, { projection: { _id: 1 }, ...bounded })) === null;
  };

  const settleOne = async ({ _id, intended }: StoredIntent): Promise<void> => {
    if (intended === undefined) return;
    if (await happened(intended)) await intents.updateOne({ _id }, carried(intended), bounded);
    else await intents.deleteOne({ _id }, bounded);
  };

  return {
    collection: intents as unknown as Collection,

    async carryOut(context, resource, run) {
      const _id = randomUUIDv7();
      const record = auditRecord(context, { collection: intentsCollection, key: { _id }, resource });
      if (record === undefined) return run();
      // The interceptor began it.
      const intended = record as CarriedRecord;
      await intents.insertOne({ _id, intended }, bounded);
      let result;
      try {
        result = await run();
      } catch (error) {
        const isRefused = error instanceof ConnectError && error.code === Code.NotFound;
        await (isRefused ? intents.deleteOne({ _id }, bounded) : settleOne({ _id, intended })).catch(leave);
        throw error;
      }
      await intents.updateOne({ _id }, carried(intended), bounded).catch(leave);
      return result;
    },

    async settle(beforeId) {
      for await (const intent of intents.find({ _id: { $lt: beforeId } }, { sort: { _id: 1 }, ...bounded })) {
        if (intent.intended !== undefined) await settleOne(intent);
        // What it carried is in the log.
        else if (intent[auditKey] === undefined) await intents.deleteOne({ _id: intent._id }, bounded);
      }
    },
  };
}
