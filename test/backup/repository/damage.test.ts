import { readFile, rm, stat, truncate, writeFile } from "node:fs/promises";
import { join, relative } from "node:path";

import * as fc from "fast-check";
import { expect, test } from "vitest";

import { openRepository } from "../../../src/backup/repository/repository.ts";
import {
  failureOf,
  flip,
  makeRecords,
  never,
  newRepository,
  objectsIn,
  packsIn,
  readBackup,
  takeBackup,
} from "./support.ts";

/** What may be told of damage to an object of that kind. */
const reasonsOf = {
  config: ["BACKUP_REPOSITORY_DAMAGED"],
  manifests: ["BACKUP_MANIFEST_DAMAGED"],
  indexes: ["BACKUP_REPOSITORY_DAMAGED"],
  packs: ["BACKUP_CHUNK_DAMAGED", "BACKUP_REPOSITORY_DAMAGED"],
} as const;

/** What tells where the damage is. */
const detailOf = { config: "object", manifests: "backup_id", indexes: "object", packs: "pack" } as const;

test.for([{ encrypted: true }, { encrypted: false }])(
  "a flipped bit anywhere in any object is found (encrypted: $encrypted)",
  async (options) => {
    await using place = await newRepository(options);
    const { dir } = place;
    const keyFile = options.encrypted ? { keyFile: place.keyFile } : {};
    const written = [makeRecords(100, 1), [Buffer.concat(makeRecords(300, 2))], []];
    await takeBackup(place.repository, "b", written);
    const objects = await objectsIn(dir);
    const sizes = await Promise.all(objects.map(async (path) => (await stat(path)).size));
    const every = fc.integer({ min: 0, max: objects.length - 1 }).chain((object) => {
      const size = sizes[object] ?? 1;
      // The ends are where the frames are.
      const offset = fc.oneof(
        fc.nat({ max: size - 1 }),
        fc.nat({ max: Math.min(size, 64) - 1 }),
        fc.nat({ max: Math.min(size, 64) - 1 }).map((n) => size - 1 - n),
      );
      return fc.tuple(fc.constant(object), offset, fc.nat({ max: 7 }));
    });
    await fc.assert(
      fc.asyncProperty(every, async ([object, offset, bit]) => {
        const path = objects[object] ?? "";
        const kind = relative(dir, path).split("/")[0] ?? "";
        await flip(path, offset, bit);
        try {
          const { reason, metadata } = await failureOf(async () => {
            if (kind === "config") await openRepository({ dir, ...keyFile });
            else await place.repository.verify(await place.repository.get("b", never), {}, never);
          });
          expect(reasonsOf[kind as keyof typeof reasonsOf]).toContain(reason);
          expect(Object.keys(metadata)).toContain(detailOf[kind as keyof typeof detailOf]);
        } finally {
          await flip(path, offset, bit);
        }
      }),
      { seed: 77, numRuns: 60 },
    );
    expect(await readBackup(place.repository, "b")).toEqual(written);
  },
);

test("a damaged chunk is never handed out, and names itself", async () => {
  await using place = await newRepository();
  const records = makeRecords(3000, 3);
  await takeBackup(place.repository, "b", [records]);
  const [pack] = await packsIn(place.dir);
  await flip(pack ?? "", Math.floor((await stat(pack ?? "")).size * 0.9), 3);
  const manifest = await place.repository.get("b", never);
  const reader = await place.repository.reader(never, "b");
  const stream = manifest.units[0]?.streams[0];
  if (stream === undefined) throw new Error("There is no stream");
  const read: Uint8Array[] = [];
  const { reason, metadata } = await failureOf(async () => {
    for await (const batch of reader.records(stream, never)) read.push(...batch);
  });
  expect(reason).toBe("BACKUP_CHUNK_DAMAGED");
  expect(metadata).toMatchObject({
    backup_id: "b",
    chunk: expect.stringMatching(/^[0-9a-f]{64}$/),
    pack: expect.stringMatching(/^[0-9a-f]{32}$/),
  });
  expect(read.length).toBeGreaterThan(0);
  expect(read).toEqual(records.slice(0, read.length));
});

