import type { BigIntStats } from "node:fs";

/** Whether a time is that which was to be set: Node sets times as seconds in a double, which tells a quarter of a microsecond. */
export function isSameTime(one: bigint, other: bigint): boolean {
  return Math.abs(Number(one - other)) < 2000;
}

/** Bits of a mode by which whoever runs a file acts as its owner or its group. */
const actingBits = 0o6000;

/**
 * The permissions that a copy gets. Where its owner is not given to it, nobody may act as the owner that it has, who is whoever runs
 * this service.
 */
export function modeOfCopy(stat: Pick<BigIntStats, "mode" | "isDirectory">): number {
  const mode = Number(stat.mode & 0o7777n);
  return process.getuid?.() === 0 || stat.isDirectory() ? mode : mode & ~actingBits;
}

/** Whether what is there is a copy by its kind, size, time, permissions and owner. */
export function isCopyOf(there: BigIntStats, stat: BigIntStats): boolean {
  if ((there.mode & kindBits) !== (stat.mode & kindBits)) return false;
  if (process.getuid?.() === 0 && (there.uid !== stat.uid || there.gid !== stat.gid)) return false;
  if (!isSameTime(there.mtimeNs, stat.mtimeNs)) return false;
  if (stat.isSymbolicLink()) return true;
  if (Number(there.mode & 0o7777n) !== modeOfCopy(stat)) return false;
  return stat.isDirectory() || there.size === stat.size;
}

const kindBits = 0o170000n;
