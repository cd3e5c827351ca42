import { randomInt } from "node:crypto";

import type { estypes } from "@elastic/elasticsearch";

import { fail } from "../errors.ts";
import { type SearchedMessage, searchMapping, type SearchMapping } from "../schema/search-mapping.ts";
import type { SearchStore } from "../stores/search.ts";
import { property, refusalOf, requestMs, statusOf } from "../stores/search/requests.ts";
import { searchedMessages } from "./messages.ts";

/** An index that holds the copies of a message's documents. */
export interface EnsuredIndex {
  /** Logical name, for example `users`. */
  readonly name: string;
  /** What searches go to. */
  readonly alias: string;
  /** What copies are written to: see `writesTo`. */
  readonly writes: string;
  /** The versioned index behind it. */
  readonly index: string;
  /** The server's own name of this very index: one that is made anew under the same name has another. */
  readonly uuid: string;
  /** Digest of the fields that its mapping has; empty where it is none of this version's. */
  readonly digest: string;
  /** See `setEpoch`. */
  readonly epoch: number;
  /**
   * What was done to it: `extended` where it got fields that it had not, of which the copies in it know nothing; `outdated`
   * where a field of it is of another kind than declared now, so that it goes on as it is until it is rebuilt.
   */
  readonly state: "made" | "present" | "extended" | "outdated";
}

/** A name that ends as those of versions do. */
export const versionedName = /^(.+)-v(\d{1,9})$/;

/** The indices of this deployment. */
export interface SearchIndices {
  /** The alias of a logical name. */
  alias(name: string): string;
  /** Name of a version of an index. */
  versioned(name: string, version: number): string;
  /** Whether an index of the server is a version of one of these. */
  has(index: string): boolean;
  /**
   * Sees to the index of a message: makes it, with its alias, where there is none, and adds what its mapping lacks. Touches
   * nothing that it has not made: fails with `SEARCH_INDEX_OCCUPIED` where something else has the name.
   */
  ensure(name: string, signal: AbortSignal): Promise<EnsuredIndex>;
  /** Keeps with an index which age of its copies is the newest, so that it is known also where all else is lost. */
  setEpoch(ensured: EnsuredIndex, epoch: number, signal: AbortSignal): Promise<void>;
  /**
   * An alias that no other index gets, which a version is written by: what was sent to it and arrives late comes to that very one, or
   * nowhere where it is gone.
   */
  writesTo(name: string, index: string, signal: AbortSignal): Promise<string>;
  /**
   * Adds to a version what its mapping lacks. Returns what stands for the fields that it has then, which is the digest of those that are
   * declared now unless one of its fields is of another kind.
   */
  complete(name: string, index: string, signal: AbortSignal): Promise<string>;
  /** Makes the next version of an index, empty and behind these aliases only. Returns its name. */
  makeNext(name: string, signal: AbortSignal, aliases?: Readonly<Record<string, object>>): Promise<string>;
}

export interface SearchIndicesOptions {
  readonly search: Pick<SearchStore, "client" | "dialect">;
  /** What all names of this deployment begin with. */
  readonly prefix: string;
}

