import { deserialize } from "bson";

import { reasonOf } from "../../errors.ts";
import { documentKey, type SearchCopy } from "../../schema/search-copy.ts";
import type { SearchedMessage } from "../../schema/search-mapping.ts";
import type { BulkResult } from "../../stores/search/bulk.ts";
import type { Refusal } from "./dead-letters.ts";

/** A document of which no copy can be made. Fails with the error where that says nothing of the document. */
export function damagedDocument(document: Uint8Array, message: SearchedMessage, error: unknown): Refusal {
  const told = reasonOf(error);
  if (told === undefined) throw error;
  const { _id, [message.id]: id, revision } = deserialize(document, { promoteValues: true, useBigInt64: true });
  return {
    key: documentKey(document),
    source_id: _id,
    document_id: typeof id === "string" ? id : "",
    revision: typeof revision === "bigint" || Number.isInteger(revision) ? BigInt(revision as bigint | number) : 1n,
    error_type: told.reason,
    cause_type: "",
    field: told.metadata["field"] ?? "",
  };
}

/** A copy that the server has refused. */
export function refusedCopy(copy: SearchCopy, document: Uint8Array, { type, causeType, reason }: BulkResult): Refusal {
  return {
    key: copy.key,
    source_id: deserialize(document)["_id"] as unknown,
    document_id: copy.id,
    revision: copy.revision,
    error_type: type,
    cause_type: causeType,
    // What else the server says may repeat the document.
    field: /\bfield(?: \[|=")([\w.-]{1,200})/.exec(reason)?.[1] ?? "",
  };
}
