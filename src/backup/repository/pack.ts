import { create, fromBinary, toBinary } from "@bufbuild/protobuf";

import { type PackDirectory, PackDirectorySchema } from "../../../gen/lucid/backup/v1/repository_pb.ts";
import { fail } from "../../errors.ts";
import type { ChunkReference } from "./chunk-reference.ts";
import { type Keys, NotAuthentic, type Seal, TAG_BYTES } from "./keys.ts";
import { CHUNK_NAME_BYTES, hex, objectNames, PACK_NAME_BYTES } from "./names.ts";
import type { ObjectStorage } from "./storage.ts";

/** A pack is put when its chunks have this many bytes. */
export const PACK_BYTES = 8 * 1024 * 1024;
const PACK_CHUNKS = 8192;
const DIRECTORY_ENTRY_BYTES = CHUNK_NAME_BYTES + 8;
const MAGIC = Buffer.from("LUCIDPK1");
/** Bytes before the first chunk. */
export const PACK_HEADER_BYTES = MAGIC.byteLength;
/** Length of the sealed directory (uint32 little-endian) and the magic. */
const TRAILER_BYTES = 4 + MAGIC.byteLength;
/** Enough for the directory of most packs, so that one read gets it. */
const TAIL_BYTES = 64 * 1024;

/** Sealed bytes of the largest chunk must fit behind `PACK_BYTES`. */
export function packBufferBytes(largestChunk: number): number {
  const directory = PACK_NAME_BYTES + PACK_CHUNKS * DIRECTORY_ENTRY_BYTES + 32 + TAG_BYTES;
  return MAGIC.byteLength + PACK_BYTES + largestChunk + TAG_BYTES + directory + TRAILER_BYTES;
}

/** Builds one pack in a buffer: magic, sealed chunks, sealed directory, its length, magic. */
export class PackBuilder {
  readonly name: Buffer;
  readonly buffer: Buffer;
  readonly #seal: Seal;
  readonly #entries: Buffer[] = [];
  #used: number;

  constructor(buffer: Buffer, name: Buffer, keys: Keys) {
    this.name = name;
    this.buffer = buffer;
    this.#seal = keys.forPack(name);
    this.#used = MAGIC.copy(buffer);
  }

  get full(): boolean {
    return this.#used >= PACK_BYTES || this.#entries.length >= PACK_CHUNKS;
  }

  /** Adds a chunk: `body` is its content, compressed where that made it shorter. Not to be called when `full`. */
  add(name: Buffer, plainLength: number, body: Uint8Array): ChunkReference {
    const offset = this.#used;
    this.#append(this.#seal.seal(body, nonceAt(offset), chunkContext(name, plainLength)));
    const sealedLength = this.#used - offset;
    this.#entries.push(encodeEntry(name, sealedLength, plainLength));
    return { name, pack: this.name, offset, sealedLength, plainLength };
  }

