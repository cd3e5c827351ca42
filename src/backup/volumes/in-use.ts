import { fromBinary } from "@bufbuild/protobuf";

import {
  CreateBackupRequestSchema,
  CreateRestoreRequestSchema,
} from "../../../gen/lucid/admin/v1/backup_service_pb.ts";
import { Store } from "../../../gen/lucid/admin/v1/common_pb.ts";
import type { JobRecord } from "../../jobs/record.ts";
import { backupKind } from "../messages.ts";
import { completeRestore, completeSelection } from "../selection.ts";

/** Whether a backup or restore may read or write a volume; in doubt it may. */
export function mayUseVolume({ kind, spec }: JobRecord, name: string): boolean {
  if (kind === backupKind) {
    const { stores, volumes } = completeSelection(fromBinary(CreateBackupRequestSchema, spec).selection);
    return stores.includes(Store.VOLUMES) && (volumes.length === 0 || volumes.includes(name));
  }
  const { selection, renames } = fromBinary(CreateRestoreRequestSchema, spec);
  const { stores, volumes } = completeRestore(selection);
  if (!stores.includes(Store.VOLUMES)) return false;
  const isTarget = renames.some(({ store, to }) => store === Store.VOLUMES && to === name);
  return isTarget || volumes.length === 0 || volumes.includes(name);
}
