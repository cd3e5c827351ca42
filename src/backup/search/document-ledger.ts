import { createHash } from "node:crypto";

/** What a document is told by. */
export interface Document {
  readonly id: string;
  readonly routing: string;
  readonly version: bigint;
  readonly source: Uint8Array;
}

/** Documents are told apart in this many groups, so that a difference is found in a part of an index. */
const groups = 256;

const modulus = 1n << 256n;

/**
 * What documents there are, whatever their order: for each group of ids their number and the sum of their SHA-256. Two ledgers
 * are equal where the documents are: id, routing, version and every byte of the source. Takes some 20 KB.
 */
export class DocumentLedger {
  readonly #counts = new Uint32Array(groups);
  readonly #sums = Array.from({ length: groups }, () => 0n);

  get documents(): number {
    return this.#counts.reduce((sum, count) => sum + count, 0);
  }

  add({ id, routing, version, source }: Document): void {
    const digest = createHash("sha256")
      .update(JSON.stringify([id, routing, String(version)]))
      .update(source)
      .digest();
    // Of the id alone: a document that differs is in the group of the one that it differs from.
    const group = groupOf(id);
    this.#counts[group] = (this.#counts[group] ?? 0) + 1;
    this.#sums[group] = ((this.#sums[group] ?? 0n) + BigInt(`0x${digest.toString("hex")}`)) % modulus;
  }

  /** Number of documents in groups that are equal in `other`: all where the two are equal, at least so many where not. */
  equalDocuments(other: DocumentLedger): number {
    let equal = 0;
    for (let group = 0; group < groups; group++) {
      const count = this.#counts[group] ?? 0;
      if (other.#counts[group] === count && other.#sums[group] === this.#sums[group]) equal += count;
    }
    return equal;
  }

  equals(other: DocumentLedger): boolean {
    return this.documents === other.documents && this.documents === this.equalDocuments(other);
  }
}

/** FNV-1a: spreads ids, no more is needed. */
function groupOf(id: string): number {
  let value = 0x811c9dc5;
  for (let index = 0; index < id.length; index++) value = Math.imul(value ^ id.charCodeAt(index), 0x01000193);
  return (value >>> 24) % groups;
}