  /** Ends the pack: its bytes, a part of the buffer, and its directory. */
  finish(): { readonly bytes: Buffer; readonly directory: PackDirectory } {
    const directory = create(PackDirectorySchema, { pack: this.name, chunks: Buffer.concat(this.#entries) });
    const offset = this.#used;
    this.#append(this.#seal.seal(toBinary(PackDirectorySchema, directory), DIRECTORY_NONCE, DIRECTORY_CONTEXT));
    this.#used = this.buffer.writeUInt32LE(this.#used - offset, this.#used);
    this.#used += MAGIC.copy(this.buffer, this.#used);
    return { bytes: this.buffer.subarray(0, this.#used), directory };
  }

  #append(parts: readonly Uint8Array[]): void {
    for (const part of parts) {
      this.buffer.set(part, this.#used);
      this.#used += part.byteLength;
    }
  }
}

/** Opens a chunk's sealed bytes: its content, still compressed where `plainLength` differs. Throws `NotAuthentic`. */
export function openChunk(seal: Seal, reference: ChunkReference, sealed: Uint8Array): Buffer {
  return seal.open(sealed, nonceAt(reference.offset), chunkContext(reference.name, reference.plainLength));
}

/** The chunks that a directory lists; throws where it is not one. */
export function* chunksOf(directory: PackDirectory): Generator<ChunkReference> {
  const bytes = Buffer.from(directory.chunks.buffer, directory.chunks.byteOffset, directory.chunks.byteLength);
  const pack = Buffer.from(directory.pack);
  if (pack.byteLength !== PACK_NAME_BYTES || bytes.byteLength % DIRECTORY_ENTRY_BYTES !== 0) {
    throw new NotAuthentic("No directory of a pack");
  }
  let offset = MAGIC.byteLength;
  for (let at = 0; at < bytes.byteLength; at += DIRECTORY_ENTRY_BYTES) {
    const name = bytes.subarray(at, at + CHUNK_NAME_BYTES);
    const sealedLength = bytes.readUInt32LE(at + CHUNK_NAME_BYTES);
    const plainLength = bytes.readUInt32LE(at + CHUNK_NAME_BYTES + 4);
    yield { name, pack, offset, sealedLength, plainLength };
    offset += sealedLength;
  }
}

/**
 * Reads the directory of a pack from the pack itself; undefined where there is no such pack. Fails with
 * `BACKUP_REPOSITORY_DAMAGED`.
 */
export async function readDirectory(
  storage: ObjectStorage,
  keys: Keys,
  pack: Buffer,
  signal: AbortSignal,
): Promise<PackDirectory | undefined> {
  const object = objectNames.pack(pack);
  let tail = await storage.get(object, { range: { last: TAIL_BYTES }, signal });
  if (tail === undefined) return undefined;
  const sealedLength = tail.byteLength < TRAILER_BYTES ? 0 : tail.readUInt32LE(tail.byteLength - TRAILER_BYTES);
  const length = sealedLength + TRAILER_BYTES;
  if (length > tail.byteLength && tail.byteLength === TAIL_BYTES && sealedLength <= packBufferBytes(0)) {
    tail = (await storage.get(object, { range: { last: length }, signal })) ?? Buffer.alloc(0);
  }
  try {
    const start = tail.byteLength - length;
    if (start < 0 || !tail.subarray(tail.byteLength - MAGIC.byteLength).equals(MAGIC))
      throw new NotAuthentic("No trailer");
    const sealed = tail.subarray(start, start + sealedLength);
    return openDirectory(keys, pack, sealed);
  } catch (cause) {
    if (!(cause instanceof NotAuthentic)) throw cause;
    throw fail("BACKUP_REPOSITORY_DAMAGED", "The directory of a pack is damaged", {
      metadata: { object, pack: hex(pack) },
      cause,
    });
  }
}

/** Whether the bytes at the beginning of a pack are as they must be. */
export function isPackHeader(bytes: Uint8Array): boolean {
  return MAGIC.equals(bytes.subarray(0, MAGIC.byteLength));
}

function openDirectory(keys: Keys, pack: Buffer, sealed: Uint8Array): PackDirectory {
  const seal = keys.forPack(pack);
  const directory = fromBinary(PackDirectorySchema, seal.open(sealed, DIRECTORY_NONCE, DIRECTORY_CONTEXT));
  if (!pack.equals(directory.pack)) throw new NotAuthentic("The directory of another pack");
  return directory;
}

/** Twelve bytes, the offset big-endian in the last of them. */
function nonceAt(offset: number): Buffer {
  const nonce = Buffer.alloc(12);
  nonce.writeUInt32BE(offset, 8);
  return nonce;
}

function chunkContext(name: Uint8Array, plainLength: number): Buffer {
  const context = Buffer.allocUnsafe(CHUNK_NAME_BYTES + 4);
  context.set(name);
  context.writeUInt32LE(plainLength, CHUNK_NAME_BYTES);
  return context;
}

function encodeEntry(name: Buffer, sealedLength: number, plainLength: number): Buffer {
  const entry = Buffer.allocUnsafe(DIRECTORY_ENTRY_BYTES);
  entry.set(name);
  entry.writeUInt32LE(sealedLength, CHUNK_NAME_BYTES);
  entry.writeUInt32LE(plainLength, CHUNK_NAME_BYTES + 4);
  return entry;
}

const DIRECTORY_CONTEXT = Buffer.from("directory");
/** No offset of a chunk: it can be opened by who knows only the end of the pack. */
const DIRECTORY_NONCE = Buffer.alloc(12, 0xff);
