import type { MessageInitShape } from "@bufbuild/protobuf";

import type { RestoredUnitSchema } from "../../../gen/lucid/admin/v1/backup_service_pb.ts";
import { Store } from "../../../gen/lucid/admin/v1/common_pb.ts";
import type { Stream } from "../../../gen/lucid/backup/v1/manifest_pb.ts";
import type { SearchStore } from "../../stores/search.ts";
import { isPassing, pathOf, rawRequest, requestMs, statusOf } from "../../stores/search/requests.ts";
import type { RecordSource, Target, TargetRun, Work } from "../contracts.ts";
import { each } from "../together.ts";
import {
  compareMerged,
  compareWhole,
  finishLoading,
  type IndexRestoreOptions,
  loadStream,
  makeIndex,
  putSettings,
} from "./index-restore.ts";
import { namesIn, plannedIndices } from "./restore-plan.ts";
import type { RestoredIndex } from "./restored-index.ts";
import { RestoredTemplates } from "./template-restore.ts";

/**
 * Restores into Elasticsearch or OpenSearch, from a backup of either. An index is made new, loaded and compared; only when all
 * are equal to the backup they are put in place, with their aliases, in one step: where an index of the name is there and is to
 * be dropped, its name becomes an alias of the new one. OVERWRITE and SKIP put documents into the index that is there.
 */
export function searchTarget({ search }: { readonly search: SearchStore }): Target {
  return {
    store: Store.SEARCH,
    async prepare(plan, source, work) {
      const stop = new AbortController();
      const signal = AbortSignal.any([work.signal, stop.signal]);
      const indices = plannedIndices(plan, await namesIn(search.client, signal), await search.dialect(signal));
      const templates = await RestoredTemplates.plan(plan, search, signal);
      return new SearchRestore({ search, indices, templates, source, work, stop, signal });
    },
  };
}

interface RunOptions {
  readonly search: SearchStore;
  readonly indices: readonly RestoredIndex[];
  readonly templates: RestoredTemplates | undefined;
  readonly source: RecordSource;
  readonly work: Work;
  readonly stop: AbortController;
  readonly signal: AbortSignal;
}

class SearchRestore implements TargetRun {
  readonly #options: RunOptions;

  constructor(options: RunOptions) {
    this.#options = options;
  }

  async restore(): Promise<void> {
    const { indices, templates, search, signal } = this.#options;
    await this.#each(indices, async (index) => {
      index.stage = "loading";
      if (!index.merges) await makeIndex(index, this.#optionsOf(index));
    });
    await this.#each(streamsOf(indices), ([index, stream]) => loadStream(index, stream, this.#optionsOf(index)));
    await this.#each(indices, (index) => finishLoading(index, this.#optionsOf(index)));
    await templates?.restore(search, signal);
  }

  async compare(): Promise<void> {
    const { indices, templates, search, signal } = this.#options;
    const [merged, made] = [indices.filter(({ merges }) => merges), indices.filter(({ merges }) => !merges)];
    await this.#each(made, (index) => compareWhole(index, this.#optionsOf(index)));
    await this.#each(streamsOf(merged), ([index, stream]) => compareMerged(index, stream, this.#optionsOf(index)));
    for (const index of merged) {
      index.stage = "in place";
      index.isEqual = BigInt(index.equalDocuments + index.skipped) === index.unit.recordCount;
      if (!index.isEqual) index.remark = `${index.equalDocuments} documents are as in the backup`;
    }
    await templates?.compare(search, signal);
    if (indices.every(({ isEqual }) => isEqual)) await this.#publish(made);
  }

  report(): MessageInitShape<typeof RestoredUnitSchema>[] {
    const { indices, templates } = this.#options;
    const reports = indices.map((index) => index.report());
    return templates === undefined ? reports : [...reports, templates.report()];
  }

  /** Removes what was made and not put in place; what is at its own name and was compared stays to be looked at. */
  async [Symbol.asyncDispose](): Promise<void> {
    const { indices, search, stop } = this.#options;
    stop.abort(new Error("The restore of the search indices is over"));
    // Not with the signal of the work, which has ended.
    const signal = AbortSignal.timeout(requestMs);
    for (const { isInterim, placement, stage } of indices) {
      if (!isInterim || (placement.way === "make" && stage === "compared")) continue;
      const request = { method: "DELETE", path: pathOf(placement.place), name: "indices.delete" } as const;
      try {
        await rawRequest(search.client, request, { signal });
      } catch (error) {
        // It was never made; or it stays, where the server is away: what made the restore end is worth more than this.
        if (statusOf(error) !== 404 && !isPassing(error)) throw error;
      }
    }
  }

  async #publish(made: readonly RestoredIndex[]): Promise<void> {
    const { search, signal } = this.#options;
    const moved = await this.#movedAliases(made);
    const actions = [
      ...moved,
      ...made.flatMap(({ placement: { replaced } }) =>
        replaced === undefined ? [] : [`{"remove_index":{"index":${JSON.stringify(replaced)}}}`],
      ),
      ...made.flatMap(({ placement: { place, aliases } }) =>
        [...aliases].map(([alias, properties]) => aliasAction(place, alias, properties)),
      ),
    ];
    if (actions.length > 0) {
      const body = `{"actions":[${actions.join(",")}]}`;
      await rawRequest(search.client, { method: "POST", path: "/_aliases", body, name: "indices.aliases" }, { signal });
    }
    for (const index of made) {
      index.isInterim = false;
      index.stage = "in place";
    }
    for (const index of made) {
      const { blocks } = index.definition;
      if (blocks !== undefined) await putSettings(index, blocks, { search, signal });
    }
  }

  /** Aliases are taken from the indices that have them now, and that do not go. */
  async #movedAliases(made: readonly RestoredIndex[]): Promise<string[]> {
    const { search, signal } = this.#options;
    const { aliases } = await namesIn(search.client, signal);
    const replaced = new Set(made.map(({ placement }) => placement.replaced));
    const wanted = new Set(made.flatMap(({ placement }) => [...placement.aliases.keys()]));
    return [...wanted].flatMap((alias) =>
      (aliases.get(alias) ?? [])
        .filter((index) => !replaced.has(index))
        .map((index) => `{"remove":{"index":${JSON.stringify(index)},"alias":${JSON.stringify(alias)}}}`),
    );
  }

  async #each<T>(items: Iterable<T>, work: (item: T) => Promise<void>): Promise<void> {
    const { work: given, stop, signal } = this.#options;
    await each(items, { atOnce: given.parallelism, stop }, work);
    signal.throwIfAborted();
  }

  #optionsOf({ unit }: RestoredIndex): IndexRestoreOptions {
    const { search, source, signal, work } = this.#options;
    return {
      search,
      source,
      signal,
      note: (documents, bytes) => work.meter.add(Store.SEARCH, unit.name, documents, bytes),
    };
  }
}

function aliasAction(index: string, alias: string, properties: string): string {
  const rest = properties.trim() === "{}" ? "" : `,${properties.trim().slice(1, -1)}`;
  return `{"add":{"index":${JSON.stringify(index)},"alias":${JSON.stringify(alias)}${rest}}}`;
}

function* streamsOf(indices: readonly RestoredIndex[]): Generator<[RestoredIndex, Stream]> {
  for (const index of indices) for (const stream of index.unit.streams) yield [index, stream];
}
