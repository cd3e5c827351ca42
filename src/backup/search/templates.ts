import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Client } from "@elastic/elasticsearch";

import { Store } from "../../../gen/lucid/admin/v1/common_pb.ts";
import type { UnitSchema } from "../../../gen/lucid/backup/v1/manifest_pb.ts";
import { JsonScan, type Span } from "../../stores/search/json-scan.ts";
import { property, rawRequest } from "../../stores/search/requests.ts";

/** Templates by name, each as the server says it: JSON. */
export type Templates = ReadonlyMap<string, string>;

/** The two kinds of templates: their paths, and how lists of them are written. Component templates come first in a restore. */
export const templateKinds = [
  { kind: "component", path: "_component_template", list: "component_templates", body: "component_template" },
  { kind: "index", path: "_index_template", list: "index_templates", body: "index_template" },
] as const;

export type TemplateKind = (typeof templateKinds)[number];

/** The templates of a cluster, by kind, without those that the server brings along; undefined where there are none. */
export async function readTemplates(client: Client, signal: AbortSignal) {
  const [component, index] = [
    await templatesOf(client, templateKinds[0], signal),
    await templatesOf(client, templateKinds[1], signal),
  ];
  return component.size + index.size === 0 ? undefined : { component, index };
}

/** The templates of one kind. */
export async function templatesOf(
  client: Client,
  { path, list, body }: TemplateKind,
  signal: AbortSignal,
): Promise<Map<string, string>> {
  const answer = await rawRequest(client, { method: "GET", path: `/${path}`, name: `${list}.get` }, { signal });
  const scan = new JsonScan(answer);
  const templates = scan.member(scan.whole(), list);
  const found = new Map<string, string>();
  for (const entry of templates === undefined ? [] : scan.elements(templates)) {
    const [name, template] = [scan.member(entry, "name"), scan.member(entry, body)];
    if (name === undefined || template === undefined) continue;
    const text = String(scan.parse(name));
    if (!isBuiltIn(text, scan.parse(template))) found.set(text, declaredIn(scan, template));
  }
  return found;
}

/** What Elasticsearch adds to a template since 9.1, and takes from nobody. */
const added: ReadonlySet<string> = new Set([
  "created_date",
  "modified_date",
  "created_date_millis",
  "modified_date_millis",
]);

/** What a template says itself, digit by digit. */
function declaredIn(scan: JsonScan, template: Span): string {
  const members = [...scan.members(template)].filter(([name]) => !added.has(name));
  return `{${members.map(([name, value]) => `${JSON.stringify(name)}:${scan.text(value)}`).join(",")}}`;
}

function isBuiltIn(name: string, template: unknown): boolean {
  return name.startsWith(".") || property(property(template, "_meta"), "managed") === true;
}

/** How templates stand in a backup. */
export function templatesUnit(templates: {
  readonly component: Templates;
  readonly index: Templates;
}): MessageInitShape<typeof UnitSchema> {
  return {
    store: Store.SEARCH,
    // No index can have that name.
    name: "_templates",
    description: {
      case: "searchTemplates",
      value: { indexTemplatesJson: written(templates.index), componentTemplatesJson: written(templates.component) },
    },
    streams: [],
  };
}

function written(templates: Templates): string {
  return `{${[...templates].map(([name, template]) => `${JSON.stringify(name)}:${template}`).join(",")}}`;
}

/** The templates of an object by name, as `templatesUnit` writes it. */
export function templatesIn(json: string): Map<string, string> {
  if (json === "") return new Map();
  const scan = new JsonScan(Buffer.from(json));
  return new Map(Array.from(scan.members(scan.whole()), ([name, value]) => [name, scan.text(value)]));
}
