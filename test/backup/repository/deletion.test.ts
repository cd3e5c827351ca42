import { truncate } from "node:fs/promises";

import { afterEach, expect, test, vi } from "vitest";

import { openLocalStorage } from "../../../src/backup/repository/local-storage.ts";
import { openRepository, openRepositoryIn } from "../../../src/backup/repository/repository.ts";
import {
  failureOf,
  idsIn,
  intercepted,
  makeRecords,
  never,
  newFolder,
  newRepository,
  objectsIn,
  readBackup,
  takeBackup,
} from "./support.ts";

const HOUR_MS = 60 * 60 * 1000;
const reallyDelete = { validateOnly: false };
afterEach(() => {
  vi.useRealTimers();
});

test("deleting frees what no other backup needs, and says before how much that is", async () => {
  await using place = await newRepository();
  const { repository } = place;
  const shared = makeRecords(2000, 1);
  await takeBackup(repository, "a", [shared]);
  await takeBackup(repository, "b", [shared, makeRecords(2000, 2)]);
  await takeBackup(repository, "c", [shared]);

  for (const backupId of ["b", "a", "c"]) {
    const foreseen = await repository.delete(backupId, { validateOnly: true }, never);
    expect(await idsIn(repository)).toContain(backupId);
    const { freedBytes } = await repository.delete(backupId, reallyDelete, never);
    // Indexes that cover no pack any more go as well.
    expect(freedBytes).toBeGreaterThanOrEqual(foreseen.freedBytes);
    for (const left of await idsIn(repository)) await repository.verify(await repository.get(left, never), {}, never);
  }
  const left = (await objectsIn(place.dir)).map((path) => path.slice(place.dir.length + 1));
  expect(left.filter((name) => !name.startsWith("manifests/"))).toEqual(["config"]);
});

test("a deleted backup is gone and its id is not used again", async () => {
  await using place = await newRepository();
  const { repository } = place;
  await takeBackup(repository, "a", [makeRecords(10)]);
  await repository.delete("a", reallyDelete, never);
  const gone = { reason: "BACKUP_NOT_FOUND", metadata: { backup_id: "a" } };
  expect(await failureOf(() => repository.get("a", never))).toMatchObject(gone);
  expect(await failureOf(() => repository.delete("a", reallyDelete, never))).toMatchObject(gone);
  expect(await failureOf(() => repository.delete("../a", reallyDelete, never))).toMatchObject({
    reason: "BACKUP_NOT_FOUND",
  });
  expect(await failureOf(() => repository.begin("a", never))).toMatchObject({ reason: "JOB_LEASE_LOST" });
});

test("a backup that began before a deletion keeps what it refers to", async () => {
  await using place = await newRepository();
  const { repository } = place;
  const records = makeRecords(3000, 1);
  await takeBackup(repository, "old", [records]);
  const started = await repository.begin("new", never);
  await repository.delete("old", reallyDelete, never);
  await using writer = started;
  await using stream = writer.open();
  await stream.write(records);
  const streams = [await stream.seal()];
  const manifest = await writer.seal({ units: [{ name: "u", streams, recordCount: 3000n, recordBytes: 3_000_000n }] });
  await writer[Symbol.asyncDispose]();
  expect(manifest.storedBytes).toBe(0n);
  await repository.collect(never);
  await repository.verify(manifest, {}, never);
  await repository.delete("new", reallyDelete, never);
  expect((await objectsIn(place.dir)).some((path) => path.includes("/packs/"))).toBe(false);
});

test("a backup that begins after a deletion does not refer to what is about to go", async () => {
  await using folder = await newFolder();
  const { dir } = folder;
  const records = makeRecords(3000, 1);
  await using repository = await openRepository({ dir });
  await takeBackup(repository, "old", [records]);
  // The collector stops right before it removes the pack; meanwhile a backup of the same data is taken.
  let interfered = false;
  const storage = intercepted(await openLocalStorage(dir), async (call, name) => {
    if (call !== "delete" || !name.startsWith("packs/") || interfered) return;
    interfered = true;
    await takeBackup(repository, "new", [records]);
  });
  await (await openRepositoryIn(storage)).delete("old", reallyDelete, never);
  expect(interfered).toBe(true);
  expect(await readBackup(repository, "new")).toEqual([records]);
});

test("a writer that was not heard of for an hour is given up, and cannot seal when it comes back", async () => {
  await using place = await newRepository();
  const { repository } = place;
  vi.useFakeTimers({ toFake: ["Date"], now: Date.now() - 2 * HOUR_MS });
  await using writer = await repository.begin("late", never);
  vi.useRealTimers();
  await using stream = writer.open();
  await stream.write(makeRecords(20_000, 1, 1000));
  const streams = [await stream.seal()];
  await repository.collect(never);
  const seal = () => writer.seal({ units: [{ name: "u", streams, recordCount: 20_000n, recordBytes: 20_000_000n }] });
  expect(await failureOf(seal)).toMatchObject({ reason: "JOB_LEASE_LOST", metadata: { backup_id: "late" } });
  expect(await idsIn(repository)).toEqual([]);
  expect(await failureOf(() => repository.begin("late", never))).toMatchObject({ reason: "JOB_LEASE_LOST" });
});

test("a backup that another process has taken over is not given up with the writer that died", async () => {
  await using place = await newRepository();
  const { repository } = place;
  vi.useFakeTimers({ toFake: ["Date"], now: Date.now() - 2 * HOUR_MS });
  await using dead = await repository.begin("b", never);
  vi.useRealTimers();
  await using writer = await repository.begin("b", never);
  await repository.collect(never);
  await writer.seal({});
  expect(await idsIn(repository)).toEqual(["b"]);
  expect(await failureOf(() => dead.seal({}))).toMatchObject({ reason: "BACKUP_ALREADY_EXISTS" });
});

test("of two writers of one backup one seals", async () => {
  await using place = await newRepository();
  const { repository } = place;
  await using one = await repository.begin("b", never);
  await using other = await repository.begin("b", never);
  const results = await Promise.allSettled([one.seal({ description: "one" }), other.seal({ description: "other" })]);
  expect(results.map(({ status }) => status).toSorted()).toEqual(["fulfilled", "rejected"]);
  const lost = results.find((result) => result.status === "rejected");
  expect(await failureOf(() => Promise.reject(lost?.reason as Error))).toMatchObject({
    reason: "BACKUP_ALREADY_EXISTS",
  });
  expect(await failureOf(() => repository.begin("b", never))).toMatchObject({ reason: "BACKUP_ALREADY_EXISTS" });
});

test("a collection removes nothing while it cannot know what a backup needs", async () => {
  await using place = await newRepository();
  const { repository } = place;
  await takeBackup(repository, "a", [makeRecords(100, 1)]);
  await takeBackup(repository, "b", [makeRecords(100, 2)]);
  await truncate(`${place.dir}/manifests/a`, 50);
  const packs = async () => (await objectsIn(place.dir)).filter((path) => path.includes("/packs/")).length;
  expect(await failureOf(() => repository.delete("b", reallyDelete, never))).toMatchObject({
    reason: "BACKUP_MANIFEST_DAMAGED",
    metadata: { backup_id: "a" },
  });
  expect(await packs()).toBe(2);
  await repository.delete("a", reallyDelete, never);
  expect(await packs()).toBe(0);
});
