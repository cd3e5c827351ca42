import { mkdirSync } from "node:fs";

import { afterAll, beforeAll, expect, test } from "vitest";

import { VolumeType } from "../../../gen/lucid/admin/v1/volume_pb.ts";
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

/** Mounts a file system whose server is gone: whatever is asked of it fails with ENOTCONN. Why that cannot be where it cannot. */
function mountDead(at: string): string | undefined {
  const mount = 'exec 3<>/dev/fuse && exec mount -i -t fuse none "$0" -o fd=3,rootmode=40000,user_id=0,group_id=0';
  const obstacle = mountedBy("sh", ["-c", mount, at]);
  if (obstacle === undefined) mounted = at;
  return obstacle;
}

test("a volume on a mount whose server is away is told with its problem, and hides no other", async (context) => {
  const { volumes, at } = there;
  for (const name of ["a", "dead", "z"]) {
    await volumes.createVolume({ volume: { name, type: VolumeType.LOGS, declaredBytes: 1n } });
  }
  mkdirSync(at("no-volume"));
  const obstacle = mountDead(at("dead"));
  if (obstacle !== undefined) context.skip(obstacle);
  const listed = (await volumes.listVolumes({})).volumes.map(({ name, problem }) => [name, problem]);
  expect(listed).toEqual([
    ["a", ""],
    ["dead", "VOLUME_STORAGE_UNAVAILABLE"],
    ["z", ""],
  ]);
  const away = { code: "Unavailable", reason: "VOLUME_STORAGE_UNAVAILABLE" };
  expect(await refusalOf(volumes.getVolume({ name: "dead" }))).toMatchObject(away);
  expect(await refusalOf(volumes.deleteVolume({ name: "dead", confirmName: "dead" }))).toMatchObject(away);
  expect(await volumes.deleteVolume({ name: "a", confirmName: "a" })).toMatchObject({ removed: true });
  expect((await volumes.listVolumes({})).volumes.map(({ name }) => name)).toEqual(["dead", "z"]);
});
