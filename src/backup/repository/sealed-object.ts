import { type DescMessage, fromBinary, type MessageShape, toBinary } from "@bufbuild/protobuf";

import { compress, decompress } from "./compression.ts";
import { type Keys, NotAuthentic } from "./keys.ts";
import type { ObjectStorage } from "./storage.ts";

const MAGIC = Buffer.from("LUCIDOB1");
/** No message of the format comes near: a manifest of a million units would. */
const MOST_MESSAGE_BYTES = 512 * 1024 * 1024;

/** A message as an object: magic, nonce, then sealed the message as one zstd frame. */
export async function sealMessage<D extends DescMessage>(
  keys: Keys,
  name: string,
  schema: D,
  message: MessageShape<D>,
): Promise<Buffer> {
  return Buffer.concat([MAGIC, keys.sealObject(name, await compress(toBinary(schema, message)))]);
}

/** Reverses `sealMessage`; throws `NotAuthentic`. */
export async function openMessage<D extends DescMessage>(
  keys: Keys,
  name: string,
  schema: D,
  object: Buffer,
): Promise<MessageShape<D>> {
  if (!object.subarray(0, MAGIC.byteLength).equals(MAGIC)) throw new NotAuthentic("Not a sealed object");
  const compressed = keys.openObject(name, object.subarray(MAGIC.byteLength));
  // Authentic, so what fails now is a fault of whoever wrote it.
  return fromBinary(schema, await decompress(compressed, MOST_MESSAGE_BYTES));
}

/** Reads and opens an object; undefined where there is none. */
export async function readMessage<D extends DescMessage>(
  { storage, keys }: { readonly storage: ObjectStorage; readonly keys: Keys },
  name: string,
  schema: D,
  signal: AbortSignal,
): Promise<MessageShape<D> | undefined> {
  const object = await storage.get(name, { signal });
  return object === undefined ? undefined : await openMessage(keys, name, schema, object);
}
