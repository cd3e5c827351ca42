import { createHash } from "node:crypto";

/** A stream of pseudo-random values that is the same for the same name, on every machine. */
export interface Random {
  /** A whole number from `least` to `most`. */
  whole(least: number, most: number): number;
  /** A number from 0 up to, not including, 1. */
  fraction(): number;
  /** True with this probability. */
  chance(probability: number): boolean;
  pick<T>(from: readonly [T, ...T[]]): T;
  bytes(length: number): Buffer;
  hex(length: number): string;
}

/**
 * Makes the stream that a name stands for. Every seeded thing has a stream of its own, named after what it is, so that it
 * can be made again alone and nothing need be remembered.
 */
export function random(...name: readonly (string | number)[]): Random {
  const digest = createHash("sha256").update(name.join("/")).digest();
  let [a, b, c, d] = [digest.readInt32LE(0), digest.readInt32LE(4), digest.readInt32LE(8), digest.readInt32LE(12)];
  // sfc32: passes the usual tests of randomness and needs 32-bit sums only.
  const next = (): number => {
    const sum = (((a + b) | 0) + d) | 0;
    d = (d + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = (((c << 21) | (c >>> 11)) + sum) | 0;
    return sum >>> 0;
  };
  const fraction = () => next() / 2 ** 32;
  const whole = (least: number, most: number) => least + Math.floor(fraction() * (most - least + 1));
  const bytes = (length: number) => {
    const made = Buffer.alloc(length);
    for (let i = 0; i < length; i++) made[i] = next() >>> 24;
    return made;
  };
  return {
    whole,
    fraction,
    chance: (probability) => fraction() < probability,
    pick: (from) => from[whole(0, from.length - 1)] ?? from[0],
    bytes,
    hex: (length) =>
      bytes(Math.ceil(length / 2))
        .toString("hex")
        .slice(0, length),
  };
}
