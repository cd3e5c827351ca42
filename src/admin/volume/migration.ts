import { createHash } from "node:crypto";

import { fail } from "../../errors.ts";
import { DirectoryFinder } from "../../stores/volumes/directory-finder.ts";
import { type Directory, type Entry, isSame, type Name } from "../../stores/volumes/directory.ts";
import { hasFileCode, isChangedMeanwhile } from "../../stores/volumes/failures.ts";
import { type ReadFile, readFileOf } from "../../stores/volumes/file-reader.ts";
import { inGroups } from "../../stores/volumes/groups.ts";
import { readOwnFile, removeOwnFile, writeOwnFile } from "../../stores/volumes/own-files.ts";
import { removeTree } from "../../stores/volumes/remove-tree.ts";
import { type EntryMeta, TreeWriter } from "../../stores/volumes/tree-writer.ts";
import { isOwn, type OpenVolume } from "../../stores/volumes/volumes.ts";
import { joinPath, shownPath, type Step, walk } from "../../stores/volumes/walk.ts";

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
  /** Resolves when the right to go on has just been proved. */
  readonly prove: () => Promise<void>;
  readonly progress: (progress: MigrationProgress) => void;
  /** Called before each thing that is done; for tests, which end the process there. */
  readonly step?: (what: string) => void;
}

/** How often what has changed is copied again before it is given up. */
const mostRounds = 3;
const markerName = "migration";
const mostMarkerBytes = 4096;
const mostExamples = 10;

/**
 * Copies or moves all that is in a volume into an empty one. Four steps, each of which may be repeated from its beginning:
 * everything is copied into a folder of the target's own; both are compared by checksum; what was copied is renamed to its place; and
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
  const work: Work = { ...migration, told: progress };
  if ((await phaseOf(work)) === undefined) {
    await requireEmpty(to);
    await fill(work);
    await migration.prove();
    await mark(work, "switching");
  }
  if ((await phaseOf(work)) === "switching") {
    await putInPlace(work);
    await mark(work, "deleting");
  }
  signal.throwIfAborted();
  if (migration.move) await removeMoved(work);
  work.step?.("forget");
  await removeOwnFile(to.own, markerName);
}

/** Removes what a migration that came to nothing has left in the target's own folder; not what shows in the target. */
export async function abandon(migration: Pick<Migration, "id" | "to">, signal: AbortSignal): Promise<void> {
  const { id, to } = migration;
  const phase = await phaseOf(migration);
  // Half of it may be in its place: that can only be brought to its end.
  if (phase === "switching") return;
  if (phase !== undefined) await removeOwnFile(to.own, markerName);
  await removeTree(to.own, stagingName(id), signal);
}

interface Work extends Migration {
  readonly told: MigrationProgress;
}

function begin({ told, progress, step }: Work, phase: MigrationPhase): void {
  step?.(phase);
  told.phase = phase;
  progress(told);
}

// ---------------------------------------------------------------- what a run has left behind

function stagingName(id: string): Name {
  return Buffer.from(`migration-${id}`);
}

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

// ---------------------------------------------------------------- copying and comparing

async function fill(work: Work): Promise<void> {
  const { to, id } = work;
  await to.own.makeDirectory(stagingName(id)).catch((error: unknown) => {
    if (!hasFileCode(error, "EEXIST")) throw error;
  });
  await using staging = await to.own.open(stagingName(id));
  await count(work);
  for (let round = 1; ; round++) {
    begin(work, "copying");
    await copy(work, staging);
    begin(work, "verifying");
    const different = [...(await compare(work, staging)), ...(await removeSurplus(work, staging))];
    if (different.length === 0) break;
    if (round === mostRounds) throw changed(work.from, different);
  }
  await staging.sync();
}

/** What progress is told by. */
async function count({ from, signal, told }: Work): Promise<void> {
  for await (const step of walk(from.top, { signal, enters: (path) => !isOwn(path) })) {
    if (step.type === "entries") told.entries += step.entries.length;
  }
  told.entries--; // the service's own folder
}

/** Copies what is not in the target yet as it is in the source. */
async function copy(work: Work, staging: Directory): Promise<void> {
  const { from, to, signal, told } = work;
  told.copied = 0;
  // What was moved is removed where it was, so that the copy must outlive a crash of the machine by then.
  const durable = work.move;
  const options = { occupied: "replace", direct: true, durable, signal } as const;
  await using writer = new TreeWriter({ top: staging, own: to.own }, options);
  await using copies = new DirectoryFinder(staging);
  for await (const step of walk(from.top, { signal, enters: (path) => !isOwn(path) })) {
    if (step.type === "skipped" && step.why !== "changed") throw unreadable(from, step.path);
    if (step.type === "entries") await copyEntries(step, work, { writer, copies });
    if (step.type === "end" && step.path.length > 0) {
      work.step?.(`copy ${shownPath(step.path)}`);
      await writer.putDirectory(step.path, metaOf({ name: step.name, stat: step.in.stat }));
      told.copied++;
    }
    work.progress(told);
  }
  await writer.settle();
}

