import type { ChunkReference } from "./chunk-reference.ts";
import { CHUNK_NAME_BYTES, PACK_NAME_BYTES } from "./names.ts";

/** Entries of one segment: growing adds a segment and moves none. */
const SEGMENT = 1 << 15;
/** Words of an entry: four of the name, the pack's ordinal, offset, sealed length. */
const WORDS = 7;
const MOST_LOAD = 0.7;

/**
 * Knows where chunks stand. 28 bytes for each chunk and 6 to 11 for finding it, outside the JavaScript heap. Of a name the first
 * 16 bytes are kept: in a table of 2^32 chunks two different ones are taken for one with a chance below 2^-64.
 */
export class ChunkTable {
  readonly #most: number;
  readonly #segments: Uint32Array[] = [];
  readonly #packs: Buffer[] = [];
  readonly #ordinals = new Map<string, number>();
  /** Entry numbers plus one; 0 is free. */
  #slots = new Uint32Array(1 << 12);
  #size = 0;

  /** Holds at most `most` chunks; what is added after that is forgotten, and then stored a second time when it comes again. */
  constructor(most: number) {
    this.#most = most;
  }

  get size(): number {
    return this.#size;
  }

  /** Adds a chunk; one that is there already stays as it is. */
  add(name: Uint8Array, pack: Uint8Array, offset: number, sealedLength: number): void {
    if (this.#size >= this.#most) return;
    const words = wordsOf(name);
    const slot = this.#slotOf(words);
    if (this.#slots[slot] !== 0) return;
    const entry = this.#size++;
    if (entry % SEGMENT === 0) this.#segments.push(new Uint32Array(SEGMENT * WORDS));
    const segment = this.#segments[Math.floor(entry / SEGMENT)];
    if (segment === undefined) throw new Error("Segments and size disagree");
    segment.set([...words, this.#ordinalOf(pack), offset, sealedLength], (entry % SEGMENT) * WORDS);
    this.#slots[slot] = entry + 1;
    if (this.#size > this.#slots.length * MOST_LOAD) this.#grow();
  }

  /** Where the chunk stands, or undefined. */
  find(name: Buffer, plainLength: number): ChunkReference | undefined {
    const entry = this.#slots[this.#slotOf(wordsOf(name))] ?? 0;
    if (entry === 0) return undefined;
    const segment = this.#segments[Math.floor((entry - 1) / SEGMENT)];
    const at = ((entry - 1) % SEGMENT) * WORDS;
    const pack = this.#packs[segment?.[at + 4] ?? 0];
    const [offset, sealedLength] = [segment?.[at + 5], segment?.[at + 6]];
    if (pack === undefined || offset === undefined || sealedLength === undefined)
      throw new Error("A slot leads nowhere");
    return { name, pack, offset, sealedLength, plainLength };
  }

  #ordinalOf(pack: Uint8Array): number {
    const bytes = Buffer.from(pack.buffer, pack.byteOffset, PACK_NAME_BYTES);
    const key = bytes.toString("latin1");
    let ordinal = this.#ordinals.get(key);
    if (ordinal === undefined) {
      ordinal = this.#packs.push(Buffer.from(bytes)) - 1;
      this.#ordinals.set(key, ordinal);
    }
    return ordinal;
  }

  /** The slot that holds the name, or the free one where it belongs. */
  #slotOf([a, b, c, d]: Words): number {
    const mask = this.#slots.length - 1;
    // A name is a keyed hash: any of its words is as good as a hash of it.
    for (let slot = a & mask; ; slot = (slot + 1) & mask) {
      const entry = this.#slots[slot] ?? 0;
      if (entry === 0) return slot;
      const segment = this.#segments[Math.floor((entry - 1) / SEGMENT)];
      const at = ((entry - 1) % SEGMENT) * WORDS;
      if (segment?.[at] === a && segment[at + 1] === b && segment[at + 2] === c && segment[at + 3] === d) return slot;
    }
  }

  #grow(): void {
    this.#slots = new Uint32Array(this.#slots.length * 2);
    const mask = this.#slots.length - 1;
    for (let entry = 0; entry < this.#size; entry++) {
      let slot = (this.#segments[Math.floor(entry / SEGMENT)]?.[(entry % SEGMENT) * WORDS] ?? 0) & mask;
      while (this.#slots[slot] !== 0) slot = (slot + 1) & mask;
      this.#slots[slot] = entry + 1;
    }
  }
}

type Words = readonly [number, number, number, number];

function wordsOf(name: Uint8Array): Words {
  const bytes = Buffer.from(name.buffer, name.byteOffset, CHUNK_NAME_BYTES);
  return [bytes.readUInt32LE(0), bytes.readUInt32LE(4), bytes.readUInt32LE(8), bytes.readUInt32LE(12)];
}
