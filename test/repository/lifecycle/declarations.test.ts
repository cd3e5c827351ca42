import { type DescField, type DescMessage, getOption } from "@bufbuild/protobuf";
import { expect, test } from "vitest";

import { Erasure, lifecycle } from "../../../gen/lucid/options/v1/options_pb.ts";
import { AuditRecordSchema } from "../../../gen/lucid/repository/v1/audit_record_pb.ts";
import { storedMessages } from "../../../src/repository/collections.ts";
import { storedKinds } from "../../../src/repository/lifecycle/stored-kinds.ts";
import { collectionOf } from "../../../src/schema/collection.ts";

/** What leaves documents as they are, and what looks for those that name the user. */
const staying = new Set<Erasure>([Erasure.KEEP, Erasure.NOTHING]);
const found = new Set<Erasure>([Erasure.REMOVE, Erasure.ANONYMISE]);

const messages = [...storedMessages, AuditRecordSchema].map((schema) => ({
  schema,
  name: collectionOf(schema).name,
  says: getOption(schema, lifecycle),
}));

/** The fields on the way to what a path names, in proto names; undefined where the message has no such path. */
function fieldsOf(schema: DescMessage, path: string): DescField[] | undefined {
  const fields: DescField[] = [];
  let message: DescMessage | undefined = schema;
  for (const name of path.split(".")) {
    const field: DescField | undefined = message?.fields.find((candidate) => candidate.name === name);
    if (field === undefined) return undefined;
    fields.push(field);
    message = field.message;
  }
  return fields;
}

function hasIndex(schema: DescMessage, ...paths: string[]): boolean {
  return collectionOf(schema).indexes.some(({ key }) => {
    const first = [...key.keys()].slice(0, paths.length);
    return paths.every((path) => first.includes(path));
  });
}

test("every stored message says what becomes of it when a user is erased", () => {
  expect(messages.filter(({ says }) => says.erasure === Erasure.UNSPECIFIED).map(({ name }) => name)).toEqual([]);
  const silent = messages.filter(({ says }) => says.note === "" && staying.has(says.erasure));
  expect(silent.map(({ name }) => name)).toEqual([]);
});

test("what names a user says so", () => {
  const naming = /(^|_)(user|owner|voter|subject|target|violator)(_id)?$/;
  const about = messages.flatMap(({ schema, name, says }) => {
    const told = new Set(says.userFields.map(({ path }) => path.split(".", 1)[0]));
    return schema.fields
      .filter((field) => naming.test(field.name) && !told.has(field.name))
      .map((field) => `${name}.${field.name}`);
  });
  // A recipient of a transaction is an address.
  expect(about).toEqual([]);
});

test.for(messages)("what $name says of itself is so", ({ schema, says }) => {
  for (const { path, typePath } of says.userFields) {
    const fields = fieldsOf(schema, path);
    expect([path, fields !== undefined]).toEqual([path, true]);
    if (typePath !== "") expect(fieldsOf(schema, typePath)).toBeDefined();
    if (staying.has(says.erasure)) continue;
    // What is to be found is found by an index, and one value is put in the place of another.
    expect([path, hasIndex(schema, path, ...(typePath === "" ? [] : [typePath]))]).toEqual([path, true]);
    if (says.erasure === Erasure.ANONYMISE) expect(fields?.every(({ fieldKind }) => fieldKind !== "list")).toBe(true);
  }
  if (found.has(says.erasure)) expect(says.userFields).not.toEqual([]);
  if (says.erasure === Erasure.AS_PART) expect(says.partOf).not.toEqual([]);
  for (const { key } of says.partOf) {
    expect(fieldsOf(schema, key)).toHaveLength(1);
    expect([key, hasIndex(schema, key)]).toEqual([key, true]);
  }
  for (const path of says.personalFields) expect([path, fieldsOf(schema, path) !== undefined]).toEqual([path, true]);
  const templates = [...says.cacheKeys, says.searchDocument].join(" ");
  for (const [, name = ""] of templates.matchAll(/\{(\w+)\}/g)) expect(fieldsOf(schema, name)).toHaveLength(1);
});

test("wholes and parts are linked, and what is deleted softly is found by an index", () => {
  const kinds = storedKinds(storedMessages);
  const partsOf = (name: string) =>
    kinds.find((kind) => kind.name === name)?.parts.map(({ kind, key }) => `${kind.name} by ${key}`);
  expect(partsOf("users")).toContain("authentication by user_id");
  expect(partsOf("sessions")).toContain("manifests by session_id");
  expect(partsOf("wallets")).toContain("wallet_secrets by wallet_id");
  for (const { name, isDeletedSoftly, indexed } of kinds)
    expect([name, indexed.has("deleted_at")]).toEqual([name, isDeletedSoftly]);
});
