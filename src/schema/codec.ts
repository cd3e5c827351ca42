import { type DescMessage, fromBinary, type MessageShape } from "@bufbuild/protobuf";
import type { Document } from "bson";

import { documentBytes } from "./document-bytes.ts";
import { documentEncoder } from "./document-encoder.ts";
import { type Transcoder, transcoderFor } from "./transcoder.ts";

/**
 * Stores messages as documents and reads them back. A field is stored under its proto name; what is absent is absent:
 * - numbers and booleans without presence are stored also when they are zero or false; text, bytes, enums, lists and maps are
 *   absent when they are empty or not set;
 * - `stored-field.ts` says what each type is stored as;
 * - an `etag` beside a `revision` is not stored but made from it;
 * - unknown fields, of the message or of the document, are left out.
 */
export interface Codec<D extends DescMessage> {
  /** The document of a message. Fails with `BAD_REQUEST`, naming the field, where it cannot be stored. `at` goes before the names. */
  encode(message: MessageShape<D>, at?: string): Document;
  /** The message of a document. Fails with `DOCUMENT_DAMAGED`, naming the field, where a value is not of its type. */
  decode(document: Document | Uint8Array): MessageShape<D>;
  /** Goes from stored bytes to wire bytes directly. */
  readonly transcoder: Transcoder;
}

const codecs = new WeakMap<DescMessage, unknown>();

/** The codec of a message. Made once for each. */
export function codecFor<D extends DescMessage>(schema: D): Codec<D> {
  // Whatever is kept for a schema was made for it below.
  const known = codecs.get(schema) as Codec<D> | undefined;
  if (known !== undefined) return known;
  const encode = documentEncoder(schema);
  const transcoder = transcoderFor(schema);
  const codec: Codec<D> = {
    encode: (message, at = "") => encode(message, at),
    decode(document) {
      // One way of reading: a document is read as its bytes are.
      const raw = document instanceof Uint8Array ? document : documentBytes(document);
      const { buffer, byteOffset, byteLength } = transcoder.message(raw);
      // Bytes fields are of the class of what they are read from, and Buffer is not what messages have.
      return fromBinary(schema, new Uint8Array(buffer, byteOffset, byteLength));
    },
    transcoder,
  };
  codecs.set(schema, codec);
  return codec;
}
