import type { DescMessage, Message } from "@bufbuild/protobuf";
import type { HandlerContext } from "@connectrpc/connect";
import type { Document } from "bson";
import type { Collection, Filter } from "mongodb";

import { cancellable } from "./call-options.ts";
import { listOrder, pageSizeOf, queryOf, type Restrictions } from "./list-query.ts";
import type { PageTokens } from "./page-tokens.ts";
import { readPage } from "./page.ts";

/** Documents that are listed. They may be no entities: another service writes them. */
export interface Listed {
  readonly collection: Collection;
  readonly schema: DescMessage;
  /** Stored name of a field that is unique in each list. */
  readonly id: string;
  readonly pageTokens: () => Promise<PageTokens>;
}

/** A list that is asked for page by page. */
export interface ListCall {
  readonly filter: Filter<Document>;
  readonly restrictions?: Restrictions;
  /** The order where the caller names none, as `order_by` has it. */
  readonly fallback: string;
  /** What comes before all that the filter finds, as a raw document. */
  readonly first?: Uint8Array;
  /** The request's message, which the page token is bound to. */
  readonly schema: DescMessage;
  readonly request: Message & { readonly pageSize: number; readonly pageToken: string; readonly orderBy?: string };
  /** What is made of each document, where that is less than the whole: other fields are not read. */
  readonly part?: DescMessage;
}

/** A page, as raw documents. */
export interface Page {
  readonly documents: readonly Uint8Array[];
  readonly nextPageToken: string;
}

/** A page of a list. */
export async function listDocuments(
  { collection, schema, id, pageTokens }: Listed,
  { filter, restrictions = { equal: [] }, fallback, first, schema: requestSchema, request, part }: ListCall,
  context: Pick<HandlerContext, "signal" | "timeoutMs">,
): Promise<Page> {
  const order = listOrder(schema, request.orderBy ?? "", restrictions, { id, fallback });
  return readPage({
    collection,
    filter,
    order,
    size: pageSizeOf(request.pageSize),
    query: queryOf(requestSchema, request),
    token: request.pageToken,
    tokens: await pageTokens(),
    limits: cancellable(context),
    ...(first !== undefined && { first }),
    ...(part !== undefined && { fields: part.fields.map(({ name: field }) => field) }),
  });
}
