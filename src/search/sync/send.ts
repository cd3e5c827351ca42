import type { Client } from "@elastic/elasticsearch";

import { fail } from "../../errors.ts";
import { bulk, type BulkItem, type BulkResult } from "../../stores/search/bulk.ts";
import { statusOf } from "../../stores/search/requests.ts";

/** How copies are sent. */
export interface SendOptions {
  /** Alias of the index, for people. */
  readonly alias: string;
  readonly signal: AbortSignal;
  /** Called where something may arrive yet, or has arrived twice, of a request that nobody heard of again. */
  readonly mayArrive: () => void;
}

/** What a server says of each document where it is the index that takes none: it was closed, or is only to be read. */
const refusalsOfIndices = new Set(["cluster_block_exception", "index_closed_exception"]);

/**
 * Sends copies, halves of them again where one makes the server refuse all, and resolves with what it said of each. Fails with
 * `SEARCH_INDEX_REPLACED` where the index is not there, and makes none; with `STORE_REFUSED` where it takes no documents at all.
 */
export async function sendCopies(
  client: Client,
  writes: string,
  items: readonly BulkItem[],
  options: SendOptions,
): Promise<readonly BulkResult[]> {
  const { alias, signal, mayArrive } = options;
  try {
    const results = await bulk(client, writes, items, { signal, requireAlias: true });
    if (results.some(({ repeated }) => repeated)) mayArrive();
    if (results.some(({ status, type }) => status === 404 && type === "index_not_found_exception")) {
      throw fail("SEARCH_INDEX_REPLACED", `The search index ${alias} has vanished`, { metadata: { index: alias } });
    }
    const refusing = results.find(({ status, type }) => status === 403 || refusalsOfIndices.has(type));
    if (refusing !== undefined) throw takesNone(alias, refusing);
    return results;
  } catch (error) {
    // One item can make a server refuse all: it is too large, or its id is.
    const status = statusOf(error);
    if (status !== 400 && status !== 413) {
      mayArrive();
      throw error;
    }
    const [first] = items;
    if (first === undefined) return [];
    if (items.length === 1) {
      return [{ status, type: "request_refused", causeType: "", reason: "", repeated: false }];
    }
    const middle = items.length >> 1;
    const half = (part: readonly BulkItem[]) => sendCopies(client, writes, part, options);
    return [...(await half(items.slice(0, middle))), ...(await half(items.slice(middle)))];
  }
}

function takesNone(alias: string, { type }: BulkResult) {
  return fail("STORE_REFUSED", `The search index ${alias} takes no documents: ${type}`, {
    metadata: { store: "search", index: alias, server_code: type },
    retryAfterMs: 1000,
  });
}
