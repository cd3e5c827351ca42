import { appendFileSync, mkdirSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import fc from "fast-check";
import { expect, test } from "vitest";

import { VolumeWindow } from "../../../gen/lucid/admin/v1/volume_service_pb.ts";
import { globOf } from "../../../src/admin/volume/glob.ts";
import { growthOf } from "../../../src/admin/volume/growth.ts";
import { inWindow, type Sample, thinned } from "../../../src/admin/volume/history.ts";
import { measure } from "../../../src/admin/volume/measure.ts";
import { Directory } from "../../../src/stores/volumes/directory.ts";
import { temporaryFolder } from "../../stores/volumes/support.ts";
import { cpuMsOf } from "../../support/cpu.ts";

const { signal } = new AbortController();
/** A clock by which everything was changed long ago. */
const later = () => Date.now() + 60_000;

async function measured(path: string, options: Partial<Parameters<typeof measure>[1]> = {}) {
  await using top = await Directory.openRoot(path);
  return await measure(top, { signal, ...options });
}

test("a measure that rests on the one before sees all names that came and went", async () => {
  const names = fc.constantFrom("a", "b", "c");
  const path = fc.array(names, { minLength: 1, maxLength: 3 });
  const step = fc.oneof(
    fc.record({ type: fc.constant("write" as const), path, size: fc.integer({ min: 0, max: 50 }) }),
    fc.record({ type: fc.constant("remove" as const), path }),
    fc.record({ type: fc.constant("move" as const), path, to: path }),
    fc.record({ type: fc.constant("measure" as const) }),
  );
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 25 }), async (steps) => {
      await using folder = await temporaryFolder();
      let known = (await measured(folder.path, { now: later })).directories;
      for (const one of steps) {
        if (one.type === "measure") known = (await measured(folder.path, { known, now: later })).directories;
        else attempt(folder.path, one);
      }
      const resting = await measured(folder.path, { known, now: later });
      const { sums } = await measured(folder.path);
      expect(resting.sums).toEqual(sums);
    }),
    { numRuns: 150, seed: 7 },
  );
});

type Step =
  | { type: "write"; path: string[]; size: number }
  | { type: "remove"; path: string[] }
  | { type: "move"; path: string[]; to: string[] };

/** Does what the file system lets one do. A file is replaced, since one that grows in place is another matter. */
function attempt(root: string, step: Step): void {
  const at = join(root, ...step.path);
  try {
    if (step.type === "remove") rmSync(at, { recursive: true });
    else if (step.type === "move") renameSync(at, join(root, ...step.to));
    else {
      mkdirSync(join(at, ".."), { recursive: true });
      rmSync(at, { force: true });
      writeFileSync(at, "x".repeat(step.size));
    }
  } catch {
    // A file is in the way, or nothing is there.
  }
}

test("a file that grows in place is seen by a full measure only, and by one that has reason to look", async () => {
  await using folder = await temporaryFolder();
  mkdirSync(join(folder.path, "a"));
  const file = join(folder.path, "a", "file");
  writeFileSync(file, "12345");
  const first = await measured(folder.path, { now: later });
  appendFileSync(file, "67890");
  const resting = await measured(folder.path, { known: first.directories, now: later });
  expect(resting.sums.bytes).toBe(5);
  expect((await measured(folder.path)).sums.bytes).toBe(10);
  writeFileSync(join(folder.path, "a", "other"), "");
  const again = await measured(folder.path, { known: first.directories, now: later });
  expect(again.sums).toMatchObject({ bytes: 10, files: 2 });
});

test("a directory that has just been changed is not trusted", async () => {
  await using folder = await temporaryFolder();
  mkdirSync(join(folder.path, "a"));
  const { directories } = await measured(folder.path);
  expect([...directories.keys()]).toEqual([]);
  const { ctimeMs } = statSync(join(folder.path, "a"));
  const settled = await measured(folder.path, { now: () => ctimeMs + 2100 });
  expect([...settled.directories.keys()].toSorted((one, other) => (one < other ? -1 : 1))).toEqual(["", "/a"]);
});

