import { randomBytes } from "node:crypto";
import { stat } from "node:fs/promises";

import { expect, test } from "vitest";

import { openLocalStorage } from "../../../src/backup/repository/local-storage.ts";
import { openRepository, openRepositoryIn } from "../../../src/backup/repository/repository.ts";
import { dying } from "./dying-storage.ts";
import { idsIn, intercepted, makeRecords, never, newFolder, objectsIn, readBackup, takeBackup } from "./support.ts";

/** More than two packs that do not compress. */
const RECORDS = Array.from({ length: 200 }, () => randomBytes(100_000));

test.for([{ lastIsMade: false }, { lastIsMade: true }])(
  "a backup that dies at any write leaves nothing half, and the next one sends nothing again (made: $lastIsMade)",
  async ({ lastIsMade }) => {
    let died = 0;
    for (let calls = 0; ; calls++) {
      await using folder = await newFolder();
      const { dir } = folder;
      await openRepository({ dir });
      const storage = dying(await openLocalStorage(dir), calls, lastIsMade);
      const sealed = await takeBackup(await openRepositoryIn(storage), "first", [RECORDS]).catch(() => undefined);
      if (!storage.dead()) break;
      died++;

      await using repository = await openRepository({ dir });
      const before = await packBytes(dir);
      const isThere = (await idsIn(repository)).includes("first");
      // The manifest is all that decides: where it was put the backup is whole, whether or not its writer learnt it.
      expect(isThere || sealed === undefined).toBe(true);
      // Not `toEqual`, which takes a second for all these bytes.
      const [read = []] = isThere ? await readBackup(repository, "first") : [RECORDS];
      expect(Buffer.concat(read).equals(Buffer.concat(RECORDS))).toBe(true);
      expect(read).toHaveLength(RECORDS.length);
      const next = await takeBackup(repository, isThere ? "second" : "first", [RECORDS]);
      await repository.verify(next, {}, never);
      const after = await packBytes(dir);
      expect(after).toBeLessThan(20_000_000 * 1.02);
      expect(Number(next.storedBytes)).toBeLessThan(20_000_000 * 1.02 - before);
    }
    // Announcement, three packs, index, manifest, farewell.
    expect(died).toBe(7);
  },
);

test.for([{ lastIsMade: false }, { lastIsMade: true }])(
  "a deletion that dies at any write harms no other backup, and a collection ends it (made: $lastIsMade)",
  async ({ lastIsMade }) => {
    const shared = makeRecords(300, 1);
    let died = 0;
    for (let calls = 0; ; calls++) {
      await using folder = await newFolder();
      const { dir } = folder;
      await using repository = await openRepository({ dir });
      await takeBackup(repository, "kept", [shared]);
      const keptBytes = await packBytes(dir);
      await takeBackup(repository, "deleted", [shared, makeRecords(3000, 2)]);
      const storage = dying(await openLocalStorage(dir), calls, lastIsMade);
      const dies = await openRepositoryIn(storage);
      await dies.delete("deleted", { validateOnly: false }, never).catch(() => undefined);
      if (!storage.dead()) break;
      died++;

      expect(await readBackup(repository, "kept")).toEqual([shared]);
      // A backup is there whole or not at all.
      if ((await idsIn(repository)).includes("deleted")) {
        await repository.verify(await repository.get("deleted", never), {}, never);
        await repository.delete("deleted", { validateOnly: false }, never);
      } else {
        await repository.collect(never);
      }
      expect(await packBytes(dir)).toBe(keptBytes);
      expect(await readBackup(repository, "kept")).toEqual([shared]);
    }
    // Manifest, condemnation, pack, condemnation again, index.
    expect(died).toBe(5);
  },
);

test("a writer that fails says why, once, and everything after it fails with the same", async () => {
  await using folder = await newFolder();
  const failure = new Error("The disk is on fire");
  const storage = intercepted(await openLocalStorage(folder.dir), (call, name) => {
    if (call === "put" && name.startsWith("packs/")) throw failure;
  });
  const repository = await openRepositoryIn(storage);
  await using writer = await repository.begin("b", never);
  await using stream = writer.open();
  const writing = (async () => {
    for (;;) await stream.write([randomBytes(200_000)]);
  })();
  await expect(writing).rejects.toBe(failure);
  await expect(stream.seal()).rejects.toBe(failure);
  await stream[Symbol.asyncDispose]();
  await expect(writer.seal({})).rejects.toBe(failure);
});

test("an aborted backup ends with the signal's reason and leaves the repository usable", async () => {
  await using folder = await newFolder();
  await using repository = await openRepository({ dir: folder.dir });
  const cancelled = new AbortController();
  const reason = new Error("cancelled by a caller");
  const writing = (async () => {
    await using writer = await repository.begin("b", cancelled.signal);
    await using stream = writer.open();
    for (let i = 0; ; i++) {
      if (i === 30) cancelled.abort(reason);
      await stream.write([randomBytes(200_000)]);
    }
  })();
  await expect(writing).rejects.toBe(reason);
  expect(await idsIn(repository)).toEqual([]);
  await repository.collect(never);
  expect(await packBytes(folder.dir)).toBe(0);
  await takeBackup(repository, "b", [makeRecords(10)]);
});

async function packBytes(dir: string): Promise<number> {
  const packs = (await objectsIn(dir)).filter((path) => path.includes("/packs/"));
  const sizes = await Promise.all(packs.map(async (path) => (await stat(path)).size));
  return sizes.reduce((sum, size) => sum + size, 0);
}
