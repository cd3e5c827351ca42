import { randomUUID } from "node:crypto";

import type { HandlerContext } from "@connectrpc/connect";

import type { Query, WrittenRevision } from "../../gen/lucid/search/v1/search_query_pb.ts";
import { fail } from "../errors.ts";
import type { FoundDocuments } from "../schema/found-documents.ts";
import type { PageTokens } from "../schema/page-tokens.ts";
import { badRequest } from "../schema/refusals.ts";
import type { SearchStore } from "../stores/search.ts";
import { parseExact, writeExact } from "../stores/search/exact-json.ts";
import type { AnswerHit, ExactSortKey } from "./ask.ts";
import { untilSearchable } from "./freshness.ts";
import { type Highlighting, highlighting, noHighlights } from "./highlights.ts";
import { type HitSearch, type Position, readHits, release } from "./hit-pages.ts";
import type { SearchIndices } from "./indices.ts";
import { hitOrder } from "./order.ts";
import { type Clause, compileQuery } from "./query.ts";
import { searchedFields, type Target, targetOfHit } from "./targets.ts";

/** What searches need. */
export interface SearchOptions {
  readonly search: SearchStore;
  readonly indices: Pick<SearchIndices, "alias">;
  readonly documents: FoundDocuments;
  readonly pageTokens: () => Promise<PageTokens>;
}

type Context = Pick<HandlerContext, "signal" | "timeoutMs" | "values">;

/** A search for hits. */
export interface HitCall {
  readonly targets: readonly Target[];
  readonly query: Query | undefined;
  /** Conditions beside the query's. */
  readonly filters?: readonly Clause[];
  readonly orderBy: string;
  /** The order where the caller names none: with words, and without. */
  readonly fallback: { readonly withWords: string; readonly without: string };
  readonly highlight: boolean;
  readonly idsOnly: boolean;
  readonly minRevisions: readonly WrittenRevision[];
  /** Path of `minRevisions` in the request. */
  readonly minRevisionsField: string;
  readonly pageSize: number;
  readonly pageToken: string;
  /** What the page token is bound to: see `queryOf`. */
  readonly bound: Uint8Array;
}

/** A hit with its document, where there is one to show. */
export interface FoundHit {
  readonly target: Target;
  readonly hit: AnswerHit;
  /** As it is stored in MongoDB. */
  readonly document: Uint8Array | undefined;
}

/** Most bytes of documents in a response; clients of gRPC take 4 MiB at once unless they are told otherwise. */
const mostBytes = 3 * 1024 * 1024;
/** Documents that are read at once: what a response has no room for is read in vain. */
const readTogether = 25;

/** A page of what a search finds. */
export interface SearchedPage {
  readonly found: readonly FoundHit[];
  readonly highlights: Highlighting;
  readonly nextPageToken: string;
  readonly totalHits: { readonly count: bigint; readonly isMinimum: boolean };
}

/** Reads one page. Fails as SearchService says. */
export async function searchPage(options: SearchOptions, call: HitCall, context: Context): Promise<SearchedPage> {
  const { search, documents, pageTokens } = options;
  const tokens = await pageTokens();
  const position = positionOf(tokens.decode(call.bound, call.pageToken));
  const { asked, highlights } = await hitSearch(search, call, context);
  const preference = await untilAllSearchable({ search, documents }, call, context);
  const wanted = { ...asked, counts: true, preference };
  const page = await readHits(search, context, wanted, { size: pageSizeOf(call.pageSize), position });
  const part = await firstPart(documents, page.hits, call, context).catch(async (error: unknown) => {
    // One that a token holds is gone on in where the caller comes again with it.
    if ((position?.pointInTime ?? "") === "") await release(search, page.pointInTime);
    throw error;
  });
  const hasMore = page.hasMore || (part !== undefined && part.through !== page.hits.at(-1));
  if (!hasMore) await release(search, page.pointInTime);
  const after = part?.through.sort;
  return {
    found: part?.found ?? [],
    highlights,
    nextPageToken:
      hasMore && after ? tokens.encode(call.bound, textOf({ of: asked.of, after, pointInTime: page.pointInTime })) : "",
    totalHits: { count: BigInt(page.total.value), isMinimum: page.total.relation !== "eq" },
  };
}

/** The hits that a response has room for. */
async function firstPart(...of: Parameters<typeof withDocuments>): Promise<Part | undefined> {
  return (await withDocuments(...of).next()).value;
}

/** How many hits a page has. */
function pageSizeOf(wanted: number): number {
  return wanted === 0 ? 25 : Math.min(wanted, 200);
}

/** Hits that an export reads at once. */
const exportSize = 500;

/** Reads all hits, as fast as they are taken, each time with the place behind them. */
export async function* exportHits(
  { search, documents, pageTokens }: SearchOptions,
  call: HitCall,
  context: Context,
): AsyncGenerator<{ readonly found: readonly FoundHit[]; readonly cursor: string }> {
  const tokens = await pageTokens();
  const start = tokens.open(call.bound, call.pageToken);
  if (call.pageToken !== "" && start === undefined) throw cursorOfAnother();
  const { asked } = await hitSearch(search, call, context);
  const preference = await untilAllSearchable({ search, documents }, call, context);
  const wanted = { ...asked, counts: false, preference };
  let position = positionOf(start) ?? { of: asked.of, after: [], pointInTime: "" };
  let isOver = false;
  try {
    while (!isOver) {
      const page = await readHits(search, context, wanted, { size: exportSize, position });
      const { pointInTime } = page;
      position = { ...position, pointInTime };
      for await (const { found, through } of withDocuments(documents, page.hits, call, context)) {
        position = { ...position, after: through.sort ?? [] };
        yield { found, cursor: tokens.encode(call.bound, textOf(position)) };
      }
      isOver = !page.hasMore;
    }
  } finally {
    // A client that comes back to an operator's index finds the same there, or even needs this very one.
    if (isOver || wanted.of === "") await release(search, position.pointInTime);
  }
}