const minuteMs = 60_000;

test("a history of a month is short, and each window has its measures", () => {
  const samples: Sample[] = [];
  const nowMs = 1_800_000_000_000;
  let kept: Sample[] = [];
  for (let timeMs = nowMs - 31 * 1440 * minuteMs; timeMs <= nowMs; timeMs += 5 * minuteMs) {
    const sample = { timeMs, usedBytes: BigInt(timeMs), fileCount: 1n };
    samples.push(sample);
    kept = thinned([...kept, sample], timeMs);
    expect(kept.at(-1)).toBe(sample);
  }
  expect(kept.length).toBeLessThan(440);
  const counts = [VolumeWindow.HOUR, VolumeWindow.DAY, VolumeWindow.WEEK, VolumeWindow.MONTH].map(
    (window) => inWindow(kept, window, nowMs).length,
  );
  const [hour = 0, day = 0, week = 0, month = 0] = counts;
  expect(hour).toBeGreaterThan(11);
  expect(day).toBeGreaterThan(94);
  expect(week).toBeGreaterThan(166);
  expect(month).toBeGreaterThan(178);
  expect(Math.max(...counts)).toBeLessThanOrEqual(250);
  expect(inWindow(kept, VolumeWindow.UNSPECIFIED, nowMs)).toEqual([]);
});

test("growth is the line through the measures, and tells when it ends", () => {
  const dayMs = 1440 * minuteMs;
  const samples = [0, 1, 2, 3].map((day) => ({
    timeMs: day * dayMs,
    usedBytes: BigInt(100 + day * 10),
    fileCount: 1n,
  }));
  const volume = { declaredBytes: 230n, criticalPercent: 90 };
  const growth = growthOf(samples, volume, 4 * dayMs);
  expect(growth).toMatchObject({ sampleCount: 4, fit: 1 });
  expect(growth.bytesPerDay).toBeCloseTo(10);
  expect(Number(growth.timeToFull?.seconds)).toBeCloseTo(9 * 86_400);
  expect(Number(growth.timeToCritical?.seconds)).toBeCloseTo(6.7 * 86_400);
  const shrinking = growthOf(
    samples.map((sample) => ({ ...sample, usedBytes: 200n - sample.usedBytes })),
    volume,
    0,
  );
  expect(shrinking.bytesPerDay).toBeCloseTo(-10);
  expect(shrinking.timeToFull).toBeUndefined();
  expect(growthOf(samples, { declaredBytes: 50n, criticalPercent: 90 }, 0).timeToFull).toMatchObject({ seconds: 0n });
  expect(growthOf(samples.slice(0, 1), volume, 0)).toEqual({ sampleCount: 1 });
});

test.for([
  ["*.log", "a/b.log", true],
  ["*.log", "b.log", true],
  ["*.log", "b.logs", false],
  ["a?c", "abc", true],
  ["a?c", "aéc", true],
  ["a?c", "a/c", false],
  ["a/*", "a/b", true],
  ["a/*", "a/b/c", false],
  ["/a/*", "a/b", true],
  ["**/c", "c", true],
  ["**/c", "a/b/c", true],
  ["a/**", "a/b/c", true],
  ["a/**/d/*.x", "a/b/d/c/d/e.x", true],
  ["a/**/d/*.x", "a/b/d/c/e.x", false],
  ["[a]", "[a]", true],
  [".*", "a", false],
  ["*", ".hidden", true],
] as const)("the pattern %s against %s", ([pattern, path, expected]) => {
  expect(globOf(pattern)(path)).toBe(expected);
});

test("no pattern takes long", () => {
  const tried = () => {
    expect(globOf(`${"*a".repeat(100)}b`)("a".repeat(255))).toBe(false);
    expect(globOf(`${"**/a/".repeat(40)}b`)("a/".repeat(1000))).toBe(false);
  };
  expect(cpuMsOf(tried)).toBeLessThan(1000);
});
