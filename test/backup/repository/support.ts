import { mkdtemp, open, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";

import { Store } from "../../../gen/lucid/admin/v1/common_pb.ts";
import type { Manifest } from "../../../gen/lucid/backup/v1/manifest_pb.ts";
import { type BackupRepository, openRepository } from "../../../src/backup/repository/repository.ts";
import type { ObjectStorage } from "../../../src/backup/repository/storage.ts";
import { reasonOf } from "../../../src/errors.ts";

/** For calls that nothing stops. */
export const never = new AbortController().signal;

/** A folder that is gone when it is disposed, with a key file beside it. */
export interface Folder extends AsyncDisposable {
  readonly dir: string;
  readonly keyFile: string;
}

export async function newFolder(): Promise<Folder> {
  const root = await mkdtemp(join(tmpdir(), "lucid-repository-"));
  const keyFile = join(root, "key");
  await writeFile(keyFile, "a key file for tests, long enough for the check\n");
  return {
    dir: join(root, "repository"),
    keyFile,
    [Symbol.asyncDispose]: () => rm(root, { recursive: true, force: true }),
  };
}

/** An encrypted repository in a folder of its own. */
export async function newRepository(options: { readonly encrypted: boolean } = { encrypted: true }) {
  await using stack = new AsyncDisposableStack();
  const folder = stack.use(await newFolder());
  const { dir, keyFile } = folder;
  const repository = stack.use(await openRepository(options.encrypted ? { dir, keyFile } : { dir }));
  const owned = stack.move();
  return { repository, dir, keyFile, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

/** Takes a backup with one unit whose streams are written at the same time. */
export async function takeBackup(
  repository: BackupRepository,
  backupId: string,
  streams: readonly (readonly Uint8Array[])[],
  batch = 100,
): Promise<Manifest> {
  await using writer = await repository.begin(backupId, never);
  const sealed = await Promise.all(
    streams.map(async (records) => {
      await using stream = writer.open();
      for (let i = 0; i < records.length; i += batch) await stream.write(records.slice(i, i + batch));
      return await stream.seal();
    }),
  );
  const unit = {
    store: Store.MONGODB,
    name: "shop.orders",
    streams: sealed,
    recordCount: sealed.reduce((sum, { recordCount }) => sum + recordCount, 0n),
    recordBytes: sealed.reduce((sum, { recordBytes }) => sum + recordBytes, 0n),
  };
  return await writer.seal({ units: [unit], itemCount: unit.recordCount, logicalBytes: unit.recordBytes });
}

/** Reads all streams of a backup. */
export async function readBackup(repository: BackupRepository, backupId: string): Promise<Uint8Array[][]> {
  const manifest = await repository.get(backupId, never);
  const reader = await repository.reader(never, backupId);
  const streams: Uint8Array[][] = [];
  for (const stream of manifest.units.flatMap((unit) => unit.streams)) {
    const records: Uint8Array[] = [];
    for await (const batch of reader.records(stream, never)) records.push(...batch);
    streams.push(records);
  }
  return streams;
}

export async function idsIn(repository: BackupRepository): Promise<string[]> {
  const backups = await Array.fromAsync(repository.list(never));
  return backups.map(({ backupId }) => backupId);
}

/** Believable records that compress a little, the same for the same seed. `bytes` each, or about that. */
export function makeRecords(count: number, seed = 1, bytes = 1000): Buffer[] {
  let state = seed >>> 0;
  const next = () => (state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0);
  const words = ["session", "wallet", "ledger", "block", "user", "trust", "policy", "active", "locked", "2026"];
  return Array.from({ length: count }, (_, i) => {
    let text = `{"_id":"${seed}-${i}","n":${next()}`;
    while (text.length < bytes - 1) text += `,"${words[(next() >>> 8) % 10]}":"${(next() >>> 4).toString(36)}"`;
    return Buffer.from(text.slice(0, bytes - 1) + "}");
  });
}

/** Objects of a local repository, with their paths. What is in `tmp` is none. */
export async function objectsIn(dir: string): Promise<string[]> {
  const entries = await readdir(dir, { recursive: true, withFileTypes: true });
  const files = entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
  return files.filter((path) => !path.startsWith(join(dir, "tmp")));
}

/** The reason of what `work` fails with, and its metadata; fails where it does not fail, or without a reason. */
export async function failureOf(
  work: () => Promise<unknown>,
): Promise<{ reason: string; metadata: Record<string, string> }> {
  try {
    await work();
  } catch (error) {
    const reason = reasonOf(error);
    if (reason === undefined) throw error;
    return reason;
  }
  throw new Error("It did not fail");
}

/** What a storage wrapper does before each call. */
export type Before = (call: "put" | "get" | "list" | "delete", name: string) => void | Promise<void>;

/** Runs `before` ahead of every call to `storage`; where it throws, the call is not made. */
export function intercepted(storage: ObjectStorage, before: Before): ObjectStorage {
  return {
    async put(name, bytes, options) {
      await before("put", name);
      return storage.put(name, bytes, options);
    },
    async get(name, options) {
      await before("get", name);
      return storage.get(name, options);
    },
    async *list(prefix, signal) {
      await before("list", prefix);
      yield* storage.list(prefix, signal);
    },
    async delete(name, signal) {
      await before("delete", name);
      await storage.delete(name, signal);
    },
  };
}

/** The files of the packs in a repository. */
export async function packsIn(dir: string): Promise<string[]> {
  return (await objectsIn(dir)).filter((path) => relative(dir, path).startsWith("packs/"));
}

/** Flips one bit of a file; once more puts it back. */
export async function flip(path: string, offset: number, bit: number): Promise<void> {
  const file = await open(path, "r+");
  try {
    const byte = Buffer.alloc(1);
    await file.read(byte, 0, 1, offset);
    byte[0] = (byte[0] ?? 0) ^ (1 << bit);
    await file.write(byte, 0, 1, offset);
  } finally {
    await file.close();
  }
}
