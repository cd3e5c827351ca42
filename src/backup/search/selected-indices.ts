import type { Client } from "@elastic/elasticsearch";

import { fail } from "../../errors.ts";
import { JsonScan } from "../../stores/search/json-scan.ts";
import type { ReadingFailures } from "../../stores/search/point-in-time.ts";
import { pathOf, property, rawRequest, requestMs, statusOf } from "../../stores/search/requests.ts";
import { patternFits } from "../selection.ts";

/** An index that is backed up. */
export interface SelectedIndex {
  readonly name: string;
  /** Its aliases, mappings and settings, as the server says them. */
  readonly definition: string;
  readonly documents: number;
  /** The largest page of a search. */
  readonly mostHits: number;
}

/** The largest page where an index does not say another. */
const defaultMostHits = 10_000;

/**
 * Finds the indices that are selected by name, alias or pattern; all that are not hidden where nothing is. Hidden ones, those
 * with a leading dot among them, only by their own name. Fails with `BACKUP_INDEX_UNREADABLE` for a closed index, and
 * `BACKUP_SELECTION_EMPTY` for a name that nothing has.
 */
export async function selectedNames(
  client: Client,
  patterns: readonly string[],
  signal: AbortSignal,
): Promise<string[]> {
  const all = await statuses(client, signal);
  const visible = (name: string): boolean => !name.startsWith(".") && all.get(name)?.hidden === false;
  const selected = new Set<string>();
  if (patterns.length === 0) for (const name of all.keys()) if (visible(name)) selected.add(name);
  const aliases = patterns.length === 0 ? [] : await aliasNames(client, signal);
  for (const pattern of patterns) {
    if (all.has(pattern)) selected.add(pattern);
    const named = aliases.filter(({ alias }) => patternFits(pattern, alias)).map(({ index }) => index);
    const fitting = [...all.keys()].filter((name) => patternFits(pattern, name));
    const found = [...fitting, ...named].filter((name) => visible(name));
    for (const name of found) selected.add(name);
    if (found.length > 0 || all.has(pattern) || pattern.includes("*")) continue;
    throw fail("BACKUP_SELECTION_EMPTY", `There is no index or alias ${pattern}`, { metadata: { index: pattern } });
  }
  const names = [...selected].toSorted();
  for (const name of names) {
    if (all.get(name)?.open === false) throw unreadable(name, "it is closed");
  }
  return names;
}

async function statuses(client: Client, signal: AbortSignal) {
  const list = async (wildcards: ("open" | "closed" | "hidden")[]) =>
    client.cat.indices(
      { format: "json", h: ["index", "status"], expand_wildcards: wildcards },
      { signal, requestTimeout: requestMs },
    );
  const visible = new Set((await list(["open", "closed"])).map(({ index }) => index));
  const all = await list(["open", "closed", "hidden"]);
  return new Map(
    all.map(({ index = "", status }) => [index, { open: status === "open", hidden: !visible.has(index) }] as const),
  );
}

async function aliasNames(client: Client, signal: AbortSignal): Promise<{ index: string; alias: string }[]> {
  const found = await client.indices.getAlias({}, { signal, requestTimeout: requestMs });
  return Object.entries(found).flatMap(([index, { aliases }]) =>
    Object.keys(aliases).map((alias) => ({ index, alias })),
  );
}

/**
 * Reads what an index is. Fails with `BACKUP_INDEX_UNREADABLE` where it does not keep its documents whole, and
 * `BACKUP_SOURCE_CHANGED` where it has vanished.
 */
export async function describeIndex(client: Client, name: string, signal: AbortSignal): Promise<SelectedIndex> {
  const answer = await definitionOf(client, name, signal);
  const scan = new JsonScan(answer);
  const definition = scan.member(scan.whole(), name);
  if (definition === undefined) throw new Error("The search server described another index than it was asked for");
  const mappings = scan.member(definition, "mappings");
  requireSource(name, mappings === undefined ? undefined : scan.parse(mappings));
  const settings = scan.member(definition, "settings");
  const { count } = await client.count({ index: name }, { signal, requestTimeout: requestMs });
  return {
    name,
    definition: scan.text(definition),
    documents: count,
    mostHits: mostHits(settings === undefined ? undefined : scan.parse(settings)),
  };
}

async function definitionOf(client: Client, name: string, signal: AbortSignal): Promise<Buffer> {
  try {
    return await rawRequest(client, { method: "GET", path: pathOf(name), name: "indices.get" }, { signal });
  } catch (error) {
    throw statusOf(error) === 404 ? failures.lost(name, error) : error;
  }
}

/** What is told where an index cannot be read. */
export const failures: ReadingFailures = {
  lost: (index, cause) =>
    fail("BACKUP_SOURCE_CHANGED", `The index ${index} was deleted while it was read`, {
      metadata: { store: "search", index },
      cause,
    }),
  unreadable: (index) => unreadable(index, "it does not keep the source of all its documents"),
};

function requireSource(name: string, mappings: unknown): void {
  const source = property(mappings, "_source");
  if (property(source, "enabled") === false || property(source, "mode") === "disabled") {
    throw unreadable(name, "it does not keep the source of its documents");
  }
  const parts = [property(source, "includes"), property(source, "excludes")];
  if (parts.some((part) => Array.isArray(part) && part.length > 0)) {
    throw unreadable(name, "it keeps only a part of the source of its documents");
  }
}

function mostHits(settings: unknown): number {
  const window = Number(property(property(settings, "index"), "max_result_window") ?? defaultMostHits);
  return Math.min(window, defaultMostHits);
}

function unreadable(index: string, why: string): Error {
  return fail("BACKUP_INDEX_UNREADABLE", `The index ${index} cannot be backed up: ${why}`, {
    metadata: { index, why },
  });
}
