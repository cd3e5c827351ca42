import {
  create,
  type DescMessage,
  type JsonObject,
  type JsonValue,
  type MessageShape,
  toBinary,
} from "@bufbuild/protobuf";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";

import { codecFor } from "../schema/codec.ts";
import { encoded } from "../schema/encoded.ts";
import type { ExactJson, ExactObject } from "../stores/search/exact-json.ts";

/** A hit, as its message has it. */
export interface HitParts {
  /** All but the document. */
  readonly rest: object;
  /** The stored document, with the message that it is of. */
  readonly document: { readonly schema: DescMessage; readonly bytes: Uint8Array } | undefined;
}

/**
 * How hits become a response that has them in the field `hits`, with whatever else it says: documents go from stored bytes to
 * wire bytes, into the field of a hit that is of their message.
 */
export function hitsResponse<D extends DescMessage>(schema: D) {
  const hitsField = schema.fields.find(({ name }) => name === "hits");
  const hitSchema = hitsField?.message;
  if (hitSchema === undefined) throw new Error(`${schema.typeName} has no hits`);
  const numbers = new Map(hitSchema.fields.flatMap(({ message, number }) => (message ? [[message, number]] : [])));
  // What is given are members of these messages.
  const bytesOf = (desc: DescMessage, members: object) => toBinary(desc, create(desc, members as never));
  return (hits: readonly HitParts[], rest: object): MessageShape<D> => {
    const writer = new BinaryWriter();
    for (const { rest: known, document } of hits) {
      writer.tag(hitsField?.number ?? 0, WireType.LengthDelimited).fork();
      writer.raw(bytesOf(hitSchema, known));
      if (document !== undefined) writer.raw(embedded(numbers, document));
      writer.join();
    }
    return encoded(schema, writer.raw(bytesOf(schema, rest)).finish());
  };
}

function embedded(numbers: ReadonlyMap<DescMessage, number>, { schema, bytes }: NonNullable<HitParts["document"]>) {
  const number = numbers.get(schema);
  if (number === undefined) throw new Error(`A hit has no field for ${schema.typeName}`);
  return codecFor(schema).transcoder.embedded(number, [bytes]);
}

/** The source of an operator's document as a Struct has it, whose numbers are doubles: longer whole numbers become text. */
export function structOf(source: ExactObject): JsonObject {
  return Object.fromEntries(Object.entries(source).map(([name, value]) => [name, plain(value)]));
}

function plain(value: ExactJson): JsonValue {
  if (typeof value === "bigint") return String(value);
  if (typeof value !== "object" || value === null) return value;
  return isList(value) ? value.map(plain) : structOf(value);
}

function isList(value: readonly ExactJson[] | ExactObject): value is readonly ExactJson[] {
  return Array.isArray(value);
}
