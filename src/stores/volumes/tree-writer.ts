import type { FileHandle } from "node:fs/promises";

import { fail } from "../../errors.ts";
import { DirectoryFinder, parentOf } from "./directory-finder.ts";
import type { Directory, Name } from "./directory.ts";
import { hasFileCode, isChangedMeanwhile } from "./failures.ts";
import type { Parts } from "./file-reader.ts";
import { removeOwnFile, temporaryName } from "./own-files.ts";
import { removeTree } from "./remove-tree.ts";
import type { OpenVolume } from "./volumes.ts";
import { isOwn } from "./volumes.ts";
import { deepestLevel, shownPath } from "./walk.ts";

/** What a file or directory is besides its content. */
export interface EntryMeta {
  /** The lower 12 bits of `st_mode`, all of which are given. */
  readonly mode: number;
  readonly mtimeNs: bigint;
  readonly userId: number;
  readonly groupId: number;
}

/** What becomes of what is there already: `refuse` fails, `replace` removes it, `keep` leaves it and whatever should be below it. */
export type Occupied = "refuse" | "replace" | "keep";

/** Where a tree is written, and where its files are while they are not whole. */
export type WrittenTree = Pick<OpenVolume, "top" | "own">;

/** Files that are written at once. */
const mostAtOnce = 16;

interface Place {
  readonly directory: Directory;
  readonly name: Name;
  readonly path: Name;
}

interface Level {
  readonly name: Name;
  readonly directory: Directory;
  /** Whether it was not there before. */
  readonly isNew: boolean;
}

/**
 * Puts files, directories and symlinks into a volume, by paths that nobody vouches for. A file gets its name when it is whole, so
 * that a crash leaves no half of one, unless `direct` is set. What follows each other in one directory is written together. Paths come in the order of a
 * walk: a directory behind all that is in it.
 */
export class TreeWriter implements AsyncDisposable {
  readonly #volume: WrittenTree;
  readonly #occupied: Occupied;
  readonly #isDirect: boolean;
  readonly #signal: AbortSignal;
  readonly #levels: Level[] = [];
  readonly #pending = new Set<Promise<void>>();
  #failure: { readonly error: unknown } | undefined;

  constructor(
    volume: WrittenTree,
    options: {
      readonly occupied: Occupied;
      /**
       * Whether a file has its name from the beginning, which takes half the time: for a tree that nobody takes for whole before all
       * of it is.
       */
      readonly direct: boolean;
      readonly signal: AbortSignal;
    },
  ) {
    this.#volume = volume;
    this.#occupied = options.occupied;
    this.#isDirect = options.direct;
    this.#signal = options.signal;
  }

