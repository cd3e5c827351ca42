import { isReason } from "../../errors.ts";
import type { Directory, Entry, Name } from "./directory.ts";
import { hasFileCode, isChangedMeanwhile } from "./failures.ts";

/**
 * Levels below the top that are walked. Each holds two open files, of which a process has a thousand at least. Paths that can
 * be named at all have 2,048 levels at most, and those of people and programs a few dozen.
 */
export const deepestLevel = 200;

/** Why a directory was not walked: it vanished or turned into something else, may not be read, is too deep, or is another file system. */
export type Skipped = "changed" | "denied" | "too deep" | "mounted";

/** What a walk meets. */
export type Step =
  /** Some of what is in a directory; every entry comes once. */
  | { readonly type: "entries"; readonly in: Directory; readonly path: Name; readonly entries: readonly Entry[] }
  /** Everything in a directory has been met. It is still open, and so is its parent; the top has none. */
  | {
      readonly type: "end";
      readonly in: Directory;
      readonly path: Name;
      readonly parent?: Directory;
      readonly name: Name;
    }
  | { readonly type: "skipped"; readonly path: Name; readonly why: Skipped };

/** How to walk. */
export interface WalkOptions {
  readonly signal: AbortSignal;
  /** Says which directories are entered; all where not given. The path is that of the directory. */
  readonly enters?: (path: Name, entry: Entry) => boolean;
}

/**
 * Goes through everything below a directory, depth first, in no order. Holds one batch of entries for each level, so memory does not
 * grow with the number of files. What is made meanwhile may be met or not; what is there all the time is met once.
 */
export async function* walk(top: Directory, options: WalkOptions): AsyncGenerator<Step> {
  yield* walkBelow({ directory: top, path: Buffer.alloc(0), level: 0 }, options);
}

interface Place {
  readonly directory: Directory;
  readonly path: Name;
  readonly level: number;
}

/** Whether all of it could be met. */
async function* walkBelow(place: Place, options: WalkOptions): AsyncGenerator<Step, boolean> {
  try {
    yield* walkEntries(place, options);
    return true;
  } catch (error) {
    // One that may be listed, and in which nothing may be looked at.
    if (place.level === 0 || !hasFileCode(error, "EACCES", "EPERM")) throw error;
    yield { type: "skipped", path: place.path, why: "denied" };
    return false;
  }
}

async function* walkEntries({ directory, path, level }: Place, options: WalkOptions): AsyncGenerator<Step> {
  for await (const entries of directory.entries()) {
    options.signal.throwIfAborted();
    yield { type: "entries", in: directory, path, entries };
    for (const entry of entries) {
      if (!entry.stat.isDirectory()) continue;
      const below = joinPath(path, entry.name);
      if (options.enters?.(below, entry) === false) continue;
      if (level === deepestLevel) {
        yield { type: "skipped", path: below, why: "too deep" };
        continue;
      }
      const opened = await openBelow(directory, entry.name);
      if (typeof opened === "string") {
        yield { type: "skipped", path: below, why: opened };
        continue;
      }
      await using child = opened;
      const isMet = yield* walkBelow({ directory: child, path: below, level: level + 1 }, options);
      if (isMet) yield { type: "end", in: child, path: below, parent: directory, name: entry.name };
    }
  }
  if (level === 0) yield { type: "end", in: directory, path, name: path };
}

async function openBelow(parent: Directory, name: Name): Promise<Directory | Skipped> {
  try {
    return await parent.open(name);
  } catch (error) {
    if (isChangedMeanwhile(error)) return "changed";
    if (hasFileCode(error, "EACCES", "EPERM")) return "denied";
    if (isReason(error, "VOLUME_PATH_REFUSED")) return "mounted";
    throw error;
  }
}

const slash = Buffer.from("/");

/** The path of a name in the directory at `path`. */
export function joinPath(path: Name, name: Name): Name {
  return path.length === 0 ? name : Buffer.concat([path, slash, name]);
}

/** A path for people: text as it is, but `\` doubled, and what is no text or would change a terminal as `\xNN`. */
export function shownPath(path: Name): string {
  const text = path.toString("utf8");
  const isText = Buffer.from(text, "utf8").equals(path);
  const encoding = isText ? "utf8" : "latin1";
  // oxlint-disable-next-line no-control-regex
  const hidden = isText ? /[\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]/g : /[^\u0020-\u007e]/g;
  const escaped = (character: string) =>
    [...Buffer.from(character, encoding)].map((byte) => `\\x${byte.toString(16).padStart(2, "0")}`).join("");
  return path.toString(encoding).replaceAll("\\", "\\\\").replaceAll(hidden, escaped);
}
