import { fail } from "../../errors.ts";
import { DirectoryFinder, parentOf } from "../../stores/volumes/directory-finder.ts";
import type { Directory, Entry, Name } from "../../stores/volumes/directory.ts";
import { isCopyOf, modeOfCopy } from "../../stores/volumes/entry-meta.ts";
import { hasFileCode, isChangedMeanwhile, unlessChanged } from "../../stores/volumes/failures.ts";
import { readFileOf } from "../../stores/volumes/file-reader.ts";
import { removeTree } from "../../stores/volumes/remove-tree.ts";
import { syncFileSystem } from "../../stores/volumes/sync.ts";
import { type EntryMeta, TreeWriter } from "../../stores/volumes/tree-writer.ts";
import { isOwn, type OpenVolume } from "../../stores/volumes/volumes.ts";
import { joinPath, shownPath, type Step, walk } from "../../stores/volumes/walk.ts";
import { isCopied, isEqual } from "./copied.ts";
import { addExample, begin, changed, type MigrationRun, runTask, stagingName } from "./migration-run.ts";

/** How often what has changed is copied again before it is given up. */
const mostRounds = 3;

/** Copies all that is in the source into a folder of the target's own, until both are equal. */
export async function fill(work: MigrationRun): Promise<void> {
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
  // What was moved is removed where it was, so that the copy must outlive a crash of the machine by then.
  if (work.move) await syncAll(work, staging);
  work.signal.throwIfAborted();
}

/** What progress is told by. */
async function count({ from, signal, told }: MigrationRun): Promise<void> {
  for await (const step of walk(from.top, { signal, enters: (path) => !isOwn(path) })) {
    if (step.type === "entries") told.entries += step.entries.length;
  }
  told.entries--; // the service's own folder
}

/** Copies what is not in the target yet as it is in the source. */
async function copy(work: MigrationRun, staging: Directory): Promise<void> {
  const { from, to, signal, told } = work;
  told.copied = 0;
  const options = { occupied: "replace", direct: true, signal } as const;
  await using writer = new TreeWriter({ top: staging, own: to.own }, options);
  const links: Links = new Map();
  for await (const step of walk(from.top, { signal, enters: (path) => !isOwn(path) })) {
    if (step.type === "skipped" && step.why !== "changed") throw unreadable(from, step.path);
    if (step.type === "entries") await copyEntries(step, work, { writer, links });
    if (step.type === "end" && step.path.length > 0) {
      work.step?.(`copy ${shownPath(step.path)}`);
      await writer.putDirectory(step.path, metaOf({ name: step.name, stat: step.in.stat }));
      told.copied++;
    }
    work.progress(told);
  }
  await writer.settle();
}

/** Files with several names, of which not all have been met: where the copy is, and how many names are missing. */
type Links = Map<string, { readonly path: Name; left: number }>;

/** So many are remembered at once; the names of more become files of their own. */
const mostLinks = 100_000;

interface Copying {
  readonly writer: TreeWriter;
  readonly links: Links;
}

async function copyEntries(
  { in: directory, path: above, entries }: Step & { type: "entries" },
  work: MigrationRun,
  copying: Copying,
): Promise<void> {
  const { told, from } = work;
  const wanted = entries.filter(({ name, stat }) => !stat.isDirectory() && (above.length > 0 || !isOwn(name)));
  if (wanted.length === 0) return;
  const there = await copying.writer.directoryAt(above);
  if (there === undefined) throw unreadable(from, above);
  const [files, others] = [wanted.filter(isSingle), wanted.filter((entry) => !isSingle(entry))];
  const task = { what: "copy", from: directory, to: there, entries: files, step: ["copy", above] } as const;
  const { bytes, done } = await runTask(work, task);
  told.copiedBytes += bytes;
  for (const [entry, outcome] of done) {
    if (outcome === "denied") throw unreadable(from, joinPath(above, entry.name));
    if (outcome === "other") others.push(entry);
    else if (outcome !== "gone") told.copied++;
  }
  for (const entry of others) await copyOther(directory, { path: joinPath(above, entry.name), entry }, work, copying);
}

/** Of which no other name has to be remembered. */
function isSingle({ stat }: Entry): boolean {
  return stat.isFile() && stat.nlink === 1n;
}

/** Copies a symlink, a long file, one with several names, or one that something else is in the way of. */
async function copyOther(
  directory: Directory,
  { path, entry }: { readonly path: Name; readonly entry: Entry },
  work: MigrationRun,
  { writer, links }: Copying,
): Promise<void> {
  const { told, from } = work;
  work.step?.(`copy ${shownPath(path)}`);
  const there = await writer.directoryAt(parentOf(path));
  if (there !== undefined && (await isCopied(there, entry))) told.copied++;
  else if (entry.stat.isSymbolicLink()) {
    const target = await directory.readSymlink(entry.name).catch(unlessChanged);
    if (target !== undefined) await writer.putSymlink(path, target, metaOf(entry));
    told.copied++;
  } else if (!entry.stat.isFile()) throw unreadable(from, path);
  else if (await isLinked(writer, { path, first: links.get(keyOf(entry))?.path })) told.copied++;
  else if (!(await copyFile(directory, { path, entry }, work, writer))) return;
  remember(links, path, entry);
}

async function isLinked(
  writer: TreeWriter,
  { path, first }: { readonly path: Name; readonly first: Name | undefined },
): Promise<boolean> {
  return first !== undefined && (await writer.putLink(path, first)) === true;
}

