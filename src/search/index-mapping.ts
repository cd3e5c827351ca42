import type { MessageInitShape } from "@bufbuild/protobuf";
import type { estypes } from "@elastic/elasticsearch";

import {
  type IndexField,
  type IndexFieldForm,
  type IndexFieldSchema,
  IndexFieldType,
  type IndexMapping,
  type IndexMappingSchema,
  UnknownFields,
} from "../../gen/lucid/search/v1/search_index_pb.ts";
import { fail, type Reason } from "../errors.ts";
import type { FreeFormType } from "../schema/search-mapping.ts";
import { property, refusalOf, statusOf } from "../stores/search/requests.ts";

/** What the server calls the types; FREE_FORM by its family's name. */
const typeNames: ReadonlyMap<IndexFieldType, string> = new Map<IndexFieldType, string>([
  [IndexFieldType.KEYWORD, "keyword"],
  [IndexFieldType.TEXT, "text"],
  [IndexFieldType.LONG, "long"],
  [IndexFieldType.INTEGER, "integer"],
  [IndexFieldType.DOUBLE, "double"],
  [IndexFieldType.BOOLEAN, "boolean"],
  [IndexFieldType.DATE, "date"],
  [IndexFieldType.IP, "ip"],
  [IndexFieldType.OBJECT, "object"],
  [IndexFieldType.NESTED, "nested"],
  [IndexFieldType.COMPLETION, "completion"],
  [IndexFieldType.SEARCH_AS_YOU_TYPE, "search_as_you_type"],
  [IndexFieldType.GEO_POINT, "geo_point"],
  [IndexFieldType.BINARY, "binary"],
]);

const types: ReadonlyMap<string, IndexFieldType> = new Map([
  ...Array.from(typeNames, ([type, name]): [string, IndexFieldType] => [name, type]),
  ["flattened", IndexFieldType.FREE_FORM],
  ["flat_object", IndexFieldType.FREE_FORM],
]);

/** What a server calls what becomes of unknown fields. */
const unknownFields: ReadonlyMap<UnknownFields, boolean | "strict"> = new Map<UnknownFields, boolean | "strict">([
  [UnknownFields.INDEX, true],
  [UnknownFields.IGNORE, false],
  [UnknownFields.REFUSE, "strict"],
]);

/** A mapping as the server is told it. */
export function serverMapping(mapping: IndexMapping, freeForm: FreeFormType): estypes.MappingTypeMapping {
  const dynamic = unknownFields.get(mapping.unknownFields);
  return { ...(dynamic !== undefined && { dynamic }), properties: propertiesOf(mapping.fields, freeForm) };
}

function propertiesOf(fields: Readonly<Record<string, IndexField>>, freeForm: FreeFormType): Record<string, object> {
  return Object.fromEntries(Object.entries(fields).map(([name, field]) => [name, propertyOf(field, freeForm)]));
}

function propertyOf(field: IndexField, freeForm: FreeFormType): object {
  const { type, fields, forms, analyzer, format, ignoreAbove, notIndexed } = field;
  const holdsFields = Object.keys(fields).length > 0;
  return {
    type: typeNames.get(type) ?? freeForm,
    // What does not go together is refused by the server, which says so.
    ...(holdsFields && { properties: propertiesOf(fields, freeForm) }),
    ...(Object.keys(forms).length > 0 && { fields: formsOf(forms, freeForm) }),
    ...(analyzer !== "" && { analyzer }),
    ...(format !== "" && { format }),
    ...(ignoreAbove > 0 && { ignore_above: ignoreAbove }),
    ...(notIndexed && { [type === IndexFieldType.OBJECT ? "enabled" : "index"]: false }),
  };
}

