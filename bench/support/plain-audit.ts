import { hash, randomUUIDv7 } from "node:crypto";

import { type DescMethod, type Message, toBinary } from "@bufbuild/protobuf";
import type { Collection, Db, Document } from "mongodb";

import { type CarriedRecord, chained, emptyHead } from "../../src/repository/audit/record.ts";

/** How often records are moved, and how many at once, as the service does. */
const windowMs = 250;
const mostAtOnce = 500;

/**
 * An audit log as a server keeps it that was written by hand, alone and with a store that never fails: each new document carries
 * a record, which is chained to the others and moved to the log a little later.
 */
export interface PlainAudit {
  recordOf(method: DescMethod, request: Message, resource: { readonly type: string; readonly name: string }): Document;
  /** Says that the document with that key carries a record. */
  stored(collection: Collection, key: Document, record: Document): void;
}

export function plainAudit(system: Db): PlainAudit {
  const log = system.collection("plain_audit_logs", { writeConcern: { w: "majority" }, ignoreUndefined: true });
  const waiting: { readonly collection: Collection; readonly key: Document; readonly record: Document }[] = [];
  let head = emptyHead;

  const move = async (): Promise<void> => {
    const batch = waiting.splice(0, mostAtOnce);
    if (batch.length === 0) return;
    const records = batch.map(({ record }) => {
      const next = chained(record as CarriedRecord, head); // made below
      head = next;
      return next;
    });
    await log.insertMany(records);
    for (const [collection, carriers] of Map.groupBy(batch, (each) => each.collection)) {
      await collection.updateMany({ $or: carriers.map(({ key }) => key) }, { $unset: { _audit: "" } });
    }
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
    stored: (collection, key, record) => void waiting.push({ collection, key, record }),
  };
}
