import type { Directory, Entry } from "../../stores/volumes/directory.ts";
import { isChangedMeanwhile } from "../../stores/volumes/failures.ts";
import { readFileOf } from "../../stores/volumes/file-reader.ts";
import { isSameTime } from "../../stores/volumes/tree-writer.ts";

/** Whether there is something of the same kind, size and time. */
export async function isCopied(copies: Directory, { name, stat }: Entry): Promise<boolean> {
  const found = await copies.find(name);
  if (found === undefined) return false;
  if (stat.isSymbolicLink()) return found.isSymbolicLink() && isSameTime(found.mtimeNs, stat.mtimeNs);
  return found.isFile() && stat.isFile() && found.size === stat.size && isSameTime(found.mtimeNs, stat.mtimeNs);
}

/** Whether there is the same, down to its content. */
export async function isEqual(
  copies: Directory,
  entry: Entry,
  { in: source, signal }: { readonly in: Directory; readonly signal: AbortSignal },
): Promise<boolean> {
  const { name, stat } = entry;
  if (stat.isDirectory()) return (await copies.find(name))?.isDirectory() === true;
  if (!(await isCopied(copies, entry))) return false;
  try {
    if (stat.isSymbolicLink()) return (await copies.readSymlink(name)).equals(await source.readSymlink(name));
    return await isSameFile(source, copies, { entry, signal });
  } catch (error) {
    if (isChangedMeanwhile(error)) return false;
    throw error;
  }
}

/**
 * Byte by byte, and small files without a generator: what each file leaves of a hash or an asynchronous generator is kept until V8 looks
 * at its old generation, which with many files takes a hundred megabytes.
 */
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
  const whole = await read.whole();
  const content = whole === undefined ? read.parts(signal) : [whole];
  return (await compared.isContent(content)) && (await read.outcome()) === "read";
}
