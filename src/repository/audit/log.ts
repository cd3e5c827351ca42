import { setTimeout as pause } from "node:timers/promises";

import type { Collection, Db } from "mongodb";

import { AuditRecordSchema } from "../../../gen/lucid/repository/v1/audit_record_pb.ts";
import { callTime } from "../../schema/call-options.ts";
import { wantedCollection } from "../../schema/collection-keeper.ts";
import { collectionOf } from "../../schema/collection.ts";
import { duplicateKey } from "../../schema/create-once.ts";
import { keptCollections, type KeptOptions } from "../kept-collections.ts";
import { carrierIndex } from "./carriers.ts";
import { type CarriedRecord, chained, emptyHead, type Head, type LoggedRecord } from "./record.ts";
import { auditTree, type AuditTree } from "./tree.ts";

/*
 * Why the chain has neither gaps nor forks, whoever appends, and each record only once:
 *
 * `sequence` and `audit_id` are unique. Whoever appends reads the newest record, chains a batch to it and inserts the batch in
 * order, up to the first refusal. Where another process has appended meanwhile, the first sequence of the batch is taken and
 * nothing is inserted; it reads the newest record again and tries anew. Where a record is in the log already, its audit_id is
 * taken, and the try without it goes on after what was inserted before it. So a record is only ever stored with the hash
 * of the one that is stored before it.
 *
 * The newest place and hash are kept a second time in `audit_heads`. That document may lag behind, never lead, so records that
 * vanish from the end of the log are missed too, and their places are not given away again.
 */

/** The audit log. Append-only: nothing here changes or removes a record. */
export interface AuditLog extends AsyncDisposable {
  readonly records: Collection;
  readonly tree: AuditTree;
  /** Appends those of the records that are not in the log yet, and returns when they cannot be lost any more. */
  append(records: readonly CarriedRecord[]): Promise<void>;
  /** The newest record that cannot be lost any more. */
  head(): Promise<Head>;
}

/** Tries at the end of the log before an append gives up; each lost one means that another process has succeeded. */
const mostTries = 100;

/**
 * Opens the log in the database of what the service keeps for itself. Nothing is read or written yet. `carriers` are
 * collections beside it whose documents carry records; `tell` gets what keeps them from their indexes.
 */
export function auditLog(
  system: Db,
  {
    carriers,
    tell,
    ...limits
  }: { readonly carriers: readonly string[]; readonly tell: KeptOptions["conflict"] } & Pick<KeptOptions, "waitMs">,
): AuditLog {
  // A record is taken from the document that carries it once it is here, so a failover must not take it back.
  const options = {
    writeConcern: { w: "majority" },
    readPreference: "primary",
    ignoreUndefined: true,
    useBigInt64: true,
  } as const;
  const records: Collection = system.collection(collectionOf(AuditRecordSchema).name, options);
  const heads = system.collection<Head & { _id: string }>("audit_heads", options);
  const tree = auditTree(system, records);
  /** The newest record that this process knows of. */
  let known: Head | undefined;
  /** The append before the next one: those of this process would only lose tries to each other. */
  let before: Promise<void> = Promise.resolve();

  // Without its indexes the log would take a record twice.
  const others = carriers.map((name) => ({ name, indexes: [carrierIndex] }));
  const kept = keptCollections(system, [wantedCollection(AuditRecordSchema), ...others], {
    conflict: tell,
    ...limits,
  });
  let hasHead = false;
  const ready = async (): Promise<void> => {
    await kept.ready();
    if (hasHead) return;
    try {
      await heads.updateOne({ _id: "head" }, { $setOnInsert: emptyHead }, { upsert: true, ...callTime });
    } catch (error) {
      if (duplicateKey(error) === undefined) throw error; // another replica made it at the same time
    }
    hasHead = true;
  };

  /** `local` sees also what others append just now, which a failover may still take back. */
  const readHead = async (level: "local" | "majority"): Promise<Head> => {
    const concern = { readConcern: { level }, ...callTime };
    const { sequence, hash } = (await heads.findOne({ _id: "head" }, concern)) ?? emptyHead;
    // The bound is for servers that sort all that a filter lets through.
    const newest = await records.findOne<Pick<LoggedRecord, "sequence" | "hash">>(
      { sequence: { $gte: sequence } },
      { sort: { sequence: -1 }, projection: { sequence: 1, hash: 1 }, ...concern },
    );
    return newest === null ? { sequence, hash } : { sequence: newest.sequence, hash: newest.hash };
  };

  const moveHead = async ({ sequence, hash }: Head): Promise<void> => {
    await heads.updateOne({ _id: "head", sequence: { $lt: sequence } }, { $set: { sequence, hash } }, callTime);
  };

  const withoutLogged = async (waiting: readonly CarriedRecord[]): Promise<CarriedRecord[]> => {
    const filter = { audit_id: { $in: waiting.map(({ audit_id }) => audit_id) } };
    const found = await records.find(filter, { projection: { audit_id: 1 }, ...callTime }).toArray();
    const logged = new Set(found.map(({ audit_id }) => audit_id as unknown));
    return waiting.filter(({ audit_id }) => !logged.has(audit_id));
  };

  const append = async (all: readonly CarriedRecord[]): Promise<void> => {
    await ready();
    let waiting = all;
    for (let attempt = 1; waiting.length > 0; attempt++) {
      let head = known ?? (await readHead("local"));
      known = undefined;
      const batch = waiting.map((record) => (head = chained(record, head)));
      try {
        await records.insertMany(batch, { ordered: true, ...callTime });
        known = { sequence: head.sequence, hash: head.hash };
        await moveHead(known);
        tree.follow(Number(head.sequence));
        return;
      } catch (error) {
        if (duplicateKey(error) === undefined || attempt === mostTries) throw error;
        waiting = await withoutLogged(waiting);
        // So that replicas do not keep meeting.
        if (attempt > 1) await pause(Math.random() * 20);
      }
    }
  };

  return {
    records,
    tree,

    append(all) {
      const appended = before.then(() => append(all));
      before = appended.catch(() => {}); // its caller learns of it
      return appended;
    },

    async head() {
      await ready();
      return readHead("majority");
    },

    async [Symbol.asyncDispose]() {
      kept[Symbol.dispose]();
      await tree[Symbol.asyncDispose]();
    },
  };
}
