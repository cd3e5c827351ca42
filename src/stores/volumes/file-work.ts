import {
  type BigIntStats,
  closeSync,
  constants,
  fchmodSync,
  fchownSync,
  fstatSync,
  fsyncSync,
  futimesSync,
  lstatSync,
  openSync,
  readSync,
  unlinkSync,
  writeSync,
} from "node:fs";

import { isCopyOf, modeOfCopy } from "./entry-meta.ts";

/** A piece of work: the same with each of some names of one directory, or of two. */
export interface FileTask {
  readonly what: "copy" | "compare" | "remove" | "find" | "sync";
  /** What paths begin with, of the one directory and of the other, both open in this process. */
  readonly from: string;
  readonly to: string;
  readonly names: readonly Uint8Array[];
}

/**
 * What became of a name. `other` is what this is not about: long files, those with several names, what is no file, what is in the
 * way. `denied` may not be read.
 */
export type FileOutcome =
  | "copied"
  | "there"
  | "equal"
  | "different"
  | "removed"
  | "kept"
  | "synced"
  | "gone"
  | "denied"
  | "other";

/** What became of the names of a task. */
export interface FileReport {
  readonly outcomes: readonly FileOutcome[];
  /** Bytes that were copied. */
  readonly bytes: number;
}

const { O_CREAT, O_EXCL, O_NOCTTY, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, O_WRONLY } = constants;
const reading = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY;
const making = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW;

/**
 * Does tasks, waiting for each system call where it is: in a thread of its own. A call that waits costs a tenth of what one does whose
 * result is told from one thread to another, and of those a small file takes thirty. Files longer than `mostBytes` are left to others.
 */
export function fileWork({ mostBytes }: { readonly mostBytes: number }): (task: FileTask) => FileReport {
  // One byte more than a file may have shows that it has grown.
  const [one, other] = [Buffer.allocUnsafeSlow(mostBytes + 1), Buffer.allocUnsafeSlow(mostBytes + 1)];
  return (task) => {
    const doing = { one, other, mostBytes, bytes: 0 };
    const outcomes = task.names.map((name) => works[task.what](task, name, doing));
    return { outcomes, bytes: doing.bytes };
  };
}

interface Doing {
  readonly one: Buffer;
  readonly other: Buffer;
  readonly mostBytes: number;
  bytes: number;
}

const works = { copy: copyFile, compare: compareFiles, remove: removeFile, find: findName, sync: syncFile } as const;

function copyFile({ from, to }: FileTask, name: Uint8Array, doing: Doing): FileOutcome {
  const { mostBytes, one } = doing;
  return withFile(pathOf(from, name), (source, stat) => {
    if (stat.nlink > 1n || stat.size > mostBytes) return "other";
    const there = find(pathOf(to, name));
    if (there !== undefined) return isCopyOf(there, stat) ? "there" : "other";
    const length = fill(source, one);
    if (length > mostBytes) return "other";
    write(pathOf(to, name), one.subarray(0, length), stat);
    doing.bytes += length;
    return "copied";
  });
}

function write(path: Buffer, content: Buffer, stat: BigIntStats): void {
  const target = openSync(path, making, 0o600);
  try {
    for (let at = 0; at < content.length;) at += writeSync(target, content, at, content.length - at, at);
    // Only the administrator may give files away. It takes bits of permission away, which are therefore given behind it.
    if (process.getuid?.() === 0) fchownSync(target, Number(stat.uid), Number(stat.gid));
    fchmodSync(target, modeOfCopy(stat));
    const seconds = Number(stat.mtimeNs) / 1e9;
    futimesSync(target, seconds, seconds);
  } catch (error) {
    unlinkQuietly(path);
    throw error;
  } finally {
    closeSync(target);
  }
}

/** Why a file could not be written says more than why what there is of it cannot be removed. */
function unlinkQuietly(path: Buffer): void {
  try {
    unlinkSync(path);
  } catch {
    // What is left is found when the task is done again.
  }
}

function compareFiles({ from, to }: FileTask, name: Uint8Array, { one, other, mostBytes }: Doing): FileOutcome {
  return withFile(pathOf(from, name), (source, stat) => {
    if (stat.size > mostBytes) return "other";
    const outcome = withFile(pathOf(to, name), (copy, there) => {
      if (!isCopyOf(there, stat)) return "different";
      const [length, lengthThere] = [fill(source, one), fill(copy, other)];
      const isEqual = length === lengthThere && one.compare(other, 0, length, 0, length) === 0;
      const now = fstatSync(source, { bigint: true });
      // Whatever is done to a file changes this time, which nobody can set.
      return isEqual && now.ctimeNs === stat.ctimeNs ? "equal" : "different";
    });
    return outcome === "equal" ? outcome : "different";
  });
}

/** Removes a file or a symlink that has a copy, as long as it is what was copied. */
function removeFile({ from, to }: FileTask, name: Uint8Array): FileOutcome {
  const stat = find(pathOf(from, name));
  if (stat === undefined) return "gone";
  if (stat.isDirectory()) return "kept";
  const copy = find(pathOf(to, name));
  if (copy === undefined || !isCopyOf(copy, stat)) return "kept";
  try {
    unlinkSync(pathOf(from, name));
    return "removed";
  } catch (error) {
    if (isOneOf(error, goneCodes)) return "gone";
    throw error;
  }
}

/** Whether the other directory has something of that name. */
function findName({ to }: FileTask, name: Uint8Array): FileOutcome {
  return find(pathOf(to, name)) === undefined ? "gone" : "there";
}

/** Returns when a file is on the device. */
function syncFile({ to }: FileTask, name: Uint8Array): FileOutcome {
  return withFile(pathOf(to, name), (file) => {
    fsyncSync(file);
    return "synced";
  });
}

/** Opens a file, for as long as it is looked at. */
function withFile(path: Buffer, look: (file: number, stat: BigIntStats) => FileOutcome): FileOutcome {
  let file: number;
  try {
    file = openSync(path, reading);
  } catch (error) {
    if (isOneOf(error, goneCodes)) return "gone";
    if (isOneOf(error, deniedCodes)) return "denied";
    throw error;
  }
  try {
    const stat = fstatSync(file, { bigint: true });
    return stat.isFile() ? look(file, stat) : "gone";
  } finally {
    closeSync(file);
  }
}

/** Its name is gone, or that of something else by now; the last two of a socket, and of a device that nobody drives. */
const goneCodes = ["ENOENT", "ENOTDIR", "ELOOP", "EISDIR", "ESTALE", "ENXIO", "ENODEV"];
const deniedCodes = ["EACCES", "EPERM", "EIO"];

function isOneOf(error: unknown, codes: readonly string[]): boolean {
  return error instanceof Error && "code" in error && codes.includes(String(error.code));
}

function find(path: Buffer): BigIntStats | undefined {
  return lstatSync(path, { bigint: true, throwIfNoEntry: false });
}

function fill(file: number, target: Buffer): number {
  for (let filled = 0; ;) {
    const length = filled === target.length ? 0 : readSync(file, target, filled, target.length - filled, filled);
    if (length === 0) return filled;
    filled += length;
  }
}

function pathOf(place: string, name: Uint8Array): Buffer {
  return Buffer.concat([Buffer.from(place), name]);
}
