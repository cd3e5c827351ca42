import { createHash } from "node:crypto";

import type { Stream } from "../../../gen/lucid/backup/v1/manifest_pb.ts";
import { fail } from "../../errors.ts";
import type { RecordSource } from "../contracts.ts";
import { type ChunkReference, decodeReference, REFERENCE_BYTES } from "./chunk-reference.ts";
import type { ChunkTable } from "./chunk-table.ts";
import { decompressChunk } from "./compression.ts";
import { type Keys, NotAuthentic, type Seal, TAG_BYTES } from "./keys.ts";
import { listPacks, loadKnownChunks } from "./known-chunks.ts";
import { hex, objectNames } from "./names.ts";
import { openChunk } from "./pack.ts";
import { RECORD_HEADER_BYTES } from "./record-cutter.ts";
import type { ObjectStorage } from "./storage.ts";

/** Neighbouring chunks are read together up to this many sealed bytes or this many chunks. */
const READ_BYTES = 512 * 1024;
/** And up to this many bytes of content, which bounds the memory of what compresses well. */
const READ_PLAIN_BYTES = 1024 * 1024;
/** How many such reads are under way or wait for the consumer: of each stream that is read some 3 MiB are in memory. */
const READS_AHEAD = 2;
/** No chunk of the format is longer; what says so is damaged and would ask for memory without limit. */
const MOST_CHUNK_BYTES = 16 * 1024 * 1024;
const SEALS_KEPT = 64;

interface Place {
  readonly storage: ObjectStorage;
  readonly keys: Keys;
}

/**
 * Reads streams. Whatever is handed out was authenticated, and its content hashed and compared with its name. Fails with
 * `BACKUP_CHUNK_MISSING` and `BACKUP_CHUNK_DAMAGED`, both with the metadata `chunk`, `pack` and `backup_id`, and
 * `BACKUP_MANIFEST_DAMAGED` where chunks and manifest disagree.
 */
export class ChunkReader implements RecordSource {
  readonly #place: Place;
  readonly #backupId: string;
  readonly #packs: ReadonlySet<string> | undefined;
  readonly #seals = new Map<string, Seal>();
  #elsewhere: Promise<ChunkTable> | undefined;

  /** With `packs`, in hex, a chunk that stands in none of them makes the manifest a damaged one. */
  constructor(place: Place, backupId: string, packs?: ReadonlySet<string>) {
    this.#place = place;
    this.#backupId = backupId;
    this.#packs = packs;
  }

  async *records(stream: Stream, signal: AbortSignal): AsyncGenerator<readonly Uint8Array[]> {
    let recordCount = 0n;
    let recordBytes = 0n;
    for await (const batch of this.#recordsOf(this.references(stream, signal), signal)) {
      recordCount += BigInt(batch.length);
      for (const record of batch) recordBytes += BigInt(record.byteLength);
      yield batch;
    }
    if (recordCount !== stream.recordCount || recordBytes !== stream.recordBytes) throw this.#disagreement();
  }

  /** The chunks that hold a stream's records, in order; at their end it is known that they are those of the manifest. */
  async *references(stream: Stream, signal: AbortSignal): AsyncGenerator<ChunkReference> {
    const namesHash = createHash("sha256");
    let chunkCount = 0n;
    for await (const reference of this.#listed(stream, signal)) {
      if (this.#packs?.has(hex(reference.pack)) === false) throw this.#disagreement();
      namesHash.update(reference.name);
      chunkCount++;
      yield reference;
    }
    const isSame = chunkCount === stream.chunkCount && namesHash.digest().equals(stream.chunksHash);
    if (!isSame) throw this.#disagreement();
  }

  /** Contents of chunks, in order. */
  contents(references: AsyncIterable<ChunkReference>, signal: AbortSignal): AsyncGenerator<Buffer> {
    return this.#chunks(references, signal);
  }

  async *#listed(stream: Stream, signal: AbortSignal): AsyncGenerator<ChunkReference> {
    const direct = stream.chunks;
    if (direct.byteLength % REFERENCE_BYTES !== 0) throw this.#disagreement();
    const listed = async function* () {
      for (let at = 0; at < direct.byteLength; at += REFERENCE_BYTES)
        yield decodeReference(direct.subarray(at, at + REFERENCE_BYTES));
    };
    if (!stream.indirect) {
      yield* listed();
      return;
    }
    for await (const batch of this.#recordsOf(listed(), signal)) {
      for (const record of batch) {
        if (record.byteLength !== REFERENCE_BYTES) throw this.#disagreement();
        yield decodeReference(record);
      }
    }
  }

