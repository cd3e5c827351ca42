import { type DescField, type DescMessage, ScalarType } from "@bufbuild/protobuf";

import { isEtag, isImplicit, revisionOf, type StoredKind, storedKind, storedNames } from "./stored-field.ts";

/** Wire types of protobuf. */
export const VARINT = 0;
export const FIXED64 = 1;
export const DELIMITED = 2;
export const FIXED32 = 5;

/** How one value is written. */
export interface ValuePlan {
  /** Name of the field, for what is said of a value that does not fit. */
  readonly name: string;
  readonly kind: StoredKind;
  readonly scalar: ScalarType | undefined;
  /** Number and wire type, as they are written before the value. */
  readonly tag: number;
  /** Whether zero is left out. */
  readonly implicit: boolean;
  /** Of an enum: the stored names, each with the null byte that ends it. */
  readonly enumNames: readonly { readonly bytes: Buffer; readonly number: number }[];
  /** Of a message or wrapper: how it is written. Asked for when it is needed, since messages may hold themselves. */
  readonly message: () => MessagePlan;
  /** Tag of the `etag` that is made from this value; 0 where there is none. */
  readonly etagTag: number;
}

/** How a field is found and written. */
export interface FieldPlan {
  readonly name: string;
  /** The name as it stands in a document, with the null byte that ends it. */
  readonly nameBytes: Buffer;
  /** Position in the message. */
  readonly index: number;
  readonly shape: "one" | "list" | "map";
  /** The value; of a list or map each of the values. */
  readonly value: ValuePlan;
  /** Of a map: the tag of an entry and how its key is written. */
  readonly entryTag: number;
  readonly key: ValuePlan | undefined;
}

/** How a message is written. */
export interface MessagePlan {
  readonly typeName: string;
  readonly fields: readonly FieldPlan[];
  readonly byName: ReadonlyMap<string, FieldPlan>;
}

const plans = new WeakMap<DescMessage, MessagePlan>();

/** The plan of a message, made once. */
export function planOf(message: DescMessage): MessagePlan {
  const known = plans.get(message);
  if (known !== undefined) return known;
  const stored = message.fields.filter((field) => !isEtag(field));
  const fields = stored.map((field, index) => fieldPlan(field, index));
  const plan = { typeName: message.typeName, fields, byName: new Map(fields.map((field) => [field.name, field])) };
  plans.set(message, plan);
  return plan;
}

function fieldPlan(field: DescField, index: number): FieldPlan {
  const isMap = field.fieldKind === "map";
  return {
    name: field.name,
    nameBytes: Buffer.from(`${field.name}\0`),
    index,
    shape: field.fieldKind === "list" || isMap ? field.fieldKind : "one",
    value: valuePlan(field, isMap ? 2 : field.number),
    entryTag: (field.number << 3) | DELIMITED,
    key: isMap ? keyPlan(field.name, field.mapKey) : undefined,
  };
}

function valuePlan(field: DescField, number: number): ValuePlan {
  const etag = revisionOf(field.parent) === field ? field.parent.fields.find(isEtag) : undefined;
  const { message } = field;
  return {
    name: field.name,
    kind: storedKind(field),
    scalar: field.scalar,
    // Each value of a list has a tag of its own, which every parser takes, also where it would write them packed.
    tag: (number << 3) | (message === undefined ? wireType(field.scalar) : DELIMITED),
    implicit: isImplicit(field),
    enumNames: (field.enum === undefined ? [] : storedNames(field.enum)).map((value) => ({
      bytes: Buffer.from(`${value.name}\0`),
      number: value.number,
    })),
    message: lazily(message),
    etagTag: etag === undefined ? 0 : (etag.number << 3) | DELIMITED,
  };
}

function lazily(message: DescMessage | undefined): () => MessagePlan {
  let plan: MessagePlan | undefined;
  return () => {
    if (plan !== undefined) return plan;
    if (message === undefined) throw new Error("The field holds no message");
    plan = planOf(message);
    return plan;
  };
}

function keyPlan(name: string, scalar: ScalarType): ValuePlan {
  const kind = scalar === ScalarType.BOOL ? "bool" : scalar === ScalarType.STRING ? "string" : "int64";
  const tag = (1 << 3) | wireType(scalar);
  return { name, kind, scalar, tag, implicit: false, enumNames: [], message: lazily(undefined), etagTag: 0 };
}

function wireType(scalar: ScalarType | undefined): number {
  switch (scalar) {
    case ScalarType.STRING:
    case ScalarType.BYTES:
      return DELIMITED;
    case ScalarType.DOUBLE:
    case ScalarType.FIXED64:
    case ScalarType.SFIXED64:
      return FIXED64;
    case ScalarType.FLOAT:
    case ScalarType.FIXED32:
    case ScalarType.SFIXED32:
      return FIXED32;
    default:
      return VARINT;
  }
}
