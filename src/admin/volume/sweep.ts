import { timestampFromMs } from "@bufbuild/protobuf/wkt";

import { type Entry, isSame, type Name } from "../../stores/volumes/directory.ts";
import { hasFileCode, isChangedMeanwhile } from "../../stores/volumes/failures.ts";
import { isOwn, type OpenVolume } from "../../stores/volumes/volumes.ts";
import { joinPath, shownPath, type Step, walk } from "../../stores/volumes/walk.ts";

/** What is to be removed from a volume. */
export interface SweepOptions {
  /** Says of a file or symlink whether it is. */
  readonly isUnwanted: (path: string, entry: Entry) => boolean;
  /** Directories that are empty, or become so, and were last changed before this time; none where not given. */
  readonly emptyBeforeMs?: number;
  /** Whether it is only counted. */
  readonly dryRun: boolean;
  readonly budgetMs: number;
  readonly signal: AbortSignal;
}

/** What was removed, or would be. */
export interface Swept {
  files: number;
  bytes: bigint;
  directories: number;
  /** What could not be removed. */
  kept: number;
  complete: boolean;
  readonly examples: ToldEntry[];
}

/** A file or directory as it is told. */
export type ToldEntry = ReturnType<typeof toldEntry>;

const mostExamples = 100;

/** Goes through a volume and removes what is unwanted. What is changed between the look at it and its removal stays. */
export async function sweep({ top }: Pick<OpenVolume, "top">, options: SweepOptions): Promise<Swept> {
  const swept: Swept = { files: 0, bytes: 0n, directories: 0, kept: 0, complete: false, examples: [] };
  const untilMs = performance.now() + options.budgetMs;
  /** How many entries are left in each directory that is under way. */
  const left = new Map<string, number>();
  let isWhole = true;
  for await (const step of walk(top, { signal: options.signal, enters: (path) => !isOwn(path) })) {
    if (step.type === "entries") await sweepEntries(step, { ...options, swept, left });
    else if (step.type === "end") await sweepDirectory(step, { ...options, swept, left });
    else if (step.why !== "changed") isWhole = false;
    if (performance.now() > untilMs) return swept;
  }
  return { ...swept, complete: isWhole };
}

interface Sweeping extends SweepOptions {
  readonly swept: Swept;
  readonly left: Map<string, number>;
}

async function sweepEntries(step: Step & { type: "entries" }, { swept, left, ...options }: Sweeping): Promise<void> {
  const key = step.path.toString("latin1");
  let remaining = (left.get(key) ?? 0) + step.entries.length;
  for (const entry of step.entries) {
    const { name, stat } = entry;
    if (!stat.isFile() && !stat.isSymbolicLink()) continue;
    const path = joinPath(step.path, name);
    if (!options.isUnwanted(path.toString("utf8"), entry)) continue;
    if (!options.dryRun && !(await removeUnchanged(step, entry))) {
      swept.kept++;
      continue;
    }
    remaining--;
    swept.files++;
    swept.bytes += stat.size;
    addExample(swept, path, entry);
  }
  left.set(key, remaining);
}

async function removeUnchanged({ in: directory }: Step & { type: "entries" }, entry: Entry): Promise<boolean> {
  try {
    const now = await directory.find(entry.name);
    const isUnchanged = now !== undefined && isSame(now, entry.stat) && now.mtimeNs === entry.stat.mtimeNs;
    if (!isUnchanged) return false;
    await directory.remove(entry.name);
    return true;
  } catch (error) {
    if (isChangedMeanwhile(error) || hasFileCode(error, "EACCES", "EPERM", "EBUSY")) return false;
    throw error;
  }
}

async function sweepDirectory(step: Step & { type: "end" }, { swept, left, ...options }: Sweeping): Promise<void> {
  const key = step.path.toString("latin1");
  const remaining = left.get(key) ?? 0;
  left.delete(key);
  const { emptyBeforeMs } = options;
  // By its time when it was opened: the removal of what was in it has changed that since.
  if (step.parent === undefined || remaining > 0 || emptyBeforeMs === undefined) return;
  if (Number(step.in.stat.mtimeMs) > emptyBeforeMs) return;
  if (!options.dryRun) {
    try {
      await step.parent.removeDirectory(step.name);
    } catch (error) {
      // Someone has put something into it, or something else in its place.
      const isKept = isChangedMeanwhile(error) || hasFileCode(error, "ENOTEMPTY", "EEXIST", "EACCES", "EPERM", "EBUSY");
      if (!isKept) throw error;
      swept.kept++;
      return;
    }
  }
  swept.directories++;
  const above = step.path.subarray(0, Math.max(0, step.path.length - step.name.length - 1)).toString("latin1");
  left.set(above, (left.get(above) ?? 0) - 1);
  addExample(swept, step.path, { name: step.name, stat: step.in.stat });
}

function addExample({ examples }: Swept, path: Name, entry: Entry): void {
  if (examples.length < mostExamples) examples.push(toldEntry(path, entry));
}

/** A file or directory for people; of a directory `bytes` is what its caller counts in it. */
export function toldEntry(path: Name, { stat }: Entry, bytes = stat.isDirectory() ? 0n : stat.size) {
  return { path: shownPath(path), bytes, changeTime: timestampFromMs(Number(stat.mtimeMs)) };
}
