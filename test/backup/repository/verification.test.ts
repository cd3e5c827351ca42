import { copyFile, rm, stat, truncate } from "node:fs/promises";

import { expect, test } from "vitest";

import { Store } from "../../../gen/lucid/admin/v1/common_pb.ts";
import type { BackupRepository } from "../../../src/backup/repository/repository.ts";
import type { BackupProblem } from "../../../src/backup/repository/verification.ts";
import { reasonOf } from "../../../src/errors.ts";
import { failureOf, flip, makeRecords, never, newRepository, objectsIn, packsIn, takeBackup } from "./support.ts";

/** A backup with a unit for each list of records, whose chunks stand in a pack of their own. */
async function backupOfUnits(place: { readonly repository: BackupRepository; readonly dir: string }) {
  const lists = [1, 2, 3].map((seed) => makeRecords(400, seed));
  const packs: string[] = [];
  for (const [index, records] of lists.entries()) {
    await takeBackup(place.repository, `of-${index}`, [records]);
    packs.push(...(await packsIn(place.dir)).filter((pack) => !packs.includes(pack)));
  }
  await using writer = await place.repository.begin("all", never);
  const units = [];
  for (const [index, records] of lists.entries()) {
    await using stream = writer.open();
    await stream.write(records);
    const sealed = await stream.seal();
    const { recordCount, recordBytes } = sealed;
    units.push({ store: Store.MONGODB, name: `shop.unit${index}`, streams: [sealed], recordCount, recordBytes });
  }
  const [itemCount, logicalBytes] = [1200n, units.reduce((sum, { recordBytes }) => sum + recordBytes, 0n)];
  await writer.seal({ units, itemCount, logicalBytes });
  expect(packs).toHaveLength(3);
  return packs;
}

/** What is wrong with the backup, as pairs of unit and reason. */
async function problemsOf(repository: BackupRepository, readPercent?: number) {
  const problems: BackupProblem[] = [];
  const options = {
    onProblem: (problem: BackupProblem) => void problems.push(problem),
    ...(readPercent !== undefined && { readPercent }),
  };
  const verified = await repository.verify(await repository.get("all", never), options, never);
  return { verified, found: problems.map(({ unit, error }) => [unit?.name, reasonOf(error)?.reason]) };
}

test("all that is wrong is named, with the units that it costs", async () => {
  await using place = await newRepository();
  const [one = "", , three = ""] = await backupOfUnits(place);
  expect((await problemsOf(place.repository)).found).toEqual([]);
  await flip(one, Math.floor((await stat(one)).size / 2), 1);
  await rm(three);
  const index = (await objectsIn(place.dir)).find((path) => path.includes("/indexes/")) ?? "";
  await flip(index, 60, 0);
  const { found, verified } = await problemsOf(place.repository);
  expect(found).toEqual([
    ["shop.unit0", "BACKUP_CHUNK_DAMAGED"],
    ["shop.unit2", "BACKUP_CHUNK_MISSING"],
    [undefined, "BACKUP_CHUNK_MISSING"],
    [undefined, "BACKUP_REPOSITORY_DAMAGED"],
  ]);
  expect(verified.packCount).toBe(3);
  // Who asks for no list is told of the first.
  const first = await failureOf(async () => {
    await place.repository.verify(await place.repository.get("all", never), {}, never);
  });
  expect(first.reason).toBe("BACKUP_CHUNK_DAMAGED");
});

test("without reading content it finds what is missing or cut short, and nothing else", async () => {
  await using place = await newRepository();
  const [one = "", two = "", three = ""] = await backupOfUnits(place);
  await flip(one, Math.floor((await stat(one)).size / 2), 1);
  const whole = await problemsOf(place.repository, 0);
  expect(whole).toMatchObject({ found: [], verified: { recordCount: 1200n, recordBytes: 0n } });
  await truncate(two, (await stat(two)).size - 1);
  await rm(three);
  // What no directory lists is read: the chunks of the second pack are all there.
  expect((await problemsOf(place.repository, 0)).found).toEqual([
    ["shop.unit2", "BACKUP_CHUNK_MISSING"],
    [undefined, "BACKUP_REPOSITORY_DAMAGED"],
    [undefined, "BACKUP_CHUNK_MISSING"],
  ]);
});

test("a share of the content is read, and counted as the whole", async () => {
  await using place = await newRepository();
  await backupOfUnits(place);
  const { verified: all } = await problemsOf(place.repository);
  const { verified: some, found } = await problemsOf(place.repository, 50);
  expect(found).toEqual([]);
  expect(some.recordCount).toBe(all.recordCount);
  expect(some.recordBytes).toBeGreaterThan(0n);
  expect(some.recordBytes).toBeLessThan(all.recordBytes);
  const { verified: most } = await problemsOf(place.repository, 99.999_999);
  // Records stand in chunks with a header of four bytes.
  expect(most.recordBytes).toBe(all.recordBytes + 4n * all.recordCount);
});

test("a chunk that a reference places wrongly is found without reading it", async () => {
  await using place = await newRepository();
  const [one = "", two = ""] = await backupOfUnits(place);
  // One pack in the place of another: each is whole in itself.
  await copyFile(two, one);
  expect((await problemsOf(place.repository, 0)).found).toContainEqual(["shop.unit0", "BACKUP_CHUNK_DAMAGED"]);
});
