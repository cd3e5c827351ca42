import { requestMs, statusOf } from "../stores/search/requests.ts";
import type { SyncAccess } from "./sync/access.ts";

/** What is done to the versions of one index while another is made beside the live one. */
export interface IndexVersions {
  /** What the version that is filled is written by: no version has this number, and nothing else can have its name. */
  readonly nextAlias: string;
  /** The version behind the alias; undefined where there is none. */
  live(signal: AbortSignal): Promise<string | undefined>;
  /** The server's own name of a version; empty where it is not there. */
  uuidOf(place: string, signal: AbortSignal): Promise<string>;
  /** Changes aliases, all in one step. */
  changeAliases(actions: object[], signal: AbortSignal): Promise<void>;
  /** Removes versions that were written and came to no end; a kept one only loses the name that it is written by. */
  removeLeft(signal: AbortSignal): Promise<void>;
  /** Removes a version, unless it is one of those that are kept or none at all. */
  remove(place: string | undefined, kept: readonly string[], signal: AbortSignal): Promise<void>;
}

export function indexVersions(
  { search: { client }, indices, states }: Pick<SyncAccess, "search" | "indices" | "states">,
  name: string,
): IndexVersions {
  const alias = indices.alias(name);
  const nextAlias = indices.versioned(name, 0);
  const limits = (signal: AbortSignal) => ({ signal, requestTimeout: requestMs });

  const placesOf = async (of: string, signal: AbortSignal): Promise<readonly string[]> => {
    try {
      return Object.keys(await client.indices.getAlias({ name: of }, limits(signal)));
    } catch (error) {
      if (statusOf(error) === 404) return [];
      throw error;
    }
  };

  const isVersion = (place: string): boolean =>
    place.startsWith(alias) && /^-v\d{1,9}$/.test(place.slice(alias.length));

  const changeAliases = async (actions: object[], signal: AbortSignal): Promise<void> => {
    await client.indices.updateAliases({ actions }, limits(signal));
  };

  const remove: IndexVersions["remove"] = async (index, kept, signal) => {
    if (index === undefined || kept.includes(index) || !isVersion(index)) return;
    await client.indices.delete({ index }, { ...limits(signal), ignore: [404] });
  };

  return {
    nextAlias,
    changeAliases,
    remove,

    async live(signal) {
      return (await placesOf(alias, signal))[0];
    },

    async uuidOf(place, signal) {
      // A server that has just started says of every name that there is none, unless it may be missing.
      const asked = { index: place, ignore_unavailable: true };
      const found = await client.indices.getSettings(asked, limits(signal));
      return found[place]?.settings?.index?.uuid ?? "";
    },

    async removeLeft(signal) {
      const left = await placesOf(nextAlias, signal);
      const previous = (await states.find(alias))?.previous?.index;
      const kept = [...(await placesOf(alias, signal)), ...(previous === undefined ? [] : [previous])];
      for (const index of left) {
        if (kept.includes(index)) await changeAliases([{ remove: { index, alias: nextAlias } }], signal);
        else await remove(index, kept, signal);
      }
    },
  };
}
