import { countAll, removeAll, type RemovalWork } from "./remove.ts";
import type { StoredKind } from "./stored-kinds.ts";

/** What was deleted at that time or before. */
const deletedBy = (cutoff: Date) => ({ deleted_at: { $lte: cutoff } });

function isPurged({ isDeletedSoftly, lifecycle }: StoredKind): boolean {
  return isDeletedSoftly && !lifecycle.keepsDeleted;
}

/** Counts what a purge would remove. */
export async function countDeleted(
  kinds: readonly StoredKind[],
  cutoff: Date,
  work: Omit<RemovalWork, "copies" | "stepped">,
): Promise<void> {
  for (const kind of kinds.filter(isPurged)) await countAll(kind, deletedBy(cutoff), work);
}

/** Removes for good what was deleted by a time, with its parts and copies. May be repeated, also after any crash. */
export async function purge(kinds: readonly StoredKind[], cutoff: Date, work: RemovalWork): Promise<void> {
  for (const kind of kinds.filter(isPurged)) await removeAll(kind, deletedBy(cutoff), work);
}
