import { fail } from "../../errors.ts";
import type { Name } from "../../stores/volumes/directory.ts";
import type { OpenVolume } from "../../stores/volumes/volumes.ts";
import { shownPath } from "../../stores/volumes/walk.ts";

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
}

export function begin({ told, progress, step }: MigrationRun, phase: MigrationPhase): void {
  step?.(phase);
  told.phase = phase;
  progress(told);
}

/** The folder of the target's own in which the copy is until it is whole. */
export function stagingName(id: string): Name {
  return Buffer.from(`migration-${id}`);
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
