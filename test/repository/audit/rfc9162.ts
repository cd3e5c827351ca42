import { createHash } from "node:crypto";

/*
 * What an auditor runs who trusts nobody: the algorithms of RFC 9162 step by step, with nothing of the service. Roots, leaves and
 * nodes are hexadecimal; numbers are bigints, as the RFC shifts them.
 */

const sha256 = (prefix: number, ...parts: readonly string[]) =>
  createHash("sha256")
    .update(Buffer.concat([Buffer.of(prefix), ...parts.map((part) => Buffer.from(part, "hex"))]))
    .digest("hex");

/** Section 2.1.1: the hash of a leaf. */
export const leaf = (data: string): string => sha256(0, data);
const node = (left: string, right: string) => sha256(1, left, right);

/** Section 2.1.3.2: whether the leaf is at that place of the tree of that size and root. */
export function includes(
  { leafIndex, treeSize, hashes }: { leafIndex: bigint; treeSize: bigint; hashes: readonly string[] },
  leafHash: string,
  rootHash: string,
): boolean {
  if (leafIndex >= treeSize) return false;
  let [fn, sn, r] = [leafIndex, treeSize - 1n, leafHash];
  for (const p of hashes) {
    if (sn === 0n) return false;
    if ((fn & 1n) === 1n || fn === sn) {
      r = node(p, r);
      while ((fn & 1n) === 0n && fn !== 0n) [fn, sn] = [fn >> 1n, sn >> 1n];
    } else {
      r = node(r, p);
    }
    [fn, sn] = [fn >> 1n, sn >> 1n];
  }
  return sn === 0n && r === rootHash;
}

/** Section 2.1.4.2: whether the second tree starts with the first. */
export function isConsistent(
  { firstSize, secondSize, hashes }: { firstSize: bigint; secondSize: bigint; hashes: readonly string[] },
  firstHash: string,
  secondHash: string,
): boolean {
  if (firstSize === secondSize) return hashes.length === 0 && firstHash === secondHash;
  if (hashes.length === 0) return false;
  const isPowerOfTwo = (firstSize & (firstSize - 1n)) === 0n;
  const path = isPowerOfTwo ? [firstHash, ...hashes] : [...hashes];
  let [fn, sn] = [firstSize - 1n, secondSize - 1n];
  while ((fn & 1n) === 1n) [fn, sn] = [fn >> 1n, sn >> 1n];
  let [fr = "", sr = ""] = [path[0], path[0]];
  for (const c of path.slice(1)) {
    if (sn === 0n) return false;
    if ((fn & 1n) === 1n || fn === sn) {
      [fr, sr] = [node(c, fr), node(c, sr)];
      while ((fn & 1n) === 0n && fn !== 0n) [fn, sn] = [fn >> 1n, sn >> 1n];
    } else {
      sr = node(sr, c);
    }
    [fn, sn] = [fn >> 1n, sn >> 1n];
  }
  return fr === firstHash && sr === secondHash && sn === 0n;
}
