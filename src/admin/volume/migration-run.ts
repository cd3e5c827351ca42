import { fail } from "../../errors.ts";
import type { Directory, Entry, Name } from "../../stores/volumes/directory.ts";
import type { FileOutcome, FileTask } from "../../stores/volumes/file-work.ts";
import type { FileWorkers } from "../../stores/volumes/file-workers.ts";
import type { OpenVolume } from "../../stores/volumes/volumes.ts";
import { joinPath, shownPath } from "../../stores/volumes/walk.ts";

/** What a migration is doing. */
export type MigrationPhase = "copying" | "verifying" | "switching" | "deleting";

/** How far it is. */
export interface MigrationProgress {
  phase: MigrationPhase;
  entries: number;
  copied: number;
  copiedBytes: number;
  verified: number;
  deleted: number;
}

/** What a migration needs. */
export interface Migration {
  /** Tells it from all others; a run with the same id goes on where the last one ended. */
  readonly id: string;
  readonly from: OpenVolume;
  readonly to: OpenVolume;
  readonly move: boolean;
  /** Ends it, but for the moment in which what was copied gets its place. */
  readonly signal: AbortSignal;
  /** Resolves when the right to go on has just been proved: the job is ours, and both volumes are still what was opened. */
  readonly prove: () => Promise<void>;
  readonly progress: (progress: MigrationProgress) => void;
  /** Called before each thing that is done; for tests, which end the process there. */
  readonly step?: (what: string) => void;
}

/** A migration that runs. */
export interface MigrationRun extends Migration {
  readonly told: MigrationProgress;
  readonly workers: FileWorkers;
}

/** Entries of a directory, and what is done with them. */
export interface EntryTask {
  readonly what: FileTask["what"];
  readonly from: Directory;
  readonly to: Directory;
  readonly entries: readonly Entry[];
  /** What a step is called, with the path of the directory; none where not given. */
  readonly step?: readonly [verb: string, path: Name];
}

/** Has workers do something with entries, and tells what became of each. One by one where a test ends the process before each. */
export async function runTask(
  { workers, step }: MigrationRun,
  { entries, step: told, ...task }: EntryTask,
): Promise<{ readonly bytes: number; readonly done: readonly (readonly [Entry, FileOutcome])[] }> {
  const isTold = step !== undefined && told !== undefined;
  const done: [Entry, FileOutcome][] = [];
  let bytes = 0;
  for (const group of isTold ? entries.map((entry) => [entry]) : [entries]) {
    if (isTold) for (const { name } of group) step(`${told[0]} ${shownPath(joinPath(told[1], name))}`);
    const report = await workers.run({ ...task, names: group.map(({ name }) => name) });
    bytes += report.bytes;
    for (const [index, entry] of group.entries()) done.push([entry, report.outcomes[index] ?? "other"]);
  }
  return { bytes, done };
}

export function begin({ told, progress, step }: MigrationRun, phase: MigrationPhase): void {
  step?.(phase);
  told.phase = phase;
  progress(told);
}

/** The folder of the target's own in which the copy is until it is whole. */
export function stagingName(id: string): Name {
  return Buffer.from(`${stagingPrefix}${id}`);
}

const stagingPrefix = "migration-";

/** Whether a name is that of the folder of any migration. */
export function isStagingName(name: Name): boolean {
  return name.toString("latin1").startsWith(stagingPrefix);
}

const mostExamples = 10;

/** Keeps a path to tell it, as long as there are few. */
export function addExample(examples: string[], path: Name): void {
  if (examples.length < mostExamples) examples.push(shownPath(path));
}

/** The failure of a migration that met what others changed. */
export function changed({ name }: OpenVolume, paths: readonly string[]): Error {
  const metadata = { volume: name, paths: paths.join(", ") };
  return fail("VOLUME_CHANGED", `What is in the volume ${name} is changed while it is migrated`, { metadata });
}
