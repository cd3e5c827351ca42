import { execFileSync } from "node:child_process";
import { mkdirSync, readdirSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import { afterAll, beforeAll, expect, test } from "vitest";

import { JobState } from "../../../gen/lucid/admin/v1/backup_service_pb.ts";
import { VolumeType } from "../../../gen/lucid/admin/v1/volume_pb.ts";
import { MigrationMode, VolumeStatus } from "../../../gen/lucid/admin/v1/volume_service_pb.ts";
import { refusalOf } from "../../repository/support.ts";
import { mountedBy, unmount, type VolumeApp, volumeApp } from "./support.ts";

let there: VolumeApp;
let mounted = "";
beforeAll(async () => {
  there = await volumeApp();
});
afterAll(async () => {
  if (mounted !== "") unmount(mounted);
  await there?.[Symbol.asyncDispose]();
});

const name = "small";
const declaredBytes = 2n ** 40n;

/** Makes a volume with a file system of its own; why that cannot be where it cannot. */
async function mountSmall(): Promise<string | undefined> {
  const at = there.at(name);
  mkdirSync(at);
  const obstacle = mountedBy("mount", ["-t", "tmpfs", "-o", "size=256k", "none", at]);
  if (obstacle !== undefined) return obstacle;
  mounted = at;
  await there.volumes.createVolume({ volume: { name, type: VolumeType.LOGS, declaredBytes } });
  return undefined;
}

/** Leaves no room for a single byte. */
function fillUp(): void {
  expect(() => writeFileSync(join(mounted, "filler"), Buffer.alloc(2 ** 20, 1))).toThrow("ENOSPC");
}

test("a volume whose storage is full or cannot be written is measured, cleaned and migrated from", async (context) => {
  const obstacle = await mountSmall();
  if (obstacle !== undefined) context.skip(obstacle);
  const { volumes, newVolume, at } = there;

  const source = await newVolume(declaredBytes);
  writeFileSync(at(source, "large"), Buffer.alloc(2 ** 20, 1));
  writeFileSync(at(source, "small"), "small");
  const migrate = async (from: string, targetName: string) => {
    const { job } = await volumes.migrateVolume({
      name: from,
      targetName,
      mode: MigrationMode.MOVE,
      confirmName: from,
    });
    return (await Array.fromAsync(volumes.watchVolumeJob({ jobId: job?.jobId ?? "" }))).at(-1);
  };
  expect(await migrate(source, name)).toMatchObject({
    state: JobState.FAILED,
    error: { reason: "VOLUME_STORAGE_FULL" },
  });
  expect(readdirSync(at(source)).toSorted()).toEqual([".lucid", "large", "small"]);
  expect(readdirSync(at(name), { recursive: true })).toEqual([".lucid", join(".lucid", "volume.1.json")]);

  fillUp();
  const { usage, history } = await volumes.getVolumeUsage({ name, window: 1 });
  expect(usage?.fileCount).toBe(1n);
  expect(history).toHaveLength(1);
  expect(await volumes.getVolumeHealth({ name })).toMatchObject({
    status: VolumeStatus.UNHEALTHY,
    storageFreeBytes: 0n,
  });
  const full = { code: "ResourceExhausted", reason: "VOLUME_STORAGE_FULL" };
  expect(await refusalOf(volumes.measureVolumePerformance({ name }))).toMatchObject(full);
  expect(await refusalOf(volumes.updateVolume({ volume: { name, description: "x" } }))).toMatchObject(full);
  expect(readdirSync(at(name, ".lucid"))).toEqual(["volume.1.json"]);

  execFileSync("mount", ["-o", "remount,ro", mounted]);
  expect((await volumes.getVolumeUsage({ name })).usage?.fileCount).toBe(1n);
  const denied = { code: "FailedPrecondition", reason: "VOLUME_ACCESS_DENIED" };
  const clean = { name, confirmName: name, olderThan: { seconds: 0n, nanos: 0 } };
  expect(await volumes.cleanUpVolume({ ...clean, validateOnly: true })).toMatchObject({ fileCount: 1n });
  expect(await refusalOf(volumes.cleanUpVolume(clean))).toMatchObject(denied);
  execFileSync("mount", ["-o", "remount,rw", mounted]);

  // Where it lies is another file system than where it goes.
  truncateSync(join(mounted, "filler"), 1000);
  const target = await newVolume();
  expect(await migrate(name, target)).toMatchObject({ state: JobState.SUCCEEDED });
  expect(readdirSync(at(target)).toSorted()).toEqual([".lucid", "filler"]);
  expect(readdirSync(mounted)).toEqual([".lucid"]);

  fillUp();
  expect(await volumes.cleanUpVolume(clean)).toMatchObject({ fileCount: 1n, complete: true });
  expect(await refusalOf(volumes.deleteVolume({ name, confirmName: name }))).toMatchObject({ reason: "VOLUME_IN_USE" });
  rmSync(at(source, "large"));
});
