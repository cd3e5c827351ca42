import { createHash } from "node:crypto";

import { create } from "@bufbuild/protobuf";

import { type Stream, StreamSchema } from "../../../gen/lucid/backup/v1/manifest_pb.ts";
import type { StreamWriter } from "../contracts.ts";
import { type ChunkReference, encodeReference } from "./chunk-reference.ts";
import { type PackUse, PackUses } from "./pack-uses.ts";
import { type Boundaries, chunkSizes, MOST_RECORD_BYTES, RECORD_HEADER_BYTES } from "./record-cutter.ts";

/** More references than this are kept in chunks of their own. */
const MOST_DIRECT_REFERENCES = 32;

/** Where streams put their chunks. */
export interface ChunkSink {
  readonly boundaries: Boundaries;
  /** Of the chunks that list chunks. */
  readonly listBoundaries: Boundaries;
  /** A buffer of `chunkSizes.most` bytes. */
  takeBuffer(): Buffer;
  giveBuffer(buffer: Buffer): void;
  /**
   * Stores a chunk unless it is known. Resolves when there is room for more; `done` is called when it is clear where the chunk
   * stands, at once or later, and not at all where the writer fails. The buffer goes back by itself.
   */
  put(buffer: Buffer, length: number, done: (reference: ChunkReference) => void): Promise<void>;
  /** Throws where the writer has failed or is closed. */
  check(): void;
  /** Resolves when nothing that was put before is under way. */
  settled(): Promise<void>;
  /** Says that a stream is sealed and which packs it refers to. */
  sealed(packs: Iterable<PackUse>): void;
  /** Says that a stream was sealed or abandoned. */
  closed(): void;
}

/** Cuts records into chunks. */
export class ChunkedStreamWriter implements StreamWriter {
  readonly #sink: ChunkSink;
  readonly #namesHash = createHash("sha256");
  readonly #packs = new PackUses();
  /** References in order; undefined where it is not known yet. */
  readonly #awaited: (ChunkReference | undefined)[] = [];
  #firstAwaited = 0;
  #references: Buffer[] = [];
  #list: ChunkedStreamWriter | undefined;
  readonly #isList: boolean;
  readonly #boundaries: Boundaries;
  #buffer: Buffer | undefined;
  #used = 0;
  #recordCount = 0;
  #recordBytes = 0;
  #chunkCount = 0;
  #state: "open" | "writing" | "closed" = "open";

  constructor(sink: ChunkSink, isList = false) {
    this.#sink = sink;
    this.#isList = isList;
    this.#boundaries = isList ? sink.listBoundaries : sink.boundaries;
  }

  async write(records: readonly Uint8Array[]): Promise<void> {
    this.#enter();
    for (const record of records) {
      const framed = RECORD_HEADER_BYTES + record.byteLength;
      if (framed > chunkSizes.most) {
        await this.#writeLong(record);
        continue;
      }
      if (this.#used + framed > chunkSizes.most) await this.#cut();
      this.#buffer ??= this.#sink.takeBuffer();
      const start = this.#buffer.writeUInt32LE(record.byteLength, this.#used);
      this.#buffer.set(record, start);
      this.#used = start + record.byteLength;
      this.#count(record);
      if (this.#boundaries.endsChunk(this.#buffer, start, this.#used)) await this.#cut();
    }
    if (!this.#isList && this.#references.length > MOST_DIRECT_REFERENCES) await this.#moveReferences();
    this.#state = "open";
  }

  async seal(): Promise<Stream> {
    this.#enter();
    await this.#cut();
    await this.#sink.settled();
    this.#sink.check();
    if (this.#awaited.length > 0) throw new Error("A chunk was lost between the stream and its pack");
    const stream = create(StreamSchema, {
      recordCount: BigInt(this.#recordCount),
      recordBytes: BigInt(this.#recordBytes),
      chunkCount: BigInt(this.#chunkCount),
      chunksHash: this.#namesHash.digest(),
    });
    if (this.#list !== undefined || (!this.#isList && this.#references.length > MOST_DIRECT_REFERENCES)) {
      const list = await this.#moveReferences();
      stream.chunks = (await list.seal()).chunks;
      stream.indirect = true;
    } else {
      stream.chunks = Buffer.concat(this.#references);
    }
    this.#sink.sealed(this.#packs.all);
    this.#close();
    return stream;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#list?.[Symbol.asyncDispose]();
    this.#close();
  }

  #enter(): void {
    this.#sink.check();
    if (this.#state !== "open") throw new Error(`A stream was used while it is ${this.#state}`);
    this.#state = "writing";
  }

  #close(): void {
    if (this.#state === "closed") return;
    this.#state = "closed";
    if (this.#buffer !== undefined) this.#sink.giveBuffer(this.#buffer);
    this.#buffer = undefined;
    if (!this.#isList) this.#sink.closed();
  }

  #count(record: Uint8Array): void {
    this.#recordCount++;
    this.#recordBytes += record.byteLength;
  }

  /** A record that fits no chunk begins one and is cut by its bytes, so that a change inside stores little again, too. */
  async #writeLong(record: Uint8Array): Promise<void> {
    if (record.byteLength > MOST_RECORD_BYTES) throw new Error(`A record of ${record.byteLength} bytes is too long`);
    await this.#cut();
    for (let start = 0; start < record.byteLength;) {
      const buffer = (this.#buffer ??= this.#sink.takeBuffer());
      if (start === 0) this.#used = buffer.writeUInt32LE(record.byteLength, 0);
      const end = this.#boundaries.endOfPiece(record, start, chunkSizes.most - this.#used);
      buffer.set(record.subarray(start, end), this.#used);
      this.#used += end - start;
      start = end;
      await this.#cut();
    }
    this.#count(record);
  }

  async #cut(): Promise<void> {
    const buffer = this.#buffer;
    if (buffer === undefined || this.#used === 0) return;
    const length = this.#used;
    this.#buffer = undefined;
    this.#used = 0;
    this.#chunkCount++;
    const place = this.#firstAwaited + this.#awaited.push(undefined) - 1;
    await this.#sink.put(buffer, length, (reference) => this.#found(place, reference));
    this.#sink.check();
  }

  #found(place: number, reference: ChunkReference): void {
    this.#awaited[place - this.#firstAwaited] = reference;
    for (let next = this.#awaited[0]; next !== undefined; next = this.#awaited[0]) {
      this.#awaited.shift();
      this.#firstAwaited++;
      this.#namesHash.update(next.name);
      this.#packs.add(next.pack, next.sealedLength);
      this.#references.push(encodeReference(next));
    }
  }

  /** References of a long stream are records of a stream of their own, and those of little-changed data are the same. */
  async #moveReferences(): Promise<ChunkedStreamWriter> {
    this.#list ??= new ChunkedStreamWriter(this.#sink, true);
    const references = this.#references;
    this.#references = [];
    await this.#list.write(references);
    return this.#list;
  }
}
