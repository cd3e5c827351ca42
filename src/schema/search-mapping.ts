import { createHash } from "node:crypto";

import { type DescField, type DescMessage, getOption } from "@bufbuild/protobuf";

import {
  personal as personalOption,
  search as searchOption,
  search_index as searchIndexOption,
  SearchKind,
} from "../../gen/lucid/options/v1/options_pb.ts";
import { isEtag, type StoredKind, storedKind } from "./stored-field.ts";

/** Of every copy: the `_id` of the document in MongoDB as text, by which a removal is known. */
export const keyField = "_key";
/** Of a tombstone: true. What was removed for good leaves one for a while, so that nothing that comes late brings it back. */
export const removedField = "_removed";
/** Of every copy but a tombstone: a digest of all else in it, by which two are compared that are of one revision. */
export const digestField = "_digest";
/** Of copies that are not deleted: what is suggested to who types, by `suggestionName`. */
export const suggestField = "_suggest";

/** How an object of any form is called by the server's family. */
export type FreeFormType = "flattened" | "flat_object";

/** A field of a message that is in the index. */
export interface SearchedField {
  /** Stored name. */
  readonly name: string;
  /** Path from the top of the document. */
  readonly path: string;
  readonly kind: SearchKind;
  readonly stored: StoredKind;
  readonly isList: boolean;
  /** Of an object or nested objects: what is in the index of them. */
  readonly fields: readonly SearchedField[];
  readonly desc: DescField;
}

/** The search index of a message. */
export interface SearchedMessage {
  readonly schema: DescMessage;
  /** Logical name, for example `users`. */
  readonly name: string;
  /** Stored field that is the id of the copy. */
  readonly id: string;
  readonly shards: number;
  readonly fields: readonly SearchedField[];
  /** Fields whose values are suggested. */
  readonly names: readonly SearchedField[];
}

/** What a server is told when the index is made. */
export interface SearchMapping {
  readonly dynamic: "strict";
  readonly _meta: { readonly message: string; readonly digest: string };
  readonly properties: Readonly<Record<string, object>>;
}

/** Exact text longer than this is not indexed: Lucene takes terms of up to 32,766 bytes, which are 8,191 characters at least. */
export const mostKeywordCharacters = 8191;

const known = new WeakMap<DescMessage, SearchedMessage | null>();

/** The index of a message; undefined where it has none. Throws where its options contradict each other: that is a bug. */
export function searchedMessage(schema: DescMessage): SearchedMessage | undefined {
  let found = known.get(schema);
  if (found === undefined) {
    found = describe(schema);
    known.set(schema, found);
  }
  return found ?? undefined;
}

/** The mapping of a message's index. No field is made that it does not name: an undeclared one is refused by the server too. */
export function searchMapping({ schema, fields, names }: SearchedMessage, freeForm: FreeFormType): SearchMapping {
  const suggestions = names.map(({ path }) => [suggestionName(path), completion]);
  const properties = {
    ...propertiesOf(fields, freeForm),
    [keyField]: keyword,
    [digestField]: { type: "keyword", index: false, doc_values: false },
    [removedField]: { type: "boolean" },
    ...(suggestions.length > 0 && { [suggestField]: { properties: Object.fromEntries(suggestions) as object } }),
  };
  const digest = createHash("sha256").update(JSON.stringify(properties)).digest("hex").slice(0, 16);
  return { dynamic: "strict", _meta: { message: schema.typeName, digest }, properties };
}

/** What the suggestions of a field are called in `suggestField`. */
export function suggestionName(path: string): string {
  return path.replaceAll(".", "_");
}

/** A text without the three characters that servers refuse in suggestions, and in what is to be completed. */
export function suggestible(text: string): string {
  // oxlint-disable-next-line no-control-regex -- these are the ones
  return text.replaceAll(/[\u0000\u001e\u001f]/g, " ");
}

function describe(schema: DescMessage): SearchedMessage | null {
  const { name, id, shards } = getOption(schema, searchIndexOption);
  if (name === "") return null;
  const fields = fieldsOf(schema, "", []);
  const identifier = fields.find((field) => field.name === id);
  if (identifier?.stored !== "string" || identifier.kind !== SearchKind.KEYWORD) {
    throw new Error(`${schema.typeName} has no text ${id} that could identify it in search`);
  }
  const names = namesOf(fields);
  return { schema, name, id, shards: shards === 0 ? 1 : shards, fields, names };
}

