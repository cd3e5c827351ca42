import type { Directory, Entry } from "../../stores/volumes/directory.ts";
import { isCopyOf } from "../../stores/volumes/entry-meta.ts";
import { isChangedMeanwhile } from "../../stores/volumes/failures.ts";
import { readFileOf } from "../../stores/volumes/file-reader.ts";

/** Whether there is something of the same kind, size, time, permissions and owner. */
export async function isCopied(copies: Directory, { name, stat }: Entry): Promise<boolean> {
  const found = await copies.find(name);
  return found !== undefined && isCopyOf(found, stat);
}

/** Whether there is the same symlink or file, down to its content. */
export async function isEqual(
  copies: Directory,
  entry: Entry,
  { in: source, signal }: { readonly in: Directory; readonly signal: AbortSignal },
): Promise<boolean> {
  const { name, stat } = entry;
  if (!(await isCopied(copies, entry))) return false;
  try {
    if (stat.isSymbolicLink()) return (await copies.readSymlink(name)).equals(await source.readSymlink(name));
    return await isSameFile(source, copies, { entry, signal });
  } catch (error) {
    if (isChangedMeanwhile(error)) return false;
    throw error;
  }
}

async function isSameFile(
  source: Directory,
  copies: Directory,
  { entry, signal }: { readonly entry: Entry; readonly signal: AbortSignal },
): Promise<boolean> {
  const original = await readFileOf(source, entry);
  if (typeof original === "string") return false;
  await using read = original;
  const copy = await readFileOf(copies, entry);
  if (typeof copy === "string") return false;
  await using compared = copy;
  // The permissions too are those of what is read, not of what was met.
  return (
    isCopyOf(compared.stat, read.stat) &&
    (await compared.isContent(read.parts(signal))) &&
    (await read.outcome()) === "read"
  );
}
