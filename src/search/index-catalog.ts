import type { estypes } from "@elastic/elasticsearch";

import { IndexSchema } from "../../gen/lucid/search/v1/search_index_pb.ts";
import { fail } from "../errors.ts";
import type { SearchStore } from "../stores/search.ts";
import { requestMs } from "../stores/search/requests.ts";
import { versionedName } from "./indices.ts";
import { searchedMessages } from "./messages.ts";

/** An index of the deployment, by its logical name. */
export interface CatalogedIndex {
  readonly name: string;
  /** What searches and writes go to: the alias, or an index of that very name. */
  readonly address: string;
  /** The index behind the alias, or the one of that name; undefined where there are versions only. */
  readonly live: LiveIndex | undefined;
  /** Numbers of its versions that are not live, in rising order. */
  readonly otherVersions: readonly number[];
  /** The indices that have its name: versions, or one without. What else the alias may lead to belongs to others. */
  readonly places: readonly string[];
}

/** The index that serves a name. */
export interface LiveIndex {
  /** The server's name of it. */
  readonly place: string;
  /** Its version; 0 where its name has none. */
  readonly version: number;
  /** Whether it is known by an alias, as what is written to has to be. */
  readonly isAliased: boolean;
  readonly settings: estypes.IndicesIndexSettings;
}

/** What of an index the audit log speaks of. */
export function indexResource(name: string) {
  return { type: IndexSchema.name, name };
}

/** What of a server's index is looked at. */
type ServerIndex = Pick<estypes.IndicesIndexState, "aliases" | "settings">;

/** Finds the indices of the deployment. No name leads to one whose name, or whose alias, does not begin with its prefix. */
export interface IndexCatalog {
  readonly prefix: string;
  /** All indices, by name. */
  list(signal: AbortSignal): Promise<CatalogedIndex[]>;
  /** Fails with `SEARCH_INDEX_NOT_FOUND`. */
  find(name: string, signal: AbortSignal): Promise<CatalogedIndex>;
  /** The same, where something serves it. */
  findLive(name: string, signal: AbortSignal): Promise<CatalogedIndex & { readonly live: LiveIndex }>;
}

export function indexCatalog({
  search,
  prefix,
}: {
  readonly search: Pick<SearchStore, "client">;
  readonly prefix: string;
}): IndexCatalog {
  /** What is there of a pattern, and nothing where there is nothing. */
  const survey = async (patterns: readonly string[], signal: AbortSignal): Promise<CatalogedIndex[]> => {
    const found = await search.client.indices.get(
      {
        index: [...patterns],
        expand_wildcards: ["open", "closed"],
        ignore_unavailable: true,
        allow_no_indices: true,
        filter_path: "*.aliases,*.settings",
      },
      { signal, requestTimeout: requestMs },
    );
    return catalogOf(found, prefix);
  };

  const find = async (name: string, signal: AbortSignal): Promise<CatalogedIndex> => {
    // The second finds versions that have lost their alias, and what begins like them, which is another index.
    const found = await survey([`${prefix}${name}`, `${prefix}${name}-v*`], signal);
    const index = found.find((candidate) => candidate.name === name);
    if (index === undefined) throw indexNotFound(name);
    return index;
  };

  return {
    prefix,
    list: (signal) => survey([`${prefix}*`], signal),
    find,
    async findLive(name, signal) {
      const index = await find(name, signal);
      if (index.live === undefined) throw indexNotFound(name);
      return { ...index, live: index.live };
    },
  };
}

/** Whether the service keeps an index from the repositories. */
export function isKept(name: string): boolean {
  return searchedMessages.has(name);
}

/** Fails with `SEARCH_INDEX_PROTECTED` for an index that only the service itself changes. */
export function requireOperators(name: string): void {
  if (!isKept(name)) return;
  throw fail("SEARCH_INDEX_PROTECTED", `The service keeps the index ${name} itself`, { metadata: { index: name } });
}

/** Fails with `SEARCH_INDEX_OCCUPIED` where a name is not that of an alias: nothing could take the place of what is there. */
export function requireAliased({ name, address, live }: CatalogedIndex & { readonly live: LiveIndex }): void {
  if (live.isAliased) return;
  throw fail("SEARCH_INDEX_OCCUPIED", `The name ${name} is that of an index without versions`, {
    metadata: { index: address, occupied_by: live.place },
  });
}

export function indexNotFound(name: string, cause?: unknown): Error {
  return fail("SEARCH_INDEX_NOT_FOUND", `There is no search index ${name}`, {
    metadata: { index: name },
    resource: { type: "lucid.search.v1.Index", name },
    cause,
  });
}

/** Puts together what belongs to one name. */
function catalogOf(found: Readonly<Record<string, ServerIndex>>, prefix: string): CatalogedIndex[] {
  const parts = new Map<string, { live?: LiveIndex; readonly versions: number[]; readonly places: string[] }>();
  const partOf = (name: string) => {
    const part = parts.get(name) ?? { versions: [], places: [] };
    parts.set(name, part);
    return part;
  };
  for (const [place, { aliases = {}, settings }] of Object.entries(found)) {
    const [, base = place, digits] = versionedName.exec(place) ?? [];
    const version = digits === undefined ? 0 : Number(digits);
    const live = { place, version, settings: settings?.index ?? {} };
    for (const alias of Object.keys(aliases)) {
      // A version that is being filled is written by an alias of its own.
      if (!alias.startsWith(prefix) || versionedName.test(alias)) continue;
      partOf(alias.slice(prefix.length)).live = {
        ...live,
        version: alias === base ? version : 0,
        isAliased: true,
      };
    }
    if (!base.startsWith(prefix)) continue;
    const part = partOf(base.slice(prefix.length));
    part.places.push(place);
    if (digits === undefined) part.live ??= { ...live, isAliased: false };
    else part.versions.push(version);
  }
  const catalog = Array.from(parts, ([name, { live, versions, places }]) => ({
    name,
    address: `${prefix}${name}`,
    live,
    otherVersions: versions.filter((version) => version !== live?.version).toSorted((one, other) => one - other),
    places,
  }));
  return catalog.toSorted((one, other) => (one.name < other.name ? -1 : 1));
}
