import type { Stream } from "../../gen/lucid/backup/v1/manifest_pb.ts";

/** A set of the records of one stream, by their places in it: one bit for each record. */
export class RecordSet {
  readonly #bits: Uint8Array;

  constructor({ recordCount }: Stream) {
    this.#bits = new Uint8Array(Math.ceil(Number(recordCount) / 8));
  }

  add(record: number): void {
    this.#bits[record >> 3] = (this.#bits[record >> 3] ?? 0) | (1 << (record & 7));
  }

  has(record: number): boolean {
    return ((this.#bits[record >> 3] ?? 0) & (1 << (record & 7))) !== 0;
  }
}