function keyOf({ stat }: Entry): string {
  return `${stat.dev}:${stat.ino}`;
}

function remember(links: Links, path: Name, entry: Entry): void {
  const { stat } = entry;
  if (!stat.isFile() || stat.nlink < 2n) return;
  const key = keyOf(entry);
  const known = links.get(key);
  if (known === undefined) {
    if (links.size < mostLinks) links.set(key, { path, left: Number(stat.nlink) - 1 });
  } else if (--known.left === 0) links.delete(key);
}

/** Copies a file of any length; false where it has gone. */
async function copyFile(
  directory: Directory,
  { path, entry }: { readonly path: Name; readonly entry: Entry },
  { told, from, signal }: MigrationRun,
  writer: TreeWriter,
): Promise<boolean> {
  const opened = await readFileOf(directory, entry);
  if (opened === "denied") throw unreadable(from, path);
  if (opened === "gone") return false;
  await using file = opened;
  await writer.putParts(path, file.parts(signal), metaOf({ name: entry.name, stat: file.stat }));
  told.copied++;
  told.copiedBytes += Number(file.stat.size);
  return true;
}

/** Paths of what is not the same in both, as far as they are told. */
async function compare(work: MigrationRun, staging: Directory): Promise<string[]> {
  const { from, signal, told } = work;
  const different: string[] = [];
  told.verified = 0;
  await using copies = new DirectoryFinder(staging);
  for await (const step of walk(from.top, { signal, enters: (path) => !isOwn(path) })) {
    if (step.type === "skipped") continue;
    const there = await copies.at(step.path);
    if (step.type === "entries") await compareEntries(step, there, { work, different });
    else if (step.path.length > 0 && there !== undefined && !isCopyOf(await there.now(), step.in.stat)) {
      addExample(different, step.path);
    }
    work.progress(told);
  }
  return different;
}

async function compareEntries(
  { in: directory, path, entries }: Step & { type: "entries" },
  there: Directory | undefined,
  { work, different }: { readonly work: MigrationRun; readonly different: string[] },
): Promise<void> {
  const { told, signal } = work;
  const wanted = entries.filter(({ name }) => path.length > 0 || !isOwn(name));
  const note = async ({ name, stat }: Entry, isSame: boolean): Promise<void> => {
    if (isSame) {
      told.verified++;
      return;
    }
    addExample(different, joinPath(path, name));
    // What has the right size and time is not copied again as long as it is there.
    if (!stat.isDirectory()) await there?.remove(name).catch(unlessDirectory);
  };
  if (there === undefined) {
    for (const entry of wanted) await note(entry, false);
    return;
  }
  const others = wanted.filter(({ stat }) => !stat.isFile());
  const files = {
    what: "compare",
    from: directory,
    to: there,
    entries: wanted.filter(({ stat }) => stat.isFile()),
  } as const;
  for (const [entry, outcome] of (await runTask(work, files)).done) {
    if (outcome === "other") others.push(entry);
    else await note(entry, outcome === "equal");
  }
  for (const entry of others) {
    // A directory is compared when all that is in it has been.
    const isSame = entry.stat.isDirectory()
      ? (await there.find(entry.name))?.isDirectory() === true
      : await isEqual(there, entry, { in: directory, signal });
    await note(entry, isSame);
  }
}

/** Returns when all of the copy is on the device. */
async function syncAll(work: MigrationRun, staging: Directory): Promise<void> {
  work.step?.("sync");
  if (await syncFileSystem(staging)) return;
  for await (const step of walk(staging, { signal: work.signal })) {
    if (step.type === "end") await step.in.sync();
    if (step.type !== "entries") continue;
    const entries = step.entries.filter(({ stat }) => stat.isFile());
    await runTask(work, { what: "sync", from: step.in, to: step.in, entries });
  }
}

/** Removes from the copy what is in the source no more, and tells its paths. */
async function removeSurplus(work: MigrationRun, staging: Directory): Promise<string[]> {
  const surplus: string[] = [];
  await using sources = new DirectoryFinder(work.from.top);
  for await (const step of walk(staging, { signal: work.signal })) {
    if (step.type !== "entries") continue;
    const source = await sources.at(step.path);
    const found =
      source === undefined
        ? step.entries.map((entry) => [entry, "gone"] as const)
        : (await runTask(work, { what: "find", from: step.in, to: source, entries: step.entries })).done;
    for (const [{ name, stat }, outcome] of found) {
      if (outcome !== "gone") continue;
      addExample(surplus, joinPath(step.path, name));
      if (stat.isDirectory()) await removeTree(step.in, name, work.signal);
      else await step.in.remove(name).catch(unlessChanged);
    }
  }
  return surplus;
}

function metaOf({ stat }: Entry): EntryMeta {
  return {
    mode: modeOfCopy(stat),
    mtimeNs: stat.mtimeNs,
    userId: Number(stat.uid),
    groupId: Number(stat.gid),
  };
}

function unlessDirectory(error: unknown): void {
  if (!isChangedMeanwhile(error) && !hasFileCode(error, "EPERM")) throw error;
}

function unreadable({ name }: OpenVolume, path: Name): Error {
  const message = `Not everything in the volume ${name} can be copied`;
  return fail("VOLUME_ACCESS_DENIED", message, { metadata: { volume: name, path: shownPath(path) } });
}
