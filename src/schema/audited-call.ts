import { randomUUIDv7 } from "node:crypto";

import { Code, createContextKey, type HandlerContext } from "@connectrpc/connect";
import type { Document } from "bson";

/** A document that a write of the call has put a record beside, or may have. */
export interface Carrier {
  readonly collection: string;
  /** Finds the document. */
  readonly key: Document;
  readonly record: Document;
  /** Whether the write found its document; undefined where nobody knows. */
  applied?: boolean;
}

/**
 * What the audit log is to say of the call that is under way. A record is stored by the very write that changes a document,
 * under `auditKey` of that document: it is there if the change is, and only then. From there it is moved to the log.
 */
export interface AuditedCall {
  /** What all records of the call say. */
  readonly record: Document;
  /** Writes that were begun. */
  readonly attempted: Carrier[];
  /** Their records by the resource that they change: a call may make a thousand writes. */
  readonly byResource: Map<string, Document>;
  /** Takes writes of a call that goes on, so that a long stream does not fill memory. */
  readonly handOver: (attempted: Carrier[]) => void;
}

/** A call that has ended, or what one that goes on has written so far. */
export interface EndedCall extends Pick<AuditedCall, "attempted"> {
  /** Name of the status code. */
  readonly outcome: string;
  /** The record of a call that failed, for where it has changed nothing. */
  readonly refusal?: Document;
}

/** Where records wait in a document until they are in the log. Whoever watches documents leaves it out of account. */
export const auditKey = "_audit";

/** The call that is under way, where it is one that the log tells of. */
export const auditedCall = createContextKey<AuditedCall | undefined>(undefined, {
  description: "what the audit log is to say of the call",
});

/** What a write says besides the call itself. */
export interface AuditedChange extends Pick<Carrier, "collection" | "key"> {
  /** Type and name of what is changed, for example `User` and its id. */
  readonly resource: { readonly type: string; readonly name: string };
  /** Stored names of the fields that are set, where the caller chose them. */
  readonly fields?: readonly string[];
}

/**
 * Runs what changes something that is no document, such as an object of a repository, between two writes that tell of it. Where
 * the process dies between them, it is found out later whether the change has happened.
 */
export type CarryOut = <T>(context: Context, resource: AuditedChange["resource"], run: () => Promise<T>) => Promise<T>;

/** Codes that do not say whether a change arrived. */
export const doubtful: ReadonlySet<Code> = new Set([
  Code.Canceled,
  Code.DeadlineExceeded,
  Code.Internal,
  Code.Unavailable,
  Code.Unknown,
]);

/** Writes of one call that are kept in memory. */
const mostAttempted = 2000;

type Context = Pick<HandlerContext, "values">;

/** The record that the write is to carry, for a write of which nobody says how it ended: the document is looked at after the call. */
export function auditRecord(context: Context, change: AuditedChange): Document | undefined {
  return auditCarrier(context, change)?.record;
}

/**
 * The document that the write is to put a record beside; undefined where the call is not audited. The write must follow at once. Writes
 * that change the same resource carry the same record, and the log holds it once, whichever of them are stored.
 */
export function auditCarrier(
  { values }: Context,
  { collection, key, resource, fields }: AuditedChange,
): Carrier | undefined {
  const call = values.get(auditedCall);
  if (call === undefined) return undefined;
  const { attempted, byResource } = call;
  if (attempted.length >= mostAttempted) {
    call.handOver(attempted.splice(0));
    byResource.clear();
  }
  const name = `${resource.type} ${resource.name}`;
  const record = byResource.get(name) ?? {
    audit_id: randomUUIDv7(),
    ...call.record,
    effect: "CHANGED",
    outcome: "OK",
    resource,
    ...(fields !== undefined && fields.length > 0 && { changed_fields: fields }),
  };
  byResource.set(name, record);
  const carrier: Carrier = { collection, key, record };
  attempted.push(carrier);
  return carrier;
}

/** Says how the write of a record ended, where that is known for sure. Otherwise the document is looked at after the call. */
export function auditApplied(carrier: Carrier | undefined, applied: boolean): void {
  if (carrier !== undefined) carrier.applied = applied;
}

/** A stage that adds the record to those that wait in a document. */
export function auditStage(record: Document): Document {
  return { $set: { [auditKey]: { $concatArrays: [{ $ifNull: [`$${auditKey}`, []] }, [{ $literal: record }]] } } };
}

/** The same for an update that is no pipeline. */
export function auditPush(record: Document | undefined): { $push?: Document } {
  return record === undefined ? {} : { $push: { [auditKey]: record } };
}
