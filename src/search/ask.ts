import type { HandlerContext } from "@connectrpc/connect";
import { errors } from "@elastic/elasticsearch";

import { fail } from "../errors.ts";
import { deadlineOf } from "../schema/call-options.ts";
import type { SearchStore } from "../stores/search.ts";
import { type ExactObject, parseExact, writeExact } from "../stores/search/exact-json.ts";
import { AnswerTooLong, property, rawRequest } from "../stores/search/requests.ts";
import { indexNotFound } from "./index-catalog.ts";

/** What a request to the server reads of its call. */
export type Call = Pick<HandlerContext, "signal" | "timeoutMs">;

/** An index, as callers name it and as the server does. */
export interface NamedIndex {
  readonly name: string;
  readonly alias: string;
}

/** A search, as servers take it. */
export interface Asked {
  /** None where a point in time says what is searched. */
  readonly indices: readonly NamedIndex[];
  readonly body: Readonly<Record<string, unknown>>;
  /** Searches with the same one go to the same copies of shards, which have all seen the same writes. */
  readonly preference?: string | undefined;
}

/** An answer that is of all that was asked. */
export interface Answer {
  readonly pit_id?: string;
  readonly hits: {
    readonly total?: { readonly value: number; readonly relation: string };
    readonly hits: readonly AnswerHit[];
  };
  readonly aggregations?: ExactObject;
  readonly suggest?: Readonly<Record<string, readonly { readonly options: readonly SuggestOption[] }[]>>;
}

/** A hit as servers tell it. */
export interface AnswerHit {
  readonly _index: string;
  readonly _id: string;
  readonly _version?: number | bigint;
  readonly _score: number | null;
  readonly _source?: ExactObject;
  readonly sort?: readonly ExactSortKey[];
  readonly highlight?: Readonly<Record<string, readonly string[]>>;
}

/** What a hit is ordered by. */
export type ExactSortKey = null | boolean | number | bigint | string;

/** A text that completes another. */
interface SuggestOption {
  readonly text: string;
  readonly _id: string;
}

/** A page of an operator's documents can be long; what is longer than this is not read to its end. */
const mostBytes = 64 * 1024 * 1024;
/** How long a search lasts whose call has no deadline, and how much of one is left for the way back. */
const [longestMs, wayBackMs] = [30_000, 100];

/**
 * Asks the server, for as long as the call may take, and has it end the search itself then. Fails where an answer is not of all
 * shards or not of all documents, with `SEARCH_INDEX_NOT_FOUND`, `SEARCH_TOO_COSTLY`, `SEARCH_NOT_POSSIBLE`, and, of a point
 * in time that is gone, `PointInTimeLost`.
 */
export async function ask({ client }: Pick<SearchStore, "client">, call: Call, asked: Asked): Promise<Answer> {
  const leftMs = Math.min(deadlineOf(call).maxTimeMS ?? longestMs, longestMs);
  const aliases = asked.indices.map(({ alias }) => encodeURIComponent(alias)).join(",");
  const querystring = {
    allow_partial_search_results: false,
    ...(asked.preference !== undefined && { preference: asked.preference }),
  };
  const body = writeExact({ timeout: `${Math.max(1, Math.floor(leftMs - wayBackMs))}ms`, ...asked.body });
  try {
    const path = aliases === "" ? "/_search" : `/${aliases}/_search`;
    const request = { method: "POST", path, querystring, body, name: "search" } as const;
    const bytes = await rawRequest(client, request, { signal: call.signal, mostBytes });
    // It is what a server answers to a search.
    return whole(parseExact(bytes.toString()) as unknown as Told);
  } catch (error) {
    throw refusal(error, asked.indices);
  }
}

/** A point in time that the server has dropped, or never had. */
export class PointInTimeLost extends Error {}

interface Told extends Answer {
  readonly timed_out: boolean;
  readonly _shards: { readonly failed: number };
}

/** An answer, where it is a whole one. What a part of an index holds must not look like all that there is. */
export function whole(told: Told): Answer {
  if (told.timed_out) {
    throw fail("DEADLINE_EXCEEDED", "The search server did not get through all documents in time", {
      metadata: { store: "search" },
    });
  }
  if (told._shards.failed > 0) {
    throw fail("STORE_UNAVAILABLE", "The search server could not search all parts of the index", {
      metadata: { store: "search" },
      retryAfterMs: 1000,
    });
  }
  return told;
}

/** Turns what a server refuses into what a caller is told. */
export function refusal(error: unknown, indices: readonly NamedIndex[]): unknown {
  if (error instanceof AnswerTooLong) {
    return fail("SEARCH_TOO_COSTLY", "The answer would be too long; ask for fewer hits at once", {
      metadata: { most_bytes: String(mostBytes) },
      cause: error,
    });
  }
  if (!(error instanceof errors.ResponseError)) return error;
  const types = typesOf(error);
  if (types.has("search_context_missing_exception")) return new PointInTimeLost("It is gone", { cause: error });
  if (types.has("index_not_found_exception")) {
    // What a point in time is of has been deleted: another index may have the name.
    if (indices.length === 0) return new PointInTimeLost("Its index is gone", { cause: error });
    const [cause] = (property(property(error.body, "error"), "root_cause") ?? []) as readonly unknown[];
    const missing = indices.find(({ alias }) => alias === property(cause, "index")) ?? indices[0];
    return indexNotFound(missing?.name ?? "", error);
  }
  if (["too_many_clauses", "too_many_nested_clauses", "too_many_buckets_exception"].some((type) => types.has(type))) {
    return fail("SEARCH_TOO_COSTLY", "The search asks for more than the search server takes", { cause: error });
  }
  if (types.has("search_timeout_exception")) {
    const metadata = { store: "search" };
    return fail("DEADLINE_EXCEEDED", "The search server did not answer in time", { metadata, cause: error });
  }
  // Such as an order by a field that an operator's index does not keep for ordering.
  if (error.statusCode === 400 && types.size > 0) {
    return fail("SEARCH_NOT_POSSIBLE", "The index does not allow what is asked", { cause: error });
  }
  return error;
}

/** What a server calls a failure and its causes. Its sentences may repeat what a caller sent. */
export function typesOf(error: unknown): ReadonlySet<string> {
  return new Set(error instanceof errors.ResponseError ? typesIn(error.body) : []);
}

function typesIn(body: unknown): string[] {
  if (typeof body !== "object" || body === null) return [];
  return Object.entries(body).flatMap(([name, value]) =>
    name === "type" && typeof value === "string" ? [value] : typesIn(value),
  );
}
