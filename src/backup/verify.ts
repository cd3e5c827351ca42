import { fromBinary } from "@bufbuild/protobuf";

import { JobPhase, VerifyBackupRequestSchema } from "../../gen/lucid/admin/v1/backup_service_pb.ts";
import type { JobRecord } from "../jobs/record.ts";
import type { JobContext } from "../jobs/runner.ts";
import { jobMeter } from "./progress.ts";
import type { BackupRepository } from "./repository/repository.ts";

/** Checks the backup that a job names; fails with what is wrong with it. May be repeated. */
export async function checkBackup(
  job: JobRecord,
  context: JobContext,
  { repository: open }: { readonly repository: () => Promise<BackupRepository> },
): Promise<void> {
  const { backupId } = fromBinary(VerifyBackupRequestSchema, job.spec);
  const repository = await open();
  const manifest = await repository.get(backupId, context.signal);
  using meter = jobMeter(context, { passes: 1, passOf: () => 0 });
  for (const { store, name, recordCount } of manifest.units) meter.plan(store, name, Number(recordCount));
  meter.phase(JobPhase.VERIFYING);
  const onProgress: NonNullable<Parameters<BackupRepository["verify"]>[1]["onProgress"]> = (
    { store, name },
    records,
    bytes,
  ) => meter.add(store, name, records, bytes);
  await repository.verify(manifest, { onProgress }, context.signal);
}
