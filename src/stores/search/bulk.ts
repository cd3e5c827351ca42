import type { Client } from "@elastic/elasticsearch";

import { fail } from "../../errors.ts";
import { parseExact, integerOf } from "./exact-json.ts";
import { isPassing, pathOf, pauseBefore, property, rawRequest, statusOf, withPatience } from "./requests.ts";

/** One thing to do to a document. */
export interface BulkItem {
  /** What to do and to which document, as one line of JSON. */
  readonly action: string;
  /** The document where the action takes one, as JSON without line breaks. */
  readonly source?: Uint8Array | undefined;
}

/** What the server said of one item. */
export interface BulkResult {
  /** Its HTTP status. */
  readonly status: number;
  /** The type of what was wrong, which says nothing of the document. */
  readonly type: string;
  /** The type of what was behind it, and what was wrong in words, which may hold what the document does. */
  readonly causeType: string;
  readonly reason: string;
  /** Whether the item was sent before, so that it may have been done by a try that nobody heard of. */
  readonly repeated: boolean;
  /** Where details were asked for. */
  readonly details?: BulkDetails | undefined;
}

/** More of what the server said of an item. */
export interface BulkDetails {
  /** `created`, `updated`, `deleted`, `noop` or `not_found`; empty where the item was refused. */
  readonly result: string;
  readonly version: bigint;
  /** Place of the write in its shard, and the term of the shard's primary. */
  readonly sequenceNumber: bigint;
  readonly primaryTerm: bigint;
}

/** How items are sent. */
export interface BulkOptions {
  readonly signal: AbortSignal;
  /** Whether the index must be an alias, so that a name that is gone is not made into an index. */
  readonly requireAlias?: boolean;
  /** Whether to answer only when searches find what was written. */
  readonly waitUntilSearchable?: boolean;
  readonly details?: boolean;
  /** Whether an item may be sent again though the first try may have arrived; yes where not given. */
  readonly mayRepeat?: boolean;
  /** Whether items that there was no room for in the end are told as others are, rather than that all fails. */
  readonly tellsBusy?: boolean;
}

/** Most of what is sent at once; one document may be more. */
const batchBytes = 4 * 1024 * 1024;
const batchDocuments = 2000;

/** Items in batches that the server takes at once. */
export function* bulkBatches<T extends { readonly source?: Uint8Array | undefined }>(
  items: Iterable<T>,
): Generator<T[]> {
  let batch: T[] = [];
  let bytes = 0;
  for (const item of items) {
    const more = item.source?.byteLength ?? 0;
    if (batch.length === batchDocuments || (batch.length > 0 && bytes + more > batchBytes)) {
      yield batch;
      [batch, bytes] = [[], 0];
    }
    batch.push(item);
    bytes += more;
  }
  if (batch.length > 0) yield batch;
}

/**
 * Has the server work on all items, in their order, and resolves with what it said of each. Tries again for half a minute what it
 * has no room for; fails with `STORE_BUSY` where there is none then, and with `STORE_UNAVAILABLE` where shards are away. Pipelines are passed by: documents are as they are.
 */
export async function bulk(
  client: Client,
  index: string,
  items: readonly BulkItem[],
  options: BulkOptions,
): Promise<BulkResult[]> {
  const { signal, mayRepeat = true, tellsBusy = false } = options;
  const results: BulkResult[] = items.map(() => ({ ...unanswered, repeated: false }));
  let left = [...items.keys()];
  let repeated = false;
  for (let attempt = 1; left.length > 0; attempt++) {
    const lines = linesOf(left.flatMap((at) => items[at] ?? []));
    const answers = await withPatience(
      signal,
      (again) => {
        repeated ||= again && mayRepeat;
        return send(client, index, lines, { ...options, expected: left.length });
      },
      mayRepeat ? isPassing : isTurnedAway,
    );
    const busy: number[] = [];
    let isAway = false;
    for (const [place, at] of left.entries()) {
      const result = { ...(answers[place] ?? unanswered), repeated };
      results[at] = result;
      if (result.status === 429 || result.status === 503) busy.push(at);
      isAway ||= result.status === 503;
    }
    left = busy;
    if (left.length === 0 || (await pauseBefore(attempt, signal))) continue;
    if (tellsBusy) break;
    throw isAway ? away(index) : noRoom(index);
  }
  return results;
}

/** Whether the server had no room for a request, and so has done nothing of it. */
function isTurnedAway(error: unknown): boolean {
  return statusOf(error) === 429;
}

const newline = Buffer.from("\n");

function linesOf(items: readonly BulkItem[]): Buffer {
  return Buffer.concat(
    items.flatMap(({ action, source }) => [Buffer.from(action), newline, ...(source ? [source, newline] : [])]),
  );
}

const seen = seenIn("status", "error.type", "error.reason", "error.caused_by.type");
const seenDetails = seenIn("result", "_version", "_seq_no", "_primary_term");

function seenIn(...names: readonly string[]): string {
  return names.map((name) => `items.*.${name}`).join(",");
}

type Answer = Omit<BulkResult, "repeated">;
const unanswered: Answer = { status: 0, type: "", causeType: "", reason: "" };

async function send(
  client: Client,
  index: string,
  lines: Buffer,
  options: BulkOptions & { readonly expected: number },
): Promise<Answer[]> {
  const { signal, expected, requireAlias = false, waitUntilSearchable = false, details = false } = options;
  const querystring = {
    pipeline: "_none",
    filter_path: details ? `${seen},${seenDetails}` : seen,
    ...(requireAlias && { require_alias: true }),
    ...(waitUntilSearchable && { refresh: "wait_for" }),
  };
  const request = { method: "POST", path: `${pathOf(index)}/_bulk`, querystring, lines, name: "bulk" } as const;
  const text = (await rawRequest(client, request, { signal })).toString();
  // Places and versions can have more digits than a number of JavaScript. Without them, the quick way will do.
  const answer: unknown = details ? parseExact(text) : JSON.parse(text);
  const items = property(answer, "items");
  if (!Array.isArray(items) || items.length !== expected)
    throw new Error("The search server answered to other documents");
  return items.map((item: Record<string, unknown>) => {
    // The only member is named by the action.
    const [result] = Object.values(item);
    const error = property(result, "error");
    const said = {
      status: Number(property(result, "status")),
      type: textOf(property(error, "type")),
      causeType: textOf(property(property(error, "caused_by"), "type")),
      reason: textOf(property(error, "reason")),
    };
    return details ? { ...said, details: detailsOf(result) } : said;
  });
}

function detailsOf(result: unknown): BulkDetails {
  return {
    result: textOf(property(result, "result")),
    version: integerOf(property(result, "_version")),
    sequenceNumber: integerOf(property(result, "_seq_no")),
    primaryTerm: integerOf(property(result, "_primary_term")),
  };
}

function textOf(value: unknown): string {
  return typeof value === "string" ? value : "";
}

function noRoom(index: string): Error {
  return fail("STORE_BUSY", `The search server has no room for documents of the index ${index}`, {
    metadata: { store: "search", index },
    retryAfterMs: 5000,
  });
}

function away(index: string): Error {
  return fail("STORE_UNAVAILABLE", `Shards of the index ${index} cannot be written to`, {
    metadata: { store: "search", index },
    retryAfterMs: 5000,
  });
}
