import {
  create,
  createFileRegistry,
  type DescField,
  type DescMessage,
  type Message,
  ScalarType,
} from "@bufbuild/protobuf";
import type { MessageInitShape } from "@bufbuild/protobuf";
import {
  FieldDescriptorProto_Label as Label,
  FieldDescriptorProto_Type as Type,
  type DescriptorProtoSchema,
  type FieldDescriptorProtoSchema,
  FileDescriptorProtoSchema,
  file_google_protobuf_duration,
  file_google_protobuf_struct,
  file_google_protobuf_timestamp,
  file_google_protobuf_wrappers,
} from "@bufbuild/protobuf/wkt";
import fc from "fast-check";

type FieldInit = MessageInitShape<typeof FieldDescriptorProtoSchema>;

const scalars = {
  double: Type.DOUBLE,
  float: Type.FLOAT,
  int64: Type.INT64,
  uint64: Type.UINT64,
  int32: Type.INT32,
  fixed64: Type.FIXED64,
  fixed32: Type.FIXED32,
  bool: Type.BOOL,
  string: Type.STRING,
  bytes: Type.BYTES,
  uint32: Type.UINT32,
  sfixed32: Type.SFIXED32,
  sfixed64: Type.SFIXED64,
  sint32: Type.SINT32,
  sint64: Type.SINT64,
} as const;

const messages = {
  itself: ".test.Kinds",
  timestamp: ".google.protobuf.Timestamp",
  duration: ".google.protobuf.Duration",
  struct: ".google.protobuf.Struct",
  value: ".google.protobuf.Value",
  list_value: ".google.protobuf.ListValue",
  bool_value: ".google.protobuf.BoolValue",
  bytes_value: ".google.protobuf.BytesValue",
  double_value: ".google.protobuf.DoubleValue",
  float_value: ".google.protobuf.FloatValue",
  int32_value: ".google.protobuf.Int32Value",
  int64_value: ".google.protobuf.Int64Value",
  string_value: ".google.protobuf.StringValue",
  uint32_value: ".google.protobuf.UInt32Value",
  uint64_value: ".google.protobuf.UInt64Value",
} as const;

const keys = [
  "int64",
  "uint64",
  "int32",
  "fixed64",
  "fixed32",
  "bool",
  "string",
  "uint32",
  "sfixed32",
  "sfixed64",
  "sint32",
  "sint64",
] as const;

function types(): [string, FieldInit][] {
  return [
    ...Object.entries(scalars).map(([name, type]): [string, FieldInit] => [name, { type }]),
    ["color", { type: Type.ENUM, typeName: ".test.Color" }],
    ...Object.entries(messages).map(([name, typeName]): [string, FieldInit] => [
      name,
      { type: Type.MESSAGE, typeName },
    ]),
  ];
}

/** A message with every type of field there is: plain, optional, repeated, as a value of a map, in a oneof, and every key. */
export function everyKind(): DescMessage {
  let number = 0;
  const fields: FieldInit[] = [];
  const nestedType: MessageInitShape<typeof DescriptorProtoSchema>[] = [];
  const oneofDecl = [{ name: "choice" }];
  const add = (name: string, init: FieldInit) => {
    number += 1;
    // Numbers of one, two and three bytes.
    fields.push({ label: Label.OPTIONAL, ...init, name, number: number < 40 ? number : number * 40, jsonName: name });
  };
  const addMap = (name: string, key: FieldInit, value: FieldInit) => {
    const entry = `${name.replaceAll(/(^|_)([a-z0-9])/g, (_, __, letter: string) => letter.toUpperCase())}Entry`;
    nestedType.push({
      name: entry,
      field: [
        { label: Label.OPTIONAL, ...key, name: "key", number: 1 },
        { label: Label.OPTIONAL, ...value, name: "value", number: 2 },
      ],
      options: { mapEntry: true },
    });
    add(name, { type: Type.MESSAGE, typeName: `.test.Kinds.${entry}`, label: Label.REPEATED });
  };
  for (const [name, type] of types()) {
    add(`one_${name}`, type);
    add(`list_${name}`, { ...type, label: Label.REPEATED });
    add(`choice_${name}`, { ...type, oneofIndex: 0 });
    addMap(`map_${name}`, { type: Type.STRING }, type);
    if (type.type !== Type.MESSAGE) {
      add(`optional_${name}`, { ...type, proto3Optional: true, oneofIndex: oneofDecl.length });
      oneofDecl.push({ name: `_optional_${name}` });
    }
  }
  for (const key of keys) addMap(`keys_${key}`, { type: scalars[key] }, { type: Type.INT32 });
  const file = create(FileDescriptorProtoSchema, {
    name: "test/kinds.proto",
    package: "test",
    syntax: "proto3",
    dependency: ["struct", "timestamp", "duration", "wrappers"].map((name) => `google/protobuf/${name}.proto`),
    messageType: [{ name: "Kinds", field: fields, oneofDecl, nestedType }],
    enumType: [
      {
        name: "Color",
        value: [
          { name: "COLOR_UNSPECIFIED", number: 0 },
          { name: "COLOR_RED", number: 1 },
          { name: "COLOR_DARK_RED", number: -7 },
          { name: "COLOR_CRIMSON", number: 1 },
        ],
        options: { allowAlias: true },
      },
    ],
  });
  const known = [
    file_google_protobuf_struct,
    file_google_protobuf_timestamp,
    file_google_protobuf_duration,
    file_google_protobuf_wrappers,
  ];
  const registry = createFileRegistry(file, (name) => known.find(({ proto }) => proto.name === name));
  const desc = registry.getMessage("test.Kinds");
  if (desc === undefined) throw new Error("The message was not made");
  return desc;
}

