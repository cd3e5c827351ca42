import { randomUUID } from "node:crypto";
import {
  appendFileSync,
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";

import { afterAll, beforeAll, expect, test } from "vitest";

import { VolumeLevel, VolumeType } from "../../../gen/lucid/admin/v1/volume_pb.ts";
import { VolumeService } from "../../../gen/lucid/admin/v1/volume_service_pb.ts";
import { refusalOf } from "../../repository/support.ts";
import { temporaryFolder } from "../../stores/volumes/support.ts";
import { testApp } from "../../support/app.ts";
import { now, type VolumeApp, volumeApp } from "./support.ts";

let there: VolumeApp;
beforeAll(async () => {
  there = await volumeApp();
});
afterAll(() => there?.[Symbol.asyncDispose]());

const type = VolumeType.LOGS;

test("a volume is a folder that tells of itself, created once", async () => {
  const { volumes, overHttp, at } = there;
  const requestId = randomUUID();
  const asked = { volume: { name: "first", type, declaredBytes: 5000n, description: "the first" }, requestId };
  const [one, other] = await Promise.all([volumes.createVolume(asked), overHttp.createVolume(asked)]);
  expect(one).toEqual(other);
  expect(one.volume).toMatchObject({ name: "first", warningPercent: 80, criticalPercent: 90, etag: "1", problem: "" });
  expect(readdirSync(at("first"))).toEqual([".lucid"]);
  expect(await volumes.getVolume({ name: "first" })).toEqual({ ...one, $typeName: "lucid.admin.v1.GetVolumeResponse" });

  const reused = { ...asked, volume: { ...asked.volume, declaredBytes: 1n } };
  expect(await refusalOf(volumes.createVolume(reused))).toMatchObject({ reason: "REQUEST_ID_REUSED" });
  const again = { ...asked, requestId: "" };
  expect(await refusalOf(volumes.createVolume(again))).toMatchObject({ reason: "VOLUME_ALREADY_EXISTS" });
});

test.for([
  ["volume.type", { name: "a", declaredBytes: 1n }],
  ["volume.declared_bytes", { name: "a", type }],
  ["volume.critical_percent", { name: "a", type, declaredBytes: 1n, warningPercent: 95 }],
  ["volume.name", { name: "..", type, declaredBytes: 1n }],
  ["volume.name", { name: "a/b", type, declaredBytes: 1n }],
  ["volume.name", { name: ".lucid-removed-1", type, declaredBytes: 1n }],
  ["volume.name", { name: "x".repeat(64), type, declaredBytes: 1n }],
  ["volume.name", { name: "a\0", type, declaredBytes: 1n }],
  ["volume.name", { name: "a\n", type, declaredBytes: 1n }],
] as const)("a volume with a wrong %s is refused", async ([field, volume]) => {
  for (const client of [there.volumes, there.overHttp]) {
    const refusal = await refusalOf(client.createVolume({ volume }));
    expect(refusal).toMatchObject({ code: "InvalidArgument", reason: "BAD_REQUEST", fields: [field] });
  }
});

test("a folder that is there becomes a volume only where it is empty or adopted", async () => {
  const { volumes, at } = there;
  mkdirSync(at("empty"));
  await volumes.createVolume({ volume: { name: "empty", type, declaredBytes: 1n } });
  there.files(["filled/a", "a"]);
  const volume = { name: "filled", type, declaredBytes: 10n };
  expect(await refusalOf(volumes.createVolume({ volume }))).toMatchObject({ reason: "VOLUME_NOT_EMPTY" });
  expect(readdirSync(at("filled"))).toEqual(["a"]);
  await volumes.createVolume({ volume, adopt: true });
  expect((await volumes.getVolumeUsage({ name: "filled" })).usage).toMatchObject({ usedBytes: 1n, fileCount: 1n });
});

test("what is no volume is none, wherever it leads", async () => {
  const { volumes, at } = there;
  await using outside = await temporaryFolder();
  const hidden = join(outside.path, "secret");
  writeFileSync(hidden, "what is outside");
  symlinkSync(outside.path, at("link"));
  writeFileSync(at("file"), "");
  mkdirSync(at("plain"));
  for (const name of ["link", "file", "plain", "nothing"]) {
    const refusals = [
      volumes.getVolume({ name }),
      volumes.updateVolume({ volume: { name, description: "x" } }),
      volumes.resizeVolume({ name, declaredBytes: 1n }),
      volumes.deleteVolume({ name, confirmName: name }),
      volumes.getVolumeUsage({ name, maxAge: now }),
      volumes.getVolumeHealth({ name }),
      volumes.measureVolumePerformance({ name }),
      volumes.cleanUpVolume({ name, confirmName: name, olderThan: now }),
      volumes.optimiseVolume({ name, confirmName: name }),
      volumes.getVolumeGrowth({ name }),
      volumes.getVolumeReport({ name }),
    ].map(refusalOf);
    for (const refusal of await Promise.all(refusals)) {
      expect(refusal).toMatchObject({ code: "NotFound", reason: "VOLUME_NOT_FOUND", metadata: { volume: name } });
    }
  }
  const adopting = volumes.createVolume({ volume: { name: "link", type, declaredBytes: 1n }, adopt: true });
  expect(await refusalOf(adopting)).toMatchObject({ code: "FailedPrecondition", reason: "VOLUME_PATH_REFUSED" });
  expect(readdirSync(outside.path)).toEqual(["secret"]);
});

test("volumes are listed by name in pages, and a damaged one hides no other", async () => {
  await using own = await volumeApp();
  const { volumes, at } = own;
  for (const name of ["c", "a", "b", "e", "d"]) {
    const kind = name === "d" ? VolumeType.BLOCKS : type;
    await volumes.createVolume({ volume: { name, type: kind, declaredBytes: 1n } });
  }
  writeFileSync(at("b", ".lucid", "volume.1.json"), '{"formatVersion": 1, "volume"');
  rmSync(at("c", ".lucid"), { recursive: true });
  symlinkSync("/etc", at("c", ".lucid"));
  const names: string[] = [];
  const problems: string[] = [];
  for (let pageToken = "", first = true; first || pageToken !== ""; first = false) {
    const page = await volumes.listVolumes({ pageSize: 2, pageToken });
    names.push(...page.volumes.map(({ name }) => name));
    problems.push(...page.volumes.map(({ problem }) => problem));
    pageToken = page.nextPageToken;
  }
  expect(names).toEqual(["a", "b", "c", "d", "e"]);
  expect(problems).toEqual(["", "VOLUME_DAMAGED", "VOLUME_DAMAGED", "", ""]);
  const blocks = await volumes.listVolumes({ type: VolumeType.BLOCKS });
  expect(blocks.volumes.map(({ name }) => name)).toEqual(["d"]);
  expect(await refusalOf(volumes.listVolumes({ pageToken: "made up" }))).toMatchObject({
    reason: "PAGE_TOKEN_INVALID",
  });
  expect(await refusalOf(volumes.getVolume({ name: "b" }))).toMatchObject({
    code: "DataLoss",
    reason: "VOLUME_DAMAGED",
  });
});

test("an update changes what its mask names, and no two changes go over each other", async () => {
  const { volumes, newVolume } = there;
  const name = await newVolume();
  const update = await volumes.updateVolume({
    volume: { name, description: "new", warningPercent: 10, declaredBytes: 5n },
    updateMask: { paths: ["description", "declared_bytes"] },
  });
  expect(update.volume).toMatchObject({ description: "new", warningPercent: 80, declaredBytes: 1_000_000n, etag: "2" });
  const stale = volumes.updateVolume({ volume: { name, description: "x" }, etag: "1" });
  expect(await refusalOf(stale)).toMatchObject({ code: "Aborted", reason: "ETAG_MISMATCH" });
  const wrong = volumes.updateVolume({ volume: { name, criticalPercent: 50 } });
  expect(await refusalOf(wrong)).toMatchObject({ fields: ["volume.critical_percent"] });
  const unknown = volumes.updateVolume({ volume: { name }, updateMask: { paths: ["colour"] } });
  expect(await refusalOf(unknown)).toMatchObject({ fields: ["update_mask"] });

  const racing = Array.from({ length: 20 }, (_, index) =>
    volumes.updateVolume({ volume: { name, description: `by ${index}` }, etag: "2" }).then(
      () => 1,
      () => 0,
    ),
  );
  const won: number[] = await Promise.all(racing);
  expect(won.reduce((sum, one) => sum + one, 0)).toBe(1);
  expect((await volumes.getVolume({ name })).volume?.etag).toBe("3");
  expect(readdirSync(there.at(name, ".lucid"))).toEqual(["volume.3.json"]);
});

test("a volume is resized, but never below what it holds by now", async () => {
  const { volumes, newVolume } = there;
  const name = await newVolume();
  there.files([`${name}/a`, "x".repeat(1000)]);
  expect((await volumes.getVolumeUsage({ name })).usage?.usedBytes).toBe(1000n);
  // A file that grows does not change its directory.
  appendFileSync(there.at(name, "a"), "x".repeat(500));
  expect(await refusalOf(volumes.resizeVolume({ name, declaredBytes: 1499n }))).toMatchObject({
    code: "FailedPrecondition",
    reason: "VOLUME_TOO_SMALL",
    metadata: { volume: name, used_bytes: "1500", declared_bytes: "1499" },
  });
  const { volume } = await volumes.resizeVolume({ name, declaredBytes: 1500n });
  expect(volume).toMatchObject({ declaredBytes: 1500n, usage: { usedPercent: 100, level: VolumeLevel.FULL } });
  await volumes.resizeVolume({ name, declaredBytes: 2000n, etag: volume?.etag ?? "" });
  expect(await refusalOf(volumes.resizeVolume({ name, declaredBytes: 3000n, etag: "1" }))).toMatchObject({
    reason: "ETAG_MISMATCH",
  });
});

test("a volume is deleted with all that is in it and nothing else", async () => {
  const { volumes, newVolume, at } = there;
  const name = await newVolume();
  await using outside = await temporaryFolder();
  writeFileSync(join(outside.path, "kept"), "kept");
  there.files([`${name}/a/b/c`, "abc"], [`${name}/d`, "d"]);
  symlinkSync(outside.path, at(name, "a", "link"));
  linkSync(join(outside.path, "kept"), at(name, "hard"));
  mkdirSync(at(name, ...Array.from({ length: 300 }, () => "deep")), { recursive: true });
  await volumes.getVolumeUsage({ name });

  const refusal = await refusalOf(volumes.deleteVolume({ name, confirmName: "other" }));
  expect(refusal).toMatchObject({ reason: "CONFIRMATION_MISMATCH", fields: ["confirm_name"] });
  const stale = volumes.deleteVolume({ name, confirmName: name, etag: "7" });
  expect(await refusalOf(stale)).toMatchObject({ reason: "ETAG_MISMATCH" });
  expect(await volumes.deleteVolume({ name, validateOnly: true })).toMatchObject({ fileCount: 3n, removed: false });
  expect(existsSync(at(name, "a", "b", "c"))).toBe(true);

  expect(await volumes.deleteVolume({ name, confirmName: name })).toMatchObject({ fileCount: 3n, removed: true });
  expect(readdirSync(there.root).filter((left) => left === name || left.startsWith(".lucid"))).toEqual([]);
  expect(readFileSync(join(outside.path, "kept"), "utf8")).toBe("kept");
  await volumes.createVolume({ volume: { name, type, declaredBytes: 1n } });
});

test("a volume that is renamed by hand is that volume under its new name", async () => {
  const { volumes, newVolume, at } = there;
  const name = await newVolume();
  renameSync(at(name), at("renamed"));
  expect((await volumes.getVolume({ name: "renamed" })).volume?.name).toBe("renamed");
});

test("what lies in a volume's own folder is never believed too much", async () => {
  const { volumes, newVolume, at } = there;
  const name = await newVolume();
  await volumes.getVolumeUsage({ name });
  writeFileSync(at(name, ".lucid", "usage"), "\xff".repeat(100));
  expect((await volumes.getVolume({ name })).volume?.usage).toBeUndefined();
  await volumes.getVolumeUsage({ name });
  // A number beyond all others, a symlink to what is outside, and a file that is too large.
  writeFileSync(at(name, ".lucid", "volume.999999999999999.json"), "x".repeat(70_000));
  expect(await refusalOf(volumes.getVolume({ name }))).toMatchObject({ reason: "VOLUME_DAMAGED" });
  unlinkSync(at(name, ".lucid", "volume.999999999999999.json"));
  symlinkSync("/etc/passwd", at(name, ".lucid", "volume.7.json"));
  expect(await refusalOf(volumes.getVolume({ name }))).toMatchObject({ reason: "VOLUME_DAMAGED" });
});

test("without a root each rpc says so, and with one that is away too", async () => {
  await using app = await testApp({ LUCID_VOLUME_DIR: "" });
  const volumes = app.client(VolumeService);
  const name = "a";
  const refusals = [
    volumes.listVolumes({}),
    volumes.getVolume({ name }),
    volumes.createVolume({ volume: { name, type, declaredBytes: 1n } }),
    volumes.updateVolume({ volume: { name, description: "x" } }),
    volumes.resizeVolume({ name, declaredBytes: 1n }),
    volumes.deleteVolume({ name, confirmName: name }),
    volumes.getVolumeUsage({ name }),
    volumes.getVolumeHealth({ name }),
    volumes.measureVolumePerformance({ name }),
    volumes.cleanUpVolume({ name, confirmName: name, olderThan: now }),
    volumes.optimiseVolume({ name, confirmName: name }),
    volumes.getVolumeGrowth({ name }),
    volumes.getVolumeReport({ name }),
  ].map(refusalOf);
  for (const refusal of await Promise.all(refusals)) {
    expect(refusal).toMatchObject({ code: "FailedPrecondition", reason: "VOLUMES_NOT_CONFIGURED" });
  }
  await using away = await testApp({ LUCID_VOLUME_DIR: "/nonexistent/lucid" });
  expect(await refusalOf(away.client(VolumeService).listVolumes({}))).toMatchObject({
    code: "Unavailable",
    reason: "VOLUME_STORAGE_UNAVAILABLE",
  });
});
