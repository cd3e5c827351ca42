import { createContextKey, type HandlerContext } from "@connectrpc/connect";
import type { Document } from "bson";

/** A document that a write of the call has put the record of the call beside, or may have. */
export interface Carrier {
  readonly collection: string;
  /** Finds the document. */
  readonly key: Document;
}

/**
 * What the audit log is to say of the call that is under way. The record is stored by the very write that changes a document,
 * under `auditKey` of that document: it is there if the change is, and only then. From there it is moved to the log.
 */
export interface AuditedCall {
  readonly record: Document;
  /** Writes that were begun; how they ended may be unknown. */
  readonly attempted: Carrier[];
}

/** Where records wait in a document until they are in the log. */
export const auditKey = "_audit";

/** The call that is under way, where it is one that the log tells of. */
export const auditedCall = createContextKey<AuditedCall | undefined>(undefined, {
  description: "what the audit log is to say of the call",
});

/** What a write says besides the call itself. */
export interface AuditedChange extends Carrier {
  /** Type and name of what is changed, for example `User` and its id. */
  readonly resource: { readonly type: string; readonly name: string };
  /** Stored names of the fields that are set, where the caller chose them. */
  readonly fields?: readonly string[];
}

/** The record that the write is to carry; undefined where the call is not audited. The write must follow at once. */
export function auditRecord(
  { values }: Pick<HandlerContext, "values">,
  { collection, key, resource, fields }: AuditedChange,
): Document | undefined {
  const call = values.get(auditedCall);
  if (call === undefined) return undefined;
  call.attempted.push({ collection, key });
  return { ...call.record, resource, ...(fields !== undefined && { changed_fields: fields }) };
}

/** A stage that adds the record to those that wait in a document. */
export function auditStage(record: Document): Document {
  return { $set: { [auditKey]: { $concatArrays: [{ $ifNull: [`$${auditKey}`, []] }, [{ $literal: record }]] } } };
}
