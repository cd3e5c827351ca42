import { type BigIntStats, constants, lstat as lstatCallback } from "node:fs";
import {
  type FileHandle,
  lchown,
  link,
  lutimes,
  mkdir,
  open,
  opendir,
  readlink,
  rename,
  rmdir,
  symlink,
  unlink,
} from "node:fs/promises";
import { promisify } from "node:util";

import { fail } from "../../errors.ts";
import { hasFileCode, openFiles } from "./failures.ts";
import { allOf } from "./groups.ts";

/** A name in a directory. Linux takes any bytes but `/` and zero, so that a name need not be text. */
export type Name = Buffer;

/** What is found in a directory, as it was at a moment. A symlink is described itself, never what it leads to. */
export interface Entry {
  readonly name: Name;
  readonly stat: BigIntStats;
}

// Twice as fast as the variant that returns promises, and asked for every file.
const lstat = promisify(lstatCallback) as (path: Buffer, options: { bigint: true }) => Promise<BigIntStats>; // an overload

const { O_CREAT, O_DIRECTORY, O_EXCL, O_NOCTTY, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, O_RDWR } = constants;

/** Entries that are read and looked at together. */
const batchEntries = 128;
/** What Linux's file systems take. */
const longestName = 255;

/**
 * A directory that is open, and what is in it by name. Node knows no `openat`, but on Linux `/proc/self/fd/N/name` means what
 * `openat(N, "name")` means: it begins at the directory that is open as N, wherever its path leads by now. All is done one name
 * at a time, and the last name of a path is never followed where it is a symlink. So whatever others do to the paths meanwhile,
 * nothing outside of what was opened as the root is read, written or removed. A check of a path before it is used, as by
 * realpath, would only be true at the moment of the check.
 */
export class Directory implements AsyncDisposable {
  /** What it was when it was opened. */
  readonly stat: BigIntStats;
  readonly #handle: FileHandle;
  readonly #at: Buffer;
  readonly #place: string;
  #isClosed = false;

  private constructor(handle: FileHandle, stat: BigIntStats, place: string) {
    this.#handle = handle;
    this.#place = place;
    this.stat = stat;
    this.#at = Buffer.from(`${place}/${handle.fd}/`);
  }

  /**
   * Opens the directory at a path of the operator's, in which symlinks are followed. Fails with `VOLUMES_NOT_SUPPORTED` where
   * the system cannot hold what this class promises.
   */
  static async openRoot(path: string, { place = openFiles }: { readonly place?: string } = {}): Promise<Directory> {
    const handle = await open(path, O_RDONLY | O_DIRECTORY);
    try {
      const stat = await handle.stat({ bigint: true });
      const root = new Directory(handle, stat, place);
      await root.#requireSupport();
      return root;
    } catch (error) {
      await handle.close();
      throw error;
    }
  }

