import { randomUUID } from "node:crypto";
import { type FileHandle, link, mkdir, open, readdir, rename, rmdir, stat, unlink } from "node:fs/promises";
import { dirname, join, relative, resolve, sep } from "node:path";

import { fail } from "../../errors.ts";
import type { ByteRange, ObjectInfo, ObjectStorage } from "./storage.ts";

/** A temporary file this old belongs to a process that died: no put takes that long. */
const TEMPORARY_AGE_MS = 24 * 60 * 60 * 1000;
const TEMPORARY_FOLDER = "tmp";
/** How many files a listing looks at together. */
const STAT_BATCH = 64;

/**
 * Keeps objects as files below `dir`, which is made where it is missing (mode 0700, files 0600). A put writes a temporary file,
 * syncs it, gives it its name by a hard link (`ifAbsent`) or a rename, and syncs the folder: after a crash the object is there
 * whole or not at all. Works on any POSIX file system with hard links, also shared between processes.
 */
export async function openLocalStorage(dir: string): Promise<ObjectStorage> {
  const root = resolve(dir);
  await guarded("", async () => {
    await makeFolder(join(root, TEMPORARY_FOLDER));
    await removeLeftovers(join(root, TEMPORARY_FOLDER));
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
        const temporary = join(root, TEMPORARY_FOLDER, randomUUID());
        try {
          await writeDurably(temporary, bytes);
          signal.throwIfAborted();
          return await publish(temporary, pathOf(name), ifAbsent);
        } finally {
          await unlink(temporary).catch(ignoreMissing);
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
      const folder = join(root, ...prefix.split("/"));
      const entries = await guarded(prefix, async () => {
        try {
          return await readdir(folder, { recursive: true, withFileTypes: true });
        } catch (error) {
          if (hasCode(error, "ENOENT")) return [];
          throw error;
        }
      });
      const files = entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
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
        // The folder of a writer goes with its last pack. Where something was added meanwhile, it stays.
        await rmdir(dirname(path)).catch((error: unknown) => {
          if (!hasCode(error, "ENOTEMPTY", "EEXIST", "ENOENT", "EBUSY")) throw error;
        });
      }),
  };
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
  // The folder may be removed by a delete between its making and its use; it is then made again.
  for (let attempt = 1; ; attempt++) {
    await makeFolder(dirname(path));
    try {
      await (ifAbsent ? link(temporary, path) : rename(temporary, path));
      await syncFolder(dirname(path));
      return true;
    } catch (error) {
      if (ifAbsent && hasCode(error, "EEXIST")) return false;
      if (!hasCode(error, "ENOENT") || attempt === 5) throw error;
    }
  }
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
    if (hasCode(error, "ENOSPC", "EDQUOT", "EFBIG")) {
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

function hasCode(error: unknown, ...codes: string[]): boolean {
  return error instanceof Error && "code" in error && typeof error.code === "string" && codes.includes(error.code);
}

function ignoreMissing(error: unknown): void {
  if (!hasCode(error, "ENOENT")) throw error;
}
