import type { Jobs } from "../jobs/jobs.ts";
import type { Source, Target } from "./contracts.ts";
import { takeBackup } from "./engine.ts";
import { backupKind, restoreKind, verificationKind } from "./messages.ts";
import type { BackupRepository } from "./repository/repository.ts";
import { restoreBackup } from "./restore.ts";
import { checkBackup } from "./verify.ts";

/** Has this process take up the jobs of BackupService. */
export function backupJobs(options: {
  readonly jobs: Jobs;
  readonly repository: () => Promise<BackupRepository>;
  /** In the order in which their points in time are taken. */
  readonly sources: readonly Source[];
  readonly targets: readonly Target[];
  readonly parallelism: number;
}): void {
  const { jobs } = options;
  // A backup that is taken again finds in the repository what the first try has written, and stores nothing twice.
  jobs.handle(backupKind, { onOwnerLost: "rerun", run: (job, context) => takeBackup(job, context, options) });
  jobs.handle(verificationKind, { onOwnerLost: "rerun", run: (job, context) => checkBackup(job, context, options) });
  // A restore that broke off has left things behind, which a second one would take for somebody else's.
  jobs.handle(restoreKind, { onOwnerLost: "interrupt", run: (job, context) => restoreBackup(job, context, options) });
}
