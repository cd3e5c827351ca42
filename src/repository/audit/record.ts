import { hash } from "node:crypto";

/** A record as documents carry it: its place in the log is not known yet. Absent members are absent in the store too. */
export interface CarriedRecord {
  readonly audit_id: string;
  readonly timestamp: Date;
  readonly actor: { readonly id: string; readonly role?: string; readonly source_address?: string };
  readonly rpc: string;
  readonly action?: string;
  readonly resource?: { readonly type?: string; readonly name?: string };
  readonly effect: "CHANGED" | "NOT_CHANGED" | "UNKNOWN";
  readonly outcome: string;
  readonly request_id?: string;
  readonly changed_fields?: readonly string[];
  readonly request_digest?: string;
}

/** A record of the log. */
export interface LoggedRecord extends CarriedRecord {
  readonly sequence: bigint;
  readonly previous_hash: string;
  readonly hash: string;
}

/** Place and hash of a record. */
export interface Head {
  readonly sequence: bigint;
  readonly hash: string;
}

/** The head of a log that has no record. */
export const emptyHead: Head = { sequence: 0n, hash: "0".repeat(64) };

/** The record after `head`. */
export function chained(record: CarriedRecord, head: Head): LoggedRecord {
  const linked = { ...record, sequence: head.sequence + 1n, previous_hash: head.hash };
  return { ...linked, hash: hashOf(linked) };
}

/** The hash of a record, as `audit_record.proto` tells everyone to compute it. */
export function hashOf(record: Omit<LoggedRecord, "hash">): string {
  return hash("sha256", canonical(record), "hex");
}

/**
 * The record as canonical JSON (RFC 8785): JSON.stringify writes text as that asks for and leaves out what is not set, and the
 * names stand in their order here.
 */
function canonical(record: Omit<LoggedRecord, "hash">): string {
  const { actor, resource } = record;
  return JSON.stringify({
    action: record.action,
    actor: { id: actor.id, role: actor.role, sourceAddress: actor.source_address },
    auditId: record.audit_id,
    changedFields: record.changed_fields,
    effect: `AUDIT_EFFECT_${record.effect}`,
    outcome: record.outcome,
    previousHash: record.previous_hash,
    requestDigest: record.request_digest,
    requestId: record.request_id,
    resource: resource && { name: resource.name, type: resource.type },
    rpc: record.rpc,
    sequence: String(record.sequence),
    // As proto3 JSON has times: the fraction only where there is one.
    timestamp: record.timestamp.toISOString().replace(".000Z", "Z"),
  });
}
