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

import { immutable, output_only, required } from "../../gen/lucid/options/v1/options_pb.ts";
import { fail } from "../errors.ts";
import { literal } from "./expressions.ts";
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

/** What becomes of the paths of an update. */
interface MaskedChange {
  /** Expressions for what is set. */
  readonly set: Document;
  /** Parts of messages that are cleared. To set one to nothing would make an empty message where there is none. */
  readonly cleared: readonly string[];
  /** Paths that may not be cleared, since the message around them needs them. */
  readonly wrong: readonly string[];
  /** Paths that must be there already, since the message around them needs them and only other parts of it are set. */
  readonly beside: readonly string[];
}

/** How paths are changed to what a document has there. What a document as a whole needs is looked at by who makes it. */
export function maskedChange(schema: DescMessage, document: Document, paths: readonly string[]): MaskedChange {
  const isSet = (path: string) => valueAt(document, path) !== undefined;
  const cleared = paths.filter((path) => path.includes(".") && !isSet(path));
  const others = paths.filter((path) => !cleared.includes(path));
  return {
    set: Object.fromEntries(others.map((path) => [path, literal(valueAt(document, path))])),
    cleared,
    wrong: neededBeside(schema, cleared).filter((path) => cleared.includes(path)),
    beside: neededBeside(schema, others).filter((path) => !others.includes(path)),
  };
}

/** What the messages need that paths lead into: `a.type` for `a.model`. */
function neededBeside(schema: DescMessage, paths: readonly string[]): readonly string[] {
  const needed = paths.flatMap((path) =>
    ancestorsOf(path).flatMap((ancestor) =>
      (messageAt(schema, ancestor)?.fields ?? [])
        .filter((field) => getOption(field, required))
        .map(({ name }) => `${ancestor}.${name}`),
    ),
  );
  return [...new Set(needed)];
}

/** The message that is stored at a path. */
function messageAt(schema: DescMessage, path: string): DescMessage | undefined {
  return path.split(".").reduce<DescMessage | undefined>((message, name) => {
    const field = message?.fields.find((candidate) => candidate.name === name);
    return field && messageIn(field);
  }, schema);
}

/** The message that is stored in a field, whose own fields have paths. */
function messageIn(field: DescField): DescMessage | undefined {
  return field.fieldKind === "message" && storedKind(field) === "message" ? field.message : undefined;
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
    message = messageIn(field);
  }
  return changeable;
}

function wrong(path: string, description: string) {
  return fail("BAD_REQUEST", `The update mask's path ${JSON.stringify(path)} ${description}`, {
    metadata: { fields: "update_mask", path },
    fields: [{ field: "update_mask", description: `${JSON.stringify(path)} ${description}` }],
  });
}
