import { isReason } from "../../errors.ts";
import type { Keys } from "./keys.ts";
import { backupIds, readManifest } from "./manifests.ts";
import { splitPacks } from "./presence.ts";
import type { ObjectStorage } from "./storage.ts";

/** A pack is sparse where no backup uses as much of it as this. */
const SPARSE_SHARE = 0.5;
/** One backup stores at most this share of the repository again to be rid of sparse packs, but not less than so many bytes. */
const AGAIN_SHARE = 0.02;
const LEAST_AGAIN_BYTES = 64 * 1024 * 1024;

/**
 * Those packs, in hex, that a new backup should not refer to, since little of them is used by the backups that there are; `sizes` are
 * those of all packs. What it needs of them it stores again, and when the backups that do refer to them are deleted, they go as a
 * whole: otherwise a few chunks that every backup shares would keep a pack for ever. Rewriting packs instead would need manifests that
 * change, which no storage can do against a deletion at the same time; a writer that refers to less is safe whatever happens beside it.
 */
export async function sparsePacks(
  place: { readonly storage: ObjectStorage; readonly keys: Keys },
  sizes: ReadonlyMap<string, number>,
  signal: AbortSignal,
): Promise<Set<string>> {
  const used = new Map<string, number>();
  for (const backupId of await backupIds(place.storage, signal)) {
    try {
      const { packs, packBytes } = await readManifest(place, backupId, signal);
      for (const [at, pack] of splitPacks(packs).entries()) {
        // Earlier versions did not say it.
        used.set(pack, Math.max(used.get(pack) ?? 0, packBytes[at] ?? Number.POSITIVE_INFINITY));
      }
    } catch (error) {
      // Deleted, or of no use here: what only that one refers to is sparse or not without a difference to it.
      const reasons = ["BACKUP_NOT_FOUND", "BACKUP_MANIFEST_DAMAGED", "BACKUP_FORMAT_UNKNOWN"] as const;
      if (!reasons.some((reason) => isReason(error, reason))) throw error;
    }
  }
  return sparseOf(used, sizes);
}

/** The packs to be avoided, the sparsest first, given the bytes that are used of each and its size. */
export function sparseOf(used: ReadonlyMap<string, number>, sizes: ReadonlyMap<string, number>): Set<string> {
  let total = 0;
  for (const size of sizes.values()) total += size;
  const packs = [...used].flatMap(([pack, bytes]) => {
    const share = bytes / (sizes.get(pack) ?? 0);
    return share < SPARSE_SHARE ? [{ pack, bytes, share }] : [];
  });
  const sparse = new Set<string>();
  let left = Math.max(total * AGAIN_SHARE, LEAST_AGAIN_BYTES);
  for (const { pack, bytes } of packs.toSorted((one, other) => one.share - other.share)) {
    left -= bytes;
    if (left < 0) break;
    sparse.add(pack);
  }
  return sparse;
}
