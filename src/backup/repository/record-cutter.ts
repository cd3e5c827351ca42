import type { Keys } from "./keys.ts";

/**
 * Sizes of chunks in bytes. A chunk is what a change stores again, so it is small: of 1 KB records of which 0.1 % change, 7 % are
 * stored again at 64 KiB, 14 % at 128 KiB. It is not smaller, since each costs a reference of 60 bytes, an entry of 36 in
 * memory, and 20 µs for the call of zstd, which also finds less to compress (3 % more is stored at 32 KiB).
 */
export const chunkSizes = { least: 16 * 1024, mean: 64 * 1024, most: 256 * 1024 };
/** The same of chunks that list chunks: hardly compressible, and one of them is stored again with every chunk that is. */
export const listChunkSizes = { ...chunkSizes, least: 4 * 1024, mean: 16 * 1024 };
/** Each record stands behind its length, uint32 little-endian. */
export const RECORD_HEADER_BYTES = 4;
/** Longest record: what its length can say. */
export const MOST_RECORD_BYTES = 0xffff_ffff;

/** How much of a record's head and of its tail the boundary decision looks at. */
const SAMPLE_BYTES = 64;
/** Pieces of a record that is longer than a chunk are cut after 64 KiB more on average than the least. */
const PIECE_LEAST = 64 * 1024;
const PIECE_MASK = 0xffff_0000;

/**
 * Decides where chunks end. Only the content decides, so that the same records give the same chunks whatever stands before them.
 * How it decides is no part of the format: a reader puts chunks together again wherever they were cut.
 */
export interface Boundaries {
  /**
   * Whether the chunk in `bytes` ends behind its last record, which stands from `start` to `end`. The chance grows with the
   * record's length, which makes the mean length of chunks independent of it.
   */
  endsChunk(bytes: Buffer, start: number, end: number): boolean;
  /** Where the piece of a long record that begins at `start` ends, at most `most` bytes on. */
  endOfPiece(record: Uint8Array, start: number, most: number): number;
}

export function boundariesOf(keys: Pick<Keys, "boundarySeed">, { least, mean }: typeof chunkSizes): Boundaries {
  const seed = keys.boundarySeed;
  const [start0, factor0] = [seed.readUInt32LE(0), seed.readUInt32LE(4) | 1];
  const gear = Uint32Array.from({ length: 256 }, (_, i) => seed.readUInt32LE(32 + i * 4));
  // A chance in each record that grows with the chunk gives lengths of a Rayleigh distribution, whose mean is its parameter
  // times √(π/2). Lengths vary half as much as with an even chance, and long chunks are the ones that changes hit.
  const scale = (2 ** 32 * Math.PI) / 2 / (mean - least) ** 2;

  // A sample, not all of the record: documents differ in their ids at the head and in their last fields, and half a
  // microsecond for each kilobyte is saved. Where all samples are alike, chunks end at the least or the most length.
  const hash = (bytes: Buffer, start: number, end: number) => {
    const length = end - start;
    let h = Math.imul(start0 ^ length, factor0);
    const mix = (from: number, to: number) => {
      let at = from;
      for (; at + 4 <= to; at += 4) {
        h = Math.imul(h ^ bytes.readInt32LE(at), factor0);
        h ^= h >>> 15;
      }
      for (; at < to; at++) h = Math.imul(h ^ (bytes[at] ?? 0), factor0);
    };
    if (length <= 2 * SAMPLE_BYTES) {
      mix(start, end);
    } else {
      mix(start, start + SAMPLE_BYTES);
      mix(end - SAMPLE_BYTES, end);
    }
    // The finishing steps of MurmurHash3: every bit of the sum shall decide.
    h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
    h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
    return (h ^ (h >>> 16)) >>> 0;
  };

  return {
    endsChunk: (bytes, start, end) => {
      const chance = (end - start + RECORD_HEADER_BYTES) * (end - least) * scale;
      return end > least && hash(bytes, start, end) < chance;
    },
    endOfPiece(record, start, most) {
      const end = Math.min(record.byteLength, start + most);
      // A gear hash: the upper bits depend on the last 32 bytes.
      let h = 0;
      for (let at = Math.min(end, start + PIECE_LEAST - 32); at < end; at++) {
        h = ((h << 1) + (gear[record[at] ?? 0] ?? 0)) | 0;
        if ((h & PIECE_MASK) === 0 && at - start >= PIECE_LEAST) return at + 1;
      }
      return end;
    },
  };
}
