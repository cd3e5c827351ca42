import { randomUUID } from "node:crypto";
import type { FileHandle } from "node:fs/promises";

import { fail } from "../../errors.ts";
import type { Directory, Name } from "./directory.ts";
import { hasFileCode } from "./failures.ts";
import { removeTree } from "./remove-tree.ts";

/** What files are called that are being written. */
const temporaryPrefix = "tmp-";
/** What directories are called that are not wanted any more. */
const discardedPrefix = "discarded-";

/**
 * Writes a file of the service's own: it is there whole or not at all, also after a crash. With `ifAbsent` it returns false and
 * changes nothing where a file has that name; otherwise it takes its place.
 */
export async function writeOwnFile(
  own: Directory,
  name: string,
  bytes: Uint8Array,
  { ifAbsent }: { readonly ifAbsent: boolean },
): Promise<boolean> {
  const temporary = temporaryName();
  const file = await own.createFile(temporary);
  try {
    await writeDurably(file, bytes);
    await (ifAbsent ? own.link(temporary, own, Buffer.from(name)) : own.rename(temporary, own, Buffer.from(name)));
    await own.sync();
    return true;
  } catch (error) {
    if (ifAbsent && hasFileCode(error, "EEXIST")) return false;
    throw error;
  } finally {
    await removeOwnFile(own, temporary.toString());
  }
}

async function writeDurably(file: FileHandle, bytes: Uint8Array): Promise<void> {
  try {
    await file.writeFile(bytes);
    await file.datasync();
  } finally {
    await file.close();
  }
}

/** Reads such a file; undefined where there is none. Fails with `VOLUME_DAMAGED` where it is larger than any that was written. */
export async function readOwnFile(
  own: Directory,
  name: string,
  { mostBytes }: { readonly mostBytes: number },
): Promise<Buffer | undefined> {
  let file: FileHandle;
  try {
    file = await own.openFile(Buffer.from(name));
  } catch (error) {
    if (hasFileCode(error, "ENOENT")) return undefined;
    throw error;
  }
  try {
    const { size } = await file.stat();
    if (size > mostBytes) throw fail("VOLUME_DAMAGED", "A file of the service's own in the volume is too large");
    const bytes = Buffer.alloc(size);
    const { bytesRead } = await file.read(bytes, 0, size, 0);
    return bytes.subarray(0, bytesRead);
  } finally {
    await file.close();
  }
}

/**
 * Removes a directory of the service's own with all that is in it. It loses its name first, so that `removeLeftovers` goes on with what
 * is left of it where this comes to no end. One that is not there is no failure.
 */
export async function discard(own: Directory, name: Name, signal: AbortSignal): Promise<void> {
  const discarded = Buffer.from(`${discardedPrefix}${randomUUID()}`);
  try {
    await own.rename(name, own, discarded);
  } catch (error) {
    if (hasFileCode(error, "ENOENT")) return;
    throw error;
  }
  await removeTree(own, discarded, signal);
}

/**
 * Removes what is left of discarded directories, and files that processes which died were writing before a time. By when they were last
 * touched in any way: what is restored has the time of its original already while it is still under its temporary name.
 */
export async function removeLeftovers(
  own: Directory,
  { beforeMs, signal }: { readonly beforeMs: number; readonly signal: AbortSignal },
): Promise<void> {
  for await (const entries of own.entries()) {
    for (const { name, stat } of entries) {
      const text = name.toString("latin1");
      if (stat.isDirectory()) {
        if (text.startsWith(discardedPrefix)) await removeTree(own, name, signal);
      } else if (text.startsWith(temporaryPrefix) && Number(stat.ctimeMs) < beforeMs) await removeOwnFile(own, text);
    }
  }
}

/** What a file is called that is being written. */
export function temporaryName(): Name {
  return Buffer.from(`${temporaryPrefix}${randomUUID()}`);
}

/** Removes such a file where it is there. */
export async function removeOwnFile(own: Directory, name: string): Promise<void> {
  await own.remove(Buffer.from(name)).catch((error: unknown) => {
    if (!hasFileCode(error, "ENOENT")) throw error;
  });
}