  /** The records in a sequence of chunks, one batch for each chunk in which one ends. */
  async *#recordsOf(
    references: AsyncIterable<ChunkReference>,
    signal: AbortSignal,
  ): AsyncGenerator<readonly Uint8Array[]> {
    // A record that is longer than a chunk, while it is put together.
    let long: { readonly bytes: Buffer; filled: number } | undefined;
    for await (const chunk of this.#chunks(references, signal)) {
      const batch: Uint8Array[] = [];
      let at = 0;
      if (long !== undefined) {
        at = Math.min(chunk.byteLength, long.bytes.byteLength - long.filled);
        chunk.copy(long.bytes, long.filled, 0, at);
        long.filled += at;
        if (long.filled === long.bytes.byteLength) {
          batch.push(long.bytes);
          long = undefined;
        }
      }
      while (at < chunk.byteLength) {
        if (chunk.byteLength - at < RECORD_HEADER_BYTES) throw this.#disagreement();
        const length = chunk.readUInt32LE(at);
        at += RECORD_HEADER_BYTES;
        if (at + length > chunk.byteLength) {
          const bytes = Buffer.allocUnsafeSlow(length);
          long = { bytes, filled: chunk.copy(bytes, 0, at) };
          break;
        }
        batch.push(chunk.subarray(at, at + length));
        at += length;
      }
      if (batch.length > 0) yield batch;
    }
    if (long !== undefined) throw this.#disagreement();
  }

  /** Contents of chunks in order, read ahead. */
  async *#chunks(references: AsyncIterable<ChunkReference>, signal: AbortSignal): AsyncGenerator<Buffer> {
    const ahead: Promise<Buffer[]>[] = [];
    try {
      for await (const group of neighbours(references)) {
        signal.throwIfAborted();
        const reading = this.#readGroup(group, signal);
        reading.catch(() => undefined); // reported when its turn comes
        ahead.push(reading);
        if (ahead.length >= READS_AHEAD) yield* (await ahead.shift()) ?? [];
      }
      for (let next = ahead.shift(); next !== undefined; next = ahead.shift()) yield* await next;
      signal.throwIfAborted();
    } finally {
      await Promise.allSettled(ahead); // nothing goes on behind the back of who left early
    }
  }

  async #readGroup(group: readonly ChunkReference[], signal: AbortSignal): Promise<Buffer[]> {
    const [first, last] = [group[0], group.at(-1)];
    if (first === undefined || last === undefined) return [];
    const offset = first.offset;
    const length = last.offset + last.sealedLength - offset;
    const sealed = await this.#place.storage.get(objectNames.pack(first.pack), { range: { offset, length }, signal });
    return await Promise.all(
      group.map(async (reference) => {
        if (sealed === undefined) return await this.#readElsewhere(reference, signal);
        const start = reference.offset - offset;
        return this.#open(reference, sealed.subarray(start, start + reference.sealedLength));
      }),
    );
  }

  async #loadAll(signal: AbortSignal): Promise<ChunkTable> {
    const packs = await listPacks(this.#place.storage, signal);
    return await loadKnownChunks(this.#place, { packs: packs.keys(), most: Number.MAX_SAFE_INTEGER }, signal);
  }

  /** The pack is gone: another one may hold the chunk, too. */
  async #readElsewhere(reference: ChunkReference, signal: AbortSignal): Promise<Buffer> {
    this.#elsewhere ??= this.#loadAll(signal).catch((error: unknown) => {
      this.#elsewhere = undefined; // the next one tries again
      throw error;
    });
    const other = (await this.#elsewhere).find(reference.name, reference.plainLength);
    if (other === undefined) throw this.#missing(reference);
    const range = { offset: other.offset, length: other.sealedLength };
    const sealed = await this.#place.storage.get(objectNames.pack(other.pack), { range, signal });
    if (sealed === undefined) throw this.#missing(reference);
    return this.#open(other, sealed);
  }

  #open(reference: ChunkReference, sealed: Buffer): Buffer {
    const { name, plainLength, sealedLength } = reference;
    try {
      if (sealed.byteLength !== sealedLength || plainLength > MOST_CHUNK_BYTES)
        throw new NotAuthentic("A length is wrong");
      const body = openChunk(this.#sealOf(reference.pack), reference, sealed);
      const isPlain = sealedLength - TAG_BYTES === plainLength;
      const plain = isPlain ? body : decompressChunk(body, plainLength);
      if (plain.byteLength !== plainLength) throw new NotAuthentic("The content has another length");
      if (!this.#place.keys.chunkName(plain).equals(name)) throw new NotAuthentic("The content has another name");
      return plain;
    } catch (cause) {
      if (!(cause instanceof NotAuthentic)) throw cause;
      throw fail("BACKUP_CHUNK_DAMAGED", "A chunk of the backup is damaged", {
        metadata: this.#metadata(reference),
        cause,
      });
    }
  }

  #sealOf(pack: Buffer): Seal {
    const key = pack.toString("latin1");
    let seal = this.#seals.get(key);
    if (seal === undefined) {
      seal = this.#place.keys.forPack(pack);
      const oldest = this.#seals.keys().next();
      if (this.#seals.size >= SEALS_KEPT && oldest.done !== true) this.#seals.delete(oldest.value);
      this.#seals.set(key, seal);
    }
    return seal;
  }

  #missing(reference: ChunkReference) {
    return fail("BACKUP_CHUNK_MISSING", "A chunk of the backup is missing", { metadata: this.#metadata(reference) });
  }

  #metadata({ name, pack }: ChunkReference): Record<string, string> {
    return { backup_id: this.#backupId, chunk: hex(name), pack: hex(pack) };
  }

  #disagreement() {
    return fail("BACKUP_MANIFEST_DAMAGED", "The manifest and the chunks of the backup disagree", {
      metadata: { backup_id: this.#backupId },
    });
  }
}

/** Groups of chunks that stand side by side in one pack. */
async function* neighbours(references: AsyncIterable<ChunkReference>): AsyncGenerator<ChunkReference[]> {
  let group: ChunkReference[] = [];
  let bytes = 0;
  let plainBytes = 0;
  for await (const reference of references) {
    const last = group.at(-1);
    const follows =
      last !== undefined &&
      last.pack.equals(reference.pack) &&
      last.offset + last.sealedLength === reference.offset &&
      bytes + reference.sealedLength <= READ_BYTES &&
      plainBytes + reference.plainLength <= READ_PLAIN_BYTES;
    if (!follows && group.length > 0) {
      yield group;
      group = [];
      bytes = 0;
      plainBytes = 0;
    }
    group.push(reference);
    bytes += reference.sealedLength;
    plainBytes += reference.plainLength;
  }
  if (group.length > 0) yield group;
}
