import { VolumeEntryKind, type VolumeRecord } from "../../../gen/lucid/backup/v1/manifest_pb.ts";
import { DirectoryFinder, parentOf } from "../../stores/volumes/directory-finder.ts";
import type { Directory, Name } from "../../stores/volumes/directory.ts";
import { isSameTime } from "../../stores/volumes/entry-meta.ts";
import { hasFileCode, isChangedMeanwhile } from "../../stores/volumes/failures.ts";
import { type Parts, readFileOf } from "../../stores/volumes/file-reader.ts";
import { allOf } from "../../stores/volumes/groups.ts";
import type { OpenVolume } from "../../stores/volumes/volumes.ts";

/** Files that are compared at once. */
const mostBeside = 16;

/** Compares what is in a volume with records, in their order. */
export class PathReader implements AsyncDisposable {
  readonly #finder: DirectoryFinder;
  #path: Name = Buffer.alloc(0);
  #pending: Promise<void>[] = [];

  constructor({ top }: OpenVolume) {
    this.#finder = new DirectoryFinder(top);
  }

  async isEqual(head: VolumeRecord, parts: Parts): Promise<boolean> {
    const path = Buffer.from(head.path);
    if (path.length === 0) return head.kind === VolumeEntryKind.DIRECTORY;
    const directory = await this.#goTo(parentOf(path));
    return directory !== undefined && (await isEqualIn(directory, path, { head, parts }));
  }

  /** The same of a file whose content is in one record, beside others of its directory. */
  async compareBeside(head: VolumeRecord, done: (isEqual: boolean) => void): Promise<void> {
    const path = Buffer.from(head.path);
    const directory = await this.#goTo(parentOf(path));
    if (directory === undefined) {
      done(false);
      return;
    }
    const compare = async (): Promise<void> => done(await isEqualIn(directory, path, { head, parts: [head.content] }));
    this.#pending.push(compare());
    if (this.#pending.length >= mostBeside) await this.settle();
  }

  /** Waits for all comparisons that are under way. */
  async settle(): Promise<void> {
    await allOf(this.#pending.splice(0));
  }

  async #goTo(path: Name): Promise<Directory | undefined> {
    if (!this.#path.equals(path)) await this.settle();
    this.#path = Buffer.from(path);
    return await this.#finder.at(path);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.allSettled(this.#pending);
    await this.#finder[Symbol.asyncDispose]();
  }
}

async function isEqualIn(
  directory: Directory,
  path: Name,
  { head, parts }: { readonly head: VolumeRecord; readonly parts: Parts },
): Promise<boolean> {
  const name = path.subarray(path.lastIndexOf(0x2f) + 1);
  try {
    const stat = await directory.find(name);
    if (stat === undefined || !isSameTime(stat.mtimeNs, head.mtimeNs)) return false;
    if (head.kind === VolumeEntryKind.DIRECTORY) return stat.isDirectory();
    if (head.kind === VolumeEntryKind.SYMLINK) {
      return stat.isSymbolicLink() && (await directory.readSymlink(name)).equals(head.target);
    }
    return await hasContent(directory, name, parts);
  } catch (error) {
    if (isChangedMeanwhile(error) || hasFileCode(error, "EACCES")) return false;
    throw error;
  }
}

async function hasContent(directory: Directory, name: Name, parts: Parts): Promise<boolean> {
  const file = await readFileOf(directory, { name });
  if (typeof file === "string") return false;
  await using opened = file;
  return await opened.isContent(parts);
}
