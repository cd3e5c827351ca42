import { hash } from "node:crypto";

import { idOf } from "./raw-bson.ts";

/** Documents are told apart in this many groups, so that a difference is found in a part of a collection. */
const groups = 256;

const modulus = 1n << 256n;

/**
 * What documents there are, whatever their order: for each group of `_id`s their number and the sum of their SHA-256. Two
 * ledgers are equal where the documents are, to the last bit. Takes at most some 20 KB.
 */
export class Ledger {
  readonly #groups = new Map<number, { documents: number; sum: bigint }>();

  get documents(): number {
    let documents = 0;
    for (const group of this.#groups.values()) documents += group.documents;
    return documents;
  }

  add(document: Uint8Array): void {
    this.#change(document, 1);
  }

  remove(document: Uint8Array): void {
    this.#change(document, -1);
  }

  /** Number of documents in groups that are equal in `other`: all where the two are equal, at least so many where not. */
  equalDocuments(other: Ledger): number {
    let equal = 0;
    for (const [number, group] of this.#groups) {
      const same = other.#groups.get(number);
      if (same?.documents === group.documents && same.sum === group.sum) equal += group.documents;
    }
    return equal;
  }

  equals(other: Ledger): boolean {
    const documents = this.documents;
    return documents === other.documents && documents === this.equalDocuments(other);
  }

  #change(document: Uint8Array, sign: 1 | -1): void {
    const id = idOf(document) ?? new Uint8Array(0);
    const number = groupOf(id);
    const group = this.#groups.get(number) ?? { documents: 0, sum: 0n };
    this.#groups.set(number, group);
    const digest = BigInt(`0x${hash("sha256", document, "hex")}`);
    group.documents += sign;
    group.sum = (group.sum + (sign === 1 ? digest : modulus - digest)) % modulus;
  }
}

/** FNV-1a: spreads keys, no more is needed. */
function groupOf(id: Uint8Array): number {
  let value = 0x811c9dc5;
  for (const byte of id) value = Math.imul(value ^ byte, 0x01000193);
  return (value >>> 24) % groups;
}

/** Most documents of a capped collection that are compared. */
const mostCapped = 200_000;

/**
 * The same for a capped collection, where order counts and where the oldest documents vanish by themselves. Takes some 200 bytes
 * for each document and knows at most 200,000.
 */
export class CappedLedger {
  readonly #digests = new Map<string, string>();
  #overflowed = false;

  get documents(): number {
    return this.#digests.size;
  }

  /** Whether there are more documents than it can know. */
  get overflowed(): boolean {
    return this.#overflowed;
  }

  /** A document that is known keeps its place. */
  add(document: Uint8Array): void {
    if (this.#digests.size === mostCapped) this.#overflowed = true;
    else this.#digests.set(keyOf(document), digestOf(document));
  }

  remove(document: Uint8Array): void {
    this.#digests.delete(keyOf(document));
  }

  /** Whether `other` is this one, or the end of it. */
  endsWith(other: CappedLedger): boolean {
    const [expected, found] = [[...this.#digests], [...other.#digests]];
    if (found.length > expected.length || (found.length === 0 && expected.length > 0)) return false;
    return expected
      .slice(expected.length - found.length)
      .every(([key, digest], index) => found[index]?.[0] === key && found[index][1] === digest);
  }
}

function keyOf(document: Uint8Array): string {
  return hash("sha256", idOf(document) ?? new Uint8Array(0), "base64");
}

function digestOf(document: Uint8Array): string {
  return hash("sha256", document, "base64");
}
