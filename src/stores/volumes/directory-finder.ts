import type { Directory, Name } from "./directory.ts";
import { isChangedMeanwhile } from "./failures.ts";

/** Finds directories by their paths below another one, and keeps the last one open. */
export class DirectoryFinder implements AsyncDisposable {
  readonly #top: Directory;
  #path: Name = Buffer.alloc(0);
  #opened: Directory | undefined;
  #isMissing = false;

  constructor(top: Directory) {
    this.#top = top;
  }

  /**
   * The directory at a path, until another one is asked for: nothing may go on in it then. Undefined where there is none, or a
   * symlink on the way.
   */
  async at(path: Name): Promise<Directory | undefined> {
    if (path.length === 0) return this.#top;
    if (this.#path.equals(path)) return this.#isMissing ? undefined : this.#opened;
    await this.#close();
    this.#path = Buffer.from(path);
    this.#isMissing = true;
    for (const name of this.#path.toString("latin1").split("/")) {
      const above = this.#opened;
      this.#opened = undefined;
      try {
        this.#opened = await (above ?? this.#top).open(Buffer.from(name, "latin1"));
      } catch (error) {
        if (isChangedMeanwhile(error)) return undefined;
        throw error;
      } finally {
        await above?.[Symbol.asyncDispose]();
      }
    }
    this.#isMissing = false;
    return this.#opened;
  }

  async #close(): Promise<void> {
    const opened = this.#opened;
    this.#opened = undefined;
    await opened?.[Symbol.asyncDispose]();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#close();
  }
}

/** The path of the directory that a path is in. */
export function parentOf(path: Name): Name {
  return path.subarray(0, Math.max(0, path.lastIndexOf(0x2f)));
}
