import { CHUNK_NAME_BYTES, PACK_NAME_BYTES } from "./names.ts";

/** Bytes of an encoded reference. */
export const REFERENCE_BYTES = CHUNK_NAME_BYTES + PACK_NAME_BYTES + 12;

/** Names a chunk and says where it stands, so that it can be read without an index. */
export interface ChunkReference {
  /** 32 bytes. */
  readonly name: Buffer;
  /** Name of the pack, 16 bytes. */
  readonly pack: Buffer;
  /** Where its sealed bytes begin in the pack. */
  readonly offset: number;
  /** How many sealed bytes there are. */
  readonly sealedLength: number;
  /** How many bytes its content has. */
  readonly plainLength: number;
}

/** name (32) ‖ pack (16) ‖ offset ‖ sealed length ‖ plain length (uint32 little-endian each). */
export function encodeReference({ name, pack, offset, sealedLength, plainLength }: ChunkReference): Buffer {
  // Not from the pool that small buffers share: references are kept while all else that was taken from it goes.
  const bytes = Buffer.alloc(REFERENCE_BYTES);
  bytes.set(name, 0);
  bytes.set(pack, CHUNK_NAME_BYTES);
  bytes.writeUInt32LE(offset, 48);
  bytes.writeUInt32LE(sealedLength, 52);
  bytes.writeUInt32LE(plainLength, 56);
  return bytes;
}

/** Reverses `encodeReference`; the result shares memory with `bytes`. */
export function decodeReference(bytes: Uint8Array): ChunkReference {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, REFERENCE_BYTES);
  return {
    name: buffer.subarray(0, CHUNK_NAME_BYTES),
    pack: buffer.subarray(CHUNK_NAME_BYTES, 48),
    offset: buffer.readUInt32LE(48),
    sealedLength: buffer.readUInt32LE(52),
    plainLength: buffer.readUInt32LE(56),
  };
}
