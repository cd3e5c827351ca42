import type { DescField, DescMessage, Message } from "@bufbuild/protobuf";
import type { ListValue, Timestamp, Value } from "@bufbuild/protobuf/wkt";
import { Binary, type Document, Double } from "bson";

import { fail } from "../errors.ts";
import { isEtag, isImplicit, storedKind, storedNames } from "./stored-field.ts";

/** Makes a document of a message. `path` is where the message is, for what is said of a value that cannot be stored. */
type Encode = (value: unknown, path: string) => unknown;

/** Puts one field of a message into its document, where it has something to say. */
type Put = (message: Readonly<Record<string, unknown>>, document: Document, path: string) => void;

/**
 * Parsers of protobuf stop at 100 messages inside each other, and each level of a Struct takes three of them: what is nested deeper
 * could be stored, and then not be read by anybody.
 */
const mostLevels = 30;

const encoders = new WeakMap<DescMessage, (message: Message, path: string) => Document>();

/** How a message becomes a document. Made once for each message. */
export function documentEncoder(desc: DescMessage): (message: Message, path: string) => Document {
  const known = encoders.get(desc);
  if (known !== undefined) return known;
  const encode = (message: Message, path: string): Document => {
    const document: Document = {};
    // A message is an object of its fields by their local names.
    const fields = message as unknown as Readonly<Record<string, unknown>>;
    for (const put of puts) put(fields, document, path);
    return document;
  };
  encoders.set(desc, encode);
  const puts = desc.fields.filter((field) => !isEtag(field)).map(putFor);
  return encode;
}

function putFor(field: DescField): Put {
  const { name, localName } = field;
  const at = (path: string) => (path === "" ? name : `${path}.${name}`);
  if (field.fieldKind === "list") {
    const encode = valueEncoder(field, true);
    return (message, document, path) => {
      const values = message[localName] as readonly unknown[]; // a list field is an array
      if (values.length > 0) document[name] = values.map((value) => encode(value, at(path)));
    };
  }
  if (field.fieldKind === "map") {
    const encode = valueEncoder(field, true);
    return (message, document, path) => {
      const entries = Object.entries(message[localName] as object); // a map field is an object
      if (entries.length === 0) return;
      document[name] = new Map(entries.map(([key, value]) => [storable(key, at(path)), encode(value, at(path))]));
    };
  }
  const encode = valueEncoder(field, field.oneof !== undefined);
  const { oneof } = field;
  if (oneof !== undefined) {
    return (message, document, path) => {
      const chosen = message[oneof.localName] as { case: string | undefined; value?: unknown }; // what a oneof is
      if (chosen.case === localName) document[name] = encode(chosen.value, at(path));
    };
  }
  const saysNothing = isImplicit(field) ? emptyOf(field) : undefined;
  return (message, document, path) => {
    const value = message[localName];
    if (value === undefined || saysNothing?.(value) === true) return;
    document[name] = encode(value, at(path));
  };
}

/**
 * Numbers and booleans are stored also when they are zero or false, so that sums and filters need no second case. Text and bytes
 * that are empty and enums that are not set say nothing, and are absent.
 */
function emptyOf(field: DescField): ((value: unknown) => boolean) | undefined {
  switch (storedKind(field)) {
    case "string":
      return (value) => value === "";
    case "bytes":
      return (value) => (value as Uint8Array).length === 0; // a bytes field
    case "enum":
      return (value) => value === 0;
    default:
      return undefined;
  }
}

/** `boxed`: whether the value is in a list, map or oneof, where wrappers are messages and not the values in them. */
function valueEncoder(field: DescField, boxed: boolean): Encode {
  switch (storedKind(field)) {
    case "bool":
    case "int32":
    case "string":
      return (value) => value;
    // The driver stores a bigint as a long.
    case "uint32":
      return (value) => BigInt(value as number);
    case "int64":
      return (value) => BigInt(value as bigint | string); // a string where the proto says so
    case "uint64":
      return (value, path) => {
        const number = BigInt(value as bigint | string);
        if (number >= 1n << 63n) throw unstorable(path, "must be below 2^63 to be stored");
        return number;
      };
    case "double":
      return (value) => new Double(value as number);
    case "bytes":
      return (value) => new Binary(value as Uint8Array);
    case "enum":
      return enumEncoder(field);
    case "timestamp":
      return (value, path) => dateOf(value as Timestamp, path);
    case "struct":
      return (value, path) => structOf(value as object, path, 0);
    case "value":
      return (value, path) => anyOf(value as Value, path, 0);
    case "list_value":
      return (value, path) => listOf(value as ListValue, path, 0);
    case "wrapper":
      return wrapperEncoder(field, boxed);
    case "message":
      return messageEncoder(field);
  }
}

