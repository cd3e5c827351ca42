import { create, type DescMessage, type MessageShape } from "@bufbuild/protobuf";
import type { HandlerContext } from "@connectrpc/connect";

import { type Query, QuerySchema, type WrittenRevision } from "../../gen/lucid/search/v1/search_query_pb.ts";
import { queryOf } from "../schema/list-query.ts";
import { documentOf, hitOf } from "./found-hit.ts";
import type { Clause } from "./query.ts";
import { hitsResponse } from "./response.ts";
import { type HitCall, searchPage, type SearchOptions } from "./searching.ts";
import { targetOf } from "./targets.ts";

/** What the requests of typed searches have in common. */
interface TypedRequest {
  readonly query?: Query | undefined;
  readonly orderBy: string;
  readonly highlight: boolean;
  readonly idsOnly: boolean;
  readonly minRevision?: WrittenRevision | undefined;
  readonly pageSize: number;
  readonly pageToken: string;
}

/** What is special to one of them. */
interface Special {
  readonly filters: readonly (Clause | undefined)[];
  /** The order where the caller names none and there are words: the best first where it is not given. */
  readonly withWords?: string;
  /** The order without words; newest first where it is not given. */
  readonly without?: string;
  readonly showDeleted?: boolean;
}

/** A search of one index of the domain, whose hits are of one message. */
export function typedSearch<Q extends DescMessage, R extends DescMessage>(
  options: SearchOptions,
  index: string,
  requestSchema: Q,
  responseSchema: R,
) {
  const response = hitsResponse(responseSchema);
  return async (
    request: MessageShape<Q> & TypedRequest,
    context: HandlerContext,
    special: Special,
  ): Promise<MessageShape<R>> => {
    const { filters, withWords = "score", without = "created_at desc", showDeleted = false } = special;
    const target = await targetOf(options.search, options.indices, index, context);
    const query = request.query;
    const call: HitCall = {
      targets: [target],
      query: showDeleted ? { ...(query ?? create(QuerySchema)), showDeleted } : query,
      filters: filters.filter((filter) => filter !== undefined),
      orderBy: request.orderBy,
      fallback: { withWords, without },
      highlight: request.highlight,
      idsOnly: request.idsOnly,
      ...awaitedBy(request.minRevision),
      pageSize: request.pageSize,
      pageToken: request.pageToken,
      bound: queryOf(requestSchema, request),
    };
    const { found, highlights, ...rest } = await searchPage(options, call, context);
    return response(
      found.map((each) => ({ rest: hitOf(each, highlights), document: documentOf(each) })),
      rest,
    );
  };
}

/** The one write that a search has to see. */
export function awaitedBy(
  minRevision: WrittenRevision | undefined,
): Pick<HitCall, "minRevisions" | "minRevisionsField"> {
  return { minRevisions: minRevision === undefined ? [] : [minRevision], minRevisionsField: "min_revision" };
}
