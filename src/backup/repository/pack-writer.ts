import { create } from "@bufbuild/protobuf";

import { type PackDirectory, PackIndexSchema } from "../../../gen/lucid/backup/v1/repository_pb.ts";
import { fail } from "../../errors.ts";
import type { ChunkReference } from "./chunk-reference.ts";
import { ChunkCompression } from "./compression.ts";
import type { Keys } from "./keys.ts";
import { MOST_INDEXED_PACKS, objectNames, packName } from "./names.ts";
import { packBufferBytes, PackBuilder } from "./pack.ts";
import { chunkSizes } from "./record-cutter.ts";
import { sealMessage } from "./sealed-object.ts";
import { Slots } from "./slots.ts";
import type { ObjectStorage } from "./storage.ts";

/** One pack is filled while another one is put. A local disk takes one in less time than it takes to fill one. */
const PACK_BUFFERS = 2;

/** Puts chunks into packs, packs into the storage, and an index behind every 64 packs. */
export class PackWriter {
  readonly #storage: ObjectStorage;
  readonly #keys: Keys;
  readonly #writerId: Buffer;
  readonly #signal: AbortSignal;
  readonly #onFailure: (error: unknown) => void;

  readonly #compression = new ChunkCompression();
  readonly #turn = new Slots(1);
  readonly #buffers = new Slots(PACK_BUFFERS);
  readonly #idle: Buffer[] = [];
  readonly #puts = new Set<Promise<void>>();
  /** Directories of durable packs that are in no index yet, by number. */
  readonly #unindexed = new Map<number, PackDirectory>();
  #firstUnindexed = 0;
  #current: PackBuilder | undefined;
  #nextNumber = 0;
  #bytesWritten = 0;

  constructor(
    { storage, keys, writerId, signal }: { storage: ObjectStorage; keys: Keys; writerId: Buffer; signal: AbortSignal },
    onFailure: (error: unknown) => void,
  ) {
    this.#storage = storage;
    this.#keys = keys;
    this.#writerId = writerId;
    this.#signal = signal;
    this.#onFailure = onFailure;
  }

  /** Bytes that are durable. */
  get bytesWritten(): number {
    return this.#bytesWritten;
  }

  /** Stores a chunk and says where it is going to stand. `plain` must not be changed before this has settled. */
  async add(name: Buffer, plain: Uint8Array): Promise<ChunkReference> {
    const compressed = await this.#compression.run(plain);
    const body = compressed.byteLength < plain.byteLength ? compressed : plain;
    await this.#turn.take();
    try {
      this.#current ??= await this.#newPack();
      const reference = this.#current.add(name, plain.byteLength, body);
      if (this.#current.full) this.#endPack();
      return reference;
    } finally {
      this.#turn.give();
    }
  }

  /** Resolves when all that was added is durable and in an index. Nothing may be added meanwhile. */
  async flush(): Promise<void> {
    if (this.#current !== undefined) this.#endPack();
    await Promise.all(this.#puts);
    this.#signal.throwIfAborted();
    while (this.#unindexed.size > 0) await this.#putIndex();
  }

  /** Resolves when nothing is under way any more; never rejects. Nothing can be added after that. */
  async close(): Promise<void> {
    while (this.#puts.size > 0) await Promise.all(this.#puts);
    this.#compression.close();
  }

  async #newPack(): Promise<PackBuilder> {
    await this.#buffers.take();
    try {
      this.#signal.throwIfAborted();
      const buffer = this.#idle.pop() ?? Buffer.allocUnsafeSlow(packBufferBytes(chunkSizes.most));
      return new PackBuilder(buffer, packName(this.#writerId, this.#nextNumber++), this.#keys);
    } catch (error) {
      this.#buffers.give();
      throw error;
    }
  }

  #endPack(): void {
    const pack = this.#current;
    if (pack === undefined) return;
    this.#current = undefined;
    const put = this.#put(pack)
      .catch(this.#onFailure)
      .finally(() => {
        this.#puts.delete(put);
        this.#idle.push(pack.buffer);
        this.#buffers.give();
      });
    this.#puts.add(put);
  }

  async #put(pack: PackBuilder): Promise<void> {
    const { bytes, directory } = pack.finish();
    await this.#putNew(objectNames.pack(pack.name), bytes);
    this.#unindexed.set(pack.name.readUInt32BE(pack.name.byteLength - 4), directory);
    // Packs may end out of order, and an index covers a range.
    if (this.#contiguous() >= MOST_INDEXED_PACKS) await this.#putIndex();
  }

  #contiguous(): number {
    let count = 0;
    while (count < MOST_INDEXED_PACKS && this.#unindexed.has(this.#firstUnindexed + count)) count++;
    return count;
  }

  async #putIndex(): Promise<void> {
    const first = this.#firstUnindexed;
    const packs: PackDirectory[] = [];
    for (let count = this.#contiguous(); count > 0; count--) {
      const directory = this.#unindexed.get(this.#firstUnindexed);
      if (directory === undefined) break;
      packs.push(directory);
      this.#unindexed.delete(this.#firstUnindexed++);
    }
    if (packs.length === 0) throw new Error("A pack is missing between those that are durable");
    const name = objectNames.index(this.#writerId, first, first + packs.length - 1);
    await this.#putNew(name, await sealMessage(this.#keys, name, PackIndexSchema, create(PackIndexSchema, { packs })));
  }

  async #putNew(name: string, bytes: Uint8Array): Promise<void> {
    const isNew = await this.#storage.put(name, bytes, { ifAbsent: true, signal: this.#signal });
    // Its name begins with random bytes of this writer. Going on would use a key and a nonce a second time.
    if (!isNew) throw fail("BACKUP_REPOSITORY_DAMAGED", "An object is there already", { metadata: { object: name } });
    this.#bytesWritten += bytes.byteLength;
  }
}