  async #requireSupport(): Promise<void> {
    try {
      // `/proc/self/fd/N/.` is the directory only where the kernel resolves N to what is open.
      const seen = await lstat(Buffer.concat([this.#at, Buffer.from(".")]), { bigint: true });
      if (process.platform === "linux" && isSame(seen, this.stat)) return;
    } catch (error) {
      if (!hasFileCode(error, "ENOENT", "ENOTDIR", "EACCES")) throw error;
    }
    throw fail(
      "VOLUMES_NOT_SUPPORTED",
      "Volumes need Linux with a mounted /proc, without which nothing could contain them",
    );
  }

  /**
   * Opens a directory in this one. Fails with ELOOP or ENOTDIR for a symlink, wherever it leads. What is mounted there belongs to
   * another file system and is refused, unless `mounted` is set.
   */
  async open(name: Name, { mounted = false }: { readonly mounted?: boolean } = {}): Promise<Directory> {
    const handle = await open(this.#path(name), O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    try {
      const stat = await handle.stat({ bigint: true });
      if (!mounted && stat.dev !== this.stat.dev) {
        throw fail("VOLUME_PATH_REFUSED", "Another file system is mounted inside the volume");
      }
      return new Directory(handle, stat, this.#place);
    } catch (error) {
      await handle.close();
      throw error;
    }
  }

  /** What is in it, in no order, a batch at a time. What vanishes while it is read is left out. */
  async *entries(): AsyncGenerator<readonly Entry[]> {
    for await (const names of this.names()) {
      const stats = await allOf(names.map((name) => this.find(name)));
      yield names.flatMap((name, index) => {
        const stat = stats[index];
        return stat === undefined ? [] : [{ name, stat }];
      });
    }
  }

  /** The names alone, which are told also of what cannot be looked at. */
  async *names(): AsyncGenerator<readonly Name[]> {
    const options = { encoding: "buffer" as BufferEncoding, bufferSize: batchEntries };
    const listing = await opendir(this.place, options).catch(unlessRemoved);
    try {
      for (let isOver = listing === undefined; !isOver;) {
        const names: Name[] = [];
        while (names.length < batchEntries) {
          const found = await listing?.read().catch(unlessRemoved);
          isOver = !found;
          if (!found) break;
          names.push(found.name as unknown as Buffer); // as the encoding says
        }
        yield names;
      }
    } finally {
      await listing?.close();
    }
  }

  /** What has this name; undefined where nothing has. */
  async find(name: Name): Promise<BigIntStats | undefined> {
    try {
      return await lstat(this.#path(name), { bigint: true });
    } catch (error) {
      if (hasFileCode(error, "ENOENT")) return undefined;
      throw error;
    }
  }

  /** What the directory itself is now. */
  now(): Promise<BigIntStats> {
    return this.#handle.stat({ bigint: true });
  }

  /**
   * Opens a file for reading. Neither a symlink nor a pipe or a device, which would wait or have effects, is opened for one: they
   * fail with `VOLUME_PATH_REFUSED`.
   */
  async openFile(name: Name): Promise<FileHandle> {
    const handle = await open(this.#path(name), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
    try {
      if ((await handle.stat()).isFile()) return handle;
      throw fail("VOLUME_PATH_REFUSED", "What was a file is none any more");
    } catch (error) {
      await handle.close();
      throw error;
    }
  }

  /** Makes a file, readable by this process's user alone, and opens it. Fails with EEXIST where anything has that name. */
  async createFile(name: Name): Promise<FileHandle> {
    return await open(this.#path(name), O_CREAT | O_EXCL | O_RDWR | O_NOFOLLOW, 0o600);
  }

  /** Makes a directory. Fails with EEXIST where anything has that name. */
  async makeDirectory(name: Name, mode = 0o700): Promise<void> {
    await mkdir(this.#path(name), { mode });
  }

  async makeSymlink(name: Name, target: Buffer): Promise<void> {
    await symlink(target, this.#path(name));
  }

  /** Where a symlink leads, as it says it. */
  async readSymlink(name: Name): Promise<Buffer> {
    return await readlink(this.#path(name), { encoding: "buffer" });
  }

  /** Removes what is no directory; a symlink itself. */
  async remove(name: Name): Promise<void> {
    await unlink(this.#path(name));
  }

  /** Removes a directory that is empty. */
  async removeDirectory(name: Name): Promise<void> {
    await rmdir(this.#path(name));
  }

  /** Moves what has a name, in one step, over a file or an empty directory that is there. */
  async rename(name: Name, to: Directory, newName: Name): Promise<void> {
    await rename(this.#path(name), to.#path(newName));
  }

  /** Gives a file one more name. Fails with EEXIST where anything has that name; a symlink is not followed. */
  async link(name: Name, to: Directory, newName: Name): Promise<void> {
    await link(this.#path(name), to.#path(newName));
  }

  /** Sets the times of what has a name; a symlink's own. */
  async setTimes(name: Name, mtimeSeconds: number): Promise<void> {
    await lutimes(this.#path(name), mtimeSeconds, mtimeSeconds);
  }

  /** Gives what has a name to a user and a group; a symlink itself. */
  async setOwnerOf(name: Name, userId: number, groupId: number): Promise<void> {
    await lchown(this.#path(name), userId, groupId);
  }

  /** Sets the times of the directory itself. */
  async setOwnTimes(mtimeSeconds: number): Promise<void> {
    await this.#handle.utimes(mtimeSeconds, mtimeSeconds);
  }

  /** Sets the permissions of the directory itself. */
  async setMode(mode: number): Promise<void> {
    await this.#handle.chmod(mode);
  }

  /** Gives the directory itself to a user and a group. */
  async setOwner(userId: number, groupId: number): Promise<void> {
    await this.#handle.chown(userId, groupId);
  }

  /** Makes names that were given, changed and removed outlive a crash. */
  async sync(): Promise<void> {
    await this.#handle.sync();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isClosed = true;
    await this.#handle.close();
  }

  /** The number that the directory is open as, for a process that is to have it too. */
  get descriptor(): number {
    this.#requireOpen();
    return this.#handle.fd;
  }

  /** A path that is right as long as the directory is open, for system calls that this class has no method for. */
  get place(): string {
    this.#requireOpen();
    return this.#at.toString();
  }

  #path(name: Name): Buffer {
    requireName(name);
    this.#requireOpen();
    return Buffer.concat([this.#at, name]);
  }

  /** The number of a file that is closed is soon that of another. */
  #requireOpen(): void {
    if (this.#isClosed) throw new Error("The directory was closed before it was used");
  }
}

/** A directory that is removed while it is open has nothing in it any more. */
function unlessRemoved(error: unknown): undefined {
  if (!hasFileCode(error, "ENOENT")) throw error;
}

/** Fails with `VOLUME_PATH_REFUSED` for what is not one name: with `/` or zero in it, `.`, `..`, nothing, or too long. */
function requireName(name: Name): void {
  const isDots = name.every((byte) => byte === 0x2e) && name.length <= 2;
  if (!isDots && name.length <= longestName && !name.includes(0x2f) && !name.includes(0)) return;
  throw fail("VOLUME_PATH_REFUSED", "A path has a part that is no name");
}

/** Whether both are of the same file or directory, whatever it is called. */
export function isSame(one: BigIntStats, other: BigIntStats): boolean {
  return one.ino === other.ino && one.dev === other.dev;
}
