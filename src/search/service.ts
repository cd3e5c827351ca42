import type { DescEnum } from "@bufbuild/protobuf";
import type { Timestamp } from "@bufbuild/protobuf/wkt";
import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";

import { BlockStatusSchema } from "../../gen/lucid/repository/v1/block_pb.ts";
import { ManifestValidationStatusSchema } from "../../gen/lucid/repository/v1/manifest_pb.ts";
import { SessionStatusSchema } from "../../gen/lucid/repository/v1/session_pb.ts";
import { TransactionStatusSchema, TransactionTypeSchema } from "../../gen/lucid/repository/v1/transaction_pb.ts";
import { UserRoleSchema, UserStatusSchema } from "../../gen/lucid/repository/v1/user_pb.ts";
import * as rpc from "../../gen/lucid/search/v1/search_service_pb.ts";
import { fail } from "../errors.ts";
import { dateAtOrAfter } from "../schema/filters.ts";
import { queryOf } from "../schema/list-query.ts";
import { storedName } from "../schema/stored-field.ts";
import { compileAggregations } from "./aggregations.ts";
import { ask } from "./ask.ts";
import { anyHit } from "./found-hit.ts";
import { type Clause, compileQuery, isoTimes } from "./query.ts";
import { hitsResponse } from "./response.ts";
import { exportHits, type HitCall, searchPage, type SearchOptions, untilAllSearchable } from "./searching.ts";
import { suggest } from "./suggestions.ts";
import { searchedFields, targetOf } from "./targets.ts";
import { awaitedBy, typedSearch } from "./typed-search.ts";

const hits = hitsResponse(rpc.SearchResponseSchema);
const exported = hitsResponse(rpc.ExportHitsResponseSchema);

/** Sessions of a user whose manifests are searched. */
const mostSessions = 10_000;

