import { randomBytes } from "node:crypto";
import { readdir, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { expect, test, vi } from "vitest";

import { BackupType, JobState } from "../../gen/lucid/admin/v1/backup_service_pb.ts";
import { Store } from "../../gen/lucid/admin/v1/common_pb.ts";
import { endLeases } from "../jobs/lease.ts";
import { startChild } from "../support/child.ts";
import { storeAddresses } from "../support/stores.ts";
import { plainSource, plainTarget } from "./fixtures.ts";
import { type BackupRig, backupRig, eventsOf, reason, refusal, takenBackup } from "./support.ts";

test.concurrent("after the loss of MongoDB every backup is listed, watched, verified and restored", async () => {
  await using rig = await backupRig();
  const db = await rig.filled(100);
  const before = await rig.replica({ sources: [plainSource(db)] });
  const ids = [await takenBackup(before.client), await takenBackup(before.client)].toReversed();
  await db.dropDatabase();

  const { client } = await rig.replica({ database: rig.databaseName(), targets: [plainTarget(db.client)] });
  const { backups } = await client.listBackups({});
  expect(backups.map(({ backupId }) => backupId)).toEqual(ids);
  for (const { backupId, state, itemCount } of backups) {
    expect([state, itemCount]).toEqual([JobState.SUCCEEDED, 101n]);
    const events = await eventsOf(client.watchBackup({ backupId, afterSequence: 9n }));
    expect(events).toMatchObject([{ sequence: 10n, state: JobState.SUCCEEDED, progress: { percent: 100 } }]);
    expect(await reason(client.cancelBackup({ backupId }))).toBe("JOB_ALREADY_FINISHED");
  }
  const backupId = ids[0] ?? "";
  const { verification } = await client.verifyBackup({ backupId });
  const checked = await eventsOf(client.watchVerification({ verificationId: verification?.verificationId ?? "" }));
  expect(checked.at(-1)?.state).toBe(JobState.SUCCEEDED);
  const { restore } = await client.createRestore({ backupId });
  expect((await eventsOf(client.watchRestore({ restoreId: restore?.restoreId ?? "" }))).at(-1)?.state).toBe(
    JobState.SUCCEEDED,
  );
  expect(await db.collection("first").countDocuments()).toBe(100);
});

test.concurrent("while MongoDB is away the repository's backups are listed, and the list says that it is of them alone", async () => {
  await using rig = await backupRig();
  const db = await rig.filled(10);
  const before = await rig.replica({ sources: [plainSource(db)] });
  const backupId = await takenBackup(before.client);
  expect((await before.client.listBackups({})).repositoryOnly).toBe(false);
  const { client } = await rig.replica({ mongodbUri: "mongodb://127.0.0.1:1/?directConnection=true", start: false });
  expect(await client.listBackups({})).toMatchObject({ backups: [{ backupId }], repositoryOnly: true });
  expect((await client.getBackup({ backupId })).backup?.state).toBe(JobState.SUCCEEDED);
});

/** The files of a kind in a repository. */
async function filesOf(rig: BackupRig, kind: string): Promise<string[]> {
  const entries = await readdir(join(rig.dir, kind), { recursive: true, withFileTypes: true });
  return entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
}

async function flipByte(path: string): Promise<void> {
  const bytes = await readFile(path);
  const middle = Math.floor(bytes.length / 2);
  bytes.writeUInt8(bytes.readUInt8(middle) ^ 1, middle);
  await writeFile(path, bytes);
}

async function only(files: Promise<string[]>): Promise<string> {
  const [file, ...more] = await files;
  if (file === undefined || more.length > 0) throw new Error("not one file");
  return file;
}

test.concurrent.for([
  ["a flipped byte", "BACKUP_CHUNK_DAMAGED", async (rig: BackupRig) => flipByte(await only(filesOf(rig, "packs")))],
  ["a missing chunk", "BACKUP_CHUNK_MISSING", async (rig: BackupRig) => rm(await only(filesOf(rig, "packs")))],
] as const)("%s keeps a restore from changing anything", async ([, expected, damage]) => {
  await using rig = await backupRig();
  const db = await rig.filled(200);
  const { client } = await rig.replica({ sources: [plainSource(db)], targets: [plainTarget(db.client)] });
  const backupId = await takenBackup(client);
  await damage(rig);
  const to = rig.databaseName();
  const { restore } = await client.createRestore({
    backupId,
    renames: [{ store: Store.MONGODB, from: db.databaseName, to }],
  });
  const restoreId = restore?.restoreId ?? "";
  const last = (await eventsOf(client.watchRestore({ restoreId }))).at(-1);
  expect(last).toMatchObject({
    state: JobState.FAILED,
    error: { reason: expected, metadata: { backup_id: backupId } },
  });
  expect(await db.client.db(to).listCollections().toArray()).toEqual([]);
  const { verification } = await client.verifyBackup({ backupId });
  const checked = await eventsOf(client.watchVerification({ verificationId: verification?.verificationId ?? "" }));
  expect(checked.at(-1)).toMatchObject({ state: JobState.FAILED, error: { reason: expected } });
  const found = await client.getVerification({ verificationId: verification?.verificationId ?? "" });
  const { readPercent, problems = [], problemCount } = found.verification ?? {};
  expect({ readPercent, problemCount }).toEqual({ readPercent: 100, problemCount: BigInt(problems.length) });
  expect(problems).toContainEqual(
    expect.objectContaining({
      error: expect.objectContaining({ reason: expected }) as unknown,
      store: Store.MONGODB,
      unit: `${db.databaseName}.first`,
    }),
  );

  // Without reading, only what is missing shows.
  const quick = (await client.verifyBackup({ backupId, readPercent: 0 })).verification;
  const looked = await eventsOf(client.watchVerification({ verificationId: quick?.verificationId ?? "" }));
  expect(quick?.readPercent).toBe(0);
  expect(looked.at(-1)?.state).toBe(expected === "BACKUP_CHUNK_MISSING" ? JobState.FAILED : JobState.SUCCEEDED);
});

test.concurrent("a truncated manifest is told, refuses a restore, hides no other backup and can be deleted", async () => {
  await using rig = await backupRig();
  const db = await rig.filled(20);
  const { client } = await rig.replica({ sources: [plainSource(db)], targets: [plainTarget(db.client)] });
  const damaged = await takenBackup(client);
  const whole = await takenBackup(client);
  await truncate(join(rig.dir, "manifests", damaged), 20);
  const { backups } = await client.listBackups({});
  expect(backups).toMatchObject([
    { backupId: whole, state: JobState.SUCCEEDED },
    { backupId: damaged, state: JobState.FAILED, error: { reason: "BACKUP_MANIFEST_DAMAGED" } },
  ]);
  expect(await reason(client.getBackup({ backupId: damaged }))).toBe("BACKUP_MANIFEST_DAMAGED");
  expect(await reason(client.createRestore({ backupId: damaged }))).toBe("BACKUP_MANIFEST_DAMAGED");
  const { verification } = await client.verifyBackup({ backupId: damaged });
  const checked = await eventsOf(client.watchVerification({ verificationId: verification?.verificationId ?? "" }));
  expect(checked.at(-1)).toMatchObject({ state: JobState.FAILED, error: { reason: "BACKUP_MANIFEST_DAMAGED" } });
  await client.deleteBackup({ backupId: damaged, confirmBackupId: damaged });
  expect((await client.listBackups({})).backups.map(({ backupId }) => backupId)).toEqual([whole]);
});

test.concurrent("a repository that cannot be used says why, to every call that needs it", async () => {
  await using rig = await backupRig();
  const db = await rig.filled(3);
  const { client: owner } = await rig.replica({ sources: [plainSource(db)] });
  const backupId = await takenBackup(owner);
  const otherKey = join(rig.dir, "..", "other-key");
  await writeFile(otherKey, "another key that is also long enough for this");
  const cases = [
    ["BACKUP_REPOSITORY_NOT_CONFIGURED", { dir: "", keyFile: "" }],
    ["BACKUP_REPOSITORY_WRONG_KEY", { dir: rig.dir, keyFile: otherKey }],
    ["BACKUP_REPOSITORY_WRONG_KEY", { dir: rig.dir, keyFile: "" }],
    ["BACKUP_REPOSITORY_UNAVAILABLE", { dir: join(rig.keyFile, "below-a-file"), keyFile: "" }],
  ] as const;
  for (const [expected, repository] of cases) {
    const { client } = await rig.replica({ repository, start: false });
    expect(await reason(client.createBackup({}))).toBe(expected);
    expect(await reason(client.listBackups({}))).toBe(expected);
    expect(await reason(client.getBackup({ backupId }))).toBe(expected);
    expect(await reason(client.verifyBackup({ backupId }))).toBe(expected);
    expect(await reason(client.createRestore({ backupId }))).toBe(expected);
    expect(await reason(client.deleteBackup({ backupId, confirmBackupId: backupId }))).toBe(expected);
  }
});

/** A process that works on the rig's jobs until it is half-way through one. */
async function childReplica(rig: BackupRig, database: string, { first = 1 } = {}) {
  const { mongodbUri } = storeAddresses();
  const args = [mongodbUri, rig.database, database, rig.dir, rig.keyFile, String(first)];
  return startChild(`${import.meta.dirname}/replica.ts`, args);
}

test.concurrent("a process that is killed in the middle of a backup leaves nothing that looks whole, and another one takes it", async () => {
  await using rig = await backupRig();
  const db = await rig.filled(200);
  const { client, jobs } = await rig.replica({
    sources: [plainSource(db)],
    targets: [plainTarget(db.client)],
    start: false,
  });
  const { backup } = await client.createBackup({ selection: { stores: [Store.MONGODB] } });
  const backupId = backup?.backupId ?? "";
  const watched = eventsOf(client.watchBackup({ backupId }));
  {
    await using child = await childReplica(rig, db.databaseName);
    await child.said("half-way");
  }
  expect((await client.listBackups({ state: JobState.SUCCEEDED })).backups).toEqual([]);
  expect((await client.getBackup({ backupId })).backup).toMatchObject({ state: JobState.RUNNING, rootHash: "" });

  await endLeases(db.client.db(rig.database));
  jobs.start();
  const events = await watched;
  expect(events.map(({ sequence }) => sequence)).toEqual(events.map((_, index) => BigInt(index + 1)));
  expect(events.at(-1)?.state).toBe(JobState.SUCCEEDED);
  expect((await client.getBackup({ backupId })).backup).toMatchObject({ state: JobState.SUCCEEDED, itemCount: 201n });
  const next = await takenBackup(client);
  const { verification } = await client.verifyBackup({ backupId: next });
  const checked = await eventsOf(client.watchVerification({ verificationId: verification?.verificationId ?? "" }));
  expect(checked.at(-1)?.state).toBe(JobState.SUCCEEDED);
});

test.concurrent("what a killed process has made durable is not stored again", async () => {
  await using rig = await backupRig();
  const db = await rig.filled(1);
  const count = 3000;
  const documents = Array.from({ length: count }, () => ({ bytes: randomBytes(8192) }));
  await db.collection("large").insertMany(documents);
  const { client, jobs } = await rig.replica({ sources: [plainSource(db)], start: false });
  const { backup } = await client.createBackup({ selection: { stores: [Store.MONGODB] } });
  const backupId = backup?.backupId ?? "";
  {
    await using child = await childReplica(rig, db.databaseName, { first: count - 100 });
    await child.said("half-way");
    // What it has read by then may still be on its way into packs, of 8 MiB each.
    const areThere = async () => expect((await filesOf(rig, "packs")).length).toBeGreaterThanOrEqual(2);
    await vi.waitFor(areThere, { timeout: 60_000, interval: 100 });
  }
  await endLeases(db.client.db(rig.database));
  jobs.start();
  expect((await eventsOf(client.watchBackup({ backupId }))).at(-1)?.state).toBe(JobState.SUCCEEDED);
  const { logicalBytes = 0n, storedBytes = 0n } = (await client.getBackup({ backupId })).backup ?? {};
  expect(Number(logicalBytes)).toBeGreaterThan(count * 8192);
  // Random bytes cannot be compressed: what is missing was there already.
  expect(Number(storedBytes)).toBeLessThan(Number(logicalBytes) / 2);
});

test.concurrent("a process that is killed in the middle of a restore interrupts it, with what it had told to be in place", async () => {
  await using rig = await backupRig();
  const db = await rig.filled(20);
  const first = await rig.replica({ sources: [plainSource(db)] });
  const backupId = await takenBackup(first.client);
  await first.jobs.drain(0);
  const { client, jobs } = await rig.replica({ targets: [plainTarget(db.client)], start: false });
  const to = rig.databaseName();
  const { restore } = await client.createRestore({
    backupId,
    renames: [{ store: Store.MONGODB, from: db.databaseName, to }],
  });
  const restoreId = restore?.restoreId ?? "";
  const report = async () => (await client.getRestore({ restoreId })).restore?.report;
  {
    await using child = await childReplica(rig, db.databaseName);
    await child.said("half-way");
    const isTold = async () => expect(await report()).toMatchObject([{ writtenItems: 20n }, { writtenItems: 1n }]);
    await vi.waitFor(isTold, { timeout: 60_000, interval: 200 });
  }
  await endLeases(db.client.db(rig.database));
  jobs.start();
  const last = (await eventsOf(client.watchRestore({ restoreId }))).at(-1);
  expect(last).toMatchObject({ state: JobState.INTERRUPTED, error: { reason: "JOB_INTERRUPTED" } });
  expect(await report()).toMatchObject([{ writtenItems: 20n, equal: false }, { writtenItems: 1n }]);
});

test.concurrent("a list goes through everything once while backups come", async () => {
  await using rig = await backupRig();
  const db = await rig.filled(3);
  const { client } = await rig.replica({ sources: [plainSource(db)] });
  const ids: string[] = [];
  for (let round = 0; round < 3; round += 1) {
    ids.unshift(await takenBackup(client));
    const { backup } = await client.createBackup({ selection: { stores: [Store.REDIS] } });
    const failed = backup?.backupId ?? "";
    await eventsOf(client.watchBackup({ backupId: failed })); // there is no such source, so it comes to nothing
    ids.unshift(failed);
  }
  for (const pageSize of [1, 2, 4]) {
    const seen: string[] = [];
    let pageToken = "";
    do {
      const page = await client.listBackups({ pageSize, pageToken });
      seen.push(...page.backups.map(({ backupId }) => backupId));
      pageToken = page.nextPageToken;
      // What comes meanwhile is newer, and not of this list.
      if (seen.length === pageSize) ids.unshift(await takenBackup(client));
    } while (pageToken !== "");
    expect(seen).toEqual(ids.slice(1));
  }
  const { nextPageToken: pageToken } = await client.listBackups({ pageSize: 1 });
  expect(await refusal(client.listBackups({ state: JobState.FAILED, pageToken }))).toMatchObject({
    reason: "PAGE_TOKEN_INVALID",
  });
});

test.concurrent("a list is filtered by state, store, type and time", async () => {
  await using rig = await backupRig();
  const db = await rig.filled(3);
  const { client } = await rig.replica({ sources: [plainSource(db)] });
  const older = await takenBackup(client);
  const newer = await takenBackup(client);
  const { backup } = await client.createBackup({ selection: { stores: [Store.REDIS] } });
  const failed = backup?.backupId ?? "";
  await eventsOf(client.watchBackup({ backupId: failed }));
  const ids = async (request: Parameters<typeof client.listBackups>[0]) =>
    (await client.listBackups(request)).backups.map(({ backupId }) => backupId);
  const { createTime } = (await client.getBackup({ backupId: newer })).backup ?? {};
  if (createTime === undefined) throw new Error("no time");
  expect(await ids({})).toEqual([failed, newer, older]);
  expect(await ids({ state: JobState.FAILED })).toEqual([failed]);
  expect(await ids({ store: Store.MONGODB })).toEqual([newer, older]);
  expect(await ids({ type: BackupType.INCREMENTAL })).toEqual([]);
  expect(await ids({ createdAfter: createTime })).toEqual([failed, newer]);
  expect(await ids({ createdBefore: createTime })).toEqual([older]);
});
