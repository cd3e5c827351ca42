import { execFileSync } from "node:child_process";
import {
  appendFileSync,
  chmodSync,
  lstatSync,
  linkSync,
  lutimesSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  symlinkSync,
  unlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";

import type { Client } from "@connectrpc/connect";
import { afterAll, beforeAll, expect, test } from "vitest";

import { BackupService, ConflictPolicy, JobState } from "../../../gen/lucid/admin/v1/backup_service_pb.ts";
import { Store } from "../../../gen/lucid/admin/v1/common_pb.ts";
import { type VolumeApp, volumeApp } from "../../admin/volume/support.ts";
import { refusalOf } from "../../repository/support.ts";
import { eventsOf } from "../support.ts";

let there: VolumeApp;
let backups: Client<typeof BackupService>;
beforeAll(async () => {
  there = await volumeApp();
  backups = there.app.client(BackupService);
});
afterAll(() => there?.[Symbol.asyncDispose]());

const stores = [Store.VOLUMES];

/** A volume with everything that may be in one. */
async function filledVolume(): Promise<string> {
  const name = await there.newVolume(10_000_000n);
  const at = (...names: string[]) => there.at(name, ...names);
  mkdirSync(at("a", "b"), { recursive: true });
  mkdirSync(at("empty"));
  writeFileSync(at("small"), "small");
  writeFileSync(at("none"), "");
  writeFileSync(at("a", "large"), Buffer.alloc(700_000, "0123456789abcdef\n"));
  writeFileSync(at("a", "exact"), Buffer.alloc(256 * 1024, "x"));
  writeFileSync(at("a", "b", "-rf\n"), "odd");
  writeFileSync(Buffer.concat([Buffer.from(`${at("a")}/`), Buffer.from([0xff, 0xfe])]), "no text");
  symlinkSync("/etc/passwd", at("a", "link"));
  symlinkSync("../nowhere", at("dangling"));
  linkSync(at("small"), at("a", "hard"));
  linkSync(at("a", "large"), at("hard"));
  chmodSync(at("small"), 0o640);
  chmodSync(at("a", "b"), 0o750);
  chmodSync(at("none"), 0o4755);
  utimesSync(at("small"), 1000, 1_000_000_000);
  lutimesSync(at("dangling"), 1000, 1_000_000_001);
  utimesSync(at("empty"), 1000, 1_000_000_002);
  utimesSync(at("a"), 1000, 1_000_000_003);
  return name;
}

/** What is in a volume, as text that can be compared. */
function told(name: string): string[] {
  const root = there.at(name);
  // Names that are no text go through no other way.
  const found = execFileSync("find", [root, "-mindepth", "1", "-printf", "%P\\0"]).toString("latin1");
  return found
    .split("\0")
    .filter((path) => path !== "")
    .map((path) => Buffer.from(path, "latin1"))
    .map((path) => ({ path, at: Buffer.concat([Buffer.from(`${root}/`), path]) }))
    .filter(({ path }) => !path.toString("latin1").startsWith(".lucid"))
    .map(({ path, at }) => {
      const stat = lstatSync(at);
      const content = stat.isFile() ? readFileSync(at).toString("base64").slice(0, 100) : "";
      const target = stat.isSymbolicLink() ? readlinkSync(at) : "";
      const size = stat.isFile() ? stat.size : 0;
      // Bits that would let others act as the owner are not given.
      const mode = stat.isSymbolicLink() ? 0 : stat.mode & 0o171777;
      const names = stat.isFile() ? stat.nlink : 0;
      return [
        path.toString("latin1"),
        mode.toString(8),
        size,
        names,
        (stat.mtimeMs / 1000).toFixed(0),
        content,
        target,
      ].join(" ");
    })
    .toSorted((one, other) => (one < other ? -1 : 1));
}

async function backUp(...volumes: string[]) {
  const { backup } = await backups.createBackup({ selection: { stores, volumes } });
  const backupId = backup?.backupId ?? "";
  const last = (await eventsOf(backups.watchBackup({ backupId }))).at(-1);
  return { backupId, last };
}

async function restore(
  backupId: string,
  request: { conflictPolicy?: ConflictPolicy; renames?: { store: Store; from: string; to: string }[] } = {},
) {
  const asked = await backups.createRestore({ backupId, confirmBackupId: backupId, ...request });
  const restoreId = asked.restore?.restoreId ?? "";
  const last = (await eventsOf(backups.watchRestore({ restoreId }))).at(-1);
  const report = (await backups.getRestore({ restoreId })).restore?.report;
  return { last, report };
}

const renamed = (from: string, to: string) => ({ renames: [{ store: Store.VOLUMES, from, to }] });

test("a volume is backed up as it is, listed with the others, verified, and restored into another", async () => {
  const name = await filledVolume();
  execFileSync("mkfifo", [there.at(name, "pipe")]);
  const { backupId, last } = await backUp(name);
  expect(last, last?.error?.message).toMatchObject({ state: JobState.SUCCEEDED, progress: { percent: 100 } });
  unlinkSync(there.at(name, "pipe"));
  const { backup } = await backups.getBackup({ backupId });
  expect(backup).toMatchObject({ encrypted: true, itemCount: 14n, selection: { stores, volumes: [name] } });
  expect(backup?.remarks).toEqual([`Volume ${name}: 1 pipes, sockets and devices are not in the backup`]);
  const listed = await backups.listBackups({ store: Store.VOLUMES });
  expect(listed.backups.map((one) => one.backupId)).toContain(backupId);

  const { verification } = await backups.verifyBackup({ backupId });
  const verificationId = verification?.verificationId ?? "";
  const verified = await eventsOf(backups.watchVerification({ verificationId }));
  expect(verified.at(-1)).toMatchObject({ state: JobState.SUCCEEDED });

  const { last: restored, report } = await restore(backupId, renamed(name, "restored"));
  expect(report).toMatchObject([{ store: Store.VOLUMES, source: name, target: "restored", equal: true, remark: "" }]);
  expect(restored).toMatchObject({ state: JobState.SUCCEEDED });
  expect(told("restored")).toEqual(told(name));
  const inode = (...names: string[]) => lstatSync(there.at("restored", ...names)).ino;
  expect([inode("small"), inode("hard")]).toEqual([inode("a", "hard"), inode("a", "large")]);
  expect((await there.volumes.getVolume({ name: "restored" })).volume).toMatchObject({ declaredBytes: 10_000_000n });
  expect(readdirSync(there.at("restored", ".lucid"))).toEqual(["volume.1.json"]);
});

test("a second backup of the same files stores hardly anything", async () => {
  const name = await there.newVolume(10_000_000n);
  for (let file = 0; file < 40; file++) writeFileSync(there.at(name, `${file}`), Buffer.alloc(20_000, `${file} `));
  const first = await backUp(name);
  writeFileSync(there.at(name, "0"), "changed");
  const second = await backUp(name);
  const stored = async (backupId: string) => Number((await backups.getBackup({ backupId })).backup?.storedBytes);
  expect(await stored(second.backupId)).toBeLessThan((await stored(first.backupId)) / 2);
});

test("what is there decides by the conflict policy", async () => {
  const name = await filledVolume();
  const { backupId } = await backUp(name);
  const before = told(name);
  const fail = await restore(backupId);
  expect(fail.last).toMatchObject({ state: JobState.FAILED, error: { reason: "RESTORE_CONFLICT" } });
  const validated = backups.createRestore({ backupId, validateOnly: true });
  expect(await refusalOf(validated)).toMatchObject({ reason: "RESTORE_CONFLICT", metadata: { volume: name } });
  expect(told(name)).toEqual(before);

  // A file that is newer, one that is missing, one more, a directory for a file, and a symlink for a directory.
  const change = () => {
    execFileSync("rm", ["-rf", there.at(name, "none"), there.at(name, "small"), there.at(name, "a", "b")]);
    writeFileSync(there.at(name, "more"), "more");
    mkdirSync(there.at(name, "small", "x"), { recursive: true });
    symlinkSync("/tmp", there.at(name, "a", "b"));
  };
  change();
  const skip = await restore(backupId, { conflictPolicy: ConflictPolicy.SKIP });
  expect(skip.last, skip.last?.error?.message).toMatchObject({ state: JobState.SUCCEEDED });
  expect(readFileSync(there.at(name, "none"), "utf8")).toBe("");
  expect(readlinkSync(there.at(name, "a", "b"))).toBe("/tmp");
  expect(readdirSync(there.at(name, "small"))).toEqual(["x"]);
  expect(readdirSync("/tmp").filter((path) => path.startsWith("-rf"))).toEqual([]);

  const over = await restore(backupId, { conflictPolicy: ConflictPolicy.OVERWRITE });
  expect(over.last, over.last?.error?.message).toMatchObject({ state: JobState.SUCCEEDED });
  expect(told(name).filter((line) => !line.startsWith("more "))).toEqual(before);

  change();
  const drop = await restore(backupId, { conflictPolicy: ConflictPolicy.DROP });
  expect(drop.last, drop.last?.error?.message).toMatchObject({ state: JobState.SUCCEEDED });
  expect(told(name)).toEqual(before);
});

test("files that are written meanwhile are told, and what vanishes is left out", async () => {
  const name = await there.newVolume(100_000_000n);
  for (let file = 0; file < 300; file++) writeFileSync(there.at(name, `${file}`), "x");
  const busy = there.at(name, "busy");
  writeFileSync(busy, Buffer.alloc(8_000_000));
  const writing = setInterval(() => {
    appendFileSync(busy, "more");
    writeFileSync(there.at(name, "gone"), "");
    unlinkSync(there.at(name, "gone"));
  }, 1);
  const { backupId, last } = await backUp(name).finally(() => clearInterval(writing));
  expect(last).toMatchObject({ state: JobState.SUCCEEDED });
  const { backup } = await backups.getBackup({ backupId });
  expect(backup?.remarks).toEqual([`Volume ${name}: 1 files were changed while they were read, such as busy`]);
  const restored = await restore(backupId, renamed(name, `${name}-again`));
  expect(restored.last).toMatchObject({ state: JobState.SUCCEEDED });
});

test("requests that make no sense are refused by the field's path", async () => {
  const name = await there.newVolume();
  const wrong = backups.createBackup({ selection: { stores: [Store.REDIS], volumes: [name] } });
  expect(await refusalOf(wrong)).toMatchObject({ fields: ["selection.volumes"] });
  const { last } = await backUp("nothing");
  expect(last).toMatchObject({ state: JobState.FAILED, error: { reason: "VOLUME_NOT_FOUND" } });
  const { backupId } = await backUp(name);
  for (const to of ["../x", ".lucid", "", "a/b"]) {
    const renaming = backups.createRestore({ backupId, ...renamed(name, to) });
    expect(await refusalOf(renaming)).toMatchObject({ fields: ["renames[0].to"] });
  }
  const absent = backups.createRestore({ backupId, selection: { stores, volumes: ["nothing"] } });
  expect(await refusalOf(absent)).toMatchObject({ fields: ["selection.volumes[0]"] });
  const small = await there.newVolume(1n);
  const full = await filledVolume();
  const large = await backUp(full);
  const cramped = backups.createRestore({ backupId: large.backupId, validateOnly: true, ...renamed(full, small) });
  expect(await refusalOf(cramped)).toMatchObject({ reason: "RESTORE_REFUSED" });
});

test("the folder of the repository is not backed up into itself", async () => {
  const repository = there.at("around", "repository");
  mkdirSync(repository, { recursive: true });
  await using own = await volumeApp({ LUCID_VOLUME_DIR: there.root, LUCID_BACKUP_DIR: repository });
  await own.volumes.createVolume({ volume: { name: "around", type: 9, declaredBytes: 1_000_000n }, adopt: true });
  writeFileSync(join(there.at("around"), "file"), "x");
  const client = own.app.client(BackupService);
  const { backup } = await client.createBackup({ selection: { stores, volumes: ["around"] } });
  const backupId = backup?.backupId ?? "";
  expect((await eventsOf(client.watchBackup({ backupId }))).at(-1)).toMatchObject({ state: JobState.SUCCEEDED });
  expect((await client.getBackup({ backupId })).backup?.itemCount).toBe(2n);
});