async function copyEntries(
  { in: directory, path: above, entries }: Step & { type: "entries" },
  work: Work,
  { writer, copies }: { readonly writer: TreeWriter; readonly copies: DirectoryFinder },
): Promise<void> {
  const { told } = work;
  const wanted = entries.filter(({ name, stat }) => !stat.isDirectory() && (above.length > 0 || !isOwn(name)));
  const there = await copies.at(above);
  const missing: Entry[] = [];
  await inGroups(wanted, async (entry) => {
    if (there !== undefined && (await isCopied(there, entry))) told.copied++;
    else missing.push(entry);
  });
  for (const entry of missing)
    await copyEntry(directory, { path: joinPath(above, entry.name), entry }, { work, writer });
}

async function copyEntry(
  directory: Directory,
  { path, entry }: { readonly path: Name; readonly entry: Entry },
  { work, writer }: { readonly work: Work; readonly writer: TreeWriter },
): Promise<void> {
  const { told, from, signal } = work;
  work.step?.(`copy ${shownPath(path)}`);
  if (entry.stat.isSymbolicLink()) {
    const target = await directory.readSymlink(entry.name).catch(unlessChanged);
    if (target !== undefined) await writer.putSymlink(path, target, metaOf(entry));
    told.copied++;
    return;
  }
  if (!entry.stat.isFile()) throw unreadable(from, path);
  const opened = await readFileOf(directory, entry);
  if (opened === "denied") throw unreadable(from, path);
  if (opened === "gone") return;
  await using file = opened;
  const meta = metaOf({ name: entry.name, stat: file.stat });
  const whole = await file.whole();
  const note = (): void => {
    told.copied++;
    told.copiedBytes += Number(file.stat.size);
  };
  if (whole !== undefined) {
    await writer.putWhole(path, whole, meta, note);
    return;
  }
  await writer.putParts(path, file.parts(signal), meta);
  note();
}

/** Paths of what is not the same in both, as far as they are told. */
async function compare(work: Work, staging: Directory): Promise<string[]> {
  const { from, signal, told } = work;
  const different: string[] = [];
  told.verified = 0;
  await using copies = new DirectoryFinder(staging);
  for await (const step of walk(from.top, { signal, enters: (path) => !isOwn(path) })) {
    if (step.type !== "entries") continue;
    const there = await copies.at(step.path);
    const wanted = step.entries.filter(({ name }) => step.path.length > 0 || !isOwn(name));
    await inGroups(wanted, async (entry) => {
      if (there !== undefined && (await isEqual(there, entry, { in: step.in, signal }))) told.verified++;
      else {
        addExample(different, joinPath(step.path, entry.name));
        // What has the right size and time is not copied again as long as it is there.
        if (!entry.stat.isDirectory()) await there?.remove(entry.name).catch(unlessDirectory);
      }
    });
    work.progress(told);
  }
  return different;
}

/** Removes from the copy what is in the source no more, and tells its paths. */
async function removeSurplus(work: Work, staging: Directory): Promise<string[]> {
  const surplus: string[] = [];
  await using sources = new DirectoryFinder(work.from.top);
  for await (const step of walk(staging, { signal: work.signal })) {
    if (step.type !== "entries") continue;
    for (const { name, stat } of step.entries) {
      const path = joinPath(step.path, name);
      const source = await sources.at(step.path);
      if ((await source?.find(name)) !== undefined) continue;
      addExample(surplus, path);
      if (stat.isDirectory()) await removeTree(step.in, name, work.signal);
      else await step.in.remove(name).catch(unlessChanged);
    }
  }
  return surplus;
}

// ---------------------------------------------------------------- switching and removing

async function putInPlace(work: Work): Promise<void> {
  const { to, id, step } = work;
  begin(work, "switching");
  const place = stagingName(id);
  try {
    await using staging = await to.own.open(place);
    for await (const entries of staging.entries()) {
      for (const entry of entries) {
        step?.(`place ${shownPath(entry.name)}`);
        await placeOne(staging, entry, to);
      }
    }
  } catch (error) {
    // Another run has come to its end here.
    if (!hasFileCode(error, "ENOENT")) throw error;
  }
  await to.top.sync();
  step?.("remove the empty folder");
  await removeTree(to.own, place, new AbortController().signal);
}

/** Nothing that somebody has put there meanwhile is overwritten. May be repeated, also by a process that was stalled. */
async function placeOne(staging: Directory, { name, stat }: Entry, { name: volume, top }: OpenVolume): Promise<void> {
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
    const metadata = { volume, paths: shownPath(name) };
    throw fail("VOLUME_CHANGED", `Something was put into the volume ${volume} while it was filled`, { metadata });
  }
}

