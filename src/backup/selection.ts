import { create } from "@bufbuild/protobuf";

import { type Rename, type Selection, SelectionSchema } from "../../gen/lucid/admin/v1/backup_service_pb.ts";
import { Store } from "../../gen/lucid/admin/v1/common_pb.ts";
import type { Unit } from "../../gen/lucid/backup/v1/manifest_pb.ts";
import { serverDatabases } from "../stores/mongodb.ts";
import { isVolumeName } from "../stores/volumes/volumes.ts";

/** A field of a request that is wrong. */
export interface Violation {
  readonly field: string;
  readonly description: string;
}

/** Every store, in the order in which they are backed up. */
export const everyStore: readonly Store[] = [Store.MONGODB, Store.REDIS, Store.SEARCH, Store.VOLUMES];

/**
 * What a backup is of where its request does not say: volumes may hold anything and any amount of it, also the repository itself,
 * so that they are only backed up where someone asks for them.
 */
const usualStores: readonly Store[] = [Store.MONGODB, Store.REDIS, Store.SEARCH];

/** The selection of a backup with its stores filled in. */
export function completeSelection(selection: Selection | undefined): Selection {
  return completed(selection, usualStores);
}

/** The selection of a restore with its stores filled in: all, since what is not in the backup is not restored. */
export function completeRestore(selection: Selection | undefined): Selection {
  return completed(selection, everyStore);
}

function completed(selection: Selection | undefined, stores: readonly Store[]): Selection {
  const given = create(SelectionSchema, selection);
  return create(SelectionSchema, { ...given, stores: given.stores.length === 0 ? [...stores] : given.stores });
}

/** What is wrong with a selection, whatever there is to select. */
export function selectionViolations(selection: Selection, { systemDatabase }: { systemDatabase: string }): Violation[] {
  const wrong: Violation[] = [];
  const check = (
    field: string,
    store: Store,
    values: readonly string[],
    ofOne: (value: string) => string | undefined,
  ): void => {
    const path = `selection.${field}`;
    if (values.length > 0 && !selection.stores.includes(store)) {
      wrong.push({ field: path, description: "is of a store that is not selected" });
    }
    for (const [index, value] of values.entries()) {
      const description = ofOne(value);
      if (description !== undefined) wrong.push({ field: `${path}[${index}]`, description });
    }
  };
  check("mongodb_namespaces", Store.MONGODB, selection.mongodbNamespaces, (namespace) =>
    namespaceFault(namespace, systemDatabase),
  );
  check("redis_key_patterns", Store.REDIS, selection.redisKeyPatterns, () => undefined);
  // The proto says what their names look like.
  check("volumes", Store.VOLUMES, selection.volumes, () => undefined);
  check("search_indices", Store.SEARCH, selection.searchIndices, (name) => indexFault(name, { pattern: true }));
  return wrong;
}

