import type { JsonObject, JsonValue } from "@bufbuild/protobuf";
import type { ConnectError } from "@connectrpc/connect";

import { BulkAction } from "../../gen/lucid/search/v1/search_index_service_pb.ts";
import { fail } from "../errors.ts";
import { mostLong } from "../schema/expressions.ts";
import { badRequest } from "../schema/refusals.ts";
import type { SearchStore } from "../stores/search.ts";
import { bulk, type BulkDetails, type BulkItem, type BulkResult } from "../stores/search/bulk.ts";
import { type IndexCatalog, indexNotFound, requireAliased } from "./index-catalog.ts";

/** One thing to do to one document. */
export interface DocumentWrite {
  readonly action: BulkAction;
  readonly documentId: string;
  /** The document, or the fields to set, as `encoded` has it; nothing where it is to be deleted. */
  readonly source?: Uint8Array | undefined;
  /** Where set, the state that the document must be in. */
  readonly etag?: string;
}

/** What became of it. */
export type Written =
  | { readonly kind: "done"; readonly details: BulkDetails }
  | { readonly kind: "failed"; readonly error: ConnectError };

/** Where documents are written to. */
export interface WriteOptions {
  readonly search: Pick<SearchStore, "client">;
  readonly catalog: IndexCatalog;
  readonly signal: AbortSignal;
  readonly waitUntilSearchable?: boolean;
}

/** Levels of objects and lists in a document: parsers of protobuf stop at 100 messages inside each other, and each takes three. */
const mostLevels = 30;

/** How often the server tries again a change that another one got ahead of. */
const conflictRetries = 5;

/** Stands for a state of a document. */
export function etagOf({ sequenceNumber, primaryTerm }: Pick<BulkDetails, "sequenceNumber" | "primaryTerm">): string {
  return `${sequenceNumber}-${primaryTerm}`;
}

/**
 * Writes to documents of an index, in their order, and tells what became of each. Ids and documents go in the body of one request,
 * so that no id, whatever it looks like, becomes a part of a path. Fails with `SEARCH_INDEX_NOT_FOUND` and `SEARCH_INDEX_OCCUPIED`.
 * What may have arrived is not sent twice: whether a document was created, or was there, is for the caller to know.
 */
export async function writeDocuments(
  index: string,
  writes: readonly DocumentWrite[],
  { search, catalog, signal, waitUntilSearchable = false }: WriteOptions,
): Promise<Written[]> {
  const refused = writes.map((write) => badEtag(write));
  const sent = [...writes.entries()].filter(([at]) => refused[at] === undefined);
  const results = await bulk(
    search.client,
    `${catalog.prefix}${index}`,
    sent.map(([, write]) => itemOf(write)),
    { signal, requireAlias: true, waitUntilSearchable, details: true, mayRepeat: false, tellsBusy: true },
  );
  const written: Written[] = refused.map((error) => ({ kind: "failed", error: error ?? notSent }));
  for (const [place, result] of results.entries()) {
    const [at, write] = sent[place] ?? [];
    if (at === undefined || write === undefined) continue;
    if (result.status === 404 && result.type === "index_not_found_exception")
      throw await noAlias(index, catalog, signal);
    written[at] = outcomeOf(index, write, result);
  }
  return written;
}

/** In the place of an outcome that every item gets. */
const notSent = fail("INTERNAL", "An item of a bulk request got no answer");

/** What is sent for a document. Fails with `BAD_REQUEST`, which names the field of the request, for what JSON or the service does not hold. */
export function encoded(document: JsonObject, { field, action }: { field: string; action: BulkAction }): Uint8Array {
  const problem = problemIn(document, 1);
  if (problem !== undefined) throw badRequest({ field, description: problem });
  return Buffer.from(JSON.stringify(action === BulkAction.UPDATE ? { doc: document } : document));
}

function problemIn(value: JsonValue, level: number): string | undefined {
  if (typeof value === "number") return Number.isFinite(value) ? undefined : "must have finite numbers";
  if (typeof value !== "object" || value === null) return undefined;
  if (level > mostLevels) return `must have at most ${mostLevels} levels`;
  for (const inner of Object.values(value)) {
    const problem = problemIn(inner, level + 1);
    if (problem !== undefined) return problem;
  }
  return undefined;
}