export function searchIndices({ search, prefix }: SearchIndicesOptions): SearchIndices {
  const { client } = search;
  const alias = (name: string): string => `${prefix}${name}`;
  const versioned = (name: string, version: number): string => `${alias(name)}-v${version}`;

  const definition = async (name: string, signal: AbortSignal) => {
    const message = messageOf(name);
    const { freeForm } = await search.dialect(signal);
    return { message, mapping: searchMapping(message, freeForm) };
  };

  /** No version has a number that begins with a zero, so no caller's name leads to it. */
  const newWrites = (name: string): string => `${alias(name)}-v0${String(randomInt(1e8)).padStart(8, "0")}`;

  /** The alias that an index is written by. One from before there were any gets it now. */
  const writesOf = async (
    name: string,
    { index, state }: { readonly index: string; readonly state: estypes.IndicesIndexState },
    signal: AbortSignal,
  ): Promise<string> => {
    const known = Object.keys(state.aliases ?? {}).find((each) => /-v0\d{8}$/.test(each));
    if (known !== undefined) return known;
    const writes = newWrites(name);
    await client.indices.putAlias({ index, name: writes }, { signal, requestTimeout: requestMs });
    return writes;
  };

  const stateOf = async (index: string, signal: AbortSignal): Promise<estypes.IndicesIndexState> =>
    (await client.indices.get({ index }, { signal, requestTimeout: requestMs }))[index] ?? {};

  /**
   * What is behind the alias; undefined where there is no such name. A server that has just started says of every name it is asked for
   * that there is none, until it has read what it holds. It says that it is not ready where a name may be missing.
   */
  const behind = async (name: string, signal: AbortSignal) => {
    const asked = { index: alias(name), ignore_unavailable: true };
    const found = await client.indices.get(asked, { signal, requestTimeout: requestMs });
    return Object.keys(found).length === 0 ? undefined : found;
  };

  /** The number of the newest version; 0 where there is none. Versions without an alias count: they are not written over. */
  const newest = async (name: string, signal: AbortSignal): Promise<number> => {
    const pattern = { index: `${alias(name)}-v*`, expand_wildcards: "all" as const };
    const found = await client.indices.get(pattern, { signal, requestTimeout: requestMs });
    const versions = Object.keys(found).map((index) => versionedName.exec(index));
    return Math.max(0, ...versions.map((version) => (version?.[1] === alias(name) ? Number(version[2]) : 0)));
  };

  const create = async (
    name: string,
    { version, aliases }: { readonly version: number; readonly aliases: Record<string, object> },
    signal: AbortSignal,
  ): Promise<string> => {
    const { message, mapping } = await definition(name, signal);
    const index = versioned(name, version);
    const body = { settings: settingsOf(message), mappings: mapping, aliases: { ...aliases, [newWrites(name)]: {} } };
    await client.indices.create({ index, ...body }, { signal, requestTimeout: requestMs });
    return index;
  };

  /** Adds to a mapping what it lacks. */
  const extend = async (
    index: string,
    { mapping, state }: { readonly mapping: SearchMapping; readonly state: estypes.IndicesIndexState },
    signal: AbortSignal,
  ): Promise<"extended" | "outdated"> => {
    const limits = { signal, requestTimeout: requestMs };
    const _meta = { ...mapping._meta, epoch: epochOf(state) };
    try {
      await client.indices.putMapping({ index, ...mapping, _meta }, limits);
      return "extended";
    } catch (error) {
      if (statusOf(error) !== 400) throw error;
    }
    // The kind of a field cannot be changed. But for want of another field no document is to be refused.
    const properties = lacking(mapping.properties, state.mappings?.properties ?? {});
    if (Object.keys(properties).length > 0) {
      await client.indices.putMapping({ index, properties }, { ...limits, ignore: [400] });
    }
    return "outdated";
  };

  /** Makes the first version behind the alias; false where another replica was quicker. */
  const begin = async (name: string, signal: AbortSignal): Promise<boolean> => {
    const version = (await newest(name, signal)) + 1;
    // Looked at after the number was taken: one that is made from now on has the same, and so there are never two behind the alias.
    if ((await behind(name, signal)) !== undefined) return false;
    try {
      await create(name, { version, aliases: { [alias(name)]: {} } }, signal);
      return true;
    } catch (error) {
      if (refusalOf(error).type !== "resource_already_exists_exception") throw error;
      return false;
    }
  };

  const ensureOnce = async (name: string, signal: AbortSignal): Promise<EnsuredIndex | undefined> => {
    const { message, mapping } = await definition(name, signal);
    const found = await behind(name, signal);
    const isMade = found === undefined && (await begin(name, signal));
    const entries = Object.entries(found ?? (await behind(name, signal)) ?? {});
    const [[index, state] = ["", undefined]] = entries;
    if (state === undefined) return undefined;
    const meta = metaOf(state);
    if (entries.length > 1 || index === alias(name) || meta?.message !== message.schema.typeName) {
      throw occupied(alias(name), index);
    }
    const { digest } = mapping._meta;
    const uuid = state.settings?.index?.uuid ?? "";
    const writes = await writesOf(name, { index, state }, signal);
    const about = { name, alias: alias(name), writes, index, uuid, digest, epoch: epochOf(state) };
    if (isMade) return { ...about, state: "made" };
    if (meta.digest === digest) return { ...about, state: "present" };
    const done = await extend(index, { mapping, state }, signal);
    return { ...about, state: done, ...(done === "outdated" && { digest: "" }) };
  };

  return {
    alias,
    has: (index) => {
      const of = versionedName.exec(index)?.[1];
      return [...searchedMessages.keys()].some((name) => alias(name) === of);
    },
    versioned,

    async ensure(name, signal) {
      // Whoever makes or deletes an index in between leaves it to be looked at again.
      for (let attempt = 1; attempt <= 3; attempt++) {
        const ensured = await ensureOnce(name, signal);
        if (ensured !== undefined) return ensured;
      }
      throw fail("STORE_CONFLICT", `The search index ${alias(name)} comes and goes`, {
        metadata: { store: "search", index: alias(name) },
        retryAfterMs: 1000,
      });
    },

    async setEpoch({ name, index }, epoch, signal) {
      const { mappings } = await stateOf(index, signal);
      const _meta = { ...mappings?._meta, message: messageOf(name).schema.typeName, epoch };
      await client.indices.putMapping({ index, _meta }, { signal, requestTimeout: requestMs });
    },

    async writesTo(name, index, signal) {
      return writesOf(name, { index, state: await stateOf(index, signal) }, signal);
    },

    async complete(name, index, signal) {
      const { mapping } = await definition(name, signal);
      const { digest } = mapping._meta;
      const state = await stateOf(index, signal);
      if (metaOf(state)?.digest === digest) return digest;
      return (await extend(index, { mapping, state }, signal)) === "extended" ? digest : `outdated ${digest}`;
    },

    async makeNext(name, signal, aliases = {}) {
      return create(name, { version: (await newest(name, signal)) + 1, aliases }, signal);
    },
  };
}

