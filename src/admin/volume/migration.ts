import { fail } from "../../errors.ts";
import { DirectoryFinder } from "../../stores/volumes/directory-finder.ts";
import { type Directory, type Entry, isSame, type Name } from "../../stores/volumes/directory.ts";
import { hasFileCode, isChangedMeanwhile } from "../../stores/volumes/failures.ts";
import { openFileWorkers } from "../../stores/volumes/file-workers.ts";
import { discard, readOwnFile, removeOwnFile, writeOwnFile } from "../../stores/volumes/own-files.ts";
import { isOwn, type OpenVolume } from "../../stores/volumes/volumes.ts";
import { joinPath, shownPath, walk } from "../../stores/volumes/walk.ts";
import { fill } from "./migration-copy.ts";
import {
  addExample,
  begin,
  changed,
  type Migration,
  type MigrationProgress,
  type MigrationRun,
  isStagingName,
  runTask,
  stagingName,
} from "./migration-run.ts";

const markerName = "migration";
const mostMarkerBytes = 4096;
/** How often a folder is gone through until it is empty. */
const mostRounds = 100;

/**
 * Copies or moves all that is in a volume into an empty one. Four steps, each of which may be repeated from its beginning:
 * everything is copied into a folder of the target's own; both are compared byte by byte; what was copied is renamed to its place; and
 * what was moved is removed, name by name, while it is still what was compared. A file in the target's own folder says from which
 * step on a run has to go on, so a process may die at any moment.
 */
export async function migrate(migration: Migration): Promise<void> {
  const { to, signal } = migration;
  const progress: MigrationProgress = {
    phase: "copying",
    entries: 0,
    copied: 0,
    copiedBytes: 0,
    verified: 0,
    deleted: 0,
  };
  await using workers = openFileWorkers();
  const work: MigrationRun = { ...migration, told: progress, workers };
  if ((await phaseOf(work)) === undefined) {
    await requireEmpty(to);
    await discardOthers(work);
    await fill(work);
    await migration.prove();
    await mark(work, "switching");
  }
  if ((await phaseOf(work)) === "switching") {
    await putInPlace(work);
    await mark(work, "deleting");
  }
  signal.throwIfAborted();
  if (migration.move) {
    await migration.prove();
    await removeMoved(work);
  }
  work.step?.("forget");
  await removeOwnFile(to.own, markerName);
}

/**
 * Removes what a migration that came to nothing has left in the target's own folder; not what shows in the target. Until it removes what
 * was moved, the source has everything.
 */
export async function abandon(migration: Pick<Migration, "id" | "to">, signal: AbortSignal): Promise<void> {
  const { id, to } = migration;
  if ((await phaseOf(migration)) !== undefined) await removeOwnFile(to.own, markerName);
  await discard(to.own, stagingName(id), signal);
}

// ---------------------------------------------------------------- what a run has left behind

/** From where to go on; undefined from the beginning. */
async function phaseOf({ to, id }: Pick<Migration, "id" | "to">): Promise<"switching" | "deleting" | undefined> {
  const text = (await readOwnFile(to.own, markerName, { mostBytes: mostMarkerBytes }))?.toString();
  if (text === `${id} switching`) return "switching";
  return text === `${id} deleting` ? "deleting" : undefined;
}

async function mark({ to, id, step }: Migration, phase: "switching" | "deleting"): Promise<void> {
  step?.(`mark ${phase}`);
  await writeOwnFile(to.own, markerName, Buffer.from(`${id} ${phase}`), { ifAbsent: false });
}

async function requireEmpty({ name, top }: OpenVolume): Promise<void> {
  for await (const entries of top.entries()) {
    if (entries.every((entry) => isOwn(entry.name))) continue;
    const message = `The volume ${name} is not empty`;
    throw fail("VOLUME_NOT_EMPTY", message, { metadata: { volume: name } });
  }
}

/** Removes the copies of migrations into this volume whose processes all died. There is one job for a volume at a time. */
async function discardOthers({ to: { own }, id, signal }: MigrationRun): Promise<void> {
  for await (const names of own.names()) {
    for (const name of names)
      if (isStagingName(name) && !name.equals(stagingName(id))) await discard(own, name, signal);
  }
}

// ---------------------------------------------------------------- switching and removing