function enumEncoder(field: DescField): Encode {
  const names = new Map(
    (field.enum === undefined ? [] : storedNames(field.enum))
      .map(({ name, number }) => [number, name])
      .toReversed() as [number, string][],
  );
  return (value) => names.get(value as number) ?? value;
}

function wrapperEncoder(field: DescField, boxed: boolean): Encode {
  const inner = field.message?.fields[0];
  if (inner === undefined) throw new Error(`${String(field)} is no wrapper`);
  const encode = valueEncoder(inner, false);
  return boxed ? (value, path) => encode((value as { value: unknown }).value, path) : encode;
}

function messageEncoder(field: DescField): Encode {
  const { message } = field;
  if (message === undefined) throw new Error(`${String(field)} is no message`);
  // Asked for when it is needed, since messages may hold themselves.
  return (value, path) => documentEncoder(message)(value as Message, path);
}

const firstSecond = -62_135_596_800n;
const lastSecond = 253_402_300_799n;

function dateOf({ seconds, nanos }: Timestamp, path: string): Date {
  if (seconds < firstSecond || seconds > lastSecond || nanos < 0 || nanos > 999_999_999) {
    throw unstorable(path, "must be a time in the years 1 to 9999");
  }
  return new Date(Number(seconds) * 1000 + Math.floor(nanos / 1_000_000));
}

function structOf(fields: object, path: string, level: number): Map<string, unknown> {
  if (level >= mostLevels) throw unstorable(path, `must have at most ${mostLevels} levels`);
  return new Map(Object.entries(fields).map(([key, value]) => [storable(key, path), jsonOf(value, path, level + 1)]));
}

/** Stores a value of a JsonObject. */
function jsonOf(value: unknown, path: string, level: number): unknown {
  if (typeof value === "number") return numberOf(value, path);
  if (typeof value !== "object" || value === null) return value;
  if (!Array.isArray(value)) return structOf(value, path, level);
  if (level >= mostLevels) throw unstorable(path, `must have at most ${mostLevels} levels`);
  return value.map((element) => jsonOf(element, path, level + 1));
}

function anyOf({ kind }: Value, path: string, level: number): unknown {
  if (level >= mostLevels) throw unstorable(path, `must have at most ${mostLevels} levels`);
  switch (kind.case) {
    case "numberValue":
      return numberOf(kind.value, path);
    case "stringValue":
    case "boolValue":
      return kind.value;
    case "structValue":
      return new Map(
        Object.entries(kind.value.fields).map(([key, value]) => [storable(key, path), anyOf(value, path, level + 1)]),
      );
    case "listValue":
      return listOf(kind.value, path, level + 1);
    case "nullValue":
    case undefined:
      return null;
  }
}

function listOf({ values }: ListValue, path: string, level: number): unknown[] {
  return values.map((value) => anyOf(value, path, level + 1));
}

/** Whole numbers are ints where they fit, as every driver and shell stores them; the rest are doubles. */
function numberOf(value: number, path: string): unknown {
  // Protobuf's JSON form of free data has no others, so who reads JSON could never read the message again.
  if (!Number.isFinite(value)) throw unstorable(path, "must have finite numbers");
  return Object.is(value | 0, value) ? value : new Double(value);
}

/** A name in a document ends at its first null character. What has a field of the other name, drivers take for one of their own types. */
function storable(name: string, path: string): string {
  if (name.includes("\0")) throw unstorable(path, "must have names without null characters");
  if (name === "_bsontype") throw unstorable(path, "must not have the name _bsontype");
  return name;
}

function unstorable(path: string, description: string) {
  return fail("BAD_REQUEST", `${path} ${description}`, {
    metadata: { fields: path },
    fields: [{ field: path, description }],
  });
}