function fieldsOf(message: DescMessage, at: string, around: readonly DescMessage[]): SearchedField[] {
  if (around.includes(message)) throw new Error(`${message.typeName} holds itself and cannot be searched`);
  return message.fields.flatMap((desc) => {
    const { kind } = getOption(desc, searchOption);
    if (kind === SearchKind.UNSPECIFIED) return [];
    check(desc, kind);
    const path = at === "" ? desc.name : `${at}.${desc.name}`;
    const isObject = kind === SearchKind.OBJECT || kind === SearchKind.NESTED;
    const fields = isObject && desc.message !== undefined ? fieldsOf(desc.message, path, [...around, message]) : [];
    const isList = desc.fieldKind === "list";
    return [{ name: desc.name, path, kind, stored: storedKind(desc), isList, fields, desc }];
  });
}

function namesOf(fields: readonly SearchedField[]): SearchedField[] {
  return fields.flatMap((field) => (field.kind === SearchKind.NAME ? [field] : namesOf(field.fields)));
}

interface Kind {
  /** What a field that is searched like this may be stored as. */
  readonly stored: readonly StoredKind[];
  readonly property: (field: SearchedField, freeForm: FreeFormType) => object;
}

const keyword = { type: "keyword", ignore_above: mostKeywordCharacters };
/** The standard analyser keeps digits, which the usual one of suggestions does not. */
const completion = { type: "completion", analyzer: "standard" };
const numbers: readonly StoredKind[] = ["int32", "uint32", "int64"];

const kinds: ReadonlyMap<SearchKind, Kind> = new Map<SearchKind, Kind>([
  [SearchKind.KEYWORD, { stored: ["string", "enum"], property: () => keyword }],
  [SearchKind.TEXT, { stored: ["string"], property: () => ({ type: "text" }) }],
  [SearchKind.NAME, { stored: ["string"], property: () => ({ type: "text", fields: { keyword } }) }],
  [SearchKind.DATE, { stored: ["timestamp"], property: () => ({ type: "date" }) }],
  [SearchKind.LONG, { stored: numbers, property: () => ({ type: "long" }) }],
  [SearchKind.DOUBLE, { stored: ["double", ...numbers], property: () => ({ type: "double" }) }],
  [SearchKind.BOOLEAN, { stored: ["bool"], property: () => ({ type: "boolean" }) }],
  [SearchKind.IP, { stored: ["string"], property: () => ({ type: "ip", ignore_malformed: true }) }],
  [SearchKind.OBJECT, { stored: ["message"], property: inner }],
  [SearchKind.NESTED, { stored: ["message"], property: (...its) => ({ type: "nested", ...inner(...its) }) }],
  [SearchKind.FREE_FORM, { stored: ["struct"], property: (_, freeForm) => ({ type: freeForm }) }],
]);

function inner({ fields }: SearchedField, freeForm: FreeFormType) {
  return { properties: propertiesOf(fields, freeForm) };
}

function propertiesOf(fields: readonly SearchedField[], freeForm: FreeFormType): Record<string, object> {
  return Object.fromEntries(
    fields.map((field) => [field.name, kinds.get(field.kind)?.property(field, freeForm) ?? {}]),
  );
}

/** Throws where a field cannot be searched in this way, or must not be. */
function check(desc: DescField, kind: SearchKind): void {
  const wrong = (why: string) => new Error(`${String(desc)} cannot be searched: ${why}`);
  if (desc.proto.options?.debugRedact === true) throw wrong("it is secret");
  if (getOption(desc, personalOption) !== getOption(desc, searchOption).admitsPersonal) {
    throw wrong("a personal field, and no other, says that it admits it");
  }
  if (isEtag(desc) || kinds.get(kind)?.stored.includes(storedKind(desc)) !== true) {
    throw wrong("it is not stored in such a form");
  }
  if (desc.fieldKind === "map") throw wrong("it is a map");
  if (desc.fieldKind === "list" && (kind === SearchKind.OBJECT || kind === SearchKind.NAME))
    throw wrong("it is a list");
}