async function putInPlace(work: MigrationRun): Promise<void> {
  const { to, id, step } = work;
  begin(work, "switching");
  const place = stagingName(id);
  for (let round = 1; ; round++) {
    try {
      if (round === 1) await requireFree(work, place);
      await placeAll(work, place);
      await to.top.sync();
      step?.("remove the empty folder");
      await to.own.removeDirectory(place);
      return;
    } catch (error) {
      // Another run has come to its end here.
      if (hasFileCode(error, "ENOENT")) break;
      // A directory that changes while it is read need not tell of everything in it.
      if (!hasFileCode(error, "ENOTEMPTY", "EEXIST") || round === mostRounds) throw error;
    }
  }
  await to.top.sync();
}

/** So that nothing shows in the target where all of it cannot. What is put there while the rest is placed is met by `placeOne`. */
async function requireFree({ to }: MigrationRun, place: Name): Promise<void> {
  await using staging = await to.own.open(place);
  for await (const entries of staging.entries()) {
    for (const { name, stat } of entries) {
      const there = await to.top.find(name);
      // A process that died may have given a file its name, and not have taken the other one from it.
      if (there !== undefined && !isSame(there, stat)) throw inTheWay(to, name);
    }
  }
}

async function placeAll({ to, step }: MigrationRun, place: Name): Promise<void> {
  await using staging = await to.own.open(place);
  for await (const entries of staging.entries()) {
    for (const entry of entries) {
      step?.(`place ${shownPath(entry.name)}`);
      await placeOne(staging, entry, to);
    }
  }
}

/** Nothing that somebody has put there meanwhile is overwritten. May be repeated, also by a process that was stalled. */
async function placeOne(staging: Directory, { name, stat }: Entry, to: OpenVolume): Promise<void> {
  const { top } = to;
  try {
    if (stat.isDirectory()) await staging.rename(name, top, name);
    else {
      await staging.link(name, top, name).catch(async (error: unknown) => {
        const there = hasFileCode(error, "EEXIST") ? await top.find(name) : undefined;
        if (there === undefined || !isSame(there, stat)) throw error;
      });
      await staging.remove(name);
    }
  } catch (error) {
    if (hasFileCode(error, "ENOENT")) return;
    if (!hasFileCode(error, "EEXIST", "ENOTEMPTY", "ENOTDIR", "EISDIR")) throw error;
    throw inTheWay(to, name);
  }
}

function inTheWay({ name: volume }: OpenVolume, name: Name): Error {
  const metadata = { volume, paths: shownPath(name) };
  return fail("VOLUME_CHANGED", `Something was put into the volume ${volume} while it was filled`, { metadata });
}

async function removeMoved(work: MigrationRun): Promise<void> {
  const { from, to, signal, told } = work;
  begin(work, "deleting");
  const kept: string[] = [];
  await using copies = new DirectoryFinder(to.top);
  for await (const step of walk(from.top, { signal, enters: (path) => !isOwn(path) })) {
    if (step.type === "skipped" && step.why !== "changed") addExample(kept, step.path);
    if (step.type === "end" && step.parent !== undefined) {
      work.step?.(`delete ${shownPath(step.path)}`);
      const outcome = await step.parent.removeDirectory(step.name).then(() => "removed" as const, unlessKept);
      if (outcome === "removed") told.deleted++;
      // Where nothing in it was kept, somebody has put something there when it had been gone through.
      else if (outcome === "kept" && kept.length === 0) addExample(kept, step.path);
      work.progress(told);
    }
    if (step.type !== "entries") continue;
    const { path, entries: met } = step;
    const entries = met.filter(({ name, stat }) => !stat.isDirectory() && (path.length > 0 || !isOwn(name)));
    const there = await copies.at(path);
    const done =
      there === undefined
        ? entries.map((entry) => [entry, "kept"] as const)
        : (await runTask(work, { what: "remove", from: step.in, to: there, entries, step: ["delete", path] })).done;
    for (const [{ name }, outcome] of done) {
      if (outcome === "removed" || outcome === "gone") told.deleted++;
      else addExample(kept, joinPath(path, name));
    }
    work.progress(told);
  }
  if (kept.length > 0) throw changed(from, kept);
}

function unlessKept(error: unknown): "kept" | "gone" {
  if (hasFileCode(error, "ENOTEMPTY", "EEXIST", "EBUSY")) return "kept";
  if (isChangedMeanwhile(error)) return "gone";
  throw error;
}
