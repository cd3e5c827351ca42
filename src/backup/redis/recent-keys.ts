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
    const words = [0, 4, 8, 12].map((at) => digest.readUInt32LE(at) || 1); // 0 marks a free slot
    if (find(this.#old, words).known) return false;
    const { known, at } = find(this.#young, words);
    if (known) return false;
    this.#young.set(words, at);
    if (++this.#count === generationKeys) {
      [this.#young, this.#old] = [this.#old, this.#young];
      this.#young.fill(0);
      this.#count = 0;
    }
    return true;
  }
}

function find(table: Uint32Array, words: readonly number[]): { readonly known: boolean; readonly at: number } {
  for (let slot = (words[0] ?? 0) % slots; ; slot = (slot + 1) % slots) {
    const at = slot * wordsPerSlot;
    if (table[at] === 0) return { known: false, at };
    if (words.every((word, index) => table[at + index] === word)) return { known: true, at };
  }
}
