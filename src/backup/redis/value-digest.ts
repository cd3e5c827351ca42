import { createHash, hash, type Hash } from "node:crypto";

import type { RedisPart } from "../../../gen/lucid/backup/v1/manifest_pb.ts";

const modulus = 1n << 256n;

/**
 * What a value is, whatever its parts, and whatever the order of what has none. Of strings, lists and streams a SHA-256 over
 * their elements in order; of sets, sorted sets and hashes the sum of those of all elements. The times at which pending entries
 * of a stream were delivered do not count.
 */
export class ValueDigest {
  readonly #type: string;
  readonly #ordered: Hash = createHash("sha256");
  #sum = 0n;
  #elements = 0;

  constructor(type: string) {
    this.#type = type;
    this.#ordered.update(type);
  }

  add(part: RedisPart): void {
    const { elements } = part;
    switch (this.#type) {
      case "string":
        for (const element of elements) this.#ordered.update(element);
        return;
      case "list":
        for (const element of elements) this.#append(element);
        return;
      case "set":
        for (const element of elements) this.#include(element);
        return;
      case "zset":
        this.#pairs(elements, (member, score) => this.#include(member, canonicalScore(score)));
        return;
      case "hash": {
        const times = part.fieldExpireTimesMs;
        this.#pairs(elements, (field, value, index) => this.#include(field, value, String(times[index] ?? 0n)));
        return;
      }
      case "stream":
        return this.#stream(part);
      default:
        throw new Error(`There is no digest of a ${this.#type}`);
    }
  }

  /** The digest of all that was added. Nothing can be added afterwards. */
  value(): string {
    return `${this.#type} ${this.#elements} ${this.#sum.toString(16)} ${this.#ordered.digest("hex")}`;
  }

  #stream({ entries, stream, pending }: RedisPart): void {
    for (const { id, fields } of entries) {
      this.#append(id, String(fields.length));
      for (const field of fields) this.#append(field);
    }
    if (stream !== undefined) {
      const { lastId, entriesAdded, maxDeletedId, groups } = stream;
      this.#append(lastId, String(entriesAdded ?? ""), maxDeletedId);
      for (const { name, lastDeliveredId, entriesRead, consumers } of groups) {
        this.#append(name, lastDeliveredId, String(entriesRead ?? ""), String(consumers.length), ...consumers);
      }
    }
    for (const { group, consumer, id, deliveryCount } of pending) {
      this.#append(group, consumer, id, String(deliveryCount));
    }
  }

  #pairs(elements: readonly Uint8Array[], take: (one: Uint8Array, other: Uint8Array, index: number) => void): void {
    for (let index = 0; index + 1 < elements.length; index += 2) {
      const [one, other] = [elements[index], elements[index + 1]];
      if (one !== undefined && other !== undefined) take(one, other, index / 2);
    }
  }

  #append(...fields: readonly (string | Uint8Array)[]): void {
    this.#ordered.update(framed(fields));
  }

  #include(...fields: readonly (string | Uint8Array)[]): void {
    this.#elements++;
    this.#sum = (this.#sum + BigInt(`0x${hash("sha256", framed(fields), "hex")}`)) % modulus;
  }
}

/** Fields behind their lengths: no two lists of fields give the same bytes. */
function framed(fields: readonly (string | Uint8Array)[]): Buffer {
  const pieces: Uint8Array[] = [];
  for (const field of fields) {
    const bytes = typeof field === "string" ? Buffer.from(field) : field;
    const length = Buffer.allocUnsafe(4);
    length.writeUInt32LE(bytes.byteLength);
    pieces.push(length, bytes);
  }
  return Buffer.concat(pieces);
}

/** Versions write the same number with more or fewer digits. */
function canonicalScore(score: Uint8Array): string {
  const text = Buffer.from(score).toString();
  return /inf|nan/i.test(text) ? text.toLowerCase().replace("+", "") : String(Number(text));
}
