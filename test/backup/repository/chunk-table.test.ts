import { randomBytes } from "node:crypto";

import { expect, test } from "vitest";

import { ChunkTable } from "../../../src/backup/repository/chunk-table.ts";

test("finds what was added, where it was added first, and nothing else", () => {
  const table = new ChunkTable(1_000_000);
  const packs = Array.from({ length: 50 }, () => randomBytes(16));
  const names = Array.from({ length: 20_000 }, () => randomBytes(32));
  names.forEach((name, i) => table.add(name, packs[i % 50] ?? name, i, 0xffff_ffff - i));
  names.forEach((name) => table.add(name, randomBytes(16), 1, 1));
  expect(table.size).toBe(20_000);
  const wrong = names.filter((name, i) => {
    const found = table.find(name, 7);
    const isRight =
      found?.pack.equals(packs[i % 50] ?? name) && found.offset === i && found.sealedLength === 0xffff_ffff - i;
    return !isRight;
  });
  expect(wrong).toEqual([]);
  expect(table.find(randomBytes(32), 7)).toBeUndefined();
});

test("names that share words are told apart", () => {
  const table = new ChunkTable(100);
  const pack = randomBytes(16);
  const names = Array.from({ length: 16 }, (_, i) => Buffer.alloc(32).fill(1, i, i + 1));
  names.forEach((name, i) => table.add(name, pack, i, i));
  expect(names.map((name) => table.find(name, 0)?.offset)).toEqual(names.map((_, i) => i));
});

test("forgets what comes after it is full", () => {
  const table = new ChunkTable(10);
  const names = Array.from({ length: 20 }, () => randomBytes(32));
  names.forEach((name, i) => table.add(name, randomBytes(16), i, i));
  expect(names.map((name) => table.find(name, 0) !== undefined)).toEqual(names.map((_, i) => i < 10));
});

test("takes less than 42 bytes for a chunk", () => {
  const before = process.memoryUsage().arrayBuffers;
  const table = new ChunkTable(Number.MAX_SAFE_INTEGER);
  const name = randomBytes(32);
  const pack = randomBytes(16);
  const count = 183_000; // nearly the most before the slots double
  for (let i = 0; i < count; i++) {
    name.writeUInt32LE(Math.imul(i, 0x9e37_79b1) >>> 0, 0);
    name.writeUInt32LE(i, 4);
    table.add(name, pack, i, i);
  }
  expect(table.size).toBe(count);
  expect((process.memoryUsage().arrayBuffers - before) / count).toBeLessThan(42);
});