/** The message of a logical name. Fails with `SEARCH_INDEX_NOT_FOUND`. */
export function messageOf(name: string): SearchedMessage {
  const message = searchedMessages.get(name);
  if (message !== undefined) return message;
  throw fail("SEARCH_INDEX_NOT_FOUND", `There is no search index ${name}`, { metadata: { index: name } });
}

/** As many replicas as there are nodes for, up to one: with a single node an index is healthy too. */
function settingsOf({ shards }: SearchedMessage) {
  return { number_of_shards: shards, auto_expand_replicas: "0-1" };
}

function metaOf({
  mappings,
}: estypes.IndicesIndexState): { message?: unknown; digest?: unknown; epoch?: unknown } | undefined {
  return mappings?._meta;
}

function epochOf(state: estypes.IndicesIndexState): number {
  return Number(metaOf(state)?.epoch ?? 0);
}

/** What is wanted of fields, and of those inside them, and is not there. */
function lacking(wanted: object, there: object): Record<string, estypes.MappingProperty> {
  const lacks = Object.entries(wanted).flatMap(([name, field]: [string, object]): [string, object][] => {
    const [inner, has] = [property(field, "properties"), property(there, name)];
    if (has === undefined) return [[name, field]];
    const properties = inner === undefined ? {} : lacking(inner as object, property(has, "properties") ?? {});
    return Object.keys(properties).length === 0 ? [] : [[name, { ...field, properties }]];
  });
  return Object.fromEntries(lacks);
}

function occupied(alias: string, index: string) {
  return fail(
    "SEARCH_INDEX_OCCUPIED",
    `The name ${alias} is taken by ${index}, which is none of the service's indices`,
    {
      metadata: { index: alias, occupied_by: index },
    },
  );
}
