import { create, fromBinary, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import type { Document } from "mongodb";

import {
  type CollectionIndex,
  type IndexBuild,
  IndexBuildProgressSchema,
  IndexBuildSchema,
  IndexBuildType,
} from "../../../gen/lucid/admin/v1/collection_index_pb.ts";
import type { WatchIndexBuildResponseSchema } from "../../../gen/lucid/admin/v1/database_admin_service_pb.ts";
import { fail, isReason, reasonOf } from "../../errors.ts";
import type { Jobs } from "../../jobs/jobs.ts";
import type { JobEvent, JobRecord } from "../../jobs/record.ts";
import type { JobContext } from "../../jobs/runner.ts";
import { toldEvent, toldJob, toldProgress } from "../../jobs/told.ts";
import { type Ensured, ensureValidator, type WantedCollection } from "../../schema/collection-keeper.ts";
import { abortable } from "../../stores/waiting.ts";
import { ensuredThing } from "../ensured.ts";
import { buildProgress, type BuildStep } from "./build-progress.ts";
import { answersOf } from "./catalog.ts";
import { type IndexSpec, specOf } from "./definitions.ts";
import { listSpecs } from "./index-catalog.ts";
import type { NamedCollection, Names } from "./names.ts";
import { told } from "./refusals.ts";

/** The kind of jobs that build indexes. What one is to do is an IndexBuild with what was asked for. */
export const indexBuildKind = "index-build";

/** What the jobs need. */
export interface IndexBuildsOptions {
  readonly jobs: Jobs;
  readonly names: Names;
  /** What the collections of the domain must have. */
  readonly standard: readonly WantedCollection[];
}

/** How long one index may take. Reads and writes go on meanwhile. */
const buildMs = 6 * 3_600_000;

/**
 * Has this process take up jobs that build indexes. Each may be begun again where its process died: a server that is told to build
 * what it builds already only waits for that.
 */
export function indexBuilds(options: IndexBuildsOptions): void {
  options.jobs.handle(indexBuildKind, {
    onOwnerLost: "rerun",
    async run(job, context) {
      const build = buildOf(job);
      if (build.type === IndexBuildType.REINDEX) await reindex(build, options.names, context);
      else await buildAll(build, options, context);
    },
  });
}

interface Counted {
  readonly collection: string;
  readonly ensured: Ensured;
}

async function buildAll(
  build: IndexBuild,
  { names, standard }: IndexBuildsOptions,
  context: JobContext,
): Promise<void> {
  const built: Counted[] = build.indexes.map(({ collection, definition }) => ({
    collection,
    ensured: { name: definition?.index ?? "", state: "waiting" },
  }));
  const report = (done: number, step?: BuildStep): void => {
    const percent = built.length === 0 ? 100 : (100 * (done + (step?.share ?? 0))) / built.length;
    context.report({ percent, detail: detailOf(built, step) });
  };
  for (const [place, index] of build.indexes.entries()) {
    context.signal.throwIfAborted();
    const at = names.collection(index);
    const note = (state: Ensured["state"], problem?: string): void => {
      const ensured = { name: index.definition?.index ?? "", state, ...(problem !== undefined && { problem }) };
      built[place] = { collection: index.collection, ensured };
    };
    note("building");
    report(place);
    try {
      if (build.type === IndexBuildType.ENSURE) await makeCollection(at, standard);
      const spec = specFor(index);
      note((await buildOne(at, spec, context.signal, (step) => report(place, step))) ? "created" : "existing");
    } catch (error) {
      const isConflict = isReason(error, "INDEX_CONFLICT") || isReason(error, "INDEX_DUPLICATE_VALUES");
      if (build.type !== IndexBuildType.ENSURE || !isConflict) throw error;
      note("conflicting", problems.get(reasonOf(error)?.reason ?? ""));
    }
    report(place + 1);
  }
}

const problems = new Map([
  ["INDEX_CONFLICT", "Another index has its name, or its keys in a way that excludes it"],
  ["INDEX_DUPLICATE_VALUES", "Documents hold the same values"],
]);

/** An index makes its collection where there is none: it would lack its validator. */
async function makeCollection(
  { db, collection }: NamedCollection,
  standard: readonly WantedCollection[],
): Promise<void> {
  const validator = standard.find(({ name }) => name === collection)?.validator;
  if (validator !== undefined) await ensureValidator(db, collection, validator);
}

function specFor({ definition }: CollectionIndex): IndexSpec {
  if (definition === undefined) throw new Error("A build has an index without a definition");
  return specOf(definition, "definition");
}

/** Whether the index was made; false where it was there. */
async function buildOne(
  at: NamedCollection,
  spec: IndexSpec,
  signal: AbortSignal,
  report: (step: BuildStep) => void,
): Promise<boolean> {
  const command = { createIndexes: at.collection, indexes: [spec], maxTimeMS: buildMs };
  const about = { at, index: spec.name, invalid: "INDEX_DEFINITION_INVALID" } as const;
  // The order would make a collection that was dropped meanwhile; and what is there is not to be given up.
  const there = await listSpecs(at, { signal });
  if (there.some(({ name }) => name === spec.name)) return wasMade(await told(about, () => at.db.command(command)));
  const building = told(about, () => at.db.command(command));
  await using _progress = buildProgress(at, { createIndexes: at.collection, "indexes.name": spec.name }, report);
  try {
    return wasMade(await abortable(building, signal));
  } catch (error) {
    // Whoever hands the job on, or has lost it, leaves the server to build: the next one waits for the same index.
    if (signal.aborted && isReason(signal.reason, "CANCELLED")) await giveUp(at, spec.name, building);
    throw error;
  }
}

/** To drop an index that is being built is to stop its build. */
async function giveUp({ db, collection }: NamedCollection, index: string, building: Promise<Document>): Promise<void> {
  // It may be done, or never have begun.
  await db.command({ dropIndexes: collection, index, maxTimeMS: 60_000 }).catch(leave);
  await building.catch(leave);
}

const leave = (): void => {};

/** Whether an index was made, on any shard. */
export function wasMade(reply: Document): boolean {
  return answersOf(reply).some(
    ({ numIndexesBefore, numIndexesAfter }) => Number(numIndexesAfter) > Number(numIndexesBefore),
  );
}

async function reindex(build: IndexBuild, names: Names, context: JobContext): Promise<void> {
  const at = names.collection(build);
  const report = (step?: BuildStep) =>
    context.report({ percent: 100 * (step?.share ?? 0), detail: detailOf([], step) });
  report();
  const command = { reIndex: at.collection, maxTimeMS: buildMs };
  const building = told({ at, onlyAlone: true }, () => at.db.command(command));
  await using _progress = buildProgress(at, { reIndex: at.collection }, report);
  await abortable(building, context.signal);
}

// ---------------------------------------------------------------- what is told of them

function detailOf(built: readonly Counted[], step?: BuildStep): Uint8Array {
  const indexes = built.map(({ collection, ensured }) => {
    const { name: index, state, problem } = ensuredThing(ensured);
    return { collection, index, state, problem };
  });
  const counts = step && { phase: step.phase, doneCount: BigInt(step.done), totalCount: BigInt(step.total) };
  return toBinary(IndexBuildProgressSchema, create(IndexBuildProgressSchema, { indexes, ...counts }));
}

/** What a job was asked to do. */
function buildOf({ spec }: JobRecord): IndexBuild {
  return fromBinary(IndexBuildSchema, spec);
}

export function indexBuildOf(job: JobRecord): MessageInitShape<typeof IndexBuildSchema> {
  const { type, database, collection, indexes } = buildOf(job);
  return {
    buildId: job.jobId,
    type,
    database,
    collection,
    indexes,
    ...toldJob(job),
    ...toldProgress(IndexBuildProgressSchema, job.progress),
  };
}

export function indexBuildEventOf(event: JobEvent): MessageInitShape<typeof WatchIndexBuildResponseSchema> {
  return { ...toldEvent(event), ...toldProgress(IndexBuildProgressSchema, event.progress) };
}

export function indexBuildNotFound(buildId: string): Error {
  return fail("INDEX_BUILD_NOT_FOUND", `There is no index build ${buildId}`, {
    metadata: { build_id: buildId },
    resource: { type: IndexBuildSchema.typeName, name: buildId },
  });
}