test("a missing pack is BACKUP_CHUNK_MISSING, unless another pack holds its chunks", async () => {
  await using place = await newRepository();
  const records = makeRecords(500, 4);
  await takeBackup(place.repository, "b", [records]);
  const [pack] = await packsIn(place.dir);
  const bytes = await readFile(pack ?? "");
  await rm(pack ?? "");
  expect(await failureOf(() => readBackup(place.repository, "b"))).toMatchObject({
    reason: "BACKUP_CHUNK_MISSING",
    metadata: { backup_id: "b", chunk: expect.any(String), pack: expect.any(String) },
  });
  // The pack is gone when this one looks, so it stores everything again: and heals the first.
  await takeBackup(place.repository, "again", [records]);
  expect(await readBackup(place.repository, "b")).toEqual([records]);
  expect(bytes.byteLength).toBeGreaterThan(0);
});

test("a manifest that is cut short anywhere is BACKUP_MANIFEST_DAMAGED and hides no other backup", async () => {
  await using place = await newRepository();
  await takeBackup(place.repository, "a", [makeRecords(10, 5)]);
  await takeBackup(place.repository, "b", [makeRecords(10, 6)]);
  const path = join(place.dir, "manifests", "b");
  const { size } = await stat(path);
  for (const length of [size - 1, Math.floor(size / 2), 74, 36, 20, 8, 1, 0]) {
    await truncate(path, length);
    expect(await failureOf(() => place.repository.get("b", never))).toMatchObject({
      reason: "BACKUP_MANIFEST_DAMAGED",
      metadata: { backup_id: "b" },
    });
  }
  const listed = await Array.fromAsync(place.repository.list(never));
  expect(
    listed.map(({ backupId, manifest, error }) => [backupId, manifest !== undefined, error !== undefined]),
  ).toEqual([
    ["b", false, true],
    ["a", true, false],
  ]);
});

test("a manifest under another backup's name is refused", async () => {
  await using place = await newRepository();
  await takeBackup(place.repository, "a", [makeRecords(10, 5)]);
  await writeFile(join(place.dir, "manifests", "c"), await readFile(join(place.dir, "manifests", "a")));
  expect(await failureOf(() => place.repository.get("c", never))).toMatchObject({ reason: "BACKUP_MANIFEST_DAMAGED" });
});

test("a wrong key, no key, and a key for a repository in the clear are refused", async () => {
  await using place = await newRepository();
  await takeBackup(place.repository, "b", [makeRecords(10, 5)]);
  const wrong = join(place.dir, "..", "wrong-key");
  await writeFile(wrong, "another key file, also of forty bytes......\n");
  for (const keyFile of [{ keyFile: wrong }, {}]) {
    expect(await failureOf(() => openRepository({ dir: place.dir, ...keyFile }))).toMatchObject({
      reason: "BACKUP_REPOSITORY_WRONG_KEY",
    });
  }
  await using plain = await newRepository({ encrypted: false });
  const { dir } = plain;
  expect(await failureOf(() => openRepository({ dir, keyFile: plain.keyFile }))).toMatchObject({
    reason: "BACKUP_REPOSITORY_WRONG_KEY",
  });
});

test("a damaged index costs nothing but the verification's word", async () => {
  await using place = await newRepository();
  const records = makeRecords(2000, 7);
  const first = await takeBackup(place.repository, "first", [records]);
  const index = (await objectsIn(place.dir)).find((path) => relative(place.dir, path).startsWith("indexes/"));
  await flip(index ?? "", 60, 0);
  const second = await takeBackup(place.repository, "second", [records]);
  expect(second.storedBytes).toBe(0n);
  expect(await readBackup(place.repository, "second")).toEqual([records]);
  expect(await failureOf(() => place.repository.verify(first, {}, never))).toMatchObject({
    reason: "BACKUP_REPOSITORY_DAMAGED",
  });
});
