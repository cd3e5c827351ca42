import { create, type DescMessage, type MessageInitShape, type MessageShape, toBinary } from "@bufbuild/protobuf";

import { codecFor } from "./codec.ts";
import { encoded } from "./encoded.ts";

/**
 * Makes a response of stored documents, with whatever else it says. `tails` are the wire bytes of what each of the messages says
 * besides, in their order.
 */
export type DocumentResponse<D extends DescMessage> = (
  documents: readonly Uint8Array[],
  rest?: MessageInitShape<D>,
  tails?: readonly Uint8Array[],
) => MessageShape<D>;

/**
 * How raw documents become a response that has them in the field `name`, singular or repeated.
 * The documents are never decoded on the way to a listener that speaks protobuf.
 */
export function documentResponse<D extends DescMessage>(schema: D, name: string): DocumentResponse<D> {
  const field = schema.fields.find((candidate) => candidate.name === name);
  if (field?.message === undefined) throw new Error(`${schema.typeName} has no message in ${name}`);
  const { transcoder } = codecFor(field.message);
  const { number } = field;
  return (documents, rest, tails) => {
    // Messages are merged by writing one after the other.
    const more = rest === undefined ? undefined : toBinary(schema, create(schema, rest));
    return encoded(schema, transcoder.embedded(number, documents, more, tails));
  };
}