/** What is wrong with `database` or `database.collection`; undefined for nothing. */
export function namespaceFault(namespace: string, systemDatabase: string): string | undefined {
  const [database, collection] = splitNamespace(namespace);
  if (database === "" || collection === "") return "must be `database` or `database.collection`";
  if (Buffer.byteLength(database) > 63) return "names a database with more than 63 bytes";
  // MongoDB's own rule, of all platforms together; control characters would not do in names of anything.
  // oxlint-disable-next-line no-control-regex
  if (/[\u0000-\u0020/\\"$*<>:|?]/.test(database)) return "names a database that cannot exist";
  if (serverDatabases.has(database)) return "names a database of the server's own";
  if (database === systemDatabase) return "names the database that the service keeps for itself";
  if (collection === undefined) return undefined;
  if (collection.includes("\0") || collection.startsWith("system.")) return "names a collection of the server's own";
  return Buffer.byteLength(namespace) > 255 ? "is longer than 255 bytes" : undefined;
}

/** What is wrong with the name of an index, or with a pattern of such names; undefined for nothing. */
export function indexFault(name: string, { pattern }: { readonly pattern: boolean }): string | undefined {
  const plain = pattern ? name.replaceAll("*", "") : name;
  if (name === "" || name === "." || name === "..") return "must be the name of an index";
  // oxlint-disable-next-line no-control-regex
  if (/[\u0000-\u0020\\/*?"<>|,#:]/.test(plain) || plain !== plain.toLowerCase())
    return "has characters that no index can have";
  if (/^[-_+]/.test(name)) return "must not begin with -, _ or +";
  return Buffer.byteLength(name) > 255 ? "is longer than 255 bytes" : undefined;
}

/** Database and collection of a namespace. Collections may have dots, databases may not. */
export function splitNamespace(namespace: string): [database: string, collection: string | undefined] {
  const dot = namespace.indexOf(".");
  return dot === -1 ? [namespace, undefined] : [namespace.slice(0, dot), namespace.slice(dot + 1)];
}

/** Whether a part of the selection that is named by `namespace` holds the collection. */
function namespaceHolds(namespace: string, collection: string): boolean {
  return namespace === collection || (!namespace.includes(".") && splitNamespace(collection)[0] === namespace);
}

/** Whether `pattern`, in which `*` stands for any characters, fits all of `name`. */
export function patternFits(pattern: string, name: string): boolean {
  // Without regular expressions: patterns come from callers, and backtracking could take for ever.
  const [first = "", ...rest] = pattern.split("*");
  if (rest.length === 0) return pattern === name;
  if (!name.startsWith(first)) return false;
  const last = rest.pop() ?? "";
  let at = first.length;
  for (const part of rest) {
    const found = name.indexOf(part, at);
    if (found === -1) return false;
    at = found + part.length;
  }
  return name.length - at >= last.length && name.endsWith(last);
}

/** Names by which a selection may speak of an index: its own, and its aliases at the time of the backup. */
function indexNames(unit: Unit): string[] {
  if (unit.description.case !== "searchIndex") return [];
  const { index, definitionJson } = unit.description.value;
  return [index, ...aliasesOf(definitionJson)];
}

function aliasesOf(definitionJson: string): string[] {
  const definition: unknown = JSON.parse(definitionJson === "" ? "{}" : definitionJson);
  if (typeof definition !== "object" || definition === null || !("aliases" in definition)) return [];
  const { aliases } = definition;
  return typeof aliases === "object" && aliases !== null ? Object.keys(aliases) : [];
}

/** The units of one store that are selected. Changes and templates go with whatever of their store is. */
export function selectedUnits(units: readonly Unit[], store: Store, selection: Selection): Unit[] {
  if (!selection.stores.includes(store)) return [];
  const selected = units.filter((unit) => unit.store === store && isSelected(unit, selection));
  const substance = selected.filter((unit) => !isCompanion(unit));
  return substance.length === 0 && isNarrowed(selection, store) ? [] : selected;
}

function isCompanion({ description }: Unit): boolean {
  return description.case === "mongodbChanges" || description.case === "searchTemplates";
}

function isNarrowed(selection: Selection, store: Store): boolean {
  if (store === Store.MONGODB) return selection.mongodbNamespaces.length > 0;
  if (store === Store.VOLUMES) return selection.volumes.length > 0;
  return store === Store.SEARCH && selection.searchIndices.length > 0;
}

function isSelected(unit: Unit, { mongodbNamespaces, searchIndices, volumes }: Selection): boolean {
  switch (unit.description.case) {
    case "mongodbCollection":
      return (
        mongodbNamespaces.length === 0 || mongodbNamespaces.some((namespace) => namespaceHolds(namespace, unit.name))
      );
    case "searchIndex": {
      const names = indexNames(unit);
      return (
        searchIndices.length === 0 || searchIndices.some((pattern) => names.some((name) => patternFits(pattern, name)))
      );
    }
    case "volumeFiles":
      return volumes.length === 0 || volumes.includes(unit.name);
    default:
      return true;
  }
}

/** What of a selection is not in a backup: a store, a namespace or an index that none of its units is of. */
export function absentViolations(units: readonly Unit[], asked: Selection): Violation[] {
  const wrong: Violation[] = [];
  const description = "is not in the backup";
  for (const [index, store] of asked.stores.entries()) {
    if (!units.some((unit) => unit.store === store)) wrong.push({ field: `selection.stores[${index}]`, description });
  }
  const collections = units
    .filter(({ description: { case: kind } }) => kind === "mongodbCollection")
    .map(({ name }) => name);
  for (const [index, namespace] of asked.mongodbNamespaces.entries()) {
    if (collections.some((collection) => namespaceHolds(namespace, collection))) continue;
    wrong.push({ field: `selection.mongodb_namespaces[${index}]`, description });
  }
  const names = units.flatMap(indexNames);
  for (const [index, pattern] of asked.searchIndices.entries()) {
    if (names.some((name) => patternFits(pattern, name))) continue;
    wrong.push({ field: `selection.search_indices[${index}]`, description });
  }
  for (const [index, volume] of asked.volumes.entries()) {
    if (units.some(({ store, name }) => store === Store.VOLUMES && name === volume)) continue;
    wrong.push({ field: `selection.volumes[${index}]`, description });
  }
  return wrong;
}

/** What is wrong with renames: their form, names that nothing selected has, and two things that would get one name. */
export function renameViolations(
  units: readonly Unit[],
  selection: Selection,
  renames: readonly Rename[],
  { systemDatabase }: { readonly systemDatabase: string },
): Violation[] {
  const wrong: Violation[] = [];
  for (const [index, rename] of renames.entries()) {
    for (const [part, description] of renameFaults(rename, systemDatabase)) {
      wrong.push({ field: `renames[${index}].${part}`, description });
    }
    const selected = selectedUnits(units, rename.store, selection).filter((unit) => !isCompanion(unit));
    const used = selected.some((unit) => rename.store === Store.REDIS || renamed(unit.name, rename) !== undefined);
    if (!used)
      wrong.push({ field: `renames[${index}].from`, description: "is not what anything that is restored is called" });
  }
  if (wrong.length > 0) return wrong;
  for (const store of [Store.MONGODB, Store.SEARCH, Store.VOLUMES]) {
    const targets = new Set<string>();
    for (const unit of selectedUnits(units, store, selection)) {
      if (isCompanion(unit)) continue;
      const target = targetName(unit, renames);
      if (targets.has(target)) wrong.push({ field: "renames", description: `give two things the name ${target}` });
      targets.add(target);
    }
  }
  return wrong;
}

function renameFaults(
  { store, from, to }: Rename,
  systemDatabase: string,
): [part: "from" | "to", description: string][] {
  switch (store) {
    case Store.MONGODB: {
      const fault = namespaceFault(to, systemDatabase);
      if (from === "") return [["from", "must be `database` or `database.collection`"]];
      if (from.includes(".") !== to.includes(".")) return [["to", "must be of the same form as `from`"]];
      return fault === undefined ? [] : [["to", fault]];
    }
    case Store.SEARCH: {
      const prefix = from.endsWith("*");
      if (from === "" || from.slice(0, -1).includes("*"))
        return [["from", "must be an index or a prefix that ends with *"]];
      if (prefix !== to.endsWith("*") || to.slice(0, -1).includes("*"))
        return [["to", "must be of the same form as `from`"]];
      const fault = to === "*" ? undefined : indexFault(to, { pattern: prefix });
      return fault === undefined ? [] : [["to", fault]];
    }
    case Store.VOLUMES: {
      const description = "must be the name of a volume";
      return isVolumeName(to) ? [] : [["to", description]];
    }
    default:
      return []; // any bytes are a key of Redis
  }
}

/** What a rename makes of a unit's name; undefined where it does not fit. */
function renamed(name: string, { store, from, to }: Rename): string | undefined {
  if (name === from) return to;
  if (store === Store.MONGODB && !from.includes(".") && name.startsWith(`${from}.`))
    return to + name.slice(from.length);
  if (store === Store.SEARCH && from.endsWith("*") && name.startsWith(from.slice(0, -1))) {
    return to.slice(0, -1) + name.slice(from.length - 1);
  }
  return undefined;
}

/** The name under which a unit of MongoDB, search or volumes is restored. */
export function targetName(unit: Unit, renames: readonly Rename[]): string {
  for (const rename of renames) {
    const name = rename.store === unit.store ? renamed(unit.name, rename) : undefined;
    if (name !== undefined) return name;
  }
  return unit.name;
}
