import {
  appendFileSync,
  chmodSync,
  chownSync,
  existsSync,
  lchownSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";

import { create, toBinary } from "@bufbuild/protobuf";
import { afterAll, beforeAll, expect, test } from "vitest";

import { JobState } from "../../../gen/lucid/admin/v1/backup_service_pb.ts";
import { VolumeSchema, VolumeType } from "../../../gen/lucid/admin/v1/volume_pb.ts";
import { MigrationMode, VolumeJobPhase, VolumeJobSchema } from "../../../gen/lucid/admin/v1/volume_service_pb.ts";
import { volumeJobs } from "../../../src/admin/volume/migration-jobs.ts";
import { abandon, migrate } from "../../../src/admin/volume/migration.ts";
import { reasonOf } from "../../../src/errors.ts";
import type { JobRecord } from "../../../src/jobs/record.ts";
import type { JobHandler } from "../../../src/jobs/runner.ts";
import { syncFileSystem } from "../../../src/stores/volumes/sync.ts";
import { openVolumes } from "../../../src/stores/volumes/volumes.ts";
import { refusalOf } from "../../repository/support.ts";
import { temporaryFolder } from "../../stores/volumes/support.ts";
import { startChild } from "../../support/child.ts";
import { mountedBy, unmount, type VolumeApp, volumeApp } from "./support.ts";

/** Fills a folder with little of everything: a process is started for each step that it takes to move it. */
function fillLittle(folder: string): void {
  mkdirSync(join(folder, "a"));
  writeFileSync(join(folder, "a", "large"), Buffer.alloc(600_000, "0123456789\n"));
  symlinkSync("/etc/passwd", join(folder, "link"));
  utimesSync(join(folder, "a"), 1000, 1_000_000_002);
}

/** Fills a folder with some of everything. */
function fill(folder: string): void {
  mkdirSync(join(folder, "a", "b"), { recursive: true });
  mkdirSync(join(folder, "empty"));
  writeFileSync(join(folder, "small"), "small");
  writeFileSync(join(folder, "a", "large"), Buffer.alloc(600_000, "0123456789\n"));
  writeFileSync(join(folder, "a", "b", "c"), "c");
  symlinkSync("/etc/passwd", join(folder, "a", "link"));
  chmodSync(join(folder, "a", "b"), 0o750);
  utimesSync(join(folder, "small"), 1000, 1_000_000_000);
  utimesSync(join(folder, "a", "b"), 1000, 1_000_000_001);
  utimesSync(join(folder, "a"), 1000, 1_000_000_002);
  utimesSync(join(folder, "empty"), 1000, 1_000_000_003);
}

function told(folder: string): string[] {
  return readdirSync(folder, { recursive: true, encoding: "utf8" })
    .filter((path) => !path.startsWith(".lucid"))
    .map((path) => {
      const at = join(folder, path);
      const stat = lstatSync(at);
      const content = stat.isFile() ? readFileSync(at).toString("base64").slice(0, 50) : "";
      const target = stat.isSymbolicLink() ? readlinkSync(at) : "";
      const owner = [stat.uid, stat.gid, stat.isFile() ? stat.nlink : 0].join(":");
      return [
        path,
        stat.mode,
        owner,
        stat.isFile() ? stat.size : 0,
        (stat.mtimeMs / 1000).toFixed(0),
        content,
        target,
      ].join(" ");
    })
    .toSorted((one, other) => (one < other ? -1 : 1));
}

async function twoVolumes(filled = fill) {
  const folder = await temporaryFolder();
  const volumes = openVolumes({ dir: folder.path });
  for (const name of ["from", "to"]) {
    const volume = create(VolumeSchema, { name, type: VolumeType.LOGS, declaredBytes: 1_000_000n });
    await volumes.create({ name, stored: { formatVersion: 1, volume }, adopt: false });
  }
  const [from, to] = [join(folder.path, "from"), join(folder.path, "to")];
  filled(from);
  return { folder, volumes, from, to };
}

/** Runs a migration to its end; `step` is told of each thing before it is done. */
async function goOn(
  { volumes }: Awaited<ReturnType<typeof twoVolumes>>,
  {
    move,
    step,
    signal,
  }: { readonly move: boolean; readonly step?: (what: string) => void; readonly signal?: AbortSignal },
) {
  await using from = await volumes.open("from");
  await using to = await volumes.open("to");
  const how = { signal: signal ?? new AbortController().signal, prove: async (): Promise<void> => {}, progress() {} };
  await migrate({ id: "the-job", from, to, move, ...how, ...(step && { step }) });
}

async function dieAt(path: string, step: number): Promise<boolean> {
  await using child = await startChild(join(import.meta.dirname, "child.ts"), [path, String(step)]);
  return await child.said("done").then(
    () => false,
    () => true,
  );
}

test("a move that is killed at any step goes on, and nothing is lost or doubled", async () => {
  const steps: string[] = [];
  const whole = await twoVolumes(fillLittle);
  await using _ = whole.folder;
  const expected = told(whole.from);
  await goOn(whole, { move: true, step: (what) => void steps.push(what) });
  expect(told(whole.to)).toEqual(expected);
  expect(told(whole.from)).toEqual([]);
  expect(steps.length).toBeGreaterThan(12);

  const kill = async (step: number): Promise<void> => {
    const two = await twoVolumes();
    await using __ = two.folder;
    const before = told(two.from);
    expect(await dieAt(two.folder.path, step + 1), steps[step]).toBe(true);
    // At every moment all is in one of the two, whole.
    const names = (folder: string) => new Set(told(folder).map((line) => line.split(" ")[0]));
    if (steps.indexOf("mark switching") >= step) expect(told(two.from)).toEqual(before);
    const [left, right] = [names(two.from), names(two.to)];
    if (step > steps.indexOf("mark deleting"))
      expect(left.union(right)).toEqual(new Set(before.map((line) => line.split(" ")[0])));
    await goOn(two, { move: true });
    expect(told(two.to), steps[step]).toEqual(before);
    expect(told(two.from), steps[step]).toEqual([]);
    const own = readdirSync(join(two.to, ".lucid")).filter((name) => !name.startsWith("tmp-"));
    expect(own, steps[step]).toEqual(["volume.1.json"]);
  };
  const rest = Iterator.from(steps.keys());
  const worker = async (): Promise<void> => {
    for (const step of rest) await kill(step);
  };
  await Promise.all([worker(), worker(), worker(), worker()]);
});

test(
  "a move that is cancelled at any step shows nothing or all of it, and takes no more away",
  { timeout: 60_000 },
  async () => {
    const whole = await twoVolumes(fillLittle);
    await using _ = whole.folder;
    const steps: string[] = [];
    await goOn(whole, { move: true, step: (what) => void steps.push(what) });

    const cancel = async (at: number): Promise<void> => {
      const two = await twoVolumes(fillLittle);
      await using __ = two.folder;
      const before = told(two.from);
      const cancelling = new AbortController();
      const reason = new Error("cancelled");
      let taken = 0;
      const step = (): void => {
        if (taken++ === at) cancelling.abort(reason);
      };
      const ended = goOn(two, { move: true, step, signal: cancelling.signal }).catch((error: unknown) => error);
      // Whoever cancels while the last things are removed may come too late.
      const error: unknown = await ended;
      if (at <= steps.indexOf("deleting") || error !== undefined) expect(error, steps[at]).toBe(reason);
      else expect(told(two.from), steps[at]).toEqual([]);
      await using to = await two.volumes.open("to");
      await abandon({ id: "the-job", to }, new AbortController().signal);

      if (at < steps.indexOf("mark switching")) expect(told(two.to), steps[at]).toEqual([]);
      else expect(told(two.to), steps[at]).toEqual(before);
      const left = told(two.from);
      // Of a directory that has lost what was in it, only the time is another.
      const names = (lines: readonly string[]) => lines.map((line) => line.split(" ")[0]);
      if (at < steps.indexOf("deleting")) expect(left, steps[at]).toEqual(before);
      expect(names(before), steps[at]).toEqual(expect.arrayContaining(names(left)));
      const own = readdirSync(join(two.to, ".lucid")).filter((name) => !name.startsWith("tmp-"));
      expect(own, steps[at]).toEqual(["volume.1.json"]);
    };
    await Promise.all(Array.from(steps.keys(), cancel));
  },
);

test("what is changed while it is copied is copied again, and what is changed all the time ends it", async () => {
  const two = await twoVolumes();
  await using _ = two.folder;
  let once = true;
  await goOn(two, {
    move: false,
    step(what) {
      if (what !== "verifying" || !once) return;
      once = false;
      appendFileSync(join(two.from, "small"), " and more");
      writeFileSync(join(two.from, "new"), "new");
    },
  });
  expect(told(two.to)).toEqual(told(two.from));

  const other = await twoVolumes();
  await using __ = other.folder;
  const failing = goOn(other, {
    move: true,
    step: (what) => {
      if (what === "verifying") appendFileSync(join(other.from, "small"), "x");
    },
  });
  const error: unknown = await failing.catch((cause: unknown) => cause);
  expect(reasonOf(error)).toMatchObject({ reason: "VOLUME_CHANGED", metadata: { volume: "from", paths: "small" } });
  expect(told(other.to)).toEqual([]);
  expect(existsSync(join(other.from, "a", "large"))).toBe(true);
});

test("a damaged copy is noticed and made anew, and a move leaves what was changed after it was compared", async () => {
  const two = await twoVolumes();
  await using _ = two.folder;
  let isDamaged = false;
  const moving = goOn(two, {
    move: true,
    step(what) {
      if (what === "verifying" && !isDamaged) {
        isDamaged = true;
        const copy = join(two.to, ".lucid", "migration-the-job", "small");
        writeFileSync(copy, "SMALL");
        utimesSync(copy, 1000, 1_000_000_000);
      }
      if (what === "deleting") appendFileSync(join(two.from, "a", "b", "c"), "late");
    },
  });
  expect(reasonOf(await moving.catch((error: unknown) => error))).toMatchObject({
    reason: "VOLUME_CHANGED",
    metadata: { paths: "a/b/c" },
  });
  expect(readFileSync(join(two.to, "small"), "utf8")).toBe("small");
  expect(readFileSync(join(two.from, "a", "b", "c"), "utf8")).toBe("clate");
  expect(told(two.from).map((line) => line.split(" ")[0])).toEqual(["a", "a/b", "a/b/c"]);
});

test("the longest name is moved, also where it is no text", async () => {
  const odd = Buffer.concat([Buffer.from([0xff, 0xfe]), Buffer.alloc(253, "x")]);
  const two = await twoVolumes((folder) => writeFileSync(Buffer.concat([Buffer.from(`${folder}/`), odd]), "odd"));
  await using _ = two.folder;
  await goOn(two, { move: true });
  expect(readdirSync(two.to, { encoding: "buffer" })).toContainEqual(odd);
  expect(readdirSync(two.from)).toEqual([".lucid"]);
});

test("names of one file stay that, and permissions and owners what they were", async () => {
  const isRoot = process.getuid?.() === 0;
  const two = await twoVolumes((folder) => {
    mkdirSync(join(folder, "a", "b"), { recursive: true });
    for (const [name, length] of [
      ["short", 5],
      ["long", 600_000],
    ] as const) {
      writeFileSync(join(folder, name), Buffer.alloc(length, name));
      linkSync(join(folder, name), join(folder, "a", "b", name));
      linkSync(join(folder, name), join(folder, "a", `${name}-too`));
    }
    symlinkSync("nowhere", join(folder, "link"));
    chmodSync(join(folder, "a"), 0o2751);
    if (!isRoot) return;
    lchownSync(join(folder, "link"), 1234, 1235);
    chownSync(join(folder, "short"), 1234, 1235);
    chmodSync(join(folder, "short"), 0o6755);
  });
  await using _ = two.folder;
  const before = told(two.from);
  await goOn(two, { move: true });
  expect(told(two.to)).toEqual(before);
  for (const name of ["short", "long"]) {
    const inodes = [name, join("a", "b", name), join("a", `${name}-too`)].map(
      (path) => lstatSync(join(two.to, path)).ino,
    );
    expect(new Set(inodes).size).toBe(1);
    expect(lstatSync(join(two.to, name)).nlink).toBe(3);
  }
  expect(told(two.from)).toEqual([]);
});

test.for([
  ["a file", "small", (path: string) => chmodSync(path, 0o751)],
  ["a directory", "a/b", (path: string) => chmodSync(path, 0o751)],
  ["the time of a file", "small", (path: string) => utimesSync(path, 1, 1)],
  ["the time of a directory", "empty", (path: string) => utimesSync(path, 1, 1)],
] as const)("what is done to %s while it is migrated is noticed", async ([, path, change]) => {
  const two = await twoVolumes();
  await using _ = two.folder;
  let isDone = false;
  await goOn(two, {
    move: false,
    step(what) {
      if (what !== "verifying" || isDone) return;
      isDone = true;
      change(join(two.from, path));
    },
  });
  expect(told(two.to)).toEqual(told(two.from));

  // Of a directory only what is in it is compared again.
  if (path !== "small") return;
  const late = await twoVolumes();
  await using __ = late.folder;
  const step = (what: string): void => {
    if (what === "deleting") change(join(late.from, path));
  };
  const ended = await goOn(late, { move: true, step }).catch((error: unknown) => error);
  expect(reasonOf(ended)).toMatchObject({ reason: "VOLUME_CHANGED", metadata: { paths: path } });
  expect(told(late.from).map((line) => line.split(" ")[0])).toEqual([path]);
});

test("where something is put into the target, nothing of the copy shows there, and nothing is left of it", async () => {
  const two = await twoVolumes();
  await using _ = two.folder;
  const before = told(two.from);
  const own = join(two.to, ".lucid");
  for (const [at, name] of [
    ["switching", "small"],
    ["switching", "a"],
    ["place", "a"],
  ] as const) {
    let isPut = false;
    const step = (what: string): void => {
      if (isPut || !what.startsWith(at)) return;
      isPut = true;
      mkdirSync(join(two.to, name, "not"), { recursive: true });
    };
    const error: unknown = await goOn(two, { move: true, step }).catch((cause: unknown) => cause);
    expect(reasonOf(error)).toMatchObject({ reason: "VOLUME_CHANGED", metadata: { volume: "to", paths: name } });
    if (at === "switching") expect(readdirSync(two.to).toSorted()).toEqual([".lucid", name]);
    await using to = await two.volumes.open("to");
    await abandon({ id: "the-job", to }, new AbortController().signal);
    expect(readdirSync(own).filter((left) => !left.startsWith("tmp-"))).toEqual(["volume.1.json"]);
    expect(told(two.from)).toEqual(before);
    for (const left of readdirSync(two.to)) if (left !== ".lucid") rmSync(join(two.to, left), { recursive: true });
  }
  // What a job has left whose processes all died.
  mkdirSync(join(own, "migration-of-another-job", "a"), { recursive: true });
  await goOn(two, { move: true });
  expect(told(two.to)).toEqual(before);
  expect(readdirSync(own)).toEqual(["volume.1.json"]);
});

test("a move says so where something was put into a folder that it had gone through", async () => {
  const two = await twoVolumes();
  await using _ = two.folder;
  const moving = goOn(two, {
    move: true,
    step(what) {
      if (what === "delete empty") writeFileSync(join(two.from, "empty", "late"), "late");
    },
  });
  expect(reasonOf(await moving.catch((error: unknown) => error))).toMatchObject({
    reason: "VOLUME_CHANGED",
    metadata: { paths: "empty" },
  });
  expect(told(two.from).map((line) => line.split(" ")[0])).toEqual(["empty", "empty/late"]);
});

test.for(["from", "to"] as const)("nothing is moved when the volume %s has another's name", async (replaced) => {
  for (const isDeleted of [true, false]) {
    const two = await twoVolumes();
    await using _ = two.folder;
    const before = told(two.from);
    let handler: JobHandler | undefined;
    volumeJobs({ jobs: { handle: (_kind, given) => (handler = given) }, volumes: two.volumes });
    const spec = create(VolumeJobSchema, { name: "from", targetName: "to", mode: MigrationMode.MOVE });
    let proofs = 0;
    const context = {
      signal: new AbortController().signal,
      attempt: 1,
      report() {},
      keep() {},
      // As a deletion does that did not see the job yet.
      async prove() {
        if (++proofs > 1) return;
        renameSync(two[replaced], `${two[replaced]}-away`);
        if (isDeleted) return;
        const volume = create(VolumeSchema, { name: replaced, type: VolumeType.LOGS, declaredBytes: 1n });
        await two.volumes.create({ name: replaced, stored: { formatVersion: 1, volume }, adopt: false });
      },
    };
    const job = { jobId: "the-job", spec: toBinary(VolumeJobSchema, spec) } as JobRecord; // all that is read of it
    const error: unknown = await handler?.run(job, context).catch((cause: unknown) => cause);
    expect(reasonOf(error)?.reason).toBe(isDeleted ? "VOLUME_NOT_FOUND" : "VOLUME_CHANGED");
    expect(told(replaced === "from" ? `${two.from}-away` : two.from)).toEqual(before);
    expect(told(replaced === "to" ? `${two.to}-away` : two.to)).toEqual([]);
  }
});

test("where a file system is not known to sync all at once, each file of a move is synced", async (context) => {
  const folder = await temporaryFolder();
  await using _ = folder;
  const at = join(folder.path, "to");
  mkdirSync(at);
  const obstacle = mountedBy("mount", ["-t", "ramfs", "none", at]);
  if (obstacle !== undefined) context.skip(obstacle);
  try {
    const volumes = openVolumes({ dir: folder.path });
    for (const name of ["from", "to"]) {
      const volume = create(VolumeSchema, { name, type: VolumeType.LOGS, declaredBytes: 1_000_000n });
      await volumes.create({ name, stored: { formatVersion: 1, volume }, adopt: false });
    }
    const from = join(folder.path, "from");
    fill(from);
    const before = told(from);
    await using opened = await volumes.open("to");
    expect(await syncFileSystem(opened.top)).toBe(false);
    await goOn({ folder, volumes, from, to: at }, { move: true });
    expect(told(at)).toEqual(before);
  } finally {
    unmount(at);
  }
});

let there: VolumeApp;
beforeAll(async () => {
  there = await volumeApp();
});
afterAll(() => there?.[Symbol.asyncDispose]());

test("a migration is a job that is watched, and refused where it makes no sense", async () => {
  const { volumes, newVolume, at } = there;
  const name = await newVolume();
  fill(at(name));
  const before = told(at(name));
  const move = { name, targetName: "moved", mode: MigrationMode.MOVE };
  expect(await refusalOf(volumes.migrateVolume(move))).toMatchObject({ reason: "CONFIRMATION_MISMATCH" });
  const same = volumes.migrateVolume({ name, targetName: name, mode: MigrationMode.COPY });
  expect(await refusalOf(same)).toMatchObject({ fields: ["target_name"] });
  const none = volumes.migrateVolume({ name: "none", targetName: name, mode: MigrationMode.COPY });
  expect(await refusalOf(none)).toMatchObject({ reason: "VOLUME_NOT_FOUND" });
  const full = volumes.migrateVolume({ name: await newVolume(), targetName: name, mode: MigrationMode.COPY });
  expect(await refusalOf(full)).toMatchObject({ reason: "VOLUME_NOT_EMPTY" });
  await volumes.getVolumeUsage({ name });
  const small = volumes.migrateVolume({ name, targetName: await newVolume(1n), mode: MigrationMode.COPY });
  expect(await refusalOf(small)).toMatchObject({ reason: "VOLUME_TOO_SMALL" });

  const { job } = await volumes.migrateVolume({ ...move, confirmName: name });
  const jobId = job?.jobId ?? "";
  expect(await refusalOf(volumes.deleteVolume({ name: "moved", confirmName: "moved" }))).toMatchObject({
    reason: expect.stringMatching(/VOLUME_IN_USE|VOLUME_NOT_FOUND/),
  });
  const events = await Array.fromAsync(volumes.watchVolumeJob({ jobId }));
  expect(events.at(-1), events.at(-1)?.error?.message).toMatchObject({
    state: JobState.SUCCEEDED,
    progress: { percent: 100, phase: VolumeJobPhase.DELETING, entryCount: 7n, deletedCount: 7n },
  });
  expect((await volumes.getVolumeJob({ jobId })).job).toMatchObject({ name, targetName: "moved", jobId });
  expect((await volumes.listVolumeJobs({})).jobs.map((one) => one.jobId)).toEqual([jobId]);
  expect(told(at("moved"))).toEqual(before);
  expect(told(at(name))).toEqual([]);
  expect(await refusalOf(volumes.cancelVolumeJob({ jobId }))).toMatchObject({ reason: "JOB_ALREADY_FINISHED" });
  for (const call of [() => volumes.getVolumeJob({ jobId: "x" }), () => volumes.cancelVolumeJob({ jobId: "x" })]) {
    expect(await refusalOf(call())).toMatchObject({ code: "NotFound", reason: "VOLUME_JOB_NOT_FOUND" });
  }
});

test(
  "a migration that is under way is cancelled: the target is empty, the source as it was",
  { timeout: 60_000 },
  async () => {
    const { volumes, newVolume, at } = there;
    const [name, targetName] = [await newVolume(2n ** 50n), await newVolume(2n ** 50n)];
    fill(at(name));
    const before = told(at(name));
    // Nothing but a hole, and yet it takes longer to copy than to be cancelled.
    const hole = at(name, "hole");
    writeFileSync(hole, "");
    truncateSync(hole, 2 ** 34);
    const { job } = await volumes.migrateVolume({ name, targetName, mode: MigrationMode.MOVE, confirmName: name });
    const jobId = job?.jobId ?? "";
    const staged = () => readdirSync(at(targetName, ".lucid"), { recursive: true, encoding: "utf8" });
    await expect.poll(staged, { timeout: 60_000, interval: 10 }).toContain(join(`migration-${jobId}`, "hole"));
    expect(readdirSync(at(targetName))).toEqual([".lucid"]);
    await volumes.cancelVolumeJob({ jobId });
    const last = (await Array.fromAsync(volumes.watchVolumeJob({ jobId }))).at(-1);
    expect(last).toMatchObject({ state: JobState.CANCELLED, progress: { phase: VolumeJobPhase.COPYING } });
    expect(readdirSync(at(targetName))).toEqual([".lucid"]);
    expect(staged().filter((path) => path.includes("migration"))).toEqual([]);
    rmSync(hole);
    expect(told(at(name))).toEqual(before);
    // Both are free again.
    await volumes.deleteVolume({ name: targetName, confirmName: targetName });
  },
);
