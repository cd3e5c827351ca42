import type { Client } from "@elastic/elasticsearch";

import { fail } from "../../errors.ts";
import { pathOf, pauseBefore, property, rawRequest, withPatience } from "./requests.ts";

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
  /** Whether the item was sent before, so that it may have been done by a try that nobody heard of. */
  readonly repeated: boolean;
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
 * has no room for; fails with `STORE_UNAVAILABLE` where there is none then. Pipelines are passed by: documents are as they are.
 */
export async function bulk(
  client: Client,
  index: string,
  items: readonly BulkItem[],
  { signal }: { readonly signal: AbortSignal },
): Promise<BulkResult[]> {
  const results: BulkResult[] = items.map(() => ({ status: 0, type: "", repeated: false }));
  let left = [...items.keys()];
  let repeated = false;
  for (let attempt = 1; left.length > 0; attempt++) {
    const lines = linesOf(left.flatMap((at) => items[at] ?? []));
    const statuses = await withPatience(signal, (again) => {
      repeated ||= again;
      return send(client, index, lines, { signal, expected: left.length });
    });
    const busy: number[] = [];
    for (const [place, at] of left.entries()) {
      const { status, type } = statuses[place] ?? { status: 0, type: "" };
      results[at] = { status, type, repeated };
      if (status === 429 || status === 503) busy.push(at);
    }
    left = busy;
    if (left.length > 0 && !(await pauseBefore(attempt, signal))) throw noRoom(index);
  }
  return results;
}

const newline = Buffer.from("\n");

function linesOf(items: readonly BulkItem[]): Buffer {
  return Buffer.concat(
    items.flatMap(({ action, source }) => [Buffer.from(action), newline, ...(source ? [source, newline] : [])]),
  );
}

async function send(
  client: Client,
  index: string,
  lines: Buffer,
  { signal, expected }: { readonly signal: AbortSignal; readonly expected: number },
): Promise<{ status: number; type: string }[]> {
  const querystring = { pipeline: "_none", filter_path: "items.*.status,items.*.error.type" };
  const request = { method: "POST", path: `${pathOf(index)}/_bulk`, querystring, lines, name: "bulk" } as const;
  const answer: unknown = JSON.parse((await rawRequest(client, request, { signal })).toString());
  const items = property(answer, "items");
  if (!Array.isArray(items) || items.length !== expected)
    throw new Error("The search server answered to other documents");
  return items.map((item: Record<string, unknown>) => {
    // The only member is named by the action.
    const [result] = Object.values(item);
    const type = property(property(result, "error"), "type");
    return { status: Number(property(result, "status")), type: typeof type === "string" ? type : "" };
  });
}

function noRoom(index: string): Error {
  return fail("STORE_UNAVAILABLE", `The search server has no room for documents of the index ${index}`, {
    metadata: { store: "search", index },
    retryAfterMs: 5000,
  });
}
