import { randomBytes } from "node:crypto";

import { create } from "@bufbuild/protobuf";
import type { Client } from "@elastic/elasticsearch";

import { ConflictPolicy, type Rename } from "../../../gen/lucid/admin/v1/backup_service_pb.ts";
import { Store } from "../../../gen/lucid/admin/v1/common_pb.ts";
import { UnitSchema } from "../../../gen/lucid/backup/v1/manifest_pb.ts";
import { fail } from "../../errors.ts";
import type { SearchDialect } from "../../stores/search.ts";
import { requestMs } from "../../stores/search/requests.ts";
import type { RestorePlan } from "../contracts.ts";
import { indexFault, targetName } from "../selection.ts";
import { definitionOf } from "./definition.ts";
import { type Placement, RestoredIndex, type Way } from "./restored-index.ts";

/** Names that a failure tells. */
const mostNamed = 10;

/** What there is in a cluster: whether an index is open, and which indices an alias stands for. */
export interface Names {
  readonly indices: ReadonlyMap<string, { readonly isOpen: boolean }>;
  readonly aliases: ReadonlyMap<string, readonly string[]>;
}

export async function namesIn(client: Client, signal: AbortSignal): Promise<Names> {
  const limits = { signal, requestTimeout: requestMs };
  const indices = await client.cat.indices(
    { format: "json", h: ["index", "status"], expand_wildcards: ["open", "closed", "hidden"] },
    limits,
  );
  const aliases = new Map<string, string[]>();
  for (const [index, { aliases: own }] of Object.entries(await client.indices.getAlias({}, limits))) {
    for (const alias of Object.keys(own)) aliases.set(alias, [...(aliases.get(alias) ?? []), index]);
  }
  return {
    indices: new Map(indices.map(({ index = "", status }) => [index, { isOpen: status === "open" }])),
    aliases,
  };
}

/**
 * Finds where everything goes and whether it may; changes nothing. Fails with `RESTORE_REFUSED` where names cannot be, and
 * `RESTORE_CONFLICT` where something is there that the policy does not allow for.
 */
export function plannedIndices(plan: RestorePlan, there: Names, dialect: SearchDialect): RestoredIndex[] {
  const suffix = randomBytes(4).toString("hex");
  const conflicts = new Set<string>();
  const indices = plan.units.flatMap((unit) => {
    if (unit.description.case !== "searchIndex") return [];
    const definition = definitionOf(unit.description.value, dialect);
    const name = targetName(unit, plan.renames);
    requireName(unit.name, name);
    const holders = holdersOf(name, there);
    const [at] = holders;
    const way = at === undefined ? "make" : wayOf(plan.conflictPolicy);
    const isClosed = at !== undefined && there.indices.get(at)?.isOpen === false;
    if (way === undefined || holders.length > 1 || (isClosed && way !== "replace")) conflicts.add(name);
    const aliases = aliasesOf(definition.aliases, { unitName: unit.name, name, renames: plan.renames });
    const placement = placed({ name, way: way ?? "make", at, suffix, aliases });
    return [new RestoredIndex(unit, definition, placement)];
  });
  for (const alias of clashingAliases(indices, there, plan.conflictPolicy)) conflicts.add(alias);
  if (conflicts.size > 0) throw conflict([...conflicts]);
  return indices;
}

function placed(options: {
  readonly name: string;
  readonly way: Way;
  readonly at: string | undefined;
  readonly suffix: string;
  readonly aliases: ReadonlyMap<string, string>;
}): Placement {
  const { name, way, at, suffix, aliases } = options;
  switch (way) {
    case "make":
      return { name, place: name, way, replaced: undefined, aliases };
    case "replace":
      // An index cannot be renamed. In one step, the old one goes and its name becomes an alias of the new one: copying the new
      // one to the old name would leave a moment in which a writer could make an empty index of that name.
      return { name, place: `${name}-${suffix}`, way, replaced: at, aliases: new Map([...aliases, [name, "{}"]]) };
    case "overwrite":
    case "skip":
      // What is there keeps the aliases that it has.
      return { name, place: at ?? name, way, replaced: undefined, aliases: new Map() };
    default:
      return way satisfies never;
  }
}

/** The index that has that name, or those that have it as an alias. */
function holdersOf(name: string, { indices, aliases }: Names): readonly string[] {
  return indices.has(name) ? [name] : (aliases.get(name) ?? []);
}

function wayOf(policy: ConflictPolicy): Exclude<Way, "make"> | undefined {
  if (policy === ConflictPolicy.DROP) return "replace";
  if (policy === ConflictPolicy.OVERWRITE) return "overwrite";
  return policy === ConflictPolicy.SKIP ? "skip" : undefined;
}

function requireName(unit: string, name: string): void {
  const fault = indexFault(name, { pattern: false });
  if (fault === undefined) return;
  throw fail("RESTORE_REFUSED", `${unit} cannot be restored as ${name}: that ${fault}`, {
    metadata: { store: "search", unit, target: name },
  });
}

/**
 * The aliases of an index under their new names. One that no rename fits stays away from an index that was renamed, so that a
 * restore into other names never gets in the way of what is in use.
 */
function aliasesOf(
  aliases: ReadonlyMap<string, string>,
  {
    unitName,
    name,
    renames,
  }: { readonly unitName: string; readonly name: string; readonly renames: readonly Rename[] },
): Map<string, string> {
  const renamed = new Map<string, string>();
  for (const [alias, properties] of aliases) {
    const target = targetName(create(UnitSchema, { store: Store.SEARCH, name: alias }), renames);
    if (target !== alias || name === unitName) renamed.set(target, properties);
  }
  return renamed;
}

/** Aliases that stand for other indices now, or whose name an index has. With DROP they are moved. */
function clashingAliases(indices: readonly RestoredIndex[], there: Names, policy: ConflictPolicy): string[] {
  const replaced = new Set(indices.map(({ placement }) => placement.replaced));
  const names = new Set(indices.map(({ placement }) => placement.place));
  const clashes: string[] = [];
  for (const { placement } of indices) {
    for (const alias of placement.aliases.keys()) {
      const isIndex = (there.indices.has(alias) && !replaced.has(alias)) || names.has(alias);
      const others = (there.aliases.get(alias) ?? []).filter((index) => !replaced.has(index));
      if (isIndex || (others.length > 0 && policy !== ConflictPolicy.DROP)) clashes.push(alias);
    }
  }
  return clashes;
}

/** Names are taken that the restore may not take. */
export function conflict(names: readonly string[]): Error {
  return fail("RESTORE_CONFLICT", `${names.length} of the names in search are taken already`, {
    metadata: {
      store: "search",
      conflicts: names.slice(0, mostNamed).join(", "),
      conflict_count: String(names.length),
    },
  });
}
