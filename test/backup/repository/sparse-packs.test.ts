import { stat } from "node:fs/promises";

import { expect, test } from "vitest";

import { sparseOf } from "../../../src/backup/repository/sparse-packs.ts";
import { makeRecords, never, newRepository, packsIn, readBackup, takeBackup } from "./support.ts";

const reallyDelete = { validateOnly: false };
const MB = 1024 * 1024;

test("what few backups share with deleted ones is stored again, so that the rest of its pack can go", async () => {
  await using place = await newRepository({ encrypted: false });
  const { repository, dir } = place;
  const [shared, other] = [makeRecords(300, 1), makeRecords(3000, 2)];
  const stored = async () => {
    const sizes = await Promise.all((await packsIn(dir)).map(async (path) => (await stat(path)).size));
    return sizes.reduce((sum, size) => sum + size, 0);
  };
  const first = await takeBackup(repository, "a", [shared, other]);
  expect(first.packBytes).toHaveLength(1);
  expect(first.packBytes[0]).toBeGreaterThan(0.9 * (await stored()));
  // Whatever else uses little of a pack: while one backup uses most of it, there is nothing to be gained.
  expect((await takeBackup(repository, "b", [shared])).storedBytes).toBe(0n);
  const whole = await stored();
  await repository.delete("a", reallyDelete, never);
  expect(await stored()).toBe(whole);

  const again = await takeBackup(repository, "c", [shared]);
  expect(Number(again.storedBytes)).toBeLessThan(0.2 * whole);
  expect(await readBackup(repository, "b")).toEqual([shared]);
  const { freedBytes } = await repository.delete("b", reallyDelete, never);
  expect(Number(freedBytes)).toBeGreaterThan(0.9 * whole);
  expect(await stored()).toBeLessThan(0.2 * whole);
  // Once, not with every backup.
  expect((await takeBackup(repository, "d", [shared])).storedBytes).toBe(0n);
  for (const backupId of ["c", "d"]) {
    await repository.verify(await repository.get(backupId, never), {}, never);
    expect(await readBackup(repository, backupId)).toEqual([shared]);
  }
});

test("packs count as sparse below a half, the sparsest first, and only so many that little is stored again", () => {
  const used = new Map([
    ["half", 4 * MB],
    ["less", 3 * MB],
    ["unknown", Number.POSITIVE_INFINITY],
    ["gone", MB],
    ["least", MB],
  ]);
  const sizes = new Map(["half", "less", "unknown", "least", "unused"].map((pack) => [pack, 8 * MB]));
  expect([...sparseOf(used, sizes)]).toEqual(["least", "less"]);

  const many = Array.from({ length: 100 }, (_, i) => `pack ${i}`);
  const each = (bytes: number, of = many) => new Map(of.map((pack) => [pack, bytes]));
  expect(sparseOf(each(2 * MB), each(8 * MB)).size).toBe(32);
  const others = Array.from({ length: 900 }, (_, i) => `other ${i}`);
  expect(sparseOf(each(2 * MB), each(8 * MB, [...many, ...others])).size).toBe(80);
  expect(sparseOf(new Map(), new Map())).toEqual(new Set());
});
