import type { BigIntStats } from "node:fs";

import { isReason } from "../../errors.ts";
import type { Directory, Name } from "../../stores/volumes/directory.ts";
import { hasFileCode, isChangedMeanwhile } from "../../stores/volumes/failures.ts";
import { isOwn } from "../../stores/volumes/volumes.ts";
import { deepestLevel } from "../../stores/volumes/walk.ts";

/** What is in a volume, or a part of it. */
export interface Sums {
  bytes: number;
  allocated: number;
  files: number;
  directories: number;
  others: number;
  skipped: number;
}

/** What is known of one directory from the last time that it was read. */
interface ReadDirectory {
  readonly ino: bigint;
  readonly ctimeNs: bigint;
  /** Of what lies in the directory itself. */
  readonly sums: Sums;
  /** Names of the directories in it; a string of bytes takes a third of what a Buffer does. */
  readonly children: readonly string[];
}

/** What is known of the directories of a volume, by their paths. */
export type ReadDirectories = ReadonlyMap<string, ReadDirectory>;

/** A measure of a volume, and what the next one may rest on. */
export interface Measured {
  readonly sums: Sums;
  readonly directories: ReadDirectories;
}

/**
 * How long before it was read a directory must have been changed, to be known by its time from then on: the clocks of file systems
 * tick, and one that is changed twice within a tick shows the same time twice. Coarse enough for network file systems too.
 */
const settledMs = 2000;

/** Directories of a volume that are remembered: a hundred bytes each. A volume with more is always measured in full. */
const mostRemembered = 100_000;

/** How to measure. */
export interface MeasureOptions {
  readonly signal: AbortSignal;
  /**
   * What is known from the measure before. Directories that have not been changed since are not read again, and the sizes of their
   * files are taken to be the same: names that come and go change a directory, a file that grows does not. Without it every file is
   * looked at.
   */
  readonly known?: ReadDirectories | undefined;
  /** The service's clock, as far as it differs from the one that stamps the files it matters little: see `settledMs`. */
  readonly now?: () => number;
}

/** Measures everything in a volume but the service's own. Holds as much as there are directories, never as there are files. */
export async function measure(top: Directory, options: MeasureOptions): Promise<Measured> {
  const sums: Sums = { bytes: 0, allocated: 0, files: 0, directories: 0, others: 0, skipped: 0 };
  const directories = new Map<string, ReadDirectory>();
  const take = (path: string, read: ReadDirectory, isSettled: boolean): void => {
    for (const key of keys) sums[key] += read.sums[key];
    if (isSettled && directories.size < mostRemembered) directories.set(path, read);
  };
  await measureBelow({ directory: top, path: "", level: 0 }, { ...options, sums, take });
  return { sums, directories: directories.size < mostRemembered ? directories : new Map() };
}

const keys = ["bytes", "allocated", "files", "directories", "others", "skipped"] as const;

interface Place {
  readonly directory: Directory;
  readonly path: string;
  readonly level: number;
}

interface Walk extends MeasureOptions {
  readonly sums: Sums;
  readonly take: (path: string, read: ReadDirectory, isSettled: boolean) => void;
}

async function measureBelow({ directory, path, level }: Place, walk: Walk): Promise<void> {
  walk.signal.throwIfAborted();
  const known = walk.known?.get(path);
  const isUnchanged =
    known !== undefined && known.ino === directory.stat.ino && known.ctimeNs === directory.stat.ctimeNs;
  let read = known;
  if (!isUnchanged || read === undefined) {
    const settledBefore = (walk.now ?? Date.now)() - settledMs;
    try {
      read = await readDirectory(directory, { isTop: level === 0, signal: walk.signal });
    } catch (error) {
      // One that may be listed, and in which nothing may be looked at.
      if (level === 0 || !hasFileCode(error, "EACCES", "EPERM")) throw error;
      walk.sums.skipped++;
      return;
    }
    const after = await directory.now();
    const isSettled = after.ctimeNs === directory.stat.ctimeNs && Number(after.ctimeMs) < settledBefore;
    walk.take(path, read, isSettled);
  } else walk.take(path, read, true);

  for (const child of read.children) {
    if (level === deepestLevel) {
      walk.sums.skipped++;
      continue;
    }
    const opened = await openChild(directory, Buffer.from(child, "latin1"));
    if (opened === undefined) walk.sums.skipped++;
    else if (opened !== "gone") {
      await using below = opened;
      await measureBelow({ directory: below, path: `${path}/${child}`, level: level + 1 }, walk);
    }
  }
}

/** Undefined for one that may not be looked into. */
async function openChild(directory: Directory, name: Name): Promise<Directory | "gone" | undefined> {
  try {
    return await directory.open(name);
  } catch (error) {
    if (isChangedMeanwhile(error)) return "gone";
    if (hasFileCode(error, "EACCES", "EPERM") || isReason(error, "VOLUME_PATH_REFUSED")) return undefined;
    throw error;
  }
}

async function readDirectory(
  directory: Directory,
  { isTop, signal }: { readonly isTop: boolean; readonly signal: AbortSignal },
): Promise<ReadDirectory> {
  const sums: Sums = { bytes: 0, allocated: 0, files: 0, directories: 0, others: 0, skipped: 0 };
  const children: string[] = [];
  for await (const entries of directory.entries()) {
    signal.throwIfAborted();
    for (const { name, stat } of entries) {
      if (isTop && isOwn(name)) continue;
      if (stat.isDirectory()) {
        sums.directories++;
        children.push(name.toString("latin1"));
      } else addFile(sums, stat);
    }
  }
  return { ino: directory.stat.ino, ctimeNs: directory.stat.ctimeNs, sums, children };
}

function addFile(sums: Sums, stat: BigIntStats): void {
  const names = Math.max(1, Number(stat.nlink));
  const isFile = stat.isFile();
  if (isFile) sums.files++;
  else sums.others++;
  if (isFile || stat.isSymbolicLink()) sums.bytes += Number(stat.size) / names;
  sums.allocated += (Number(stat.blocks) * 512) / names;
}
