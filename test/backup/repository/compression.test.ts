import { randomBytes } from "node:crypto";
import { zstdDecompressSync } from "node:zlib";

import { expect, test } from "vitest";

import { ChunkCompression, decompressChunk } from "../../../src/backup/repository/compression.ts";

const OUTPUT_BYTES = 128 * 1024; // what the compressor writes into before it takes another buffer

test("gives each of many chunks back, whatever their sizes, and however many at once", async () => {
  const compression = new ChunkCompression();
  const chunks = Array.from({ length: 400 }, (_, i) => {
    const length = (i * 7919) % 262_145;
    return i % 3 === 0 ? randomBytes(length) : Buffer.alloc(length, `text ${i} `);
  });
  const wrong: number[] = [];
  const rest = chunks.entries();
  await Promise.all(
    Array.from({ length: 5 }, async () => {
      for (const [i, chunk] of rest) {
        const frame = await compression.run(chunk);
        if (!decompressChunk(frame, chunk.byteLength).equals(chunk)) wrong.push(i);
      }
    }),
  );
  compression.close();
  expect(wrong).toEqual([]);
});

test("a frame that ends where the output buffer does is followed by nothing, or by an empty frame", async () => {
  const overhead =
    (await new ChunkCompression().run(randomBytes(OUTPUT_BYTES - 1000))).byteLength - (OUTPUT_BYTES - 1000);
  const chunk = randomBytes(OUTPUT_BYTES - overhead);
  const compression = new ChunkCompression();
  const frame = await compression.run(chunk);
  expect(frame.byteLength - OUTPUT_BYTES).toBeGreaterThanOrEqual(0);
  expect(frame.byteLength - OUTPUT_BYTES).toBeLessThan(16);
  expect(decompressChunk(frame, chunk.byteLength).equals(chunk)).toBe(true);
  // What comes next is not touched by it.
  const next = Buffer.alloc(50_000, "next ");
  expect(zstdDecompressSync(await compression.run(next)).equals(next)).toBe(true);
  compression.close();
});

test("more than was said, a frame cut short, and what is no frame are refused", async () => {
  const compression = new ChunkCompression();
  const chunk = Buffer.alloc(10_000, "some text ");
  const frame = await compression.run(chunk);
  compression.close();
  expect(() => decompressChunk(frame, 9999)).toThrow("cannot be decompressed");
  expect(() => decompressChunk(frame.subarray(0, -1), 10_000)).toThrow("cannot be decompressed");
  expect(() => decompressChunk(randomBytes(100), 10_000)).toThrow("cannot be decompressed");
});
