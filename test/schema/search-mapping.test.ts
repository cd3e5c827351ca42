import {
  clone,
  create,
  createFileRegistry,
  type DescField,
  type DescFile,
  type DescMessage,
  getOption,
  setExtension,
} from "@bufbuild/protobuf";
import { FieldOptionsSchema, FileDescriptorProtoSchema, FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { Binary, deserialize, Double, Int32, Long, ObjectId, serialize } from "bson";
import { expect, test } from "vitest";

import {
  personal,
  search,
  search_index,
  SearchFieldSchema,
  SearchKind,
} from "../../gen/lucid/options/v1/options_pb.ts";
import { UserCredentialsSchema } from "../../gen/lucid/repository/v1/user_credentials_pb.ts";
import { UserSchema } from "../../gen/lucid/repository/v1/user_pb.ts";
import { WalletSecretsSchema } from "../../gen/lucid/repository/v1/wallet_secrets_pb.ts";
import { isReason } from "../../src/errors.ts";
import { storedMessages } from "../../src/repository/collections.ts";
import { documentKey, searchCopier } from "../../src/schema/search-copy.ts";
import { type SearchedField, searchedMessage, searchMapping } from "../../src/schema/search-mapping.ts";
import { searchedMessages } from "../../src/search/messages.ts";

const messages = [...searchedMessages.values()];

test("these messages are searched, and no other", () => {
  expect([...searchedMessages.keys()].toSorted()).toEqual(
    ["audit-logs", "blocks", "manifests", "sessions", "transactions", "users"].toSorted(),
  );
  const stored = storedMessages.filter((schema) => getOption(schema, search_index).name !== "");
  expect(stored.map(({ typeName }) => typeName).toSorted()).toEqual(
    messages
      .map(({ schema }) => schema.typeName)
      .filter((name) => !name.endsWith(".AuditRecord"))
      .toSorted(),
  );
  for (const secrets of [UserCredentialsSchema, WalletSecretsSchema]) {
    expect(searchedMessage(secrets)).toBeUndefined();
  }
});

test("what is personal is in an index only where the proto says so, and nothing that is secret is", () => {
  const inIndex = (fields: readonly SearchedField[]): SearchedField[] =>
    fields.flatMap((field) => [field, ...inIndex(field.fields)]);
  const all = messages.flatMap(({ name, fields }) => inIndex(fields).map((field) => ({ name, field })));
  expect(all.filter(({ field }) => field.desc.proto.options?.debugRedact === true)).toEqual([]);
  const about = all.filter(({ field }) => getOption(field.desc, personal));
  expect(about.map(({ name, field }) => `${name} ${field.path}`)).toEqual([
    "users email",
    "users username",
    "users tron_address",
    "users profile.display_name",
    "audit-logs actor.source_address",
  ]);
});

/** Values that would be seen anywhere in a copy, by the path of their field. */
function marked(message: DescMessage, at: string, marks: Map<string, string>): Record<string, unknown> {
  const value = (field: DescField, path: string): unknown => {
    if (field.message?.typeName === "google.protobuf.Timestamp") return new Date(0);
    if (field.message?.typeName === "google.protobuf.Struct") return { inner: mark(path) };
    if (field.message?.typeName.startsWith("google.protobuf.")) return mark(path);
    if (field.message !== undefined) return marked(field.message, `${path}.`, marks);
    if (field.enum !== undefined) return mark(path);
    // Numbers and booleans say nothing by themselves, so they are text here too.
    return mark(path);
  };
  const mark = (path: string): string => {
    const text = `mark-${marks.size}-end`;
    marks.set(path, text);
    return text;
  };
  return Object.fromEntries(
    message.fields.map((field) => {
      const path = `${at}${field.name}`;
      if (field.name === "revision") return [field.name, Long.fromNumber(7)];
      const one = value(field, path);
      return [field.name, field.fieldKind === "list" ? [one] : one];
    }),
  );
}

test.for(messages.map((message) => [message.name, message] as const))(
  "of a document of %s, its copy has what is declared and nothing else",
  ([, message]) => {
    const marks = new Map<string, string>();
    const document = {
      _id: new ObjectId(),
      ...marked(message.schema, "", marks),
      _audit: [{ actor: { id: "undeclared-1" } }],
      "_request.id": "undeclared-2",
      password_hash: new Binary(Buffer.from("undeclared-3")),
      undeclared: { deep: ["undeclared-4"] },
    };
    const { json } = searchCopier(message).fromBson(serialize(document));
    const declared = new Set<string>();
    const collect = (fields: readonly SearchedField[]): void => {
      for (const field of fields) {
        if (field.fields.length === 0) declared.add(field.path);
        collect(field.fields);
      }
    };
    collect(message.fields);
    const found = [...marks].filter(([, mark]) => json.includes(`"${mark}"`)).map(([path]) => path);
    const textual = [...declared].filter((path) => marks.has(path));
    expect(found.toSorted()).toEqual(textual.toSorted());
    expect(json).not.toContain("undeclared");
    // Every name in the copy is in the mapping, which is strict: the server would refuse another one.
    const { properties } = searchMapping(message, "flattened");
    expect(Object.keys(JSON.parse(json) as object).filter((name) => !(name in properties))).toEqual([]);
  },
);

/** User with one field's options changed, as if its proto were written so. */
function userWith(name: string, change: (options: ReturnType<typeof emptyOptions>) => void): DescMessage {
  const files = new Map<string, DescFile>();
  const gather = (file: DescFile): void => {
    for (const dependency of file.dependencies) gather(dependency);
    files.set(file.name, file);
  };
  gather(UserSchema.file);
  const set = create(FileDescriptorSetSchema, {
    file: [...files.values()].map(({ proto }) => clone(FileDescriptorProtoSchema, proto)),
  });
  const user = set.file
    .flatMap((file) => file.messageType)
    .find((type) => type.name === "User" && type.field.some((field) => field.name === "tron_address"));
  const field = user?.field.find((candidate) => candidate.name === name);
  if (field === undefined) throw new Error(`User has no ${name}`);
  field.options ??= emptyOptions();
  change(field.options);
  const schema = createFileRegistry(set).getMessage(UserSchema.typeName);
  if (schema === undefined) throw new Error("User has vanished");
  return schema;
}

function emptyOptions() {
  return create(FieldOptionsSchema);
}

test.for<[string, string, (options: ReturnType<typeof emptyOptions>) => void]>([
  ["secret", "status", (options) => (options.debugRedact = true)],
  ["personal", "status", (options) => setExtension(options, personal, true)],
  [
    "stored in such a form",
    "total_sessions",
    (options) => setExtension(options, search, create(SearchFieldSchema, { kind: SearchKind.TEXT })),
  ],
  [
    "personal",
    "status",
    (options) =>
      setExtension(options, search, create(SearchFieldSchema, { kind: SearchKind.KEYWORD, admitsPersonal: true })),
  ],
])("a proto that would index what is not to be is refused: %s (%s)", ([why, field, change]) => {
  expect(() => searchedMessage(userWith(field, change))).toThrow(why);
});

test("values go into the copy as they are", () => {
  const message = searchedMessage(UserSchema);
  if (message === undefined) throw new Error("Users are searched");
  const _id = new ObjectId();
  const { id, revision, key, json } = searchCopier(message).fromBson(
    serialize({
      _id,
      user_id: "u1",
      username: `\u001f quo"te \u{1f600}`,
      total_sessions: Long.fromString("9223372036854775807"),
      total_poot_score: Number.NaN,
      node_count: -0,
      created_at: new Date("2026-01-02T03:04:05.678Z"),
      is_node_operator: true,
      profile: { display_name: "", bio: "not in it" },
      revision: Long.fromNumber(41),
    }),
  );
  expect({ id, revision, key }).toEqual({ id: "u1", revision: 41n, key: _id.toHexString() });
  expect(json).toContain(`"total_sessions":9223372036854775807`);
  expect(JSON.parse(json)).toEqual({
    user_id: "u1",
    username: `\u001f quo"te \u{1f600}`,
    total_sessions: expect.any(Number) as number,
    node_count: 0,
    created_at: "2026-01-02T03:04:05.678Z",
    is_node_operator: true,
    profile: { display_name: "" },
    revision: 41,
    _key: _id.toHexString(),
    _digest: expect.stringMatching(/^[\w-]{22}$/) as string,
    _suggest: { username: `quo"te \u{1f600}` },
  });
});

test("of a deleted document nothing is suggested", () => {
  const { json } = copierOf("users").fromBson(
    serialize({ user_id: "u1", username: "ada", deleted_at: new Date(), revision: 2 }),
  );
  expect(JSON.parse(json)).not.toHaveProperty("_suggest");
});

test("an _id has one text, of whatever type it is stored", () => {
  const keyOf = (_id: unknown) => documentKey(serialize({ user_id: "u1", _id }, { ignoreUndefined: true }));
  expect(keyOf(new Double(5))).toBe(keyOf(new Int32(5)));
  expect(keyOf(Long.fromNumber(5))).toBe(keyOf(5));
  expect(keyOf(Long.MAX_VALUE)).not.toBe(keyOf(Long.MAX_VALUE.sub(1)));
  const others = ["5", 5, new ObjectId(), new Date(5), true, { a: 5 }, { a: "5" }, new Binary(Buffer.from("5"))];
  expect(new Set(others.map(keyOf)).size).toBe(others.length);
});

test("a free-form object goes in as far as a server can index it", () => {
  let deep: object = { end: true };
  for (let level = 0; level < 40; level++) deep = { deep };
  const metadata = { "dotted.name": 1, "": 2, ö: "ü", many: [1, [2, { a: null }]], long: "x".repeat(9000), deep };
  const { json } = copierOf("sessions").fromBson(
    serialize({ session_id: "s1", metadata: { ...metadata, ["y".repeat(600)]: 1 } }),
  );
  const copy = JSON.parse(json) as { metadata: Record<string, unknown> };
  expect(copy.metadata).toMatchObject({ "dotted.name": 1, "": 2, ö: "ü", many: [1, [2, {}]] });
  expect(Object.keys(copy.metadata)).toEqual(["", "deep", "dotted.name", "many", "ö"]);
  expect(json).not.toContain("end");
});

test("a document has one digest, whether it was read as bytes or came by a driver's objects, and another where it says another thing", () => {
  const metadata = new Map<string, unknown>([
    ["b", new Double(1)],
    ["10", new Map([["x", new Int32(1)]])],
    ["9", [1.5, new Date(0)]],
  ]);
  const copy = (document: Uint8Array) => copierOf("sessions").fromBson(document);
  const read = serialize({ session_id: "s1", metadata, revision: Long.fromNumber(1) });
  const { digest, json } = copy(read);
  expect(copy(serialize(deserialize(read, { promoteLongs: false })))).toMatchObject({ digest, json });
  metadata.set("b", 2);
  expect(copy(serialize({ session_id: "s1", metadata, revision: Long.fromNumber(1) })).digest).not.toBe(digest);
});

test.for([
  ["without its id", { revision: 1 }, "user_id"],
  ["with a document for text", { user_id: "u1", status: { secret: 1 } }, "status"],
  ["with a text for its revision", { user_id: "u1", revision: "secret" }, "revision"],
  ["with a revision below zero", { user_id: "u1", revision: -1 }, "revision"],
  ["with a revision for which a version has no room", { user_id: "u1", revision: Long.MAX_VALUE }, "revision"],
  ["with a list for text", { user_id: "u1", status: ["a"] }, "status"],
] as const)("a document %s is refused", ([, document, field]) => {
  const copy = () => copierOf("users").fromBson(serialize(document));
  expect(copy).toThrow(field);
  try {
    copy();
  } catch (error) {
    expect(isReason(error, "DOCUMENT_DAMAGED")).toBe(true);
    expect(String(error)).not.toContain("secret");
  }
});

function copierOf(name: string) {
  const message = searchedMessages.get(name);
  if (message === undefined) throw new Error(`${name} is not searched`);
  return searchCopier(message);
}
