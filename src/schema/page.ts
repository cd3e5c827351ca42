import { deserialize, type Document, EJSON } from "bson";
import type { Abortable, Collection, Filter, FindCursor, FindOptions } from "mongodb";

import type { ListOrder } from "./list-query.ts";
import type { PageTokens } from "./page-tokens.ts";

/** Most bytes of documents in a page; clients of gRPC take 4 MiB at once unless they are told otherwise. */
const pageBytes = 3 * 1024 * 1024;

/** A page of a list. */
export interface PageRequest {
  readonly collection: Collection;
  readonly filter: Filter<Document>;
  readonly order: ListOrder;
  /** Most documents to return. */
  readonly size: number;
  /** What the token is bound to: see `queryOf`. */
  readonly query: Uint8Array;
  /** Of the page before; empty for the first page. */
  readonly token: string;
  readonly tokens: Pick<PageTokens, "encode" | "decode">;
  /** What comes before all that the filter finds, without being among it. */
  readonly first?: Uint8Array;
  /** How long it may take, and how it is read. */
  readonly limits: FindOptions & Abortable;
  /** Stored names of the fields to read; all where there are none. */
  readonly fields?: readonly string[];
}

/**
 * Reads one page of raw documents. Goes on after the last document of the page before and never by counting, so that what comes
 * and goes meanwhile neither hides nor repeats another document. Fails with `PAGE_TOKEN_INVALID`.
 */
export async function readPage(
  request: PageRequest,
): Promise<{ documents: readonly Uint8Array[]; nextPageToken: string }> {
  const { collection, order, size, query, token, tokens, limits, fields } = request;
  const after = afterPosition(order, tokens.decode(query, token));
  const filter = { $and: [request.filter, after] };
  const cursor = collection.find<Uint8Array>(token === "" ? request.filter : filter, {
    raw: true,
    sort: { ...order.sort },
    // The next page starts after what the last document has in the order's fields.
    ...(fields !== undefined && { projection: included([...fields, ...Object.keys(order.sort)]) }),
    ...limits,
  });
  const { documents, more } = await take(cursor, size, token === "" ? request.first : undefined);
  const last = documents.at(-1);
  return { documents, nextPageToken: more && last !== undefined ? tokens.encode(query, positionOf(order, last)) : "" };
}

function included(fields: readonly string[]): Document {
  return { _id: 0, ...Object.fromEntries(fields.map((field) => [field, 1])) };
}

/** Takes up to `size` documents, fewer where they are large, and sees whether there are more. */
async function take(cursor: FindCursor<Uint8Array>, size: number, first: Uint8Array | undefined) {
  const documents = first === undefined ? [] : [first];
  let bytes = first?.byteLength ?? 0;
  // One more than wanted tells whether the page is the last one; the server closes a batch that has room for yet another.
  const wanted = size + 1 - documents.length;
  await using found = cursor.limit(wanted).batchSize(wanted + 1);
  for (let next = await found.next(); next !== null; next = await found.next()) {
    for (const document of [next, ...found.readBufferedDocuments()]) {
      bytes += document.byteLength;
      if (documents.length === size || (bytes > pageBytes && documents.length > 0)) return { documents, more: true };
      documents.push(document);
    }
  }
  return { documents, more: false };
}

/** Where a list goes on: after the document that had these values in the fields of the order. */
function positionOf(order: ListOrder, last: Uint8Array): string {
  const values = deserialize(last, { useBigInt64: true });
  return EJSON.stringify(
    Object.keys(order.sort).map((name) => values[name] as unknown),
    { relaxed: false },
  );
}

/** A filter for what comes after a position. Empty for none: the list starts at its beginning. */
function afterPosition(order: ListOrder, position: string | undefined): Document {
  if (position === undefined) return {};
  const values: unknown = EJSON.parse(position, { relaxed: false });
  const terms = Object.entries(order.sort);
  // The token was sealed by this service, so it holds what `encodePosition` put in.
  const after = (values as unknown[]).map((value, index) => {
    const [name, direction] = terms[index] ?? ["", 1];
    return { name, value, operator: direction === 1 ? "$gt" : "$lt" };
  });
  const [first] = after;
  if (first === undefined) return {};
  const branches = after.map(({ name, value, operator }, index) => ({
    ...Object.fromEntries(after.slice(0, index).map((term) => [term.name, term.value])),
    [name]: { [operator]: value },
  }));
  // The bound on the first field lets the index start where the page does; the branches decide the rest.
  return { $and: [{ [first.name]: { [`${first.operator}e`]: first.value } }, { $or: branches }] };
}
