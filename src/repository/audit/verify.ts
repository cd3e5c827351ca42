import type { DescMessage, MessageInitShape } from "@bufbuild/protobuf";
import { deserialize, type Document } from "bson";
import type { Collection } from "mongodb";

import {
  type AuditVerificationSchema,
  AuditFault,
  type VerifyAuditLogResponseSchema,
} from "../../../gen/lucid/repository/v1/audit_log_service_pb.ts";
import { AuditRecordSchema } from "../../../gen/lucid/repository/v1/audit_record_pb.ts";
import { codecFor } from "../../schema/codec.ts";
import { fanOut, growingCells, type HashedCell } from "../merkle-cells.ts";
import { hashOf, type Head, type LoggedRecord } from "./record.ts";
import { type AuditTree, leafOf } from "./tree.ts";

/** Records that are read at once. A range has two ends, since some servers sort all that a filter lets through. */
const rangeRecords = 1000n;

/**
 * Computes the chain anew from the record after `from` to the place of `end`, and the nodes of the tree that lie above these records
 * alone, and compares both with what is stored. Yields how far it is after each range, and at last the result. `expected` is a head
 * that the log had earlier. `from` is a record as raw BSON, or the head of an empty log.
 */
export async function* verification(
  { records, tree }: { readonly records: Collection; readonly tree: Pick<AuditTree, "wrong"> },
  {
    from,
    end,
    expected,
  }: { readonly from: Head | Uint8Array; readonly end: Head; readonly expected: Head | undefined },
  limits: { readonly signal: AbortSignal; readonly maxTimeMS?: number },
): AsyncGenerator<MessageInitShape<typeof VerifyAuditLogResponseSchema>> {
  let last = from instanceof Uint8Array ? headOf(recordOf(from)) : from;
  const sofar = () => ({ verifiedSequence: last.sequence, endSequence: end.sequence });
  const wrong = (fault: AuditFault, auditId: unknown = "", faultSequence = last.sequence + 1n) => ({
    ...sofar(),
    result: { fault, faultSequence, faultAuditId: String(auditId) },
  });
  if (from instanceof Uint8Array && !isAsWritten(from)) {
    yield wrong(AuditFault.ALTERED, recordOf(from)["audit_id"], last.sequence);
    return;
  }
  const growth = growingCells();
  while (last.sequence < end.sequence) {
    const to = end.sequence - last.sequence > rangeRecords ? last.sequence + rangeRecords : end.sequence;
    const filter = { sequence: { $gt: last.sequence, $lte: to } };
    const found = records.find<Uint8Array>(filter, { sort: { sequence: 1 }, raw: true, ...limits });
    const made: HashedCell[] = [];
    for (const raw of await found.toArray()) {
      const record = recordOf(raw);
      const fault = faultOf(raw, record, last) ?? unexpected(record, expected);
      if (fault !== undefined) {
        yield wrong(fault, fault === AuditFault.MISSING ? "" : record["audit_id"]);
        return;
      }
      last = headOf(record);
      made.push(...growth.add({ level: 0, index: Number(last.sequence) - 1, hash: leafOf(last.hash) }));
    }
    if (last.sequence < to) {
      yield wrong(AuditFault.MISSING);
      return;
    }
    const [cell] = await tree.wrong(made, limits.signal);
    if (cell !== undefined) {
      yield wrong(AuditFault.TREE, "", BigInt((cell.index + 1) * fanOut ** cell.level));
      return;
    }
    yield sofar();
  }
  if (expected !== undefined && expected.sequence > end.sequence) {
    yield wrong(AuditFault.MISSING);
    return;
  }
  // What has no place among the others would be shown in lists all the same.
  const foreign = await records.findOne({ sequence: { $not: { $gt: 0n } } }, limits);
  if (foreign !== null) {
    yield wrong(AuditFault.FOREIGN, foreign["audit_id"], 0n);
    return;
  }
  const result: MessageInitShape<typeof AuditVerificationSchema> = {
    whole: true,
    head: { sequence: last.sequence, hash: last.hash },
  };
  yield { ...sofar(), result };
}

/** What is wrong with the record that should follow `last`. */
function faultOf(raw: Uint8Array, record: Document, last: Head): AuditFault | undefined {
  const { sequence, previous_hash: previous } = record;
  // A number between two others can stand only where somebody has put it.
  if (typeof sequence !== "bigint") return AuditFault.FOREIGN;
  if (sequence !== last.sequence + 1n) return AuditFault.MISSING;
  if (!isAsWritten(raw, record)) return AuditFault.ALTERED;
  return previous === last.hash ? undefined : AuditFault.UNLINKED;
}

function unexpected({ sequence, hash }: Document, expected: Head | undefined): AuditFault | undefined {
  return expected?.sequence === sequence && expected?.hash !== hash ? AuditFault.NOT_EXPECTED : undefined;
}

/** A record as it is stored, whatever somebody has made of it. */
export function recordOf(raw: Uint8Array): Document {
  return deserialize(raw, { useBigInt64: true });
}

/** Of a record that was found by its sequence, which somebody may have made a number of another type. */
function headOf(record: Document): Head {
  const { sequence, hash } = record as { readonly sequence: bigint | number; readonly hash: string };
  return { sequence: BigInt(sequence), hash };
}

const { transcoder } = codecFor(AuditRecordSchema);

/** Whether a record says what its hash was made of, in the types that it was written in, and nothing else. */
export function isAsWritten(raw: Uint8Array, record = recordOf(raw)): boolean {
  if (typeof record["sequence"] !== "bigint") return false;
  try {
    // Values of other types may make the same hash. This fails for a member that is not of its type.
    transcoder.message(raw);
    return hasOnly(record, AuditRecordSchema) && hashOf(record as LoggedRecord) === record["hash"];
  } catch {
    return false;
  }
}

/** Whether a document, and those in it, have no other members than a message. */
function hasOnly(document: Document, { fields }: DescMessage): boolean {
  return Object.entries(document).every(([name, value]) => {
    const field = fields.find((one) => one.name === name);
    if (field === undefined) return name === "_id";
    const isDocument = field.message !== undefined && !(value instanceof Date);
    return !isDocument || hasOnly(value as Document, field.message);
  });
}
