import type { CreateRestoreRequest } from "../../gen/lucid/admin/v1/backup_service_pb.ts";
import { Store } from "../../gen/lucid/admin/v1/common_pb.ts";
import type { Manifest } from "../../gen/lucid/backup/v1/manifest_pb.ts";
import { fail } from "../errors.ts";
import type { Target } from "./contracts.ts";
import type { BackupRepository } from "./repository/repository.ts";
import { prepareRestore } from "./restore.ts";
import {
  absentViolations,
  completeRestore,
  everyStore,
  renameViolations,
  selectedUnits,
  selectionViolations,
  splitNamespace,
  targetName,
} from "./selection.ts";

/**
 * Checks a restore against the backup, without a look at the stores. Fails with `BAD_REQUEST`, `BACKUP_SELECTION_EMPTY`, and
 * `RESTORE_REFUSED` for what would go into the service's own database.
 */
export function requireRestorable(
  { units, backupId }: Manifest,
  request: CreateRestoreRequest,
  options: { readonly systemDatabase: string },
): void {
  const selection = completeRestore(request.selection);
  const asked = request.selection === undefined ? [] : absentViolations(units, request.selection);
  const wrong = [
    ...selectionViolations(selection, options),
    ...asked,
    ...renameViolations(units, selection, request.renames, options),
  ];
  if (wrong.length > 0) throw fail("BAD_REQUEST", "The restore is not valid", { fields: wrong });

  const selected = everyStore.flatMap((store) => selectedUnits(units, store, selection));
  if (selected.length === 0) {
    throw fail("BACKUP_SELECTION_EMPTY", "Nothing of the backup is selected", { metadata: { backup_id: backupId } });
  }
  for (const unit of selected) {
    if (unit.store !== Store.MONGODB || unit.description.case !== "mongodbCollection") continue;
    const target = targetName(unit, request.renames);
    if (splitNamespace(target)[0] !== options.systemDatabase) continue;
    const metadata = { backup_id: backupId, unit: unit.name, target };
    throw fail("RESTORE_REFUSED", "The service keeps that database for itself; restore into another name", {
      metadata,
    });
  }
}

/** Has the targets check a restore and let it be; fails as the job would before it changes anything, data left aside. */
export async function tryRestore(
  manifest: Manifest,
  request: CreateRestoreRequest,
  { targets, repository, signal }: { targets: readonly Target[]; repository: BackupRepository; signal: AbortSignal },
): Promise<void> {
  const stop = new AbortController();
  const ending = AbortSignal.any([signal, stop.signal]);
  const meter = { plan() {}, add() {}, phase() {} };
  const source = await repository.reader(ending, manifest.backupId);
  const work = { meter, signal: ending, parallelism: 1 };
  await using _ = await prepareRestore(manifest, request, { targets, source, work, stop });
}
