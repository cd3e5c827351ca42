import { type DescEnum, type DescField, type DescMessage, ScalarType } from "@bufbuild/protobuf";
import { FeatureSet_FieldPresence } from "@bufbuild/protobuf/wkt";

/** How one value of a field is stored. */
export type StoredKind =
  /** bool ⇄ boolean. */
  | "bool"
  /** 32 signed bits ⇄ int. */
  | "int32"
  /** 32 unsigned bits ⇄ long. */
  | "uint32"
  /** 64 signed bits ⇄ long. */
  | "int64"
  /** 64 unsigned bits ⇄ long, up to 2^63 - 1: a document holds no larger whole number. */
  | "uint64"
  /** float and double ⇄ double. */
  | "double"
  /** string ⇄ string. */
  | "string"
  /** bytes ⇄ binary of the generic subtype. */
  | "bytes"
  /** An enum's value ⇄ its name without the prefix that all its names share; its number where it has no name. */
  | "enum"
  /** google.protobuf.Timestamp ⇄ date. What is finer than a millisecond is cut off, towards the past. */
  | "timestamp"
  /** google.protobuf.Struct ⇄ document. */
  | "struct"
  /** google.protobuf.Value ⇄ any of null, double, string, boolean, document, array. */
  | "value"
  /** google.protobuf.ListValue ⇄ array. */
  | "list_value"
  /** google.protobuf.StringValue and the like ⇄ the value in them. */
  | "wrapper"
  /** Any other message ⇄ document. A google.protobuf.Duration is one of these. */
  | "message";

const scalarKinds: Readonly<Record<ScalarType, StoredKind>> = {
  [ScalarType.BOOL]: "bool",
  [ScalarType.INT32]: "int32",
  [ScalarType.SINT32]: "int32",
  [ScalarType.SFIXED32]: "int32",
  [ScalarType.UINT32]: "uint32",
  [ScalarType.FIXED32]: "uint32",
  [ScalarType.INT64]: "int64",
  [ScalarType.SINT64]: "int64",
  [ScalarType.SFIXED64]: "int64",
  [ScalarType.UINT64]: "uint64",
  [ScalarType.FIXED64]: "uint64",
  [ScalarType.FLOAT]: "double",
  [ScalarType.DOUBLE]: "double",
  [ScalarType.STRING]: "string",
  [ScalarType.BYTES]: "bytes",
};

const wrappers = /^google\.protobuf\.(Bool|Bytes|Double|Float|Int32|Int64|String|UInt32|UInt64)Value$/;

/** How a field's value is stored, or of a list or map one of its values. */
export function storedKind(field: DescField): StoredKind {
  if (field.message !== undefined) return messageKind(field.message);
  if (field.enum !== undefined) return "enum";
  return scalarKinds[field.scalar];
}

function messageKind({ typeName }: DescMessage): StoredKind {
  switch (typeName) {
    case "google.protobuf.Timestamp":
      return "timestamp";
    case "google.protobuf.Struct":
      return "struct";
    case "google.protobuf.Value":
      return "value";
    case "google.protobuf.ListValue":
      return "list_value";
    default:
      return wrappers.test(typeName) ? "wrapper" : "message";
  }
}

/** Whether a field is one value, and absent means the same as its type's zero. */
export function isImplicit(field: DescField): boolean {
  return (
    field.presence === FeatureSet_FieldPresence.IMPLICIT &&
    field.oneof === undefined &&
    (field.fieldKind === "scalar" || field.fieldKind === "enum")
  );
}

/** Whether a field is made from the stored `revision` when a document is read, and is itself not stored. */
export function isEtag(field: DescField): boolean {
  return field.name === "etag" && storedKind(field) === "string" && revisionOf(field.parent) !== undefined;
}

/** The field that counts the writes of a document. */
export function revisionOf(message: DescMessage): DescField | undefined {
  return message.fields.find(
    (field) => field.name === "revision" && field.fieldKind === "scalar" && storedKind(field) === "int64",
  );
}

/** The etag of a revision: opaque to callers, in quotes as HTTP has it. */
export function etagOf(revision: bigint): string {
  return `"${revision}"`;
}

/** The revision that an etag stands for; undefined where it is none of this service's. */
export function revisionOfEtag(etag: string): bigint | undefined {
  const revision = /^"(\d{1,19})"$/.exec(etag)?.[1];
  return revision === undefined ? undefined : BigInt.asIntN(64, BigInt(revision));
}

/** The name that a value of an enum is stored under; its number where it has none. */
export function storedName(desc: DescEnum, number: number): string | number {
  return storedNames(desc).find((value) => value.number === number)?.name ?? number;
}

/** An enum's stored names, in the order of its values. An alias comes after the name that is written. */
export function storedNames(desc: DescEnum): { readonly name: string; readonly number: number }[] {
  const prefix = (desc.sharedPrefix ?? "").length;
  return desc.values.map(({ name, number }) => ({ name: name.slice(prefix), number }));
}