function formsOf(forms: Readonly<Record<string, IndexFieldForm>>, freeForm: FreeFormType): Record<string, object> {
  const formOf = ({ type, analyzer, ignoreAbove }: IndexFieldForm): object => ({
    type: typeNames.get(type) ?? freeForm,
    ...(analyzer !== "" && { analyzer }),
    ...(ignoreAbove > 0 && { ignore_above: ignoreAbove }),
  });
  return Object.fromEntries(Object.entries(forms).map(([name, form]) => [name, formOf(form)]));
}

/** What a server says of its mapping. */
export function toldMapping(mapping: unknown): MessageInitShape<typeof IndexMappingSchema> {
  // Servers write it as a value of its own or as text.
  const dynamic = JSON.stringify(property(mapping, "dynamic") ?? true).replaceAll('"', "");
  const found = [...unknownFields].find(([, said]) => String(said) === dynamic);
  return {
    fields: toldFields(property(mapping, "properties")),
    unknownFields: found?.[0] ?? UnknownFields.UNSPECIFIED,
  };
}

function toldFields(properties: unknown): Record<string, MessageInitShape<typeof IndexFieldSchema>> {
  return Object.fromEntries(membersOf(properties).map(([name, field]) => [name, toldField(field)]));
}

function membersOf(object: unknown): [string, unknown][] {
  return typeof object === "object" && object !== null ? Object.entries(object) : [];
}

function toldField(field: unknown): MessageInitShape<typeof IndexFieldSchema> {
  return {
    ...toldForm(field),
    fields: toldFields(property(field, "properties")),
    forms: Object.fromEntries(membersOf(property(field, "fields")).map(([name, form]) => [name, toldForm(form)])),
    format: textOf(field, "format"),
    notIndexed: ["index", "enabled"].some((name) => property(field, name) === false),
  };
}

/** What is told of a field and of its other forms alike. */
function toldForm(field: unknown) {
  const serverType = textOf(field, "type") || "object";
  return {
    type: types.get(serverType) ?? IndexFieldType.UNSPECIFIED,
    serverType,
    analyzer: textOf(field, "analyzer"),
    ignoreAbove: Number(property(field, "ignore_above") ?? 0),
  };
}

function textOf(object: unknown, name: string): string {
  const value = property(object, name);
  return typeof value === "string" ? value : "";
}

/** What servers say where a field would change. */
const conflict =
  /cannot be changed from type|conflicts with existing mapper|different type|a non[ -]object mapping|Cannot update parameter/i;
/** What they say of a type that a module of theirs would have to bring. */
const missing = /No handler for type \[([^\]]*)\]|mapper type \[([^\]]*)\][^]*does not exist/;

/**
 * The failure of a request that makes an index or changes its mapping; what it says speaks of fields and settings, not of
 * documents. Anything that is no refusal comes back as it is.
 */
export function refusedDefinition(index: string, error: unknown): unknown {
  if (statusOf(error) !== 400) return error;
  const { type, reason } = refusalOf(error);
  const failure = (code: Reason, message: string, more: Record<string, string> = {}) =>
    fail(code, message, { metadata: { index, error_type: type, error: reason, ...more }, cause: error });
  if (type === "resource_already_exists_exception") {
    return fail("SEARCH_INDEX_ALREADY_EXISTS", `There is an index ${index} already`, { metadata: { index } });
  }
  if (type === "invalid_alias_name_exception") {
    return fail("SEARCH_INDEX_OCCUPIED", `The name ${index} is that of an index without versions`, {
      metadata: { index },
    });
  }
  const [, named, another] = missing.exec(reason) ?? [];
  const fieldType = named ?? another;
  if (fieldType !== undefined) {
    const metadata = { field_type: fieldType };
    return failure("SEARCH_FEATURE_MISSING", `The search server has no fields of type ${fieldType}`, metadata);
  }
  if (conflict.test(reason)) {
    return failure("SEARCH_MAPPING_CONFLICT", `A field of the index ${index} cannot be changed`);
  }
  return failure("SEARCH_MAPPING_INVALID", `The search server does not take the definition of the index ${index}`);
}