/** The place in the history of a shard, which begins at 0, and its term, from 1: the server refuses a request with others as a whole. */
function placeOf(etag: string): { readonly sequence: bigint; readonly term: bigint } | undefined {
  const [, sequence = "", term = ""] = /^(\d{1,19})-(\d{1,19})$/.exec(etag) ?? [];
  const place = { sequence: BigInt(sequence), term: BigInt(term) };
  return place.term < 1n || place.term > mostLong || place.sequence > mostLong ? undefined : place;
}

/** An etag that this service has not made stands for no state. */
function badEtag({ etag = "", documentId }: DocumentWrite): ConnectError | undefined {
  return etag === "" || placeOf(etag) !== undefined ? undefined : changed(documentId);
}

function itemOf({ action, documentId, source, etag = "" }: DocumentWrite): BulkItem {
  const place = placeOf(etag);
  const fields = [`"_id":${JSON.stringify(documentId)}`];
  // Written as they are, since they may be larger than JavaScript's numbers are exact.
  if (place !== undefined) fields.push(`"if_seq_no":${place.sequence},"if_primary_term":${place.term}`);
  else if (action === BulkAction.UPDATE) fields.push(`"retry_on_conflict":${conflictRetries}`);
  return { action: `{"${actionNames.get(action) ?? "index"}":{${fields.join(",")}}}`, source };
}

const actionNames: ReadonlyMap<BulkAction, string> = new Map<BulkAction, string>([
  [BulkAction.INDEX, "index"],
  [BulkAction.CREATE, "create"],
  [BulkAction.UPDATE, "update"],
  [BulkAction.DELETE, "delete"],
]);

function outcomeOf(index: string, write: DocumentWrite, { status, type, reason, details }: BulkResult): Written {
  if (status >= 200 && status < 300 && details !== undefined) return { kind: "done", details };
  return { kind: "failed", error: failureOf(index, write, { status, type, reason }) };
}

function failureOf(
  index: string,
  { action, documentId, etag = "" }: DocumentWrite,
  { status, type, reason }: { readonly status: number; readonly type: string; readonly reason: string },
): ConnectError {
  if (status === 404) return documentNotFound(index, documentId);
  if (status === 409 && etag !== "") return changed(documentId);
  if (status === 409 && action === BulkAction.CREATE) {
    return fail("SEARCH_DOCUMENT_ALREADY_EXISTS", `There is a document ${documentId} already`, {
      metadata: { index, document_id: documentId },
    });
  }
  if (status === 409) {
    const options = { metadata: { store: "search", document_id: documentId }, retryAfterMs: 100 };
    return fail("STORE_CONFLICT", "Another write got in the way; try again", options);
  }
  if (status === 400) {
    // The field's name; what the server says besides shows the value.
    const [, field] = /field \[([^\]]{1,256})\]/.exec(reason) ?? [];
    return fail("SEARCH_DOCUMENT_REFUSED", `The search server does not take the document: ${type}`, {
      metadata: { index, document_id: documentId, error_type: type, ...(field !== undefined && { field }) },
    });
  }
  const metadata = { store: "search", server_code: String(status), error_type: type };
  if (status === 403) return fail("STORE_REFUSED", "The search server refused the operation", { metadata });
  const kind = status === 429 ? "STORE_BUSY" : "STORE_UNAVAILABLE";
  return fail(kind, "The search server could not write the document", { metadata, retryAfterMs: 1000 });
}

function changed(documentId: string): ConnectError {
  const fields = [{ field: "etag", description: "must be that of the document as it is now" }];
  return fail("ETAG_MISMATCH", `The document ${documentId} has been changed meanwhile`, {
    metadata: { document_id: documentId },
    fields,
  });
}

export function documentNotFound(index: string, documentId: string): ConnectError {
  return fail("SEARCH_DOCUMENT_NOT_FOUND", `There is no document ${documentId} in the index ${index}`, {
    metadata: { index, document_id: documentId },
    resource: { type: "lucid.search.v1.IndexedDocument", name: documentId },
  });
}

/** Why a name is none that can be written to. */
async function noAlias(index: string, catalog: IndexCatalog, signal: AbortSignal): Promise<unknown> {
  try {
    requireAliased(await catalog.findLive(index, signal));
  } catch (error) {
    return error;
  }
  // It has been made meanwhile.
  return indexNotFound(index);
}
