import { randomUUID } from "node:crypto";

import type { Directory, Name } from "./directory.ts";
import { hasFileCode, isChangedMeanwhile } from "./failures.ts";

/** Levels that are held open; a deeper directory is moved up first, so that no depth is too deep to be removed. */
const mostLevels = 50;
/** How often a directory is gone through that others keep filling. */
const mostRounds = 1000;

/** Removes a directory with all that is in it; symlinks as such. What others have removed meanwhile is no failure. */
export async function removeTree(parent: Directory, name: Name, signal: AbortSignal): Promise<void> {
  await removeBelow({ parent, name, lifted: parent, level: 0 }, signal);
}

interface Place {
  readonly parent: Directory;
  readonly name: Name;
  /** Where directories are moved that are too deep. */
  readonly lifted: Directory;
  readonly level: number;
}

async function removeBelow({ parent, name, lifted, level }: Place, signal: AbortSignal): Promise<void> {
  for (let round = 1; ; round++) {
    try {
      await using directory = await parent.open(name);
      await removeEntries(directory, { lifted: level === 0 ? directory : lifted, level }, signal);
    } catch (error) {
      if (hasFileCode(error, "ENOENT")) return;
      if (!isChangedMeanwhile(error)) throw error;
      await parent.remove(name); // no directory any more
      return;
    }
    try {
      await parent.removeDirectory(name);
      return;
    } catch (error) {
      if (hasFileCode(error, "ENOENT")) return;
      if (!hasFileCode(error, "ENOTEMPTY", "EEXIST") || round === mostRounds) throw error;
    }
  }
}

async function removeEntries(
  directory: Directory,
  { lifted, level }: Pick<Place, "lifted" | "level">,
  signal: AbortSignal,
): Promise<void> {
  // Nothing can be removed from a directory that may not be written.
  if ((directory.stat.mode & 0o700n) !== 0o700n) await directory.setMode(0o700);
  for await (const entries of directory.entries()) {
    signal.throwIfAborted();
    for (const { name, stat } of entries) {
      if (!stat.isDirectory()) await directory.remove(name).catch(unlessGone);
      else if (level < mostLevels) await removeBelow({ parent: directory, name, lifted, level: level + 1 }, signal);
      else await directory.rename(name, lifted, Buffer.from(`lifted-${randomUUID()}`)).catch(unlessGone);
    }
  }
}

function unlessGone(error: unknown): void {
  if (!hasFileCode(error, "ENOENT")) throw error;
}