  /**
   * Writes a file beside others of its directory; `done` is called when it has its name, or was kept out by what is there. The
   * bytes must stay as they are until then. Failures come with a later call, `settle` at the latest.
   */
  async putWhole(path: Name, content: Uint8Array, meta: EntryMeta, done: (isWritten: boolean) => void): Promise<void> {
    const place = await this.#placeOf(path);
    if (place === undefined) {
      done(false);
      return;
    }
    const write = async (): Promise<void> => {
      try {
        done(await this.#write(place, [content], meta));
      } catch (error) {
        this.#failure ??= { error };
      }
    };
    const task: Promise<void> = write().finally(() => this.#pending.delete(task));
    this.#pending.add(task);
    if (this.#pending.size >= mostAtOnce) await Promise.race(this.#pending);
    this.#check();
  }

  /** Writes a file whose content comes in parts, which are all taken whatever becomes of it. */
  async putParts(path: Name, parts: AsyncIterable<Uint8Array>, meta: EntryMeta): Promise<boolean> {
    const place = await this.#placeOf(path);
    if (place !== undefined) return await this.#write(place, parts, meta);
    for await (const _ of parts) this.#signal.throwIfAborted();
    return false;
  }

  async putSymlink(path: Name, target: Buffer, meta: EntryMeta): Promise<boolean> {
    const place = await this.#placeOf(path);
    if (place === undefined) return false;
    const temporary = temporaryName();
    await this.#volume.own.makeSymlink(temporary, target);
    return await this.#giveName(temporary, place, meta);
  }

  /**
   * Gives a file that was put one more name. Undefined where it is not there any more: it has to be put again then; false where
   * something is kept that has the name.
   */
  async putLink(path: Name, first: Name): Promise<boolean | undefined> {
    await this.settle();
    const place = await this.#placeOf(path);
    if (place === undefined) return false;
    const { top, own } = this.#volume;
    await using finder = new DirectoryFinder(top);
    const name = first.subarray(first.lastIndexOf(0x2f) + 1);
    const temporary = temporaryName();
    try {
      const directory = await finder.at(parentOf(first));
      if (directory === undefined) return undefined;
      await directory.link(name, own, temporary);
      if ((await own.find(temporary))?.isFile() === true) return await this.#giveName(temporary, place);
    } catch (error) {
      // EMLINK: it has as many names as a file may have; EPERM: the file system has no such links.
      if (!isChangedMeanwhile(error) && !hasFileCode(error, "EMLINK", "EPERM")) throw error;
    }
    await removeOwnFile(own, temporary.toString());
    return undefined;
  }

  /** Makes a directory where it is missing, and gives it its permissions and time. To be called behind all that is in it. */
  async putDirectory(path: Name, meta: EntryMeta): Promise<boolean> {
    if (path.length === 0) {
      await this.settle();
      if (this.#occupied !== "keep") await setOwner(this.#volume.top, meta);
      return true;
    }
    const names = this.#namesOf(path);
    if (!(await this.#goTo(names))) return false;
    await this.settle();
    const level = this.#levels[names.length - 1];
    if (level === undefined) return false;
    if (!level.isNew && this.#occupied === "keep") return false;
    await setOwner(level.directory, meta);
    // By the directory that is open, since its name may be that of something else by now.
    await level.directory.setOwnTimes(Number(meta.mtimeNs) / 1e9);
    return true;
  }

  /** The directory at a path, made where it is missing, until something is put elsewhere; undefined where what is kept is in the way. */
  async directoryAt(path: Name): Promise<Directory | undefined> {
    this.#check();
    if (path.length === 0) return this.#volume.top;
    const names = this.#namesOf(path);
    return (await this.#goTo(names)) ? this.#levels[names.length - 1]?.directory : undefined;
  }

  /** Waits for all that is under way. */
  async settle(): Promise<void> {
    await Promise.all(this.#pending);
    this.#check();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#pending);
    while (this.#levels.length > 0) await this.#levels.pop()?.directory[Symbol.asyncDispose]();
  }

  #check(): void {
    if (this.#failure !== undefined) throw this.#failure.error;
    this.#signal.throwIfAborted();
  }

  #namesOf(path: Name): Name[] {
    const names = namesOf(path);
    const [first] = names;
    if (first === undefined || isOwn(first) || names.length > deepestLevel + 1) throw pathRefused(path);
    return names;
  }

  /** The directory that a path is in; undefined where something that is kept is in the way. */
  async #placeOf(path: Name): Promise<Place | undefined> {
    this.#check();
    const names = this.#namesOf(path);
    const name = names.pop();
    if (name === undefined) throw pathRefused(path);
    if (!(await this.#goTo(names))) return undefined;
    return { directory: this.#levels.at(-1)?.directory ?? this.#volume.top, name, path };
  }

  /** Makes the directory with these names the one that is open. */
  async #goTo(names: readonly Name[]): Promise<boolean> {
    let shared = 0;
    while (shared < names.length && this.#levels[shared]?.name.equals(names[shared] ?? noName) === true) shared++;
    if (shared < this.#levels.length) await this.#leaveTo(shared);
    for (const name of names.slice(shared)) {
      const above = this.#levels.at(-1)?.directory ?? this.#volume.top;
      const level = await this.#enter(above, name);
      if (level === undefined) return false;
      this.#levels.push(level);
    }
    return true;
  }

  async #leaveTo(length: number): Promise<void> {
    // Whatever is written in them has to be done: the numbers of closed directories are soon those of others.
    await this.settle();
    while (this.#levels.length > length) await this.#levels.pop()?.directory[Symbol.asyncDispose]();
  }

  async #enter(above: Directory, name: Name): Promise<Level | undefined> {
    for (let attempt = 1; ; attempt++) {
      try {
        return { name, directory: await above.open(name), isNew: attempt > 1 };
      } catch (error) {
        if (attempt === mostAttempts || !hasFileCode(error, "ENOENT", "ENOTDIR", "ELOOP")) throw error;
        if (!hasFileCode(error, "ENOENT")) {
          if (this.#occupied === "keep") return undefined;
          if (this.#occupied === "refuse") throw occupied(name);
          await above.remove(name);
        }
        await above.makeDirectory(name);
      }
    }
  }

  async #write(place: Place, content: Parts, meta: EntryMeta): Promise<boolean> {
    const { own } = this.#volume;
    const [directory, name] = this.#isDirect ? [place.directory, place.name] : [own, temporaryName()];
    const file = this.#isDirect ? await this.#createAt(place) : await own.createFile(name);
    if (file === undefined) {
      for await (const _ of content) this.#signal.throwIfAborted();
      return false;
    }
    try {
      await fill(file, content, this.#signal);
      const setter = {
        setOwner: (userId: number, groupId: number) => file.chown(userId, groupId),
        setMode: (mode: number) => file.chmod(mode),
      };
      await setOwner(setter, meta);
      const seconds = Number(meta.mtimeNs) / 1e9;
      await file.utimes(seconds, seconds);
    } catch (error) {
      // Why it could not be written says more than why what there is of it cannot be removed.
      await directory.remove(name).catch(() => undefined);
      throw error;
    } finally {
      await file.close();
    }
    return this.#isDirect || (await this.#giveName(name, place));
  }

  /** Makes a file under its own name; undefined where something is kept that has it. */
  async #createAt({ directory, name, path }: Place): Promise<FileHandle | undefined> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await directory.createFile(name);
      } catch (error) {
        if (!hasFileCode(error, "EEXIST") || attempt === mostAttempts) throw error;
        if (this.#occupied === "keep") return undefined;
        if (this.#occupied === "refuse") throw occupied(path);
        await removeTree(directory, name, this.#signal);
      }
    }
  }

  /** Moves what is whole to its place. Nothing that is there is overwritten but with `replace`. */
  async #giveName(temporary: Name, { directory, name, path }: Place, symlink?: EntryMeta): Promise<boolean> {
    const { own } = this.#volume;
    try {
      if (symlink !== undefined) {
        const { userId, groupId, mtimeNs } = symlink;
        if (process.getuid?.() === 0) await own.setOwnerOf(temporary, userId, groupId);
        await own.setTimes(temporary, Number(mtimeNs) / 1e9);
      }
      if (this.#occupied === "replace") {
        await own.rename(temporary, directory, name).catch(async (error: unknown) => {
          if (!hasFileCode(error, "EISDIR", "EEXIST", "ENOTEMPTY")) throw error;
          await removeTree(directory, name, this.#signal);
          await own.rename(temporary, directory, name);
        });
        // Where both are names of the same file, a rename leaves both.
        await removeOwnFile(own, temporary.toString());
        return true;
      }
      // A link fails where anything has the name, whenever it came.
      await own.link(temporary, directory, name);
      await own.remove(temporary);
      return true;
    } catch (error) {
      await own.remove(temporary).catch(() => undefined);
      if (!hasFileCode(error, "EEXIST")) throw error;
      if (this.#occupied === "keep") return false;
      throw occupied(path);
    }
  }
}

const mostAttempts = 3;
const noName = Buffer.alloc(0);

async function setOwner(
  entry: { setOwner(userId: number, groupId: number): Promise<void>; setMode(mode: number): Promise<void> },
  { mode, userId, groupId }: EntryMeta,
): Promise<void> {
  // Only the administrator may give files away; whoever else writes them owns them. It takes bits of permission away.
  if (process.getuid?.() === 0) await entry.setOwner(userId, groupId);
  await entry.setMode(mode);
}

/** Parts at least this long that hold nothing but zeros become a hole: a file that has some may be larger than its volume. */
const leastHoleBytes = 64 * 1024;

async function fill(file: FileHandle, content: Parts, signal: AbortSignal): Promise<void> {
  let [written, end] = [0, 0];
  for await (const part of content) {
    signal.throwIfAborted();
    const begin = end;
    end += part.byteLength;
    if (isZero(part)) continue;
    for (let at = 0; at < part.byteLength;) {
      const { bytesWritten } = await file.write(part, at, part.byteLength - at, begin + at);
      at += bytesWritten;
    }
    written = end;
  }
  if (written < end) await file.truncate(end);
}

function isZero(part: Uint8Array): boolean {
  if (part.byteLength < leastHoleBytes || part[0] !== 0) return false;
  // Each byte is compared with the one before it.
  return Buffer.compare(part.subarray(1), part.subarray(0, -1)) === 0;
}

function occupied(path: Name): Error {
  const metadata = { path: shownPath(path) };
  return fail("RESTORE_CONFLICT", "Something is in the way of a file or directory", { metadata });
}

function pathRefused(path: Name): Error {
  const metadata = { path: shownPath(path.subarray(0, 300)) };
  return fail("VOLUME_PATH_REFUSED", "A path leads to where nothing may be written", { metadata });
}

/** Copies of the names of a path, one below the other. Nothing is checked: each is when it is used. */
function namesOf(path: Name): Name[] {
  const names: Name[] = [];
  let from = 0;
  for (let at = path.indexOf(0x2f); at !== -1; at = path.indexOf(0x2f, from)) {
    names.push(Buffer.from(path.subarray(from, at)));
    from = at + 1;
  }
  names.push(Buffer.from(path.subarray(from)));
  return names;
}
