import { mkdirSync, readdirSync, renameSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import { create } from "@bufbuild/protobuf";
import { expect, test } from "vitest";

import { StoredVolumeSchema, VolumeSchema, VolumeType } from "../../../gen/lucid/admin/v1/volume_pb.ts";
import { isReason } from "../../../src/errors.ts";
import { openVolumes, requireStillThere, type Volumes } from "../../../src/stores/volumes/volumes.ts";
import { temporaryFolder } from "./support.ts";

const { signal } = new AbortController();

async function make(volumes: Volumes, name: string): Promise<void> {
  const volume = create(VolumeSchema, { name, type: VolumeType.LOGS, declaredBytes: 1000n });
  await volumes.create({ name, stored: { formatVersion: 1, volume }, adopt: false });
}

test.for([
  ["another volume", async (volumes: Volumes): Promise<void> => make(volumes, "a")],
  [
    "a directory",
    async (_: Volumes, at: string): Promise<void> => {
      mkdirSync(at);
    },
  ],
  ["a symlink", async (_: Volumes, at: string): Promise<void> => symlinkSync("/etc", at)],
  ["a file", async (_: Volumes, at: string): Promise<void> => writeFileSync(at, "kept")],
] as const)("what is removed is what was looked at, not %s that has its name by now", async ([, put]) => {
  await using folder = await temporaryFolder();
  const volumes = openVolumes({ dir: folder.path });
  await make(volumes, "a");
  await using opened = await volumes.open("a");
  renameSync(join(folder.path, "a"), join(folder.path, "moved"));
  await put(volumes, join(folder.path, "a"));
  const removing = volumes.remove(opened, { asRead: false });
  await expect(removing).rejects.toSatisfy((error) => isReason(error, "VOLUME_CHANGED"));
  expect(readdirSync(folder.path).toSorted()).toEqual(["a", "moved"]);
  await volumes.removeRemains({ signal, takenBeforeMs: Date.now() + 60_000 });
  expect(readdirSync(folder.path).toSorted()).toEqual(["a", "moved"]);
});

test("a volume that was described anew since it was read stays where that matters", async () => {
  await using folder = await temporaryFolder();
  const volumes = openVolumes({ dir: folder.path });
  await make(volumes, "a");
  await using opened = await volumes.open("a");
  expect(await volumes.describe(opened, create(StoredVolumeSchema, opened.stored))).toBe(true);
  expect(await volumes.remove(opened, { asRead: true })).toBe(false);
  expect(await volumes.names()).toEqual(["a"]);
  expect(await volumes.remove(opened, { asRead: false })).toBe(true);
  expect(await volumes.names()).toEqual([]);
});

test("a volume that a process had taken and not judged when it died gets its name again, where that is free", async () => {
  await using folder = await temporaryFolder();
  const volumes = openVolumes({ dir: folder.path });
  for (const name of ["a", "b"]) {
    await make(volumes, name);
    const taken = `.lucid-taken-4b1c2f0e-5f9a-4f4e-9a55-0f2f6a1b7c3${name}-${name}`;
    renameSync(join(folder.path, name), join(folder.path, taken));
  }
  await make(volumes, "b");
  // Whoever took it may be about to judge it.
  await volumes.removeRemains({ signal });
  expect(await volumes.names()).toEqual(["b"]);
  const giving = volumes.removeRemains({ signal, takenBeforeMs: Date.now() + 60_000 });
  await expect(giving).rejects.toSatisfy((error) => isReason(error, "VOLUME_CHANGED"));
  expect(await volumes.names()).toEqual(["a", "b"]);
  expect(readdirSync(folder.path).filter((name) => name.startsWith(".lucid-taken-"))).toHaveLength(1);
});

test("a volume is told to be still there only as long as it has its name", async () => {
  await using folder = await temporaryFolder();
  const volumes = openVolumes({ dir: folder.path });
  await make(volumes, "a");
  await using opened = await volumes.open("a");
  await requireStillThere(volumes, opened);
  renameSync(join(folder.path, "a"), join(folder.path, "moved"));
  await expect(requireStillThere(volumes, opened)).rejects.toSatisfy((error) => isReason(error, "VOLUME_NOT_FOUND"));
  await make(volumes, "a");
  await expect(requireStillThere(volumes, opened)).rejects.toSatisfy((error) => isReason(error, "VOLUME_CHANGED"));
});
