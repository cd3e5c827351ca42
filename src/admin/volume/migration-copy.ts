import { fail } from "../../errors.ts";
import { DirectoryFinder } from "../../stores/volumes/directory-finder.ts";
import type { Directory, Entry, Name } from "../../stores/volumes/directory.ts";
import { hasFileCode, isChangedMeanwhile, unlessChanged } from "../../stores/volumes/failures.ts";
import { readFileOf } from "../../stores/volumes/file-reader.ts";
import { inGroups } from "../../stores/volumes/groups.ts";
import { removeTree } from "../../stores/volumes/remove-tree.ts";
import { type EntryMeta, TreeWriter } from "../../stores/volumes/tree-writer.ts";
import { isOwn, type OpenVolume } from "../../stores/volumes/volumes.ts";
import { joinPath, shownPath, type Step, walk } from "../../stores/volumes/walk.ts";
import { isCopied, isEqual } from "./copied.ts";
import { addExample, begin, changed, type MigrationRun, stagingName } from "./migration-run.ts";

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
  await staging.sync();
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
  work: MigrationRun,
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
  { work, writer }: { readonly work: MigrationRun; readonly writer: TreeWriter },
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
async function compare(work: MigrationRun, staging: Directory): Promise<string[]> {
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
async function removeSurplus(work: MigrationRun, staging: Directory): Promise<string[]> {
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

function metaOf({ stat }: Entry): EntryMeta {
  return {
    mode: Number(stat.mode & 0o7777n),
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