function cursorOfAnother() {
  const fields = [{ field: "cursor", description: "must be one of a call with the same other fields" }];
  return fail("PAGE_TOKEN_INVALID", "The cursor is not one of this export", { fields });
}

/** What is asked of the server. Fails for a wrong request before anything is waited for. */
async function hitSearch(search: Pick<SearchStore, "dialect">, call: HitCall, { signal }: Context) {
  const { targets, query, filters, orderBy, fallback } = call;
  const fields = searchedFields(targets);
  const { clause, wordFields } = compileQuery(query, fields, filters);
  const order = hitOrder(orderBy, wordFields.length > 0 ? fallback.withWords : fallback.without, fields);
  const highlights = call.highlight ? highlighting(wordFields, await search.dialect(signal)) : noHighlights;
  const isDomain = targets.every(({ message }) => message !== undefined);
  const more = { _source: !isDomain && !call.idsOnly, ...highlights.body };
  // In an operator's index, fields of those names may be anything.
  const unique = fields.isMixed ? [] : targets.flatMap((target) => target.unique ?? []);
  const asked: Omit<HitSearch, "counts" | "preference"> = {
    indices: targets,
    clause,
    order,
    of: targets
      .flatMap(({ places }) => [...(places?.values() ?? [])])
      .toSorted()
      .join(),
    unique: unique.length === targets.length ? [...new Set(unique)] : [],
    byUnique: targets.length === 1 && isDomain && highlights === noHighlights,
    more,
  };
  return { asked, highlights };
}

/** Waits for the writes that a search has to see. Gives where to search then. */
export async function untilAllSearchable(
  { search, documents }: Pick<SearchOptions, "search" | "documents">,
  { targets, minRevisions, minRevisionsField }: Pick<HitCall, "targets" | "minRevisions" | "minRevisionsField">,
  context: Context,
): Promise<string | undefined> {
  if (minRevisions.length === 0) return undefined;
  const preference = randomUUID();
  for (const [place, { id, revision, index: name }] of minRevisions.entries()) {
    const index = name === "" && targets.length === 1 ? targets[0] : targets.find((target) => target.name === name);
    if (index === undefined) {
      const field = `${minRevisionsField.replace("#", String(place))}.index`;
      throw badRequest({ field, description: "must be one of the indices that are searched" });
    }
    const { message } = index;
    const current = async () => message && documents.state({ schema: message.schema, id: message.id, of: id }, context);
    await untilSearchable(search, context, { index, id, revision, preference, current });
  }
  return preference;
}

/** Hits that a response has room for, and the last one that was looked at. */
interface Part {
  readonly found: readonly FoundHit[];
  readonly through: AnswerHit;
}

/** Hits with their documents, as many at once as a response has room for. What is gone meanwhile is left out. */
async function* withDocuments(
  documents: FoundDocuments,
  hits: readonly AnswerHit[],
  { targets, idsOnly, query }: Pick<HitCall, "targets" | "idsOnly" | "query">,
  context: Context,
): AsyncGenerator<Part, undefined> {
  let found: FoundHit[] = [];
  let bytes = 0;
  let through: AnswerHit | undefined;
  for (let from = 0; from < hits.length; from += readTogether) {
    const together = hits.slice(from, from + readTogether);
    const placed = together.map((hit) => ({ hit, target: targetOfHit(targets, hit._index) }));
    const read = idsOnly ? undefined : await documentsOf(documents, placed, query?.showDeleted ?? false, context);
    for (const { hit, target } of placed) {
      const document = target === undefined ? undefined : read?.get(target)?.get(hit._id);
      const size = document?.byteLength ?? sourceBytes(hit);
      if (through !== undefined && found.length > 0 && bytes + size > mostBytes) {
        yield { found, through };
        [found, bytes] = [[], 0];
      }
      through = hit;
      const isShown = target !== undefined && (idsOnly || target.message === undefined || document !== undefined);
      if (!isShown) continue;
      found.push({ target, hit, document });
      bytes += size;
    }
  }
  if (through !== undefined) yield { found, through };
}

function sourceBytes({ _source: source }: AnswerHit): number {
  return source === undefined ? 0 : writeExact(source).length;
}

async function documentsOf(
  documents: FoundDocuments,
  placed: readonly { readonly hit: AnswerHit; readonly target: Target | undefined }[],
  showDeleted: boolean,
  context: Context,
): Promise<ReadonlyMap<Target, ReadonlyMap<string, Uint8Array>>> {
  const read = new Map<Target, ReadonlyMap<string, Uint8Array>>();
  for (const [target, hits] of Map.groupBy(placed, ({ target: its }) => its)) {
    if (target?.message === undefined) continue;
    const { schema, id } = target.message;
    const ids = hits.map(({ hit }) => hit._id);
    read.set(target, await documents.read({ schema, id, ids, showDeleted }, context));
  }
  return read;
}

function textOf({ of, after, pointInTime }: Position): string {
  return writeExact([after, pointInTime, of]);
}

/** The token was sealed by this service, so it holds what `textOf` put in. */
function positionOf(text: string | undefined): Position | undefined {
  if (text === undefined) return undefined;
  const [after, pointInTime, of] = parseExact(text) as unknown as [readonly ExactSortKey[], string, string];
  return { of, after, pointInTime };
}
