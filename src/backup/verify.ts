import { create, fromBinary, type MessageInitShape, toBinary } from "@bufbuild/protobuf";

import {
  JobPhase,
  type VerificationProblemSchema,
  VerificationSchema,
  VerifyBackupRequestSchema,
} from "../../gen/lucid/admin/v1/backup_service_pb.ts";
import type { Store } from "../../gen/lucid/admin/v1/common_pb.ts";
import type { JobRecord } from "../jobs/record.ts";
import { failureOf, type JobContext } from "../jobs/runner.ts";
import { jobMeter } from "./progress.ts";
import type { BackupRepository } from "./repository/repository.ts";
import type { BackupProblem } from "./repository/verification.ts";

/** Problems that a verification names. */
const mostProblems = 100;

/** Checks the backup that a job names, keeps what is wrong with it in the job, and fails with the first. May be repeated. */
export async function checkBackup(
  job: JobRecord,
  context: JobContext,
  { repository: open }: { readonly repository: () => Promise<BackupRepository> },
): Promise<void> {
  const { backupId, readPercent } = fromBinary(VerifyBackupRequestSchema, job.spec);
  const repository = await open();
  const manifest = await repository.get(backupId, context.signal);
  using meter = jobMeter(context, { passes: 1, passOf: () => 0 });
  for (const { store, name, recordCount } of manifest.units) meter.plan(store, name, Number(recordCount));
  meter.phase(JobPhase.VERIFYING);
  const problems: BackupProblem[] = [];
  let problemCount = 0n;
  const options = {
    ...(readPercent !== undefined && { readPercent }),
    onProgress: ({ store, name }: { readonly store: Store; readonly name: string }, records: number, bytes: number) =>
      meter.add(store, name, records, bytes),
    onProblem: (problem: BackupProblem): void => {
      problemCount++;
      if (problems.length < mostProblems) problems.push(problem);
    },
  };
  await repository.verify(manifest, options, context.signal);
  const [first] = problems;
  if (first === undefined) return;
  const found = create(VerificationSchema, { problems: problems.map(toldProblem), problemCount });
  context.keep(toBinary(VerificationSchema, found));
  throw first.error;
}

function toldProblem({ error, unit }: BackupProblem): MessageInitShape<typeof VerificationProblemSchema> {
  const { metadata, ...said } = failureOf(error);
  return { error: { ...said, metadata: { ...metadata } }, ...(unit && { store: unit.store, unit: unit.name }) };
}
