import { randomUUID } from "node:crypto";
import type { Dirent } from "node:fs";
import { type FileHandle, link, mkdir, open, readdir, rename, rmdir, stat, unlink } from "node:fs/promises";
import { dirname, join, relative, resolve, sep } from "node:path";

import { fail } from "../../errors.ts";
import type { ByteRange, ObjectInfo, ObjectStorage } from "./storage.ts";

/** A temporary file this old belongs to a process that died: no put takes that long. */
const TEMPORARY_AGE_MS = 24 * 60 * 60 * 1000;
const TEMPORARY_FOLDER = "tmp";
/**
 * Room that is given up where a disk is full, so that small objects can still be written: without it nothing could be deleted
 * there, since a deletion begins with a note that it has.
 */
const RESERVE_BYTES = 256 * 1024;
const RESERVE_FILE = "reserve";
const MOST_ATTEMPTS = 50;
/** How many files a listing looks at together. */
const STAT_BATCH = 64;

/**
 * Keeps objects as files below `dir`, which is made where it is missing (mode 0700, files 0600). A put writes a temporary file,
 * syncs it, gives it its name by a hard link (`ifAbsent`) or a rename, and syncs the folder: after a crash the object is there
 * whole or not at all. Works on any POSIX file system with hard links, also shared between processes.
 */
export async function openLocalStorage(dir: string): Promise<ObjectStorage> {
  const root = resolve(dir);
  const temporaryFolder = join(root, TEMPORARY_FOLDER);
  const reserve = join(temporaryFolder, RESERVE_FILE);
  await guarded("", async () => {
    await makeFolder(temporaryFolder);
    await removeLeftovers(temporaryFolder);
    await keepReserve(reserve);
  });
  const pathOf = (name: string) => {
    // Names come from this code, but a backup id is a part of some: none may point out of the folder.
    if (!/^[a-z0-9][A-Za-z0-9._-]*(\/[A-Za-z0-9][A-Za-z0-9._-]*)*$/.test(name))
      throw new Error(`Bad object name ${name}`);
    return join(root, ...name.split("/"));
  };

  return {
    put: (name, bytes, { ifAbsent, signal }) =>
      guarded(name, async () => {
        signal.throwIfAborted();
        const store = () => putFile(join(temporaryFolder, randomUUID()), pathOf(name), bytes, { ifAbsent, signal });
        try {
          return await store();
        } catch (error) {
          if (bytes.byteLength > RESERVE_BYTES / 4 || !hasCode(error, ...FULL)) throw error;
          await unlink(reserve).catch(ignoreMissing);
          return await store();
        }
      }),

    get: (name, { range, signal }) =>
      guarded(name, async () => {
        signal.throwIfAborted();
        let file: FileHandle;
        try {
          file = await open(pathOf(name), "r");
        } catch (error) {
          if (hasCode(error, "ENOENT", "ENOTDIR")) return undefined;
          throw error;
        }
        try {
          return await readRange(file, range);
        } finally {
          await file.close();
        }
      }),

    async *list(prefix, signal) {
      const files = await guarded(prefix, () => filesBelow(join(root, ...prefix.split("/"))));
      for (let i = 0; i < files.length; i += STAT_BATCH) {
        signal.throwIfAborted();
        const infos = await guarded(prefix, () =>
          Promise.all(files.slice(i, i + STAT_BATCH).map((path) => infoOf(root, path))),
        );
        yield* infos.filter((info) => info !== undefined);
      }
    },

    delete: (name, signal) =>
      guarded(name, async () => {
        signal.throwIfAborted();
        const path = pathOf(name);
        await unlink(path).catch(ignoreMissing);
        await keepReserve(reserve);
        // The folder of a writer goes with its last pack. Where something was added meanwhile, it stays.
        await rmdir(dirname(path)).catch((error: unknown) => {
          if (!hasCode(error, "ENOTEMPTY", "EEXIST", "ENOENT", "EBUSY")) throw error;
        });
      }),
  };
}

async function putFile(
  temporary: string,
  path: string,
  bytes: Uint8Array,
  { ifAbsent, signal }: { readonly ifAbsent: boolean; readonly signal: AbortSignal },
): Promise<boolean> {
  try {
    await writeDurably(temporary, bytes);
    signal.throwIfAborted();
    return await publish(temporary, path, ifAbsent);
  } finally {
    await unlink(temporary).catch(ignoreMissing);
  }
}

/** Takes the reserve again where it was given up and there is room. */
async function keepReserve(path: string): Promise<void> {
  try {
    await writeDurably(path, Buffer.alloc(RESERVE_BYTES));
  } catch (error) {
    if (hasCode(error, "EEXIST")) return;
    if (!hasCode(error, ...FULL)) throw error;
    await unlink(path).catch(ignoreMissing); // what there was room for is no reserve
  }
}

