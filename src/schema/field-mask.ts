import {
  clearField,
  clone,
  type DescField,
  type DescMessage,
  getOption,
  isFieldSet,
  type MessageShape,
} from "@bufbuild/protobuf";
import type { FieldMask } from "@bufbuild/protobuf/wkt";
import type { Document } from "bson";

import { immutable, output_only } from "../../gen/lucid/options/v1/options_pb.ts";
import { fail } from "../errors.ts";
import { storedKind } from "./stored-field.ts";

/** Who may set a field. */
interface Access {
  readonly outputOnly: boolean;
  readonly immutable: boolean;
}

/** Options are decoded each time that they are asked for: of all fields that took 0.2 ms, most of what a create cost. */
const accesses = new WeakMap<DescField, Access>();

function accessOf(field: DescField): Access {
  const known = accesses.get(field);
  if (known !== undefined) return known;
  const access = { outputOnly: getOption(field, output_only), immutable: getOption(field, immutable) };
  accesses.set(field, access);
  return access;
}

/** Whether only the service sets a field. */
export function isOutputOnly(field: DescField): boolean {
  return accessOf(field).outputOnly;
}

/** Whether an update may change a field. */
function isChangeable(field: DescField): boolean {
  const access = accessOf(field);
  return !access.outputOnly && !access.immutable;
}

const outputOnly = new WeakMap<DescMessage, readonly DescField[]>();

/** The fields of a message that only the service sets. */
function outputOnlyFields(schema: DescMessage): readonly DescField[] {
  const known = outputOnly.get(schema);
  if (known !== undefined) return known;
  const fields = schema.fields.filter(isOutputOnly);
  outputOnly.set(schema, fields);
  return fields;
}

/** The same message without what only the service sets. */
export function onlyWritable<D extends DescMessage>(schema: D, message: MessageShape<D>): MessageShape<D> {
  const copy = clone(schema, message);
  // Callers hardly ever set one, and to clear a field costs more than to look at it.
  for (const field of outputOnlyFields(schema)) if (isFieldSet(copy, field)) clearField(copy, field);
  return copy;
}

/** The value at a path of a document; undefined where it is absent. */
export function valueAt(document: Document, path: string): unknown {
  let value: unknown = document;
  for (const name of path.split(".")) {
    // Whatever is on the way to a field of a message is a document of one.
    value = value === undefined ? undefined : (value as Document)[name];
  }
  return value;
}

/**
 * The paths that an update changes, in proto names, none of them below another. An empty mask stands for the fields that are set,
 * `*` for all; what is output only or immutable is left out. Fails with `BAD_REQUEST` for a path that the message does not have.
 */
export function maskedPaths<D extends DescMessage>(
  schema: D,
  message: MessageShape<D>,
  mask: FieldMask | undefined,
): readonly string[] {
  const changeable = schema.fields.filter(isChangeable);
  if (mask === undefined || mask.paths.length === 0) {
    return changeable.filter((field) => isFieldSet(message, field)).map(({ name }) => name);
  }
  if (mask.paths.includes("*")) {
    if (mask.paths.length > 1) throw wrong("*", "must stand alone");
    return changeable.map(({ name }) => name);
  }
  const known = new Set(mask.paths.filter((path) => isChangeablePath(schema, path)));
  return [...known].filter((path) => !ancestorsOf(path).some((ancestor) => known.has(ancestor)));
}

/** `a.b.c` is below `a` and `a.b`. */
function ancestorsOf(path: string): string[] {
  const names = path.split(".");
  return names.slice(1).map((_, index) => names.slice(0, index + 1).join("."));
}

function isChangeablePath(schema: DescMessage, path: string): boolean {
  let message: DescMessage | undefined = schema;
  let changeable = true;
  for (const name of path.split(".")) {
    const field: DescField | undefined = message?.fields.find((candidate) => candidate.name === name);
    if (field === undefined) throw wrong(path, "is not a field that can be updated by itself");
    changeable &&= isChangeable(field);
    message = field.fieldKind === "message" && storedKind(field) === "message" ? field.message : undefined;
  }
  return changeable;
}

function wrong(path: string, description: string) {
  return fail("BAD_REQUEST", `The update mask's path ${JSON.stringify(path)} ${description}`, {
    metadata: { fields: "update_mask", path },
    fields: [{ field: "update_mask", description: `${JSON.stringify(path)} ${description}` }],
  });
}