async function removeMoved(work: Work): Promise<void> {
  const { from, to, signal, told } = work;
  begin(work, "deleting");
  const kept: string[] = [];
  await using copies = new DirectoryFinder(to.top);
  for await (const step of walk(from.top, { signal, enters: (path) => !isOwn(path) })) {
    if (step.type === "end" && step.parent !== undefined) {
      work.step?.(`delete ${shownPath(step.path)}`);
      const isGone = await step.parent.removeDirectory(step.name).then(
        () => true,
        (error: unknown) => unlessKept(error),
      );
      if (isGone) told.deleted++;
      work.progress(told);
    }
    if (step.type !== "entries") continue;
    for (const entry of step.entries) {
      if (entry.stat.isDirectory() || (step.path.length === 0 && isOwn(entry.name))) continue;
      const path = joinPath(step.path, entry.name);
      work.step?.(`delete ${shownPath(path)}`);
      if (await removeCopied(step.in, entry, await copies.at(step.path))) told.deleted++;
      else addExample(kept, path);
    }
    work.progress(told);
  }
  if (kept.length > 0) throw changed(from, kept);
}

/** Removes what is the same as its copy, and has not been changed since it was met. */
async function removeCopied(directory: Directory, entry: Entry, copies: Directory | undefined): Promise<boolean> {
  if (copies === undefined || !(await isCopied(copies, entry))) return false;
  const now = await directory.find(entry.name);
  if (now === undefined) return true;
  if (!isSame(now, entry.stat) || now.mtimeNs !== entry.stat.mtimeNs || now.size !== entry.stat.size) return false;
  await directory.remove(entry.name).catch(unlessChanged);
  return true;
}

// ---------------------------------------------------------------- what is in one of the two

/** Whether there is something of the same kind, size and time. */
async function isCopied(copies: Directory, { name, stat }: Entry): Promise<boolean> {
  const found = await copies.find(name);
  if (found === undefined) return false;
  if (stat.isSymbolicLink()) return found.isSymbolicLink() && isSameTime(found.mtimeNs, stat.mtimeNs);
  return found.isFile() && stat.isFile() && found.size === stat.size && isSameTime(found.mtimeNs, stat.mtimeNs);
}

/** Whether there is the same, down to its content. */
async function isEqual(
  copies: Directory,
  entry: Entry,
  { in: source, signal }: { readonly in: Directory; readonly signal: AbortSignal },
): Promise<boolean> {
  const { name, stat } = entry;
  if (stat.isDirectory()) return (await copies.find(name))?.isDirectory() === true;
  if (!(await isCopied(copies, entry))) return false;
  try {
    if (stat.isSymbolicLink()) return (await copies.readSymlink(name)).equals(await source.readSymlink(name));
    const [one, other] = [await digestOf(source, entry, signal), await digestOf(copies, entry, signal)];
    return one !== undefined && one === other;
  } catch (error) {
    if (isChangedMeanwhile(error)) return false;
    throw error;
  }
}

/** Undefined for what is no file any more, or has changed while it was read. */
async function digestOf(directory: Directory, entry: Entry, signal: AbortSignal): Promise<string | undefined> {
  const opened: ReadFile | string = await readFileOf(directory, entry);
  if (typeof opened === "string") return undefined;
  await using file = opened;
  const hash = createHash("sha256");
  for await (const part of file.parts(signal)) hash.update(part);
  return (await file.outcome()) === "read" ? hash.digest("hex") : undefined;
}

/** Node sets times as seconds in a double, which tells a quarter of a microsecond. */
function isSameTime(one: bigint, other: bigint): boolean {
  return Math.abs(Number(one - other)) < 2000;
}

function metaOf({ stat }: Entry): EntryMeta {
  return {
    mode: Number(stat.mode & 0o7777n),
    mtimeNs: stat.mtimeNs,
    userId: Number(stat.uid),
    groupId: Number(stat.gid),
  };
}

function addExample(examples: string[], path: Name): void {
  if (examples.length < mostExamples) examples.push(shownPath(path));
}

function unlessDirectory(error: unknown): void {
  if (!isChangedMeanwhile(error) && !hasFileCode(error, "EPERM")) throw error;
}

function unlessChanged(error: unknown): undefined {
  if (!isChangedMeanwhile(error)) throw error;
}

function unlessKept(error: unknown): false {
  if (isChangedMeanwhile(error) || hasFileCode(error, "ENOTEMPTY", "EEXIST", "EBUSY")) return false;
  throw error;
}

function changed({ name }: OpenVolume, paths: readonly string[]): Error {
  const metadata = { volume: name, paths: paths.join(", ") };
  return fail("VOLUME_CHANGED", `What is in the volume ${name} is changed while it is migrated`, { metadata });
}

function unreadable({ name }: OpenVolume, path: Name): Error {
  const message = `Not everything in the volume ${name} can be copied`;
  return fail("VOLUME_ACCESS_DENIED", message, { metadata: { volume: name, path: shownPath(path) } });
}
