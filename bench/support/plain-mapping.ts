import {
  create,
  type DescField,
  type DescMessage,
  fromJson,
  type JsonValue,
  type Message,
  toJson,
} from "@bufbuild/protobuf";
import { type Timestamp, timestampDate, timestampFromDate, ValueSchema } from "@bufbuild/protobuf/wkt";
import type { Binary, Document } from "mongodb";

import { storedKind, storedNames } from "../../src/schema/stored-field.ts";

/** Makes a message of what a driver has made of a document, as a server does that was written by hand. */
export type ToMessage = (document: Document) => Message;
/** Makes a document of a message, for a driver to make BSON of. */
export type ToDocument = (message: Message) => Document;

type Convert = (value: unknown) => unknown;
type Fields = Record<string, unknown>;

const readers = new WeakMap<DescMessage, ToMessage>();
const writers = new WeakMap<DescMessage, ToDocument>();

/** The mapping of a message's documents to it, worked out once. */
export function toMessage(schema: DescMessage): ToMessage {
  const known = readers.get(schema);
  if (known !== undefined) return known;
  const hasEtag = schema.fields.some(({ name }) => name === "etag");
  const read = (document: Document) => {
    const init: Fields = {};
    for (const { name, localName, oneof, convert } of fields) {
      const value: unknown = document[name];
      if (value === undefined) continue;
      if (oneof === undefined) init[localName] = convert(value);
      else init[oneof.localName] = { case: localName, value: convert(value) };
    }
    if (hasEtag) init["etag"] = `"${document["revision"]}"`;
    return create(schema, init);
  };
  readers.set(schema, read);
  const fields = schema.fields.map((field) => ({
    name: field.name,
    localName: field.localName,
    oneof: field.oneof,
    convert: shaped(field, reader(field)),
  }));
  return read;
}

/** The mapping of a message to its documents, worked out once. */
export function toDocument(schema: DescMessage): ToDocument {
  const known = writers.get(schema);
  if (known !== undefined) return known;
  const write = (message: Message) => {
    const document: Document = {};
    const of = message as unknown as Fields; // by local names
    for (const { name, localName, oneof, convert } of fields) {
      const chosen = oneof === undefined ? undefined : (of[oneof.localName] as { case?: string; value?: unknown });
      const value = chosen === undefined ? of[localName] : chosen.case === localName ? chosen.value : undefined;
      if (value !== undefined && !saysNothing(value)) document[name] = convert(value);
    }
    return document;
  };
  writers.set(schema, write);
  const fields = schema.fields
    .filter(({ name }) => name !== "etag")
    .map((field) => ({
      name: field.name,
      localName: field.localName,
      oneof: field.oneof,
      convert: shaped(field, writer(field)),
    }));
  return write;
}

function saysNothing(value: unknown): boolean {
  return value === "" || (Array.isArray(value) && value.length === 0);
}

function shaped(field: DescField, convert: Convert): Convert {
  if (field.fieldKind === "list") return (values) => (values as unknown[]).map(convert);
  if (field.fieldKind !== "map") return convert;
  return (values) => Object.fromEntries(Object.entries(values as object).map(([key, value]) => [key, convert(value)]));
}

const same: Convert = (value) => value;

function reader(field: DescField): Convert {
  switch (storedKind(field)) {
    case "int64":
    case "uint64":
      return (value) => BigInt(value as number | bigint);
    case "timestamp":
      return (value) => timestampFromDate(value as Date);
    case "bytes":
      return (value) => new Uint8Array((value as Binary).buffer);
    case "value":
      return (value) => fromJson(ValueSchema, value as JsonValue);
    case "enum": {
      const numbers = new Map(
        field.enum === undefined ? [] : storedNames(field.enum).map((one) => [one.name, one.number]),
      );
      return (value) => numbers.get(value as string) ?? 0;
    }
    case "message":
      return field.message === undefined ? same : (toMessage(field.message) as Convert);
    default:
      return same;
  }
}

function writer(field: DescField): Convert {
  switch (storedKind(field)) {
    case "timestamp":
      return (value) => timestampDate(value as Timestamp);
    case "value":
      return (value) => toJson(ValueSchema, value as never);
    case "enum": {
      const names = new Map(
        field.enum === undefined ? [] : storedNames(field.enum).map((one) => [one.number, one.name]),
      );
      return (value) => names.get(value as number);
    }
    case "message": {
      const write = field.message === undefined ? undefined : toDocument(field.message);
      return write === undefined ? same : (value) => write(value as Message);
    }
    default:
      return same;
  }
}
