import { randomBytes } from "node:crypto";

import type { MongoClient } from "mongodb";

import { ConflictPolicy } from "../../../gen/lucid/admin/v1/backup_service_pb.ts";
import type { MongodbCollection, Unit } from "../../../gen/lucid/backup/v1/manifest_pb.ts";
import { fail } from "../../errors.ts";
import type { RestorePlan } from "../contracts.ts";
import { namespaceFault, splitNamespace, targetName } from "../selection.ts";
import { type CollectionKind, databaseNames, hasOption, listCollections } from "./catalog.ts";
import { RestoredCollection, type Way } from "./restored-collection.ts";

/** Names that a failure tells. */
const mostNamed = 10;

/** What is written beside what is there has names that begin so, until it is in place. */
export const interimPrefix = "lucid_restore_";

interface Placed {
  readonly unit: Unit;
  readonly description: MongodbCollection;
  readonly database: string;
  readonly name: string;
}

/**
 * Finds where everything goes and whether it may; changes nothing. Fails with `RESTORE_REFUSED` where names cannot be, and
 * `RESTORE_CONFLICT` where something is there that the policy does not allow for.
 */
export async function plannedCollections(
  plan: RestorePlan,
  options: { readonly client: MongoClient; readonly systemDatabase: string },
): Promise<RestoredCollection[]> {
  const placed = plan.units.flatMap((unit) => placedUnit(unit, plan) ?? []);
  requireNames(placed, options.systemDatabase);
  const there = await whatIsThere(options.client, new Set(placed.map(({ database }) => database)));
  requireCase(placed, there.databases);
  requireNoConflict(placed, there.kinds, plan.conflictPolicy);
  const id = randomBytes(4).toString("hex");
  return placed.map(({ unit, description, database, name }, index) => {
    const replaces = there.kinds.get(`${database}.${name}`);
    const way = replaces === undefined ? "make" : wayOf(plan.conflictPolicy);
    // A time series cannot be renamed, and there is nothing in a view: these are made in their place.
    const inPlace = way === "make" || description.kind !== "collection";
    const place = inPlace ? name : `${interimPrefix}${id}_${index}`;
    return new RestoredCollection(unit, description, { db: options.client.db(database), name, place, way, replaces });
  });
}

function placedUnit(unit: Unit, { renames }: RestorePlan): Placed | undefined {
  if (unit.description.case !== "mongodbCollection") return undefined;
  const [database, name = ""] = splitNamespace(targetName(unit, renames));
  return { unit, description: unit.description.value, database, name };
}

function wayOf(policy: ConflictPolicy): Way {
  if (policy === ConflictPolicy.DROP) return "replace";
  return policy === ConflictPolicy.OVERWRITE ? "overwrite" : "skip";
}

function requireNames(placed: readonly Placed[], systemDatabase: string): void {
  const taken = new Set<string>();
  for (const { unit, database, name } of placed) {
    const target = `${database}.${name}`;
    const fault = taken.has(target) ? "is the name of two things" : namespaceFault(target, systemDatabase);
    taken.add(target);
    if (fault === undefined) continue;
    throw fail("RESTORE_REFUSED", `${unit.name} cannot be restored as ${target}: that ${fault}`, {
      metadata: { unit: unit.name, target },
    });
  }
}

async function whatIsThere(client: MongoClient, databases: ReadonlySet<string>) {
  const names = await databaseNames(client);
  const kinds = new Map<string, CollectionKind>();
  for (const database of databases) {
    if (!names.includes(database)) continue;
    for (const { collection, kind } of await listCollections(client.db(database))) {
      kinds.set(`${database}.${collection}`, kind);
    }
  }
  return { databases: names, kinds };
}

/** A server has no two databases whose names differ in upper and lower case only. */
function requireCase(placed: readonly Placed[], databases: readonly string[]): void {
  const byLowerCase = new Map(databases.map((name) => [name.toLowerCase(), name]));
  for (const { unit, database } of placed) {
    const there = byLowerCase.get(database.toLowerCase());
    if (there === undefined || there === database || databases.includes(database)) continue;
    throw fail("RESTORE_REFUSED", `The database ${database} cannot be beside ${there}`, {
      metadata: { unit: unit.name, target: database, existing: there },
    });
  }
}

function requireNoConflict(
  placed: readonly Placed[],
  kinds: ReadonlyMap<string, CollectionKind>,
  policy: ConflictPolicy,
): void {
  const conflicts = placed.filter(({ database, name, description }) => {
    const there = kinds.get(`${database}.${name}`);
    if (there === undefined || policy === ConflictPolicy.DROP) return false;
    if (policy !== ConflictPolicy.OVERWRITE && policy !== ConflictPolicy.SKIP) return true;
    return !canMerge(description, there);
  });
  if (conflicts.length === 0) return;
  const names = conflicts.map(({ database, name }) => `${database}.${name}`);
  throw fail("RESTORE_CONFLICT", `${conflicts.length} of the collections to restore are there already`, {
    metadata: {
      store: "mongodb",
      conflicts: names.slice(0, mostNamed).join(", "),
      conflict_count: String(conflicts.length),
    },
  });
}

/** Single documents can be put into plain collections only: they have no `_id` of their own elsewhere, or an order. */
function canMerge({ kind, options }: MongodbCollection, there: CollectionKind): boolean {
  if (kind === "view") return there === "view";
  return kind === "collection" && there === "collection" && !hasOption(options, "capped");
}
