import { hash } from "node:crypto";

/** Keys in each of two generations, and the room for them. */
const generationKeys = 128 * 1024;
const slots = 2 * generationKeys;
const wordsPerSlot = 4;

/**
 * The keys that a SCAN has returned lately, at least 131,072 of them, in 8 MB. SCAN returns a key twice only where its table
 * shrinks while it is scanned, and then goes back by at most the keys that shared a bucket of the smaller table: of a hundred
 * million keys the table would have to shrink below a thousand buckets for one to be returned twice beyond this reach.
 */
export class RecentKeys {
  #young = new Uint32Array(slots * wordsPerSlot);
  #old = new Uint32Array(slots * wordsPerSlot);
  #count = 0;

  /** Notes a key; false where it is known already. Told apart by 128 bits of SHA-256. */
  add(key: Uint8Array): boolean {
    const digest = hash("sha256", key, "buffer");
    // Little is done for each key, since it is done for every key: no arrays, no closures.
    const a = digest.readUInt32LE(0) || 1; // 0 marks a free slot
    const [b, c, d] = [digest.readUInt32LE(4), digest.readUInt32LE(8), digest.readUInt32LE(12)];
    if (placeOf(this.#old, a, b, c, d) === known) return false;
    const place = placeOf(this.#young, a, b, c, d);
    if (place === known) return false;
    this.#young[place] = a;
    this.#young[place + 1] = b;
    this.#young[place + 2] = c;
    this.#young[place + 3] = d;
    if (++this.#count === generationKeys) {
      [this.#young, this.#old] = [this.#old, this.#young];
      this.#young.fill(0);
      this.#count = 0;
    }
    return true;
  }
}

const known = -1;

/** Where four words belong in a table, or `known` where they are there. */
function placeOf(table: Uint32Array, a: number, b: number, c: number, d: number): number {
  for (let slot = a % slots; ; slot = (slot + 1) % slots) {
    const at = slot * wordsPerSlot;
    if (table[at] === 0) return at;
    if (table[at] === a && table[at + 1] === b && table[at + 2] === c && table[at + 3] === d) return known;
  }
}
