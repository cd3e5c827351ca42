import {
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";

import { timestampMs } from "@bufbuild/protobuf/wkt";
import { afterAll, beforeAll, expect, test } from "vitest";

import { VolumeLevel } from "../../../gen/lucid/admin/v1/volume_pb.ts";
import { VolumeStatus, VolumeWindow } from "../../../gen/lucid/admin/v1/volume_service_pb.ts";
import { int64Of } from "../../../src/admin/volume/health.ts";
import { refusalOf } from "../../repository/support.ts";
import { temporaryFolder } from "../../stores/volumes/support.ts";
import { daysAgo, now, type VolumeApp, volumeApp } from "./support.ts";

let there: VolumeApp;
beforeAll(async () => {
  there = await volumeApp();
});
afterAll(() => there?.[Symbol.asyncDispose]());

test("usage counts what is there, each file once however many names it has", async () => {
  const { volumes, newVolume, at } = there;
  const name = await newVolume(1000n);
  there.files([`${name}/a/b`, "x".repeat(300)], [`${name}/c`, "x".repeat(550)]);
  linkSync(at(name, "c"), at(name, "a", "c"));
  symlinkSync("abc", at(name, "link"));
  const { usage, history } = await volumes.getVolumeUsage({ name, window: VolumeWindow.HOUR });
  expect(usage).toMatchObject({ usedBytes: 853n, fileCount: 3n, directoryCount: 1n, otherCount: 1n, skippedCount: 0n });
  expect(usage).toMatchObject({ level: VolumeLevel.WARNING, usedPercent: 85.3 });
  expect(history.map(({ usedBytes }) => usedBytes)).toEqual([853n]);

  there.files([`${name}/d`, "x".repeat(60)]);
  expect((await volumes.getVolumeUsage({ name })).usage?.usedBytes).toBe(853n);
  const newer = await volumes.getVolumeUsage({ name, maxAge: now });
  expect(newer.usage).toMatchObject({ usedBytes: 913n, level: VolumeLevel.CRITICAL });
  const { measureTime } = newer.usage ?? {};
  expect(Date.now() - timestampMs(measureTime ?? expect.fail())).toBeLessThan(120_000);
});

test("measures that callers ask for at once are one", async () => {
  const { volumes, newVolume } = there;
  const name = await newVolume();
  for (let file = 0; file < 500; file++) there.files([`${name}/${file % 20}/${file}`, "x"]);
  const asked = Array.from({ length: 10 }, () => volumes.getVolumeUsage({ name, maxAge: now }));
  const times = new Set(
    (await Promise.all(asked)).map(({ usage }) => timestampMs(usage?.measureTime ?? expect.fail())),
  );
  expect(times.size).toBeLessThan(4);
});

test.for([
  [0, 0n],
  [4096.5, 4096n],
  [2 ** 63, 2n ** 63n - 1n],
  [2 ** 64, 2n ** 63n - 1n],
] as const)("a file system that says %d is told to have %s", ([said, told]) => {
  expect(int64Of(said)).toBe(told);
});

test("health tells the room that is left, and that a volume is nearly full", async () => {
  const { volumes, newVolume } = there;
  const name = await newVolume(100n);
  const before = await volumes.getVolumeHealth({ name });
  expect(before.checks.map((check) => check.name)).toEqual([
    "access",
    "usage",
    "storage_bytes",
    "storage_files",
    "measures",
  ]);
  expect(before.storageFreeBytes).toBeGreaterThan(0n);
  there.files([`${name}/a`, "x".repeat(95)]);
  await volumes.getVolumeUsage({ name });
  const { status, checks } = await volumes.getVolumeHealth({ name });
  expect(status).toBe(VolumeStatus.UNHEALTHY);
  expect(checks[1]).toMatchObject({ status: VolumeStatus.UNHEALTHY, message: "95.0 % of its declared size are used" });
});

test("performance is measured with real writes, and leaves nothing behind", async () => {
  const { volumes, newVolume, at } = there;
  const name = await newVolume();
  const measured = await volumes.measureVolumePerformance({ name, bytes: 1_048_576n, blockBytes: 4096 });
  expect(measured).toMatchObject({ writtenBytes: 1_048_576n });
  expect(measured.readBytes).toBeGreaterThan(0n);
  expect(measured.writeBytesPerSecond).toBeGreaterThan(0);
  expect(measured.syncCount).toBeGreaterThan(0);
  expect(readdirSync(at(name, ".lucid"))).toEqual(["volume.1.json"]);
  const [first, second] = await Promise.allSettled(
    [1, 2].map(() => volumes.measureVolumePerformance({ name, bytes: 1_048_576n })),
  );
  expect(new Set([first?.status, second?.status])).toEqual(new Set(["fulfilled", "rejected"]));
});

test("a clean-up removes old files that fit, after telling which", async () => {
  const { volumes, newVolume, at } = there;
  const name = await newVolume();
  await using outside = await temporaryFolder();
  writeFileSync(join(outside.path, "old.log"), "kept");
  there.files(
    [`${name}/old.log`, "123", 10],
    [`${name}/new.log`, "1"],
    [`${name}/a/old.log`, "12345", 10],
    [`${name}/a/old.txt`, "1", 10],
    [`${name}/.lucid/old.log`, "1", 10],
    [`${name}/-rf\n.log`, "1", 10],
  );
  symlinkSync(outside.path, at(name, "b"));
  const olderThan = { seconds: 86_400n };
  const wanted = { name, olderThan, globs: ["*.log"] };
  const dry = await volumes.cleanUpVolume({ ...wanted, validateOnly: true });
  expect(dry).toMatchObject({ fileCount: 3n, bytes: 9n, complete: true, keptCount: 0n });
  expect(dry.examples.map(({ path }) => path).toSorted()).toEqual(["-rf\\x0a.log", "a/old.log", "old.log"]);
  expect(await refusalOf(volumes.cleanUpVolume(wanted))).toMatchObject({ reason: "CONFIRMATION_MISMATCH" });
  expect(existsSync(at(name, "old.log"))).toBe(true);
  const inA = await volumes.cleanUpVolume({ ...wanted, globs: ["**/a/*.log"], confirmName: name });
  expect(inA).toMatchObject({ fileCount: 1n });
  expect(await volumes.cleanUpVolume({ ...wanted, confirmName: name })).toMatchObject({ fileCount: 2n, bytes: 4n });
  expect(readdirSync(at(name), { recursive: true, encoding: "utf8" }).filter((path) => path.endsWith(".log"))).toEqual(
    expect.arrayContaining([".lucid/old.log", "new.log"]),
  );
  expect(existsSync(at(name, "a", "old.txt"))).toBe(true);
  expect(readFileSync(join(outside.path, "old.log"), "utf8")).toBe("kept");
  expect(await refusalOf(volumes.cleanUpVolume({ name, confirmName: name }))).toMatchObject({ fields: ["older_than"] });
});

test("optimising removes empty folders and temporary files that nobody touches", async () => {
  const { volumes, newVolume, at } = there;
  const name = await newVolume();
  there.files([`${name}/a/b/old.tmp`, "123", 3], [`${name}/a/new.tmp`, "1"], [`${name}/kept/x`, "1", 3]);
  for (const path of ["c/d/e", "fresh"]) mkdirSync(at(name, path), { recursive: true });
  for (const path of ["a/b", "a", "c/d/e", "c/d", "c", "kept"]) utimesSync(at(name, path), daysAgo(3), daysAgo(3));
  const dry = await volumes.optimiseVolume({ name, validateOnly: true });
  expect(dry).toMatchObject({ fileCount: 1n, bytes: 3n, directoryCount: 4n, complete: true });
  const done = await volumes.optimiseVolume({ name, confirmName: name });
  expect({ ...done, examples: [] }).toEqual({ ...dry, examples: [] });
  expect(readdirSync(at(name)).toSorted()).toEqual([".lucid", "a", "fresh", "kept"]);
  expect(readdirSync(at(name, "a"))).toEqual(["new.tmp"]);
  expect(await refusalOf(volumes.optimiseVolume({ name }))).toMatchObject({ reason: "CONFIRMATION_MISMATCH" });
});

test("a report tells what is in a volume", async () => {
  const { volumes, newVolume } = there;
  const name = await newVolume();
  there.files(
    [`${name}/a/big.LOG`, "x".repeat(5000)],
    [`${name}/a/b/c.log`, "x".repeat(100), 40],
    [`${name}/d/e.txt`, "x".repeat(10), 400],
    [`${name}/none`, ""],
  );
  const report = await volumes.getVolumeReport({ name, largest: 2 });
  expect(report).toMatchObject({ complete: true, fileCount: 4n, bytes: 5110n });
  expect(report.largestFiles.map(({ path }) => path)).toEqual(["a/big.LOG", "a/b/c.log"]);
  expect(report.largestDirectories.map(({ path, bytes }) => [path, bytes])).toEqual([
    ["a", 5100n],
    ["d", 10n],
  ]);
  expect(report.byKind.map((kind) => [kind.name, kind.fileCount])).toEqual([
    [".log", 2n],
    [".txt", 1n],
  ]);
  expect(report.bySize.map((size) => [size.name, size.fileCount])).toEqual([
    ["0 bytes", 1n],
    ["up to 4 KiB", 2n],
    ["up to 64 KiB", 1n],
  ]);
  expect(report.byAge.map((age) => age.name)).toEqual(["up to 1 day", "up to 90 days", "above 1 year"]);
});

test("growth needs two measures", async () => {
  const { volumes, newVolume } = there;
  const name = await newVolume();
  expect(await volumes.getVolumeGrowth({ name })).toMatchObject({ sampleCount: 0 });
  await volumes.getVolumeUsage({ name });
  expect(await volumes.getVolumeGrowth({ name })).toMatchObject({ sampleCount: 1 });
});
