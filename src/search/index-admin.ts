import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { durationFromMs, durationMs, timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { ServiceImpl } from "@connectrpc/connect";
import type { estypes } from "@elastic/elasticsearch";

import {
  type Index,
  IndexHealth,
  IndexMappingSchema,
  IndexOrigin,
  IndexSchema,
  type IndexSettings,
  type IndexSettingsSchema,
  type IndexStatisticsSchema,
} from "../../gen/lucid/search/v1/search_index_pb.ts";
import {
  EnsuredState,
  ListIndicesRequestSchema,
  type SearchIndexService,
} from "../../gen/lucid/search/v1/search_index_service_pb.ts";
import { fail, reasonOf } from "../errors.ts";
import type { Jobs } from "../jobs/jobs.ts";
import { activeStates } from "../jobs/record.ts";
import type { CarryOut } from "../schema/audited-call.ts";
import { pageSizeOf, queryOf } from "../schema/list-query.ts";
import type { PageTokens } from "../schema/page-tokens.ts";
import type { SearchStore } from "../stores/search.ts";
import { namesInPaths, requestMs } from "../stores/search/requests.ts";
import {
  type CatalogedIndex,
  type IndexCatalog,
  indexResource,
  isKept,
  requireAliased,
  requireOperators,
} from "./index-catalog.ts";
import { indexJobKind, specOf } from "./index-jobs.ts";
import { refusedDefinition, serverMapping, toldMapping } from "./index-mapping.ts";
import type { EnsuredIndex, SearchIndices } from "./indices.ts";
import { searchedMessages } from "./messages.ts";

/** What looking after indices needs. */
export interface IndexAdminOptions {
  readonly search: SearchStore;
  readonly catalog: IndexCatalog;
  readonly indices: SearchIndices;
  readonly jobs: Jobs;
  readonly pageTokens: () => Promise<PageTokens>;
  /** Tells the audit log of a change. */
  readonly carryOut: CarryOut;
}

/** The handlers that look after indices as a whole. */
export function indexAdmin(
  options: IndexAdminOptions,
): Pick<
  ServiceImpl<typeof SearchIndexService>,
  "listIndices" | "getIndex" | "createIndex" | "updateMapping" | "deleteIndex" | "getIndexStatistics" | "ensureIndices"
> {
  const { search, catalog, indices, jobs, pageTokens, carryOut } = options;
  const { client } = search;

  const described = async (name: string, signal: AbortSignal): Promise<Index> => {
    const index = await catalog.find(name, signal);
    const [told = create(IndexSchema)] = await describe(search, [index], signal);
    if (index.live === undefined) return told;
    const { place } = index.live;
    const found = await client.indices.getMapping({ index: place }, { signal, requestTimeout: requestMs });
    told.mapping = create(IndexMappingSchema, toldMapping(found[place]?.mappings));
    return told;
  };

  return {
    async listIndices(request, { signal }) {
      const query = queryOf(ListIndicesRequestSchema, request);
      const tokens = await pageTokens();
      const after = tokens.decode(query, request.pageToken) ?? "";
      const size = pageSizeOf(request.pageSize);
      const wanted = (await catalog.list(signal)).filter(
        ({ name }) => name > after && [IndexOrigin.UNSPECIFIED, originOf(name)].includes(request.origin),
      );
      const page = wanted.slice(0, size);
      const last = page.at(-1);
      return {
        indices: await describe(search, page, signal),
        nextPageToken: wanted.length > size && last !== undefined ? tokens.encode(query, last.name) : "",
      };
    },

    async getIndex({ index }, { signal }) {
      return { index: await described(index, signal) };
    },

    async createIndex({ index: name, settings, mapping, validateOnly }, context) {
      const { signal } = context;
      requireOperators(name);
      const versions = await free(name, catalog, signal);
      const { freeForm } = await search.dialect(signal);
      if (validateOnly) return {};
      await carryOut(context, indexResource(name), async () => {
        try {
          await client.indices.create(
            {
              index: indices.versioned(name, Math.max(0, ...versions) + 1),
              settings: serverSettings(settings),
              ...(mapping && { mappings: serverMapping(mapping, freeForm) }),
              aliases: { [indices.alias(name)]: {} },
            },
            { signal, requestTimeout: requestMs },
          );
        } catch (error) {
          throw refusedDefinition(name, error);
        }
      });
      return { index: await described(name, signal) };
    },

    async updateMapping({ index: name, mapping }, context) {
      const { signal } = context;
      requireOperators(name);
      const { live } = await catalog.findLive(name, signal);
      const { freeForm } = await search.dialect(signal);
      if (mapping !== undefined) {
        await carryOut(context, indexResource(name), async () => {
          try {
            const limits = { signal, requestTimeout: requestMs };
            await client.indices.putMapping({ index: live.place, ...serverMapping(mapping, freeForm) }, limits);
          } catch (error) {
            throw refusedDefinition(name, error);
          }
        });
      }
      return { index: await described(name, signal) };
    },

    async deleteIndex({ index: name, confirmIndex, validateOnly }, context) {
      const { signal } = context;
      requireOperators(name);
      const index = await catalog.find(name, signal);
      await requireUnused(jobs, name, signal);
      if (!validateOnly && confirmIndex !== name) throw notConfirmed(name);
      const { documents, bytes } = await sizeOf(search, index.places, signal);
      if (!validateOnly) {
        await carryOut(context, indexResource(name), () => remove(search, index, signal));
      }
      return { documentCount: documents, storedBytes: bytes };
    },

    async getIndexStatistics({ index: name }, { signal }) {
      const { live } = await catalog.findLive(name, signal);
      return { statistics: { index: name, ...(await statisticsOf(search, live.place, signal)) } };
    },

    async ensureIndices({ indices: asked }, context) {
      const { signal } = context;
      const names = (asked.length > 0 ? asked : [...searchedMessages.keys()]).toSorted();
      // Before anything is done: a name that the service keeps no index of is a mistake.
      for (const name of names) if (!isKept(name)) throw notKept(name);
      return carryOut(context, indexResource(names.join(",")), async () => {
        const ensured = [];
        for (const name of names) ensured.push(await ensure(indices, name, signal));
        return { indices: ensured };
      });
    },
  };
}

/** Jobs that are looked through; hardly any run at once. */
const mostActive = 1000;

/** Fails with `SEARCH_INDEX_IN_USE` where a job reads the index or writes to it. */
export async function requireUnused(jobs: Pick<Jobs, "list">, name: string, signal: AbortSignal): Promise<void> {
  for (const job of await jobs.list(indexJobKind, { states: activeStates, limit: mostActive }, signal)) {
    const { index, sourceIndex } = specOf(job);
    if (index !== name && sourceIndex !== name) continue;
    const metadata = { index: name, job_id: job.jobId, state: job.state };
    throw fail("SEARCH_INDEX_IN_USE", `A job works on the index ${name}`, { metadata });
  }
}

function originOf(name: string): IndexOrigin {
  return isKept(name) ? IndexOrigin.REPOSITORY : IndexOrigin.OPERATOR;
}

/** The versions that are there of a name that nothing serves. Fails where something does. */
async function free(name: string, catalog: IndexCatalog, signal: AbortSignal): Promise<readonly number[]> {
  const found = (await catalog.list(signal)).find((index) => index.name === name);
  if (found?.live === undefined) return found?.otherVersions ?? [];
  requireAliased({ ...found, live: found.live });
  throw fail("SEARCH_INDEX_ALREADY_EXISTS", `There is an index ${name} already`, {
    metadata: { index: name },
    resource: { type: IndexSchema.typeName, name },
  });
}

async function ensure(indices: SearchIndices, name: string, signal: AbortSignal) {
  try {
    const { state } = await indices.ensure(name, signal);
    return { index: name, state: ensuredStates[state] };
  } catch (error) {
    const { reason, metadata } = reasonOf(error) ?? {};
    if (reason !== "SEARCH_INDEX_OCCUPIED") throw error;
    return { index: name, state: EnsuredState.CONFLICTING, occupiedBy: metadata?.["occupied_by"] ?? "" };
  }
}

const ensuredStates = {
  made: EnsuredState.CREATED,
  present: EnsuredState.EXISTING,
  extended: EnsuredState.EXTENDED,
  outdated: EnsuredState.OUTDATED,
} as const satisfies Record<EnsuredIndex["state"], EnsuredState>;

/** Removes what belongs to an index in one step; of what another name has, only the alias. */
async function remove(
  { client }: SearchStore,
  { address, places, live }: CatalogedIndex,
  signal: AbortSignal,
): Promise<void> {
  const actions: estypes.IndicesUpdateAliasesAction[] = places.map((index) => ({ remove_index: { index } }));
  if (live !== undefined && !places.includes(live.place)) {
    actions.push({ remove: { index: live.place, alias: address } });
  }
  await client.indices.updateAliases({ actions }, { signal, requestTimeout: requestMs });
}

export function notConfirmed(name: string): Error {
  return fail("CONFIRMATION_MISMATCH", "The confirmation is not the name of the index", {
    metadata: { index: name },
    fields: [{ field: "confirm_index", description: "must repeat the name of the index" }],
  });
}

function notKept(name: string): Error {
  return fail("SEARCH_INDEX_NOT_FOUND", `The service keeps no search index ${name}`, { metadata: { index: name } });
}

// ---------------------------------------------------------------- settings

const defaults = { shards: 1, refreshMs: 1000 };

function serverSettings(settings: IndexSettings | undefined): estypes.IndicesIndexSettings {
  const { shardCount = 0, replicaCount, refreshInterval } = settings ?? {};
  return {
    number_of_shards: shardCount || defaults.shards,
    // As many as there are nodes for, so that an index on one node is healthy too.
    ...(replicaCount === undefined ? { auto_expand_replicas: "0-1" } : { number_of_replicas: replicaCount }),
    ...(refreshInterval && { refresh_interval: `${durationMs(refreshInterval)}ms` }),
  };
}

function toldSettings(settings: estypes.IndicesIndexSettings): MessageInitShape<typeof IndexSettingsSchema> {
  return {
    shardCount: Number(settings.number_of_shards ?? defaults.shards),
    replicaCount: Number(settings.number_of_replicas ?? 0),
    refreshInterval: durationFromMs(msOf(settings.refresh_interval)),
  };
}

const units: ReadonlyMap<string, number> = new Map([
  ["ms", 1],
  ["s", 1000],
  ["m", 60_000],
  ["h", 3_600_000],
]);

/** A time as servers write it; 0 where it is none, such as -1 for never. */
function msOf(time: estypes.Duration | undefined): number {
  const [, number, unit = ""] = /^(\d+)(ms|s|m|h)$/.exec(String(time ?? `${defaults.refreshMs}ms`)) ?? [];
  return Number(number ?? 0) * (units.get(unit) ?? 0);
}

// ---------------------------------------------------------------- what servers say

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

async function sizeOf(search: SearchStore, places: readonly string[], signal: AbortSignal) {
  let [documents, bytes] = [0n, 0n];
  for (const size of (await sizes(search, places, signal)).values()) {
    documents += size.documents;
    bytes += size.bytes;
  }
  return { documents, bytes };
}

async function describe(
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

async function statisticsOf(
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
