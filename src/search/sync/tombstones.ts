import type { Client } from "@elastic/elasticsearch";

import { removedField } from "../../schema/search-mapping.ts";
import type { BulkItem } from "../../stores/search/bulk.ts";
import { requestMs } from "../../stores/search/requests.ts";
import { mostDocuments } from "./groups.ts";

/** Pages of tombstones that are removed at once. */
const mostPages = 20;

/** Removes tombstones that were made before a time, some thousands at once, with what sends copies. */
export async function removeTombstones(
  {
    client,
    writes,
    before,
    send,
  }: {
    readonly client: Client;
    /** Alias by which the index is written. */
    readonly writes: string;
    readonly before: Date;
    readonly send: (items: readonly BulkItem[]) => Promise<unknown>;
  },
  signal: AbortSignal,
): Promise<void> {
  const filter = [{ term: { [removedField]: true } }, { range: { deleted_at: { lt: before.toISOString() } } }];
  for (let page = 1; page <= mostPages; page++) {
    await client.indices.refresh({ index: writes }, { signal, requestTimeout: requestMs });
    const { hits } = await client.search(
      { index: writes, query: { bool: { filter } }, size: mostDocuments, version: true, _source: false },
      { signal, requestTimeout: requestMs },
    );
    const items = hits.hits.map(({ _id = "", _version = 0 }) => ({
      // Not where something newer has come meanwhile.
      action: `{"delete":{"_id":${JSON.stringify(_id)},"version":${_version},"version_type":"external_gte"}}`,
    }));
    if (items.length > 0) await send(items);
    if (items.length < mostDocuments) return;
  }
}
