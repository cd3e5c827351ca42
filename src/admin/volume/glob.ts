const star = "*";

/**
 * What says whether a path fits a pattern. In it `*` stands for any characters but `/`, `?` for one of them, and `**` between
 * slashes for any number of directories. Without a slash it is about the name alone. Takes time in proportion to both lengths,
 * whatever the pattern: patterns come from callers.
 */
export function globOf(pattern: string): (path: string) => boolean {
  if (!pattern.includes("/")) {
    const characters = Array.from(pattern);
    return (path) => fits(characters, Array.from(path.slice(path.lastIndexOf("/") + 1)), isStar, characterFits);
  }
  const parts = pattern
    .replace(/^\//, "")
    .split("/")
    .map((part) => (part === "**" ? part : Array.from(part)));
  const isDirectories = (part: string | string[]) => part === "**";
  const partFits = (part: string | string[], name: string[]) =>
    typeof part !== "string" && fits(part, name, isStar, characterFits);
  return (path) =>
    fits(
      parts,
      path.split("/").map((name) => Array.from(name)),
      isDirectories,
      partFits,
    );
}

const isStar = (character: string): boolean => character === star;
const characterFits = (wanted: string, found: string): boolean => wanted === "?" || wanted === found;

/** Whether `items` fit `pattern`, in which what `isAny` says stands for any number of items. Goes back to the last such only. */
function fits<P, T>(
  pattern: readonly P[],
  items: readonly T[],
  isAny: (part: P) => boolean,
  fitsOne: (part: P, item: T) => boolean,
): boolean {
  let at = 0;
  let anyAt = -1;
  let triedFrom = 0;
  for (let item = 0; item < items.length;) {
    const part = pattern[at];
    const found = items[item];
    if (at < pattern.length && isAny(part as P)) {
      anyAt = at++;
      triedFrom = item;
    } else if (at < pattern.length && fitsOne(part as P, found as T)) {
      at++;
      item++;
    } else if (anyAt !== -1) {
      at = anyAt + 1;
      item = ++triedFrom;
    } else return false;
  }
  return pattern.slice(at).every(isAny);
}