async function writeDurably(path: string, bytes: Uint8Array): Promise<void> {
  const file = await open(path, "wx", 0o600);
  try {
    await file.writeFile(bytes);
    await file.datasync();
  } finally {
    await file.close();
  }
}

async function publish(temporary: string, path: string, ifAbsent: boolean): Promise<boolean> {
  const folder = dirname(path);
  // A delete takes an empty folder away, perhaps between its making here and its use. It is then made again.
  for (let attempt = 1; ; attempt++) {
    try {
      await makeFolder(folder);
      await (ifAbsent ? link(temporary, path) : rename(temporary, path));
      break;
    } catch (error) {
      if (ifAbsent && hasCode(error, "EEXIST")) return false;
      if (!hasCode(error, "ENOENT") || attempt === MOST_ATTEMPTS) throw error;
    }
  }
  await syncFolder(folder).catch(ignoreMissing); // where it is gone, the object has been deleted again
  return true;
}

async function readRange(file: FileHandle, range: ByteRange | undefined): Promise<Buffer> {
  let offset = 0;
  let length: number;
  if (range !== undefined && "offset" in range) {
    ({ offset, length } = range);
  } else {
    const { size } = await file.stat();
    length = range === undefined ? size : Math.min(size, range.last);
    offset = size - length;
  }
  const bytes = Buffer.allocUnsafeSlow(length);
  let filled = 0;
  while (filled < length) {
    const { bytesRead } = await file.read(bytes, filled, length - filled, offset + filled);
    if (bytesRead === 0) break;
    filled += bytesRead;
  }
  return bytes.subarray(0, filled);
}

/**
 * The files in a folder and those below it. Each folder is read by itself: one that another process removes meanwhile is empty,
 * and says nothing of the others.
 */
async function filesBelow(folder: string): Promise<string[]> {
  const files: string[] = [];
  const folders = [folder];
  for (let next = folders.pop(); next !== undefined; next = folders.pop()) {
    for (const entry of await entriesOf(next)) {
      const path = join(next, entry.name);
      if (entry.isDirectory()) folders.push(path);
      else if (entry.isFile()) files.push(path);
    }
  }
  return files;
}

async function entriesOf(folder: string): Promise<Dirent[]> {
  try {
    return await readdir(folder, { withFileTypes: true });
  } catch (error) {
    if (hasCode(error, "ENOENT")) return [];
    throw error;
  }
}

async function infoOf(root: string, path: string): Promise<ObjectInfo | undefined> {
  try {
    return { name: relative(root, path).split(sep).join("/"), size: (await stat(path)).size };
  } catch (error) {
    if (hasCode(error, "ENOENT")) return undefined; // deleted since the folder was read
    throw error;
  }
}

/** Makes a folder and what is missing above it, so that it is there after a crash. */
async function makeFolder(path: string): Promise<void> {
  const first = await mkdir(path, { recursive: true, mode: 0o700 });
  if (first === undefined) return;
  for (let folder = path; folder.length >= first.length; folder = dirname(folder)) await syncFolder(dirname(folder));
}

async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, "r");
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

async function removeLeftovers(folder: string): Promise<void> {
  for (const name of await readdir(folder)) {
    if (name === RESERVE_FILE) continue;
    const path = join(folder, name);
    try {
      if ((await stat(path)).mtimeMs < Date.now() - TEMPORARY_AGE_MS) await unlink(path);
    } catch (error) {
      ignoreMissing(error); // another process was faster
    }
  }
}

/** Says what a caller can act on; what the file system said, with its path, goes into the log only. */
async function guarded<T>(name: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    const metadata = name === "" ? {} : { object: name };
    if (hasCode(error, ...FULL)) {
      throw fail("BACKUP_REPOSITORY_FULL", "There is no room left for the backup repository", {
        metadata,
        cause: error,
      });
    }
    if (error instanceof Error && "syscall" in error) {
      const message = "The folder of the backup repository cannot be used";
      throw fail("BACKUP_REPOSITORY_UNAVAILABLE", message, { metadata, cause: error });
    }
    throw error;
  }
}

const FULL = ["ENOSPC", "EDQUOT", "EFBIG"] as const;

function hasCode(error: unknown, ...codes: readonly string[]): boolean {
  return error instanceof Error && "code" in error && typeof error.code === "string" && codes.includes(error.code);
}

function ignoreMissing(error: unknown): void {
  if (!hasCode(error, "ENOENT")) throw error;
}
