import { createCipheriv, createHash, hkdfSync, randomBytes, scryptSync } from "node:crypto";
import { mkdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { create, toBinary } from "@bufbuild/protobuf";
import { expect, test } from "vitest";

import { RepositoryConfigSchema, WrappedSecretSchema } from "../../../gen/lucid/backup/v1/repository_pb.ts";
import { lazyRepository } from "../../../src/backup/lazy-repository.ts";
import { openLocalStorage } from "../../../src/backup/repository/local-storage.ts";
import { type BackupRepository, openRepository, openRepositoryIn } from "../../../src/backup/repository/repository.ts";
import { dying } from "./dying-storage.ts";
import { readMinimally } from "./minimal-reader.ts";
import { failureOf, intercepted, makeRecords, newFolder, objectsIn, readBackup, takeBackup } from "./support.ts";

const records = makeRecords(20);
const WRONG_KEY = "BACKUP_REPOSITORY_WRONG_KEY";

/**
 * A repository as `docs/backup-format.md` describes it, of before there were ids of keys, whose keys cost next to nothing to
 * derive; with three key files, of which the first opens it.
 */
async function cheapRepository() {
  const folder = await newFolder();
  const { dir } = folder;
  const [first = "", second = "", third = ""] = await Promise.all(
    ["first", "second", "third"].map(async (name) => {
      const path = join(dir, "..", `${name}-key`);
      await writeFile(path, `the ${name} key file, which is long enough for the check\n`);
      return path;
    }),
  );
  const [repositoryId, salt, nonce] = [randomBytes(16), randomBytes(16), randomBytes(12)];
  const keyOf = async (path: string) => scryptSync(await readFile(path), salt, 32, { N: 2, r: 1, p: 1 });
  const cipher = createCipheriv("aes-256-gcm", await keyOf(first), nonce).setAAD(repositoryId);
  const sealedSecret = Buffer.concat([cipher.update(randomBytes(32)), cipher.final(), cipher.getAuthTag()]);
  const how = { derivation: "scrypt", scryptCostLog2: 1, scryptBlockSize: 1, scryptParallelization: 1 };
  const config = create(RepositoryConfigSchema, {
    formatVersion: 1,
    repositoryId,
    secret: { case: "wrappedSecret", value: create(WrappedSecretSchema, { ...how, salt, nonce, sealedSecret }) },
  });
  const bytes = Buffer.concat([Buffer.from("LUCIDRC1"), toBinary(RepositoryConfigSchema, config)]);
  await mkdir(dir);
  await writeFile(join(dir, "config"), Buffer.concat([bytes, createHash("sha256").update(bytes).digest()]));

  /** The id of a key file as the format describes it. */
  const idOf = async (path: string): Promise<string> => {
    const id = hkdfSync("sha256", await keyOf(path), repositoryId, "lucid-backup/1/key-id", 8);
    return Buffer.from(id).toString("hex");
  };
  const [firstId = "", secondId = "", thirdId = ""] = await Promise.all([first, second, third].map(idOf));
  return { ...folder, first, second, third, firstId, secondId, thirdId };
}

async function expectRead(repository: BackupRepository, backupId: string): Promise<void> {
  expect(await readBackup(repository, backupId)).toEqual([records]);
}

test("a repository takes the new key file, keeps its backups, and is opened by the old one no more", async () => {
  await using place = await cheapRepository();
  const { dir, first, second, firstId, secondId } = place;
  await using before = await openRepository({ dir, keyFile: first });
  expect(before).toMatchObject({ keyId: firstId, formerKeyId: undefined });
  await takeBackup(before, "a", [records]);

  await using rotated = await openRepository({ dir, keyFile: second, oldKeyFile: first });
  expect(rotated).toMatchObject({ keyId: secondId, formerKeyId: firstId });
  await expectRead(rotated, "a");
  expect(await failureOf(() => openRepository({ dir, keyFile: first }))).toEqual(
    expect.objectContaining({ reason: WRONG_KEY, metadata: { key_id: firstId, wanted_key_id: secondId } }),
  );

  // Who has it open goes on; who opens it anew needs the new file alone, whatever became of the old one.
  const next = await takeBackup(before, "b", [records]);
  expect(next.storedBytes).toBe(0n);
  await rm(first);
  await using after = await openRepository({ dir, keyFile: second, oldKeyFile: first });
  expect(after).toMatchObject({ keyId: secondId, formerKeyId: undefined });
  await expectRead(after, "a");
  await expectRead(after, "b");
  // Readers that are made from the format's description know nothing of rotations.
  expect(readMinimally(dir, "b", second).streams).toEqual([records]);
  expect((await stat(join(dir, "config"))).mode & 0o777).toBe(0o600);
});

test("a key file that comes back has the id that it had, and opens what was stored meanwhile", async () => {
  await using place = await cheapRepository();
  const { dir, first, second, third, firstId, thirdId } = place;
  for (const [oldKeyFile, keyFile] of [
    [first, second],
    [second, third],
    [third, first],
  ] as const) {
    await using repository = await openRepository({ dir, keyFile, oldKeyFile });
    await takeBackup(repository, keyFile.includes("first") ? "last" : keyFile.replace(/.*\//, ""), [records]);
  }
  await using repository = await openRepository({ dir, keyFile: first });
  expect(repository.keyId).toBe(firstId);
  for (const backupId of ["second-key", "third-key", "last"]) await expectRead(repository, backupId);
  expect(await failureOf(() => openRepository({ dir, keyFile: third }))).toMatchObject({
    metadata: { key_id: thirdId, wanted_key_id: firstId },
  });
});

test("where neither file fits, or one cannot serve as a key file, nothing is changed", async () => {
  await using place = await cheapRepository();
  const { dir, first, second, third, secondId, thirdId } = place;
  const config = await readFile(join(dir, "config"));
  const short = join(dir, "..", "short-key");
  await writeFile(short, "too short");
  const gone = join(dir, "..", "no-key");
  const [KEY_FILE, OLD_KEY_FILE] = ["LUCID_BACKUP_KEY_FILE", "LUCID_BACKUP_OLD_KEY_FILE"];
  const cases = [
    [
      { keyFile: second, oldKeyFile: third },
      { key_id: secondId, old_key_id: thirdId },
    ],
    [{ oldKeyFile: first }, {}],
    [{ keyFile: short, oldKeyFile: first }, { setting: KEY_FILE }],
    [{ keyFile: gone, oldKeyFile: first }, { setting: KEY_FILE }],
    [{ keyFile: second, oldKeyFile: short }, { setting: OLD_KEY_FILE }],
    [{ keyFile: second, oldKeyFile: gone }, { setting: OLD_KEY_FILE }],
  ] as const;
  for (const [files, metadata] of cases) {
    const failure = await failureOf(() => openRepository({ dir, ...files }));
    expect(failure).toEqual(expect.objectContaining({ reason: WRONG_KEY, metadata }));
  }
  expect(await readFile(join(dir, "config"))).toEqual(config);
});

test("a repository in the clear takes no key file, new or old", async () => {
  await using folder = await newFolder();
  const { dir, keyFile } = folder;
  await using repository = await openRepository({ dir });
  expect(repository.keyId).toBeUndefined();
  const config = await readFile(join(dir, "config"));
  expect(await failureOf(() => openRepository({ dir, keyFile, oldKeyFile: keyFile }))).toMatchObject({
    reason: WRONG_KEY,
  });
  expect(await readFile(join(dir, "config"))).toEqual(config);
});

test("replicas that start at once all open it, and one that runs with the old settings goes on", async () => {
  await using place = await cheapRepository();
  const { dir, first, second } = place;
  await using running = await openRepository({ dir, keyFile: first });
  // None replaces the config before all have read the old one.
  const replicas = 4;
  let arrived = 0;
  let goOn = () => {};
  const all = new Promise<void>((resolve) => (goOn = resolve));
  const opening = Array.from({ length: replicas }, async () => {
    const storage = intercepted(await openLocalStorage(dir), async (call, name) => {
      if (call !== "put" || name !== "config") return;
      if (++arrived === replicas) goOn();
      await all;
    });
    return await openRepositoryIn(storage, { keyFile: second, oldKeyFile: first });
  });
  const opened = await Promise.all(opening);
  for (const [i, repository] of [running, ...opened].entries()) await takeBackup(repository, `b${i}`, [records]);
  await using repository = await openRepository({ dir, keyFile: second });
  for (let i = 0; i <= replicas; i++) await expectRead(repository, `b${i}`);
  expect((await objectsIn(dir)).filter((path) => path.includes("config"))).toEqual([join(dir, "config")]);
});

test("a replica whose config was replaced by one for another key file does not believe that it was changed", async () => {
  await using place = await cheapRepository();
  const { dir, first, second, third, secondId, thirdId } = place;
  let interfered = false;
  const storage = intercepted(await openLocalStorage(dir), async (call, name) => {
    if (call !== "get" || name !== "config" || interfered) return;
    const config = await readFile(join(dir, "config"));
    if (!config.includes(Buffer.from(secondId, "hex"))) return;
    interfered = true;
    await openRepository({ dir, keyFile: third, oldKeyFile: second });
  });
  const failure = await failureOf(() => openRepositoryIn(storage, { keyFile: second, oldKeyFile: first }));
  expect(failure).toMatchObject({ reason: WRONG_KEY, metadata: { wanted_key_id: thirdId, key_id: secondId } });
});

test.for([{ lastIsMade: false }, { lastIsMade: true }])(
  "a rotation that dies at its write leaves the old key file or the new one (made: $lastIsMade)",
  async ({ lastIsMade }) => {
    await using place = await cheapRepository();
    const { dir, first, second } = place;
    await takeBackup(await openRepository({ dir, keyFile: first }), "a", [records]);
    const storage = dying(await openLocalStorage(dir), 0, lastIsMade);
    await expect(openRepositoryIn(storage, { keyFile: second, oldKeyFile: first })).rejects.toThrow("The process");
    const [fits, other] = lastIsMade ? [second, first] : [first, second];
    await expectRead(await openRepository({ dir, keyFile: fits }), "a");
    expect(await failureOf(() => openRepository({ dir, keyFile: other }))).toMatchObject({ reason: WRONG_KEY });
    await expectRead(await openRepository({ dir, keyFile: second, oldKeyFile: first }), "a");
  },
);

test("a service that starts with an old key file changes it before any call, and logs ids and no secret", async () => {
  await using place = await cheapRepository();
  const { dir, first, second, firstId, secondId } = place;
  const logged: { readonly fields: object; readonly message: string }[] = [];
  const changed = Promise.withResolvers<void>();
  const note = (fields: object, message: string) => {
    logged.push({ fields, message });
    if ("former_key_id" in fields) changed.resolve();
  };
  await using lazy = lazyRepository({ dir, keyFile: second, oldKeyFile: first }, { info: note, warn: note });
  await changed.promise;
  expect(logged.map(({ fields }) => fields)).toEqual([
    { encrypted: true, key_id: secondId },
    { key_id: secondId, former_key_id: firstId },
  ]);
  await takeBackup(await lazy.open(), "a", [records]);

  // One that cannot says so, and tries again with the next call.
  const refused = Promise.withResolvers<object>();
  await using wrong = lazyRepository(
    { dir, keyFile: first, oldKeyFile: first },
    { info: note, warn: (fields) => refused.resolve(fields) },
  );
  expect(await refused.promise).toHaveProperty("err");
  expect(await failureOf(() => wrong.open())).toMatchObject({ reason: WRONG_KEY });
});