/** Names of fields in documents, maps and Structs. The prototype's own name is lost by JavaScript objects, not by the codec. */
const names = fc
  .string({ unit: "binary", maxLength: 12 })
  .filter((name) => !name.includes("\0") && name !== "__proto__");
const texts = fc.oneof(fc.string({ unit: "binary", maxLength: 20 }), fc.string({ unit: "grapheme", maxLength: 200 }));

const { json } = fc.letrec((tie) => ({
  json: fc.oneof(
    { maxDepth: 4, withCrossShrink: true },
    fc.constant(null),
    fc.boolean(),
    texts,
    fc.double({ noNaN: true, noDefaultInfinity: true }),
    fc.integer(),
    fc.array(tie("json"), { maxLength: 4 }),
    fc.dictionary(names, tie("json"), { maxKeys: 4, noNullPrototype: true }),
  ),
}));
const jsonObject = fc.dictionary(names, json, { maxKeys: 5, noNullPrototype: true });

const scalarValues: Readonly<Record<ScalarType, fc.Arbitrary<unknown>>> = {
  [ScalarType.DOUBLE]: fc.double(),
  [ScalarType.FLOAT]: fc.float(),
  [ScalarType.INT64]: fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
  [ScalarType.SINT64]: fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
  [ScalarType.SFIXED64]: fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
  [ScalarType.UINT64]: fc.bigInt({ min: 0n, max: 2n ** 63n - 1n }),
  [ScalarType.FIXED64]: fc.bigInt({ min: 0n, max: 2n ** 63n - 1n }),
  [ScalarType.INT32]: fc.integer(),
  [ScalarType.SINT32]: fc.integer(),
  [ScalarType.SFIXED32]: fc.integer(),
  [ScalarType.UINT32]: fc.integer({ min: 0, max: 2 ** 32 - 1 }),
  [ScalarType.FIXED32]: fc.integer({ min: 0, max: 2 ** 32 - 1 }),
  [ScalarType.BOOL]: fc.boolean(),
  [ScalarType.STRING]: texts,
  [ScalarType.BYTES]: fc.uint8Array({ maxLength: 40 }),
};

const timestamps = fc
  .tuple(fc.bigInt({ min: -62_135_596_800n, max: 253_402_300_799n }), fc.integer({ min: 0, max: 999 }))
  .map(([seconds, ms]) => ({ seconds, nanos: ms * 1_000_000 }));

/** Arbitrary values of a field as `create` takes them; `boxed` where wrappers are messages. */
function valuesOf(field: DescField, boxed: boolean, depth: number): fc.Arbitrary<unknown> {
  if (field.enum !== undefined) return fc.oneof(fc.constantFrom(0, 1, -7), fc.integer());
  if (field.message === undefined) return scalarValues[field.scalar];
  const { message } = field;
  switch (message.typeName) {
    case "google.protobuf.Timestamp":
      return timestamps;
    case "google.protobuf.Struct":
      return jsonObject;
    case "google.protobuf.Value":
      return json.map((value) => valueOf(value));
    case "google.protobuf.ListValue":
      return fc.array(json, { maxLength: 4 }).map((values) => ({ values: values.map(valueOf) }));
    case "google.protobuf.Duration":
      return fc.record({ seconds: scalarValues[ScalarType.INT64], nanos: fc.integer() });
    case "test.Kinds":
      return depth === 0 ? fc.constant({}) : initsOf(message, depth - 1);
    default: {
      const inner = scalarValues[message.fields[0]?.scalar ?? ScalarType.STRING];
      return boxed ? inner.map((value) => ({ value })) : inner;
    }
  }
}

function valueOf(data: unknown): object {
  if (data === null) return { kind: { case: "nullValue", value: 0 } };
  if (typeof data === "number") return { kind: { case: "numberValue", value: data } };
  if (typeof data === "string") return { kind: { case: "stringValue", value: data } };
  if (typeof data === "boolean") return { kind: { case: "boolValue", value: data } };
  if (Array.isArray(data)) return { kind: { case: "listValue", value: { values: data.map(valueOf) } } };
  const fields = Object.fromEntries(Object.entries(data as object).map(([key, value]) => [key, valueOf(value)]));
  return { kind: { case: "structValue", value: { fields } } };
}

function initsOf(message: DescMessage, depth: number): fc.Arbitrary<Record<string, unknown>> {
  const members: Record<string, fc.Arbitrary<unknown>> = {};
  const choices: fc.Arbitrary<unknown>[] = [];
  for (const field of message.fields) {
    if (field.oneof !== undefined) {
      choices.push(valuesOf(field, true, depth).map((value) => ({ case: field.localName, value })));
    } else if (field.fieldKind === "list") {
      members[field.localName] = fc.array(valuesOf(field, true, depth), { maxLength: 4 });
    } else if (field.fieldKind === "map") {
      const values = valuesOf(field, true, depth);
      const keysOf = field.mapKey === ScalarType.STRING ? names : scalarValues[field.mapKey].map(String);
      members[field.localName] = fc.dictionary(keysOf, values, { maxKeys: 3, noNullPrototype: true });
    } else {
      members[field.localName] = valuesOf(field, false, depth);
    }
  }
  // A few fields at a time: all at once would be slow to shrink and to read.
  return fc
    .subarray(Object.keys(members), { minLength: 0, maxLength: 12 })
    .chain((chosen) =>
      fc.record(Object.fromEntries(chosen.map((name) => [name, members[name] as fc.Arbitrary<unknown>]))),
    )
    .chain((init) => fc.option(fc.oneof(...choices)).map((choice) => (choice === null ? init : { ...init, choice })));
}

/** Arbitrary messages of that type, nested up to three deep. */
export function messagesOf(desc: DescMessage): fc.Arbitrary<Message> {
  return initsOf(desc, 2).map((init) => create(desc, init));
}
