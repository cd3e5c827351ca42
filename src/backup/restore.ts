import { create, fromBinary, toBinary } from "@bufbuild/protobuf";

import {
  type CreateRestoreRequest,
  CreateRestoreRequestSchema,
  JobPhase,
  RestoreSchema,
  type RestoredUnit,
} from "../../gen/lucid/admin/v1/backup_service_pb.ts";
import type { Manifest, Stream, Unit } from "../../gen/lucid/backup/v1/manifest_pb.ts";
import { fail } from "../errors.ts";
import type { JobRecord } from "../jobs/record.ts";
import type { JobContext } from "../jobs/runner.ts";
import type { RecordSource, RestorePlan, Target, TargetRun, Work } from "./contracts.ts";
import { jobMeter } from "./progress.ts";
import type { BackupRepository } from "./repository/repository.ts";
import { completeRestore, selectedUnits } from "./selection.ts";
import { each, together } from "./together.ts";

/** What restoring needs. */
export interface RestoreOptions {
  readonly repository: () => Promise<BackupRepository>;
  readonly targets: readonly Target[];
  readonly parallelism: number;
}

/** How often what is in place is stored while it changes, in milliseconds. */
const reportMs = 2000;

/** Most units that the sentence of a failure names. */
const namedUnits = 10;

/** A restore reads what it needs three times: to check it, to write it and to compare it with what is in the stores. */
const passes = 3;

function passOf(phase: JobPhase): number {
  if (phase === JobPhase.PREPARING || phase === JobPhase.VERIFYING) return 0;
  return phase === JobPhase.COMPARING ? 2 : 1;
}

/**
 * Restores what a job asks for. Nothing is changed before every target has agreed and all data has been read and found
 * whole. What is in place is kept in the job, right also where this fails. Not to be repeated.
 */
export async function restoreBackup(job: JobRecord, context: JobContext, options: RestoreOptions): Promise<void> {
  const request = fromBinary(CreateRestoreRequestSchema, job.spec);
  const repository = await options.repository();
  const manifest = await repository.get(request.backupId, context.signal);
  using meter = jobMeter(context, { passes, passOf });
  const stop = new AbortController();
  const signal = AbortSignal.any([context.signal, stop.signal]);
  const work: Work = { meter, signal, parallelism: options.parallelism };
  const source = await repository.reader(signal, request.backupId);

  await using prepared = await prepareRestore(manifest, request, { targets: options.targets, source, work, stop });
  const { runs, units } = prepared;
  meter.phase(JobPhase.VERIFYING);
  await checkAll(units, source, { work, stop });
  // Deleted meanwhile, its chunks may vanish at any time.
  await repository.get(request.backupId, signal);
  await context.prove();

  using report = keptReport(context, runs);
  meter.phase(JobPhase.RESTORING);
  await together(
    runs.map((run) => run.restore()),
    stop,
  );
  meter.phase(JobPhase.COMPARING);
  await together(
    runs.map((run) => run.compare()),
    stop,
  );
  requireEqual(report.now(), request.backupId);
}

/** The runs of a restore that every target has agreed to, and the units that they are about. */
interface PreparedRestore extends AsyncDisposable {
  readonly runs: readonly TargetRun[];
  readonly units: readonly Unit[];
}

/** Has every target check its part; changes nothing. Also says whether a restore is possible at all. */
export async function prepareRestore(
  manifest: Manifest,
  request: CreateRestoreRequest,
  given: {
    readonly targets: readonly Target[];
    readonly source: RecordSource;
    readonly work: Work;
    readonly stop: AbortController;
  },
): Promise<PreparedRestore> {
  const selection = completeRestore(request.selection);
  const { renames, conflictPolicy } = request;
  const stack = new AsyncDisposableStack();
  const units: Unit[] = [];
  const prepare = async (target: Target): Promise<TargetRun | undefined> => {
    const plan: RestorePlan = {
      units: selectedUnits(manifest.units, target.store, selection),
      selection,
      renames: renames.filter(({ store }) => store === target.store),
      conflictPolicy,
    };
    if (plan.units.length === 0) return undefined;
    units.push(...plan.units);
    for (const { store, name, recordCount } of plan.units) given.work.meter.plan(store, name, Number(recordCount));
    return stack.use(await target.prepare(plan, given.source, given.work));
  };
  try {
    const runs = await together(given.targets.map(prepare), given.stop);
    return {
      runs: runs.filter((run) => run !== undefined),
      units,
      [Symbol.asyncDispose]: () => stack.disposeAsync(),
    };
  } catch (error) {
    await stack.disposeAsync();
    throw error;
  }
}

/** Reads every record of the units: whatever is missing or damaged shows before anything is changed. */
async function checkAll(
  units: readonly Unit[],
  source: RecordSource,
  { work, stop }: { readonly work: Work; readonly stop: AbortController },
): Promise<void> {
  function* streams(): Generator<{ unit: Unit; stream: Stream }> {
    for (const unit of units) for (const stream of unit.streams) yield { unit, stream };
  }
  await each(streams(), { atOnce: work.parallelism, stop }, async ({ unit: { store, name }, stream }) => {
    for await (const batch of source.records(stream, work.signal)) {
      work.meter.add(store, name, batch.length, bytesOf(batch));
    }
  });
}

function bytesOf(batch: readonly Uint8Array[]): number {
  let bytes = 0;
  for (const { byteLength } of batch) bytes += byteLength;
  return bytes;
}

/** Keeps in the job what the runs say is in place, now and again and at the end, however it ends. */
function keptReport(context: JobContext, runs: readonly TargetRun[]) {
  const now = (): RestoredUnit[] => create(RestoreSchema, { report: runs.flatMap((run) => run.report()) }).report;
  const keep = (): void => context.keep(toBinary(RestoreSchema, create(RestoreSchema, { report: now() })));
  const timer = setInterval(keep, reportMs);
  timer.unref();
  return {
    now,
    [Symbol.dispose]() {
      clearInterval(timer);
      keep();
    },
  };
}

function requireEqual(report: readonly RestoredUnit[], backupId: string): void {
  const unequal = report.filter(({ equal }) => !equal).map(({ source }) => source);
  if (unequal.length === 0) return;
  const units = unequal.slice(0, namedUnits).join(", ");
  throw fail("RESTORE_NOT_EQUAL", `What was restored is not equal to the backup in ${unequal.length} units`, {
    metadata: { backup_id: backupId, units, unit_count: String(unequal.length) },
  });
}