/** Searches the indices, and shows the documents that are found as they are in MongoDB. */
export function searchService(options: SearchOptions): ServiceImpl<typeof rpc.SearchService> {
  const { search, indices, documents } = options;
  const target = (name: string, context: HandlerContext) => targetOf(search, indices, name, context);
  const targetsOf = async (names: readonly string[], context: HandlerContext) =>
    Promise.all(names.map((name) => target(name, context)));

  const searchUsers = typedSearch(options, "users", rpc.SearchUsersRequestSchema, rpc.SearchUsersResponseSchema);
  const searchSessions = typedSearch(
    options,
    "sessions",
    rpc.SearchSessionsRequestSchema,
    rpc.SearchSessionsResponseSchema,
  );
  const searchBlocks = typedSearch(options, "blocks", rpc.SearchBlocksRequestSchema, rpc.SearchBlocksResponseSchema);
  const searchTransactions = typedSearch(
    options,
    "transactions",
    rpc.SearchTransactionsRequestSchema,
    rpc.SearchTransactionsResponseSchema,
  );
  const searchManifests = typedSearch(
    options,
    "manifests",
    rpc.SearchManifestsRequestSchema,
    rpc.SearchManifestsResponseSchema,
  );
  const searchAuditLogs = typedSearch(
    options,
    "audit-logs",
    rpc.SearchAuditLogsRequestSchema,
    rpc.SearchAuditLogsResponseSchema,
  );

  return {
    async search(request, context) {
      const call: HitCall = {
        ...request,
        targets: await targetsOf(request.indices, context),
        query: request.query,
        fallback: { withWords: "score", without: "" },
        minRevisionsField: "min_revisions[#]",
        bound: queryOf(rpc.SearchRequestSchema, request),
      };
      const { found, highlights, ...rest } = await searchPage(options, call, context);
      return hits(
        found.map((each) => anyHit(each, highlights)),
        rest,
      );
    },

    searchUsers: (request, context) =>
      searchUsers(request, context, {
        filters: [is("status", UserStatusSchema, request.status), is("role", UserRoleSchema, request.role)],
      }),

    searchSessions: (request, context) =>
      searchSessions(request, context, {
        filters: [has("user_id", request.userId), is("status", SessionStatusSchema, request.status)],
      }),

    searchBlocks: (request, context) =>
      searchBlocks(request, context, {
        filters: [
          between("height", request.fromHeight, request.beforeHeight),
          is("status", BlockStatusSchema, request.status),
        ],
        without: "height desc",
        // Who asks for a state means all blocks in it, as lists have it.
        showDeleted: request.status !== 0,
      }),

    searchTransactions: (request, context) =>
      searchTransactions(request, context, {
        filters: [
          is("transaction_type", TransactionTypeSchema, request.transactionType),
          is("status", TransactionStatusSchema, request.status),
        ],
      }),

    async searchManifests(request, context) {
      // A manifest does not name its session's user.
      const { userId } = request;
      const sessions = userId === "" ? undefined : await documents.sessionsOf(userId, mostSessions + 1, context);
      if (sessions !== undefined && sessions.length > mostSessions) {
        throw fail("SEARCH_TOO_COSTLY", `The user has more than ${mostSessions} sessions`, {
          metadata: { user_id: userId, most_sessions: String(mostSessions) },
        });
      }
      return searchManifests(request, context, {
        filters: [
          sessions && { terms: { session_id: sessions } },
          is("validation_status", ManifestValidationStatusSchema, request.validationStatus),
        ],
      });
    },

    searchAuditLogs: (request, context) =>
      searchAuditLogs({ ...request, minRevision: undefined }, context, {
        filters: [
          has("actor.id", request.userId),
          has("action", request.action),
          during("timestamp", request.from, request.before),
        ],
        withWords: "timestamp desc",
        without: "timestamp desc",
      }),

    async aggregate({ indices: names, query, aggregations, minRevisions }, context) {
      const targets = await targetsOf(names, context);
      const fields = searchedFields(targets);
      const { clause } = compileQuery(query, fields);
      const compiled = compileAggregations(aggregations, fields);
      const awaited = { targets, minRevisions, minRevisionsField: "min_revisions[#]" };
      const preference = await untilAllSearchable(options, awaited, context);
      const body = { size: 0, query: clause, aggs: compiled.clauses, track_total_hits: 10_000 };
      const answer = await ask(search, context, { indices: targets, body, preference });
      return { totalHits: totalOf(answer.hits.total), results: compiled.results(answer.aggregations ?? {}) };
    },

    async suggest(request, context) {
      return { suggestions: await suggest(search, await target(request.index, context), request, context) };
    },

    async count({ indices: names, query, minRevisions }, context) {
      const targets = await targetsOf(names, context);
      const { clause } = compileQuery(query, searchedFields(targets));
      const awaited = { targets, minRevisions, minRevisionsField: "min_revisions[#]" };
      const preference = await untilAllSearchable(options, awaited, context);
      const body = { size: 0, query: clause, track_total_hits: true };
      const answer = await ask(search, context, { indices: targets, body, preference });
      return { count: totalOf(answer.hits.total).count };
    },

    async *exportHits(request, context) {
      const call: HitCall = {
        targets: [await target(request.index, context)],
        query: request.query,
        orderBy: "",
        fallback: { withWords: "", without: "" },
        highlight: false,
        idsOnly: request.idsOnly,
        ...awaitedBy(request.minRevision),
        pageSize: 0,
        pageToken: request.cursor,
        bound: queryOf(rpc.ExportHitsRequestSchema, { ...request, cursor: "" }),
      };
      for await (const { found, cursor } of exportHits(options, call, context)) {
        yield exported(
          found.map((each) => anyHit(each)),
          { cursor },
        );
      }
    },
  };
}

function totalOf(total: { value: number; relation: string } | undefined) {
  return { count: BigInt(total?.value ?? 0), isMinimum: total?.relation === "gte" };
}

function has(field: string, text: string): Clause | undefined {
  return text === "" ? undefined : { term: { [field]: { value: text } } };
}

function is(field: string, states: DescEnum, state: number): Clause | undefined {
  return state === 0 ? undefined : has(field, String(storedName(states, state)));
}

function between(field: string, from: bigint | undefined, before: bigint | undefined): Clause | undefined {
  if (from === undefined && before === undefined) return undefined;
  return {
    range: { [field]: { ...(from !== undefined && { gte: from }), ...(before !== undefined && { lt: before }) } },
  };
}

function during(field: string, from: Timestamp | undefined, before: Timestamp | undefined): Clause | undefined {
  if (from === undefined && before === undefined) return undefined;
  const bounds = { ...(from && { gte: dateAtOrAfter(from) }), ...(before && { lt: dateAtOrAfter(before) }) };
  return { range: { [field]: { ...bounds, format: isoTimes } } };
}
