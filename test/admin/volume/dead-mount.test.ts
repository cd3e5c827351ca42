import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync } from "node:fs";

import { afterAll, beforeAll, expect, test } from "vitest";

import { BackupService, JobState } from "../../../gen/lucid/admin/v1/backup_service_pb.ts";
import { Store } from "../../../gen/lucid/admin/v1/common_pb.ts";
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

/** Mounts a file system whose server answers nothing, until it is ended. */
async function mountHanging(at: string) {
  const mount =
    'exec 3<>/dev/fuse && mount -i -t fuse none "$0" -o fd=3,rootmode=40000,user_id=0,group_id=0 && echo mounted && exec sleep 200';
  const child = spawn("sh", ["-c", mount, at], { stdio: ["ignore", "pipe", "inherit"] });
  const ended = once(child, "exit");
  const end = async (): Promise<void> => {
    child.kill("SIGKILL");
    await ended;
  };
  const isMounted = await Promise.race([once(child.stdout, "data").then(() => true), ended.then(() => false)]);
  const obstacle = isMounted ? undefined : "no file system can be mounted here";
  return { obstacle, end, [Symbol.asyncDispose]: end };
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
  const away = { code: "Unavailable", reason: "VOLUME_STORAGE_UNAVAILABLE", metadata: { volume: "dead" } };
  expect(await refusalOf(volumes.getVolume({ name: "dead" }))).toMatchObject(away);
  expect(await refusalOf(volumes.deleteVolume({ name: "dead", confirmName: "dead" }))).toMatchObject(away);
  const backups = there.app.client(BackupService);
  const { backup } = await backups.createBackup({ selection: { stores: [Store.VOLUMES] } });
  const events = await Array.fromAsync(backups.watchBackup({ backupId: backup?.backupId ?? "" }));
  expect(events.at(-1)?.event).toMatchObject({
    state: JobState.FAILED,
    error: { reason: away.reason, metadata: away.metadata },
  });
  expect(await volumes.deleteVolume({ name: "a", confirmName: "a" })).toMatchObject({ removed: true });
  expect((await volumes.listVolumes({})).volumes.map(({ name }) => name)).toEqual(["dead", "z"]);
});

test("a volume on a mount whose server hangs hides no other, and what hangs is asked once", async (context) => {
  const { volumes, at } = there;
  for (const name of ["hanging", "next"]) {
    await volumes.createVolume({ volume: { name, type: VolumeType.LOGS, declaredBytes: 1n } });
  }
  await using server = await mountHanging(at("hanging"));
  if (server.obstacle !== undefined) context.skip(server.obstacle);
  const problemOf = async () => (await volumes.listVolumes({})).volumes.find(({ name }) => name === "hanging")?.problem;
  expect(await problemOf()).toBe("VOLUME_STORAGE_UNAVAILABLE");
  const unanswered = { code: "Unavailable", reason: "VOLUME_STORAGE_UNAVAILABLE", metadata: { volume: "hanging" } };
  const asked = Array.from({ length: 20 }, () => refusalOf(volumes.getVolume({ name: "hanging" })));
  for (const refusal of await Promise.all(asked)) expect(refusal).toMatchObject(unanswered);
  // Threads are left for it.
  expect(await volumes.getVolume({ name: "next" })).toMatchObject({ volume: { name: "next" } });

  await server.end();
  unmount(at("hanging"));
  await expect.poll(problemOf).toBe("");
});
