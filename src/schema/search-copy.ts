import { hash } from "node:crypto";

import type { DescMessage, MessageShape } from "@bufbuild/protobuf";
import { serialize } from "bson";

import { SearchKind } from "../../gen/lucid/options/v1/options_pb.ts";
import { fail } from "../errors.ts";
import { asBuffer, BSON, documentEnd, nameEnd, valueEnd } from "./bson-reader.ts";
import { codecFor } from "./codec.ts";
import {
  digestField,
  keyField,
  mostKeywordCharacters,
  removedField,
  type SearchedField,
  type SearchedMessage,
  suggestField,
  suggestible,
  suggestionName,
} from "./search-mapping.ts";

/** A document as search has it. */
export interface SearchCopy {
  /** Its id in the index. */
  readonly id: string;
  /** The document's revision; 1 where its message has none, since it never changes then. */
  readonly revision: bigint;
  /** The document's `_id` as text; empty where it has none. */
  readonly key: string;
  /** What is indexed: declared fields only, on one line. */
  readonly json: string;
  /** Of all that, however the document was read. */
  readonly digest: string;
}

/** The highest revision of which there can be a copy: its version has no room for more. */
export const mostRevision = 2n ** 36n - 2n;

/** Makes copies of the documents of one message. */
export interface SearchCopier {
  /** Copies a stored document. Fails with `DOCUMENT_DAMAGED`, naming the field, where it cannot be one. */
  fromBson(document: Uint8Array): SearchCopy;
  /** Copies a message, as it would be stored. */
  fromMessage<D extends DescMessage>(schema: D, message: MessageShape<D>): SearchCopy;
  /** What stays of a document that was removed for good: hidden like a deleted one. */
  tombstone(id: string, key: string, removedAt: Date): string;
}

/** 132 bits. */
const digestCharacters = 22;

/** Levels of a free-form object and characters of a path in it that servers take; what is beyond is left out of the copy. */
const free = { levels: 16, pathCharacters: 512 };

export function searchCopier({ schema, id, fields, names }: SearchedMessage): SearchCopier {
  const plan = planOf(fields);
  const suggested = new Map(names.map(({ path }) => [path, suggestionName(path)]));

  const fromBson = (document: Uint8Array): SearchCopy => {
    const found: Found = { id: "", revision: 1n, key: "", isDeleted: false, names: [] };
    const source = asBuffer(document);
    const parts: string[] = [];
    eachElement(source, 0, (name, type, at, end) => {
      if (name === "_id") found.key = keyOf(source, type, at, end);
      const field = plan.get(name);
      if (field === undefined) return;
      const json = declared(source, { type, at, end }, field, found);
      if (json === undefined) return;
      if (name === id && type === BSON.string) found.id = text(source, at, end);
      if (name === "revision") found.revision = revisionIn(source, type, at);
      if (name === "deleted_at" && type === BSON.date) found.isDeleted = true;
      parts.push(`${field.label}${json}`);
    });
    if (found.id === "") throw damaged(id, "is missing");
    parts.push(`"${keyField}":${JSON.stringify(found.key)}`);
    const suggestions = found.isDeleted ? [] : found.names.flatMap((name) => suggestion(name, suggested));
    if (suggestions.length > 0) parts.push(`"${suggestField}":{${suggestions.join(",")}}`);
    const content = parts.join(",");
    const digest = hash("sha256", content, "base64url").slice(0, digestCharacters);
    const json = `{${content},"${digestField}":"${digest}"}`;
    return { id: found.id, revision: found.revision, key: found.key, json, digest };
  };

  return {
    fromBson,
    fromMessage: (desc, message) => {
      if (desc.typeName !== schema.typeName) throw new Error(`${desc.typeName} is not ${schema.typeName}`);
      return fromBson(serialize(codecFor(desc).encode(message)));
    },
    tombstone: (documentId, key, removedAt) =>
      JSON.stringify({ [id]: documentId, deleted_at: removedAt, [keyField]: key, [removedField]: true }),
  };
}

/** What is learnt of a document on the way. */
interface Found {
  id: string;
  revision: bigint;
  key: string;
  isDeleted: boolean;
  readonly names: { readonly path: string; readonly value: string }[];
}

/** A field with what goes before its value. */
interface Planned extends SearchedField {
  readonly label: string;
  readonly plan: ReadonlyMap<string, Planned>;
}

function planOf(fields: readonly SearchedField[]): ReadonlyMap<string, Planned> {
  return new Map(
    fields.map((field) => [
      field.name,
      { ...field, label: `${JSON.stringify(field.name)}:`, plan: planOf(field.fields) },
    ]),
  );
}

interface Value {
  readonly type: number;
  readonly at: number;
  readonly end: number;
}

/** The value of a declared field as JSON; undefined where there is nothing to index. */
function declared(source: Buffer, value: Value, field: Planned, found: Found): string | undefined {
  const { type, at } = value;
  if (type === BSON.array) {
    if (!field.isList) throw damaged(field.path, "holds an array");
    const items: string[] = [];
    eachElement(source, at, (_, itemType, itemAt, itemEnd) => {
      if (itemType === BSON.array) throw damaged(field.path, "holds an array in an array");
      items.push(declared(source, { type: itemType, at: itemAt, end: itemEnd }, field, found) ?? "null");
    });
    return `[${items.join(",")}]`;
  }
  if (field.kind === SearchKind.FREE_FORM) return type === BSON.document ? freeForm(source, value, 1, 0) : undefined;
  if (type === BSON.document) {
    if (field.plan.size === 0) throw damaged(field.path, "holds a document");
    return declaredObject(source, at, field, found);
  }
  const json = scalar(source, value);
  if (field.kind === SearchKind.NAME && type === BSON.string) {
    found.names.push({ path: field.path, value: text(source, at, value.end) });
  }
  return json;
}

