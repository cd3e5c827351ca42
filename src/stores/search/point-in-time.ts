import type { Client } from "@elastic/elasticsearch";

import { fail } from "../../errors.ts";
import type { SearchStore } from "../search.ts";
import { JsonScan, type Span } from "./json-scan.ts";
import { rawRequest, refusalOf, requestMs, statusOf, withPatience } from "./requests.ts";

/** How long the server keeps a point in time that nothing is read from. */
const keepAlive = "10m";
/** After so many milliseconds without a page it is asked to keep it longer. */
const idleMs = 120_000;

/** What is asked of a page. */
export interface PageRequest {
  readonly size: number;
  /** Which of how many slices; the whole where there is one. */
  readonly slice: { readonly id: number; readonly max: number };
  /** Sort values of the last hit of the page before, as JSON. */
  readonly after: string | undefined;
  /** Longest answer, in bytes. */
  readonly mostBytes: number;
}

/** One document of a page. */
export interface Hit {
  readonly id: string;
  readonly routing: string;
  readonly version: bigint;
  /** Its `_source`, byte for byte. */
  readonly source: Uint8Array;
}

/** A page of documents, and where the next one begins; undefined behind the last. */
export interface Page {
  readonly hits: readonly Hit[];
  readonly after: string | undefined;
  readonly bytes: number;
}

/** How whoever reads wants to be told that it cannot. */
export interface ReadingFailures {
  /** The index has vanished, or the server has lost the point in time. */
  lost(index: string, cause: unknown): Error;
  /** The index does not keep the source of all its documents. */
  unreadable(index: string): Error;
}

/** What an index held at one moment. It is kept until it is disposed. */
export class PointInTime implements AsyncDisposable {
  readonly index: string;
  readonly #search: SearchStore;
  readonly #signal: AbortSignal;
  readonly #failures: ReadingFailures;
  readonly #order: string;
  #id: string;
  #usedMs = performance.now();

  private constructor(
    search: SearchStore,
    given: { index: string; id: string; order: string; signal: AbortSignal; failures: ReadingFailures },
  ) {
    this.#search = search;
    this.index = given.index;
    this.#id = given.id;
    this.#order = given.order;
    this.#signal = given.signal;
    this.#failures = given.failures;
  }

  /** Holds what an index holds now, and has been refreshed. */
  static async open(
    search: SearchStore,
    index: string,
    { signal, failures }: { readonly signal: AbortSignal; readonly failures: ReadingFailures },
  ): Promise<PointInTime> {
    const dialect = await search.dialect(signal);
    try {
      const id = await dialect.openPointInTime([index], keepAlive, { signal, requestTimeout: requestMs });
      return new PointInTime(search, { index, id, order: JSON.stringify([dialect.tieBreak]), signal, failures });
    } catch (error) {
      if (statusOf(error) === 404) throw failures.lost(index, error);
      throw error;
    }
  }

  /** Reads a page. Fails with `AnswerTooLong` too. */
  async page({ size, slice, after, mostBytes }: PageRequest): Promise<Page> {
    const parts = [
      `"size":${size}`,
      `"pit":{"id":${JSON.stringify(this.#id)},"keep_alive":"${keepAlive}"}`,
      `"sort":${this.#order}`,
      `"track_total_hits":false,"version":true`,
      ...(slice.max > 1 ? [`"slice":{"id":${slice.id},"max":${slice.max}}`] : []),
      ...(after === undefined ? [] : [`"search_after":${after}`]),
    ];
    const answer = await this.#ask(`{${parts.join(",")}}`, mostBytes);
    return this.#pageOf(new JsonScan(answer), answer.length);
  }

  /** Has the server keep it longer where nothing was read from it for a while. */
  async renew(): Promise<void> {
    if (performance.now() - this.#usedMs < idleMs) return;
    const pit = `{"id":${JSON.stringify(this.#id)},"keep_alive":"${keepAlive}"}`;
    await this.#ask(`{"size":0,"track_total_hits":false,"pit":${pit}}`, 1024 * 1024);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // Not with the signal of the work: what has ended early has to be given back too.
    const signal = AbortSignal.timeout(requestMs);
    const dialect = await this.#search.dialect(signal);
    await withPatience(signal, () => dialect.closePointInTime(this.#id, { signal, requestTimeout: requestMs }));
  }

  async #ask(body: string, mostBytes: number): Promise<Buffer> {
    this.#usedMs = performance.now();
    const client: Client = this.#search.client;
    const querystring = { allow_partial_search_results: false };
    const request = { method: "POST", path: "/_search", querystring, body, name: "search" } as const;
    const limits = { signal: this.#signal, mostBytes };
    try {
      return await withPatience(this.#signal, () => rawRequest(client, request, limits));
    } catch (error) {
      const isLost = statusOf(error) === 404 || refusalOf(error).type === "search_context_missing_exception";
      throw isLost ? this.#failures.lost(this.index, error) : error;
    }
  }

  #pageOf(scan: JsonScan, bytes: number): Page {
    let hits: Hit[] = [];
    let after: string | undefined;
    for (const [name, value] of scan.members(scan.whole())) {
      if (name === "pit_id") this.#id = String(scan.parse(value));
      else if (name === "timed_out" && scan.text(value) !== "false") throw incomplete(this.index);
      else if (name === "_shards" && scan.text(scan.member(value, "failed") ?? value) !== "0")
        throw incomplete(this.index);
      else if (name === "hits") ({ hits, after } = hitsOf(scan, value, this.index, this.#failures));
    }
    return { hits, after, bytes };
  }
}

function hitsOf(
  scan: JsonScan,
  hits: Span,
  index: string,
  failures: ReadingFailures,
): { hits: Hit[]; after: string | undefined } {
  const found: Hit[] = [];
  let after: string | undefined;
  const array = scan.member(hits, "hits");
  if (array === undefined) throw incomplete(index);
  for (const hit of scan.elements(array)) {
    let [id, routing, version]: [string, string, bigint] = ["", "", 0n];
    let source: Uint8Array | undefined;
    for (const [name, value] of scan.members(hit)) {
      if (name === "_id") id = String(scan.parse(value));
      else if (name === "_routing") routing = String(scan.parse(value));
      else if (name === "_version") version = BigInt(scan.text(value));
      else if (name === "_source") source = scan.slice(value);
      else if (name === "sort") after = scan.text(value);
    }
    if (source === undefined) throw failures.unreadable(index);
    found.push({ id, routing, version, source });
  }
  return { hits: found, after };
}

function incomplete(index: string): Error {
  return fail("STORE_UNAVAILABLE", `The search server could not read all shards of the index ${index}`, {
    metadata: { store: "search", index },
    retryAfterMs: 1000,
  });
}
