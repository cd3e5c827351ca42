import { type DescField, type DescMessage, getOption } from "@bufbuild/protobuf";
import type { Document } from "bson";

import { required } from "../../gen/lucid/options/v1/options_pb.ts";
import { isEtag, type StoredKind, storedKind } from "./stored-field.ts";

/**
 * A `$jsonSchema` that lets in what the codec can read again, and nothing without the fields that every document must have. It
 * checks types, not rules: those are the API's, and may change without touching documents.
 */
export function validatorOf(schema: DescMessage): Document {
  return { $jsonSchema: messageSchema(schema, []) };
}

function messageSchema(message: DescMessage, around: readonly DescMessage[]): Document {
  // A message that holds itself is checked once; a schema cannot refer to itself.
  if (around.includes(message)) return { bsonType: "object" };
  const fields = message.fields.filter((field) => !isEtag(field));
  const properties = fields.map((field) => [field.name, fieldSchema(field, [...around, message])] as const);
  const needed = fields.filter((field) => getOption(field, required)).map(({ name }) => name);
  return {
    bsonType: "object",
    ...(needed.length > 0 && { required: needed }),
    properties: Object.fromEntries(properties.filter(([, found]) => Object.keys(found).length > 0)),
  };
}

function fieldSchema(field: DescField, around: readonly DescMessage[]): Document {
  if (field.fieldKind === "list") return { bsonType: "array", items: valueSchema(field, around) };
  if (field.fieldKind === "map") return { bsonType: "object", additionalProperties: valueSchema(field, around) };
  return valueSchema(field, around);
}

const numbers = ["int", "long", "double"];

const types: Readonly<Record<Exclude<StoredKind, "message" | "wrapper" | "value">, string | readonly string[]>> = {
  bool: "bool",
  int32: numbers,
  uint32: numbers,
  int64: numbers,
  uint64: numbers,
  double: numbers,
  string: "string",
  bytes: "binData",
  enum: ["string", "int"],
  timestamp: "date",
  struct: "object",
  list_value: "array",
};

function valueSchema(field: DescField, around: readonly DescMessage[]): Document {
  const kind = storedKind(field);
  if (kind === "value") return {};
  if (kind !== "message" && kind !== "wrapper") return { bsonType: types[kind] };
  const { message } = field;
  if (message === undefined) throw new Error(`${String(field)} is no message`);
  const [inner] = message.fields;
  return kind === "wrapper" && inner !== undefined ? valueSchema(inner, around) : messageSchema(message, around);
}
