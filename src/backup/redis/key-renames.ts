import { hash } from "node:crypto";

import type { Rename } from "../../../gen/lucid/admin/v1/backup_service_pb.ts";
import { fail } from "../../errors.ts";
import { asBuffer } from "./value-writer.ts";

/** Names that are remembered to find two keys that would get the same one, at most: some 50 bytes each. */
const mostRemembered = 1024 * 1024;

interface Prefix {
  readonly from: Buffer;
  readonly to: Buffer;
}

/** The new names of keys: the first prefix that fits is replaced. */
export class KeyRenames {
  readonly #prefixes: readonly Prefix[];
  readonly #remembered = new Set<bigint>();

  constructor(renames: readonly Rename[]) {
    this.#prefixes = renames.map(({ from, to }) => ({ from: Buffer.from(from), to: Buffer.from(to) }));
  }

  get isEmpty(): boolean {
    return this.#prefixes.length === 0;
  }

  /** The name under which a key is restored. */
  target(key: Uint8Array): Buffer {
    const prefix = this.#prefixes.find(({ from }) => startsWith(key, from));
    if (prefix === undefined) return asBuffer(key);
    return Buffer.concat([prefix.to, key.subarray(prefix.from.length)]);
  }

  /** Whether two keys can get one name at all: not where one prefix fits all keys. */
  get mayCollide(): boolean {
    return this.#prefixes.length > 0 && this.#prefixes[0]?.from.length !== 0;
  }

  /**
   * Notes where a key goes, of names that more than one key may get. Fails with `RESTORE_REFUSED` where another one goes there,
   * or where there are too many to know.
   */
  requireAlone(database: number, target: Buffer): void {
    if (!this.#isContested(target)) return;
    const digest = digestOf(database, target);
    const taken = this.#remembered.has(digest);
    if (!taken && this.#remembered.size < mostRemembered) {
      this.#remembered.add(digest);
      return;
    }
    const why = taken ? "Two keys would get the same name" : "Too many keys could get the names of others";
    throw fail("RESTORE_REFUSED", `${why} by the renames of Redis keys`, { metadata: { store: "redis" } });
  }

  /** Whether keys of more than one prefix, or of one and of none, can get that name. */
  #isContested(target: Buffer): boolean {
    const sources = this.#prefixes.filter(({ to }) => startsWith(target, to));
    const kept = !this.#prefixes.some(({ from }) => startsWith(target, from));
    return sources.length + (kept ? 1 : 0) > 1;
  }
}

function startsWith(key: Uint8Array, prefix: Uint8Array): boolean {
  if (key.length < prefix.length) return false;
  for (let index = 0; index < prefix.length; index++) if (key[index] !== prefix[index]) return false;
  return true;
}

/** 64 bits of SHA-256 tell a million names apart for all practical purposes: they clash once in thirty million restores. */
function digestOf(database: number, target: Buffer): bigint {
  return hash("sha256", Buffer.concat([Buffer.of(database >> 8, database & 0xff), target]), "buffer").readBigUInt64LE(
    0,
  );
}
