import { create } from "@bufbuild/protobuf";
import type { ServiceImpl } from "@connectrpc/connect";
import type { estypes } from "@elastic/elasticsearch";

import { type Index, IndexMappingSchema, IndexOrigin, IndexSchema } from "../../gen/lucid/search/v1/search_index_pb.ts";
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
import { requestMs } from "../stores/search/requests.ts";
import {
  type CatalogedIndex,
  type IndexCatalog,
  indexResource,
  isKept,
  requireAliased,
  requireOperators,
} from "./index-catalog.ts";
import { describe, originOf, sizeOf, statisticsOf } from "./index-figures.ts";
import { indexJobKind, specOf } from "./index-jobs.ts";
import { refusedDefinition, serverMapping, toldMapping } from "./index-mapping.ts";
import { serverSettings } from "./index-settings.ts";
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
