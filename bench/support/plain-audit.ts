import { hash, randomUUIDv7 } from "node:crypto";

import { type DescMethod, type Message, toBinary } from "@bufbuild/protobuf";
import type { Collection, Db, Document } from "mongodb";

import { type CarriedRecord, chained, emptyHead } from "../../src/repository/audit/record.ts";

/** How often records are moved, and how many at once, as the service does. */
const windowMs = 250;
const mostAtOnce = 500;

/** Records below one cell of the tree over the log. */
const cellRecords = 64;

/**
 * An audit log as a server keeps it that was written by hand, alone and with a store that never fails: each new document carries
 * a record, which is chained to the others and moved to the log a little later, by the statements that the service makes for it.
 */
export interface PlainAudit {
  recordOf(method: DescMethod, request: Message, resource: { readonly type: string; readonly name: string }): Document;
  /** Says that the document which has that value in that field carries a record. */
  stored(collection: Collection, field: string, id: string, record: Document): void;
}

interface Waiting {
  readonly collection: Collection;
  readonly field: string;
  readonly id: string;
  readonly record: Document;
}

export function plainAudit(system: Db): PlainAudit {
  const options = { writeConcern: { w: "majority" }, ignoreUndefined: true, useBigInt64: true } as const;
  const log = system.collection("plain_audit_logs", options);
  const heads = system.collection<{ _id: string; sequence?: bigint; hash?: string; size?: bigint }>(
    "plain_audit_heads",
    options,
  );
  const cells = system.collection<{ _id: string; hash: string }>("plain_audit_subtrees", options);
  const bounded = { timeoutMS: 5000 };
  const waiting: Waiting[] = [];
  let head = emptyHead;
  let treeSize = 0;

  const move = async (): Promise<void> => {
    const batch = waiting.splice(0, mostAtOnce);
    if (batch.length === 0) return;
    const records = batch.map(({ record }) => {
      const next = chained(record as CarriedRecord, head); // made below
      head = next;
      return next;
    });
    await log.insertMany(records, bounded);
    const { sequence, hash: last } = head;
    await heads.updateOne({ _id: "head", sequence: { $lt: sequence } }, { $set: { sequence, hash: last } }, bounded);
    await growTree();
    for (const [collection, carriers] of Map.groupBy(batch, (each) => each.collection))
      await take(collection, carriers);
  };

  /** Stores the cells that are complete. What they lie above is read, since a failover may have taken it back. */
  const growTree = async (): Promise<void> => {
    const full = Number(head.sequence) - (Number(head.sequence) % cellRecords);
    if (full <= treeSize) return;
    await heads.findOne({ _id: "tree" }, bounded);
    await cells.find({ _id: { $in: [`1/${treeSize / cellRecords - 1}`] } }, bounded).toArray();
    const range = { $gt: BigInt(treeSize), $lte: BigInt(full) };
    const found = await log
      .find({ sequence: range }, { projection: { _id: 0, sequence: 1, hash: 1 }, ...bounded })
      .toArray();
    const made = Array.from({ length: (full - treeSize) / cellRecords }, (_, index) => ({
      _id: `1/${treeSize / cellRecords + index}`,
      hash: hash("sha256", String(found[index * cellRecords]?.["hash"])),
    }));
    await cells.insertMany(made, { ordered: false, ...bounded });
    await heads.updateOne({ _id: "tree" }, { $max: { size: BigInt(full) } }, { upsert: true, ...bounded });
    treeSize = full;
  };

  const take = async (collection: Collection, carriers: readonly Waiting[]): Promise<void> => {
    const auditIds = carriers.map(({ record }) => record["audit_id"] as string);
    const others = { $not: [{ $in: ["$$this.audit_id", auditIds] }] };
    await collection.updateMany(
      { [carriers[0]?.field ?? ""]: { $in: carriers.map(({ id }) => id) } },
      [
        { $set: { _audit: { $filter: { input: { $ifNull: ["$_audit", []] }, cond: others } } } },
        { $set: { _audit: { $cond: [{ $eq: ["$_audit", []] }, "$$REMOVE", "$_audit"] } } },
      ],
      bounded,
    );
  };
  const again = (): void => void move().finally(() => setTimeout(again, windowMs));
  again();

  return {
    recordOf: ({ parent, name, input }, request, resource) => ({
      audit_id: randomUUIDv7(),
      timestamp: new Date(),
      actor: { id: "anonymous", source_address: "127.0.0.1" },
      rpc: `${parent.typeName}/${name}`,
      action: "create",
      request_digest: hash("sha256", toBinary(input, request)),
      effect: "CHANGED",
      outcome: "OK",
      resource,
    }),
    stored: (collection, field, id, record) => void waiting.push({ collection, field, id, record }),
  };
}