function declaredObject(source: Buffer, from: number, field: Planned, found: Found): string {
  const parts: string[] = [];
  eachElement(source, from, (name, type, at, end) => {
    const inner = field.plan.get(name);
    const json = inner && declared(source, { type, at, end }, inner, found);
    if (json !== undefined) parts.push(`${inner?.label ?? ""}${json}`);
  });
  return `{${parts.join(",")}}`;
}

/** Anything in a free-form object that a server can index. */
function freeForm(source: Buffer, value: Value, level: number, pathLength: number): string | undefined {
  if (value.type !== BSON.document && value.type !== BSON.array) {
    const json = scalar(source, value);
    // Quotes aside: what is escaped is counted as longer than it is, which hurts nobody.
    return json !== undefined && json.length > mostKeywordCharacters ? undefined : json;
  }
  if (level > free.levels) return undefined;
  const isArray = value.type === BSON.array;
  const parts: string[] = [];
  eachElement(source, value.at, (name, type, at, end) => {
    const length = isArray ? pathLength : pathLength + name.length + 1;
    if (length > free.pathCharacters) return;
    const json = freeForm(source, { type, at, end }, level + 1, length);
    if (json !== undefined) parts.push(isArray ? json : `${JSON.stringify(utf8(name))}:${json}`);
  });
  // JavaScript puts names that are numbers first: what came by a driver's objects has another order than what did not.
  return isArray ? `[${parts.join(",")}]` : `{${parts.toSorted().join(",")}}`;
}

/** A value that is no document and no array; undefined where search has no use for it. */
function scalar(source: Buffer, { type, at, end }: Value): string | undefined {
  switch (type) {
    case BSON.string:
      return JSON.stringify(text(source, at, end));
    case BSON.bool:
      return source[at] === 1 ? "true" : "false";
    case BSON.int32:
      return String(source.readInt32LE(at));
    case BSON.long:
      // Written digit by digit: a JavaScript number holds 53 bits.
      return String(source.readBigInt64LE(at));
    case BSON.double: {
      const number = source.readDoubleLE(at);
      return Number.isFinite(number) ? String(number) : undefined;
    }
    case BSON.date: {
      const milliseconds = Number(source.readBigInt64LE(at));
      const isWritable = Math.abs(milliseconds) <= 8.64e15; // what a Date holds
      return isWritable ? `"${new Date(milliseconds).toISOString()}"` : undefined;
    }
    case BSON.objectId:
      return `"${source.toString("hex", at, end)}"`;
    default:
      return undefined;
  }
}

/** Servers refuse text that is empty, too. */
function suggestion({ path, value }: Found["names"][number], suggested: ReadonlyMap<string, string>): string[] {
  const allowed = suggestible(value).trim();
  const name = suggested.get(path);
  return allowed === "" || name === undefined ? [] : [`"${name}":${JSON.stringify(allowed)}`];
}

/** The `_id` of a document as text, as copies have it; empty where it has none. */
export function documentKey(document: Uint8Array): string {
  const source = asBuffer(document);
  let key = "";
  eachElement(source, 0, (name, type, at, end) => {
    if (name === "_id") key = keyOf(source, type, at, end);
  });
  return key;
}

/**
 * An `_id` as text, no two alike: an ObjectId, which every document of this service has, in hexadecimal. Numbers of the same value
 * are one `_id`, whatever their types.
 */
function keyOf(source: Buffer, type: number, at: number, end: number): string {
  if (type === BSON.objectId) return source.toString("hex", at, end);
  if (type === BSON.int32 || type === BSON.long || type === BSON.double) {
    return `number:${scalar(source, { type, at, end }) ?? "none"}`;
  }
  return `${type.toString(16)}:${source.toString("base64url", at, end)}`;
}

function revisionIn(source: Buffer, type: number, at: number): bigint {
  if (type !== BSON.long && type !== BSON.int32) throw damaged("revision", "is no whole number");
  const revision = type === BSON.long ? source.readBigInt64LE(at) : BigInt(source.readInt32LE(at));
  if (revision < 0n || revision > mostRevision) throw damaged("revision", "is below zero or too high");
  return revision;
}

function text(source: Buffer, at: number, end: number): string {
  return source.toString("utf8", at + 4, end - 1);
}

/** Names are read as Latin-1, which is quick and right for all that is declared. */
function utf8(name: string): string {
  return /^[ -~]*$/.test(name) ? name : Buffer.from(name, "latin1").toString("utf8");
}

function eachElement(
  source: Buffer,
  from: number,
  take: (name: string, type: number, at: number, end: number) => void,
): void {
  const limit = documentEnd(source, from, source.length) - 1;
  for (let next = from + 4; next < limit;) {
    const type = source[next] as number; // next is below the length
    const nameAt = next + 1;
    const nameTo = nameEnd(source, nameAt, limit);
    const end = valueEnd(source, type, nameTo + 1, limit);
    take(source.toString("latin1", nameAt, nameTo), type, nameTo + 1, end);
    next = end;
  }
}

function damaged(field: string, what: string) {
  return fail("DOCUMENT_DAMAGED", `The field ${field} of a stored document ${what}`, { metadata: { field } });
}
