import { isDeepStrictEqual } from "node:util";

import type { SearchIndex } from "../../../gen/lucid/backup/v1/manifest_pb.ts";
import type { SearchDialect } from "../../stores/search.ts";
import { JsonScan } from "../../stores/search/json-scan.ts";
import { property } from "../../stores/search/requests.ts";

/** A parsed JSON object. */
type JsonObject = Record<string, unknown>;

/** An index as it is to be made, all as JSON. */
export interface IndexDefinition {
  /** Body of the request that makes it, fit for loading. */
  readonly creation: string;
  /** Settings that it gets when it is loaded. */
  readonly afterLoading: string;
  /** Settings that it gets at the very end, since they forbid writing; undefined for none. */
  readonly blocks: string | undefined;
  readonly mappings: unknown;
  readonly aliases: ReadonlyMap<string, string>;
}

/** Settings that the server makes by itself, that are about the nodes of one cluster, or about how the index came to be. */
const notRestored = [
  "uuid",
  "creation_date",
  "creation_date_string",
  "provided_name",
  "version",
  "history",
  "history_uuid",
  "resize",
  "shrink",
  "verified_before_close",
  "routing.allocation",
  // Policies that delete or move indices would take the restored one by the age of its data.
  "lifecycle",
  "plugins.index_state_management",
  "opendistro.index_state_management",
];

/** Settings that only one of the two products knows and gives every index. */
const productsOwn = ["replication"];

/** Settings that are held back while documents are loaded: they would run pipelines over them, copy or refresh them. */
const heldBack = [
  "number_of_replicas",
  "auto_expand_replicas",
  "refresh_interval",
  "default_pipeline",
  "final_pipeline",
];

/** Takes the description of an index apart, for a server that may be of the other product. */
export function definitionOf({ definitionJson, product }: SearchIndex, dialect: SearchDialect): IndexDefinition {
  const scan = new JsonScan(Buffer.from(definitionJson));
  const whole = scan.whole();
  const [aliases, mappings, settings] = ["aliases", "mappings", "settings"].map((name) => scan.member(whole, name));
  const isForeign = product !== dialect.product.name;
  const parsedMappings = mappings === undefined ? {} : scan.parse(mappings);
  const expected = isForeign ? translated(parsedMappings, dialect) : parsedMappings;
  // Of the same product the text as it is: numbers in it may be larger than JSON.parse can tell.
  const mappingsText = isForeign || mappings === undefined ? JSON.stringify(expected) : scan.text(mappings);
  // Values of settings are all text.
  const index = settings === undefined ? {} : objectOf(property(scan.parse(settings), "index"));
  for (const path of [...notRestored, ...(isForeign ? productsOwn : [])]) remove(index, path.split("."));
  const blocks = index["blocks"];
  delete index["blocks"];
  // Null gives a setting its default.
  const after = Object.fromEntries(heldBack.map((name) => [name, index[name] ?? null]));
  for (const name of heldBack) delete index[name];
  const loading = { ...index, number_of_replicas: "0", refresh_interval: "-1" };
  return {
    creation: `{"settings":{"index":${JSON.stringify(loading)}},"mappings":${mappingsText}}`,
    afterLoading: JSON.stringify({ index: after }),
    blocks: blocks === undefined ? undefined : JSON.stringify({ index: { blocks } }),
    mappings: expected,
    aliases: new Map(
      aliases === undefined ? [] : Array.from(scan.members(aliases), ([name, value]) => [name, scan.text(value)]),
    ),
  };
}

function objectOf(value: unknown): JsonObject {
  // What is an object in JSON has names.
  return typeof value === "object" && value !== null ? (value as JsonObject) : {};
}

function remove(object: JsonObject, [name = "", ...rest]: readonly string[]): void {
  if (rest.length === 0) delete object[name];
  else if (name in object) remove(objectOf(object[name]), rest);
}

/**
 * Mappings for the other product: a field for objects of any form has another name there, and none of the options that it has
 * here. Whatever else the other one does not know, it refuses by itself.
 */
export function translated(mappings: unknown, { freeForm }: Pick<SearchDialect, "freeForm">): unknown {
  if (Array.isArray(mappings)) return mappings.map((element) => translated(element, { freeForm }));
  if (typeof mappings !== "object" || mappings === null) return mappings;
  const { type } = objectOf(mappings);
  if (type === "flattened" || type === "flat_object") return { type: freeForm };
  return Object.fromEntries(Object.entries(mappings).map(([name, value]) => [name, translated(value, { freeForm })]));
}

/** The fields of mappings, each with its type: versions differ in how they write the rest. */
export function fieldsOf(mappings: unknown, prefix = ""): Map<string, string> {
  const fields = new Map<string, string>();
  for (const members of ["properties", "fields"]) {
    for (const [name, field] of Object.entries(objectOf(property(mappings, members)))) {
      const path = `${prefix}${name}`;
      const type = property(field, "type");
      fields.set(path, typeof type === "string" ? type : "object");
      for (const [inner, innerType] of fieldsOf(field, `${path}.`)) fields.set(inner, innerType);
    }
  }
  return fields;
}

/** Whether two mappings have the same fields. */
export function haveSameFields(one: unknown, other: unknown): boolean {
  return isDeepStrictEqual(fieldsOf(one), fieldsOf(other));
}
