import type { Document } from "bson";
import { Cluster } from "ioredis";

import { Store } from "../../../gen/lucid/admin/v1/common_pb.ts";
import { startingWith } from "../../stores/redis-pattern.ts";
import type { RedisStore } from "../../stores/redis.ts";
import type { SearchStore } from "../../stores/search.ts";
import type { StoredKind } from "./stored-kinds.ts";
import type { Tally } from "./tally.ts";

/** Copies of documents in the cache and the search indices. */
export interface Copies {
  /** Removes the copies of these documents. */
  remove(kind: StoredKind, documents: readonly Document[], tally: Tally, signal: AbortSignal): Promise<void>;
  /** Removes search documents that name a user, whatever they are copies of. */
  sweep(kind: StoredKind, userId: string, tally: Tally, signal: AbortSignal): Promise<void>;
}

/** Keys that a server looks at in one step of a scan. */
const scanCount = 1000;
/** Search documents removed at once. */
const pageHits = 1000;

export function copies({
  redis,
  search,
  alias,
}: {
  readonly redis: Pick<RedisStore, "client">;
  readonly search: Pick<SearchStore, "client">;
  /** What an index is called on the server. */
  readonly alias: (name: string) => string;
}): Copies {
  const unlink = async (keys: readonly string[]): Promise<number> => {
    // One command for each key: in a cluster they are on different nodes.
    const removed = await Promise.all(keys.map((key) => redis.client.unlink(key)));
    return removed.reduce((sum, count) => sum + count, 0);
  };

  /** Removes the keys that start with one of `starts`, all of which start with `common`. */
  const unlinkAll = async (common: string, starts: readonly string[], signal: AbortSignal): Promise<number> => {
    const nodes = redis.client instanceof Cluster ? redis.client.nodes("master") : [redis.client];
    const match = startingWith(common);
    let removed = 0;
    for (const node of nodes) {
      let cursor = "0";
      do {
        signal.throwIfAborted();
        const [next, keys] = await node.scan(cursor, "MATCH", match, "COUNT", scanCount);
        removed += await unlink(keys.filter((key) => starts.some((start) => key.startsWith(start))));
        cursor = next;
      } while (cursor !== "0");
    }
    return removed;
  };

  /** Removes what a query finds behind an alias. Search shows what was indexed before its last refresh, so that comes first. */
  const removeHits = async (index: string, query: Document, signal: AbortSignal): Promise<number> => {
    const absent = { ignore_unavailable: true, allow_no_indices: true };
    const { client } = search;
    for (let removed = 0; ;) {
      await client.indices.refresh({ index, ...absent }, { signal });
      const found = await client.search({ index, ...absent, query, size: pageHits, _source: false }, { signal });
      const { hits } = found.hits;
      if (hits.length === 0) return removed;
      const operations = hits.map(({ _index, _id = "", _routing: routing }) => ({
        delete: { _index, _id, ...(routing !== undefined && { routing }) },
      }));
      const { items } = await client.bulk({ operations }, { signal });
      const gone = items.filter((item) => [200, 404].includes(item.delete?.status ?? 0)).length;
      if (gone === 0) throw new Error(`Search documents of ${index} cannot be removed`);
      removed += gone;
    }
  };

  return {
    async remove({ lifecycle }, documents, tally, signal) {
      if (documents.length === 0) return;
      for (const template of lifecycle.cacheKeys) {
        const filled = documents.map((document) => fill(template, document));
        const isPattern = template.endsWith("*");
        const starts = filled.map((key) => key.slice(0, -1));
        const common = template.slice(0, template.indexOf("{"));
        const done = isPattern ? await unlinkAll(common, starts, signal) : await unlink(filled);
        if (done > 0) tally.add({ store: Store.REDIS, name: template }, { done });
      }
      const [name = "", id = ""] = lifecycle.searchDocument.split("/");
      if (name === "") return;
      const index = alias(name);
      const values = documents.map((document) => fill(id, document));
      const done = await removeHits(index, { ids: { values } }, signal);
      if (done > 0) tally.add({ store: Store.SEARCH, name: index }, { done });
    },

    async sweep({ lifecycle }, userId, tally, signal) {
      const [name = ""] = lifecycle.searchDocument.split("/");
      const index = alias(name);
      for (const { path } of name === "" ? [] : lifecycle.userFields) {
        // An index that was made without a mapping has the exact text beside the words.
        const should = [{ term: { [path]: userId } }, { term: { [`${path}.keyword`]: userId } }];
        const done = await removeHits(index, { bool: { should } }, signal);
        if (done > 0) tally.add({ store: Store.SEARCH, name: index }, { done });
      }
    },
  };
}

function fill(template: string, document: Document): string {
  return template.replaceAll(/\{(\w+)\}/g, (_, field: string) => String(document[field]));
}
