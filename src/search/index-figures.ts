import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { durationFromMs, timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { estypes } from "@elastic/elasticsearch";

import {
  type Index,
  IndexHealth,
  IndexOrigin,
  IndexSchema,
  type IndexStatisticsSchema,
} from "../../gen/lucid/search/v1/search_index_pb.ts";
import type { SearchStore } from "../stores/search.ts";
import { namesInPaths, requestMs } from "../stores/search/requests.ts";
import { type CatalogedIndex, isKept } from "./index-catalog.ts";
import { toldSettings } from "./index-settings.ts";

interface Size {
  readonly documents: bigint;
  readonly bytes: bigint;
  readonly health: IndexHealth;
}

const healths: ReadonlyMap<string, IndexHealth> = new Map([
  ["green", IndexHealth.GREEN],
  ["yellow", IndexHealth.YELLOW],
  ["red", IndexHealth.RED],
]);

/** Sizes of indices by the server's names; what has gone meanwhile is left out. */
async function sizes({ client }: SearchStore, places: readonly string[], signal: AbortSignal) {
  const found = new Map<string, Size>();
  for (const index of namesInPaths(places)) {
    const rows = await client.cat.indices(
      { index, format: "json", bytes: "b", h: ["index", "health", "store.size"] },
      { signal, requestTimeout: requestMs, ignore: [404] },
    );
    if (!Array.isArray(rows)) continue;
    const counts = await documentCounts(client, index, signal);
    for (const row of rows) {
      found.set(row.index ?? "", {
        documents: counts.get(row.index ?? "") ?? 0n,
        bytes: BigInt(row["store.size"] ?? 0),
        health: healths.get(row.health ?? "") ?? IndexHealth.UNSPECIFIED,
      });
    }
  }
  return found;
}

/** Documents that can be found, by the server's names. What servers tell of sizes counts each message of a list as a document. */
async function documentCounts(client: SearchStore["client"], places: string[], signal: AbortSignal) {
  const { aggregations } = await client.search<unknown, { indices: estypes.AggregationsStringTermsAggregate }>(
    {
      index: places,
      ignore_unavailable: true, // closed ones have none
      size: 0,
      track_total_hits: false,
      aggs: { indices: { terms: { field: "_index", size: places.length } } },
    },
    { signal, requestTimeout: requestMs },
  );
  const buckets = aggregations?.indices.buckets;
  if (!Array.isArray(buckets)) return new Map<string, bigint>();
  return new Map(buckets.map(({ key, doc_count: count }) => [String(key), BigInt(count)]));
}

/** Documents that can be found in these indices, and bytes of all copies. */
export async function sizeOf(search: SearchStore, places: readonly string[], signal: AbortSignal) {
  let [documents, bytes] = [0n, 0n];
  for (const size of (await sizes(search, places, signal)).values()) {
    documents += size.documents;
    bytes += size.bytes;
  }
  return { documents, bytes };
}

/** Indices as callers see them, without their fields. */
export async function describe(
  search: SearchStore,
  indices: readonly CatalogedIndex[],
  signal: AbortSignal,
): Promise<Index[]> {
  const places = indices.flatMap(({ live }) => live?.place ?? []);
  const known = places.length === 0 ? new Map<string, Size>() : await sizes(search, places, signal);
  return indices.map(({ name, live, otherVersions }) => {
    const size = known.get(live?.place ?? "");
    return create(IndexSchema, {
      index: name,
      origin: originOf(name),
      otherVersions: [...otherVersions],
      ...(size && { health: size.health, documentCount: size.documents, storedBytes: size.bytes }),
      ...(live && {
        version: live.version,
        settings: toldSettings(live.settings),
        createTime: timestampFromMs(Number(live.settings.creation_date ?? 0)),
      }),
    });
  });
}

/** What the server counts of one index. */
export async function statisticsOf(
  { client }: SearchStore,
  place: string,
  signal: AbortSignal,
): Promise<MessageInitShape<typeof IndexStatisticsSchema>> {
  const limits = { signal, requestTimeout: requestMs };
  const metric = ["docs", "store", "search", "indexing", "refresh", "segments"] as const;
  const { indices = {} } = await client.indices.stats({ index: place, metric: [...metric] }, limits);
  const health = await client.cluster.health({ index: place, level: "indices" }, limits);
  const counts = await documentCounts(client, [place], signal);
  const { primaries = {}, total = {} } = indices[place] ?? {};
  const own = health.indices?.[place];
  return {
    documentCount: counts.get(place) ?? 0n,
    deletedDocumentCount: BigInt(primaries.docs?.deleted ?? 0),
    primaryBytes: BigInt(primaries.store?.size_in_bytes ?? 0),
    storedBytes: BigInt(total.store?.size_in_bytes ?? 0),
    activeShardCount: own?.active_shards ?? 0,
    inactiveShardCount: (own?.unassigned_shards ?? 0) + (own?.initializing_shards ?? 0),
    health: healths.get(own?.status ?? "") ?? IndexHealth.UNSPECIFIED,
    searches: counted(total.search?.query_total, total.search?.query_time_in_millis),
    writes: counted(primaries.indexing?.index_total, primaries.indexing?.index_time_in_millis),
    deletions: counted(primaries.indexing?.delete_total, primaries.indexing?.delete_time_in_millis),
    failedWriteCount: BigInt(primaries.indexing?.index_failed ?? 0),
    refreshes: counted(total.refresh?.total, total.refresh?.total_time_in_millis),
    segmentCount: BigInt(total.segments?.count ?? 0),
  };
}

function counted(count = 0, timeMs: unknown = 0) {
  return { count: BigInt(count), time: durationFromMs(Number(timeMs)) };
}

/** Who writes to an index of that name. */
export function originOf(name: string): IndexOrigin {
  return isKept(name) ? IndexOrigin.REPOSITORY : IndexOrigin.OPERATOR;
}
