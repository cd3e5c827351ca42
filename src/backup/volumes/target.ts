import { create, fromBinary, type MessageInitShape } from "@bufbuild/protobuf";
import { timestampNow } from "@bufbuild/protobuf/wkt";

import { ConflictPolicy, type RestoredUnitSchema } from "../../../gen/lucid/admin/v1/backup_service_pb.ts";
import { Store } from "../../../gen/lucid/admin/v1/common_pb.ts";
import { VolumeSchema, VolumeType } from "../../../gen/lucid/admin/v1/volume_pb.ts";
import {
  type Stream,
  type Unit,
  VolumeEntryKind,
  type VolumeFiles,
  type VolumeRecord,
  VolumeRecordSchema,
} from "../../../gen/lucid/backup/v1/manifest_pb.ts";
import { fail, isReason } from "../../errors.ts";
import { DirectoryFinder, parentOf } from "../../stores/volumes/directory-finder.ts";
import type { Directory, Name } from "../../stores/volumes/directory.ts";
import { hasFileCode, isChangedMeanwhile } from "../../stores/volumes/failures.ts";
import { readFileOf } from "../../stores/volumes/file-reader.ts";
import { allOf } from "../../stores/volumes/groups.ts";
import { removeTree } from "../../stores/volumes/remove-tree.ts";
import { type EntryMeta, type Occupied, TreeWriter } from "../../stores/volumes/tree-writer.ts";
import { isOwn, type OpenVolume, type Volumes } from "../../stores/volumes/volumes.ts";
import type { RecordSource, RestorePlan, Target, TargetRun, Work } from "../contracts.ts";
import { RecordSet } from "../record-set.ts";
import { targetName } from "../selection.ts";

/**
 * Restores volumes, into those of that name, which are made where they are missing, or into others. DROP removes all that is in a
 * volume first, OVERWRITE replaces what has the path of something in the backup, SKIP keeps it. Whatever the records say, nothing
 * is written outside of the volume, or into what the service keeps in it.
 */
export function volumeTarget({ volumes }: { readonly volumes: Volumes }): Target {
  return {
    store: Store.VOLUMES,
    async prepare(plan, source, work) {
      const restored: RestoredVolume[] = [];
      for (const unit of plan.units) {
        if (unit.description.case !== "volumeFiles") continue;
        const target = targetName(unit, plan.renames);
        await requireRoom(volumes, { unit, files: unit.description.value, target, plan });
        restored.push(new RestoredVolume(unit, unit.description.value, target));
      }
      return new VolumesRestore(restored, { volumes, source, work, policy: plan.conflictPolicy });
    },
  };
}

async function requireRoom(
  volumes: Volumes,
  { files, target, plan }: { unit: Unit; files: VolumeFiles; target: string; plan: RestorePlan },
): Promise<void> {
  let volume: OpenVolume;
  try {
    volume = await volumes.open(target);
  } catch (error) {
    if (isReason(error, "VOLUME_NOT_FOUND")) return;
    throw error;
  }
  await using opened = volume;
  const metadata = { volume: target };
  if (plan.conflictPolicy === ConflictPolicy.FAIL && !(await isEmpty(opened))) {
    throw fail("RESTORE_CONFLICT", `The volume ${target} is there and not empty`, { metadata });
  }
  const declaredBytes = opened.stored.volume?.declaredBytes ?? 0n;
  if (files.fileBytes > declaredBytes) {
    const message = `The volume ${target} is declared to be smaller than what would be restored`;
    throw fail("RESTORE_REFUSED", message, { metadata: { ...metadata, bytes: String(files.fileBytes) } });
  }
}

async function isEmpty({ top }: OpenVolume): Promise<boolean> {
  for await (const entries of top.entries()) if (entries.some(({ name }) => !isOwn(name))) return false;
  return true;
}

/** One volume of a restore, and what has become of it. Counts records, of which a large file has several. */
class RestoredVolume {
  readonly unit: Unit;
  readonly files: VolumeFiles;
  readonly target: string;
  readonly skippedRecords: ReadonlyMap<Stream, RecordSet>;
  stage: "untouched" | "writing" | "in place" | "compared" = "untouched";
  written = 0;
  skipped = 0;
  equal = 0;

  constructor(unit: Unit, files: VolumeFiles, target: string) {
    this.unit = unit;
    this.files = files;
    this.target = target;
    this.skippedRecords = new Map(unit.streams.map((stream) => [stream, new RecordSet(stream)]));
  }

  /** Files, directories with the top, and symlinks. */
  get expected(): number {
    const { fileCount, directoryCount, symlinkCount } = this.files;
    return Number(fileCount + directoryCount + symlinkCount) + 1;
  }

  report(): MessageInitShape<typeof RestoredUnitSchema> {
    const isEqual = this.stage === "compared" && this.equal + this.skipped === this.expected;
    const remarks = {
      untouched: "Nothing was changed",
      writing: `${this.written} of ${this.expected} entries were written`,
      "in place": "In place, not compared",
      compared: `${this.expected - this.equal - this.skipped} entries are not as in the backup`,
    };
    return {
      store: Store.VOLUMES,
      source: this.unit.name,
      target: this.target,
      expectedItems: BigInt(this.expected),
      writtenItems: BigInt(this.written),
      skippedItems: BigInt(this.skipped),
      equalItems: BigInt(this.equal),
      equal: isEqual,
      remark: isEqual ? "" : remarks[this.stage],
    };
  }
}

interface Options {
  readonly volumes: Volumes;
  readonly source: RecordSource;
  readonly work: Work;
  readonly policy: ConflictPolicy;
}

class VolumesRestore implements TargetRun {
  readonly #restored: readonly RestoredVolume[];
  readonly #options: Options;

  constructor(restored: readonly RestoredVolume[], options: Options) {
    this.#restored = restored;
    this.#options = options;
  }

  async restore(): Promise<void> {
    const { volumes, policy, work } = this.#options;
    for (const restored of this.#restored) {
      restored.stage = "writing";
      await make(volumes, restored);
      await using volume = await volumes.open(restored.target);
      if (policy === ConflictPolicy.DROP) await removeAll(volume, work.signal);
      const occupied = occupiedBy.get(policy) ?? "refuse";
      // What is restored into an empty volume is taken for whole when the restore has ended.
      const direct = occupied === "refuse";
      await using writer = new TreeWriter(volume, { occupied, durable: false, direct, signal: work.signal });
      for (const stream of restored.unit.streams) await this.#write(restored, stream, writer);
      await writer.settle();
      restored.stage = "in place";
    }
  }

  async compare(): Promise<void> {
    const { volumes } = this.#options;
    for (const restored of this.#restored) {
      await using volume = await volumes.open(restored.target);
      for (const stream of restored.unit.streams) await this.#compare(restored, stream, volume);
      restored.stage = "compared";
    }
  }

  report(): MessageInitShape<typeof RestoredUnitSchema>[] {
    return this.#restored.map((restored) => restored.report());
  }

  async [Symbol.asyncDispose](): Promise<void> {}

  async #write(restored: RestoredVolume, stream: Stream, writer: TreeWriter): Promise<void> {
    await using entries = entriesOf(this.#records(restored, stream));
    for await (const { head, at, parts } of entries) {
      const path = Buffer.from(head.path);
      const note = (isWritten: boolean): void => {
        if (isWritten) restored.written++;
        else {
          restored.skipped++;
          restored.skippedRecords.get(stream)?.add(at);
        }
      };
      const meta = metaOf(head);
      if (head.kind === VolumeEntryKind.DIRECTORY) note(await writer.putDirectory(path, meta));
      else if (head.kind === VolumeEntryKind.SYMLINK) note(await writer.putSymlink(path, targetOf(head), meta));
      else if (!head.more) await writer.putWhole(path, new Uint8Array(head.content), meta, note);
      else note(await writer.putParts(path, parts, meta));
    }
    await writer.settle();
  }

  async #compare(restored: RestoredVolume, stream: Stream, volume: OpenVolume): Promise<void> {
    const skipped = restored.skippedRecords.get(stream);
    await using reader = new PathReader(volume);
    await using entries = entriesOf(this.#records(restored, stream));
    for await (const { head, at, parts } of entries) {
      if (skipped?.has(at) === true) continue;
      const note = (isEqual: boolean): void => {
        if (isEqual) restored.equal++;
      };
      if (head.more || head.kind !== VolumeEntryKind.FILE) note(await reader.isEqual(head, parts));
      // The bytes of records are only good until the next one is asked for.
      else await reader.compareBeside({ ...head, content: new Uint8Array(head.content) }, note);
    }
    await reader.settle();
  }

  /** The records of a stream, one by one, each with its place; what is behind is counted. */
  async *#records(restored: RestoredVolume, stream: Stream): AsyncGenerator<PlacedRecord> {
    const { source, work } = this.#options;
    let at = 0;
    for await (const batch of source.records(stream, work.signal)) {
      let bytes = 0;
      for (const record of batch) {
        bytes += record.byteLength;
        yield { record: fromBinary(VolumeRecordSchema, record), at: at++ };
      }
      work.meter.add(Store.VOLUMES, restored.unit.name, batch.length, bytes);
    }
    work.signal.throwIfAborted();
  }
}

const occupiedBy: ReadonlyMap<ConflictPolicy, Occupied> = new Map([
  [ConflictPolicy.OVERWRITE, "replace"],
  [ConflictPolicy.SKIP, "keep"],
]);

/** Makes the volume as it was declared, where it is missing. */
async function make(volumes: Volumes, { files, target }: RestoredVolume): Promise<void> {
  const { volume: given } = files;
  const now = timestampNow();
  const declared = given?.declaredBytes ?? 0n;
  const volume = create(VolumeSchema, {
    name: target,
    type: given?.type ?? VolumeType.UNSPECIFIED,
    declaredBytes: declared > files.fileBytes ? declared : files.fileBytes + 1n,
    warningPercent: given?.warningPercent ?? 80,
    criticalPercent: given?.criticalPercent ?? 90,
    description: given?.description ?? "",
    createTime: now,
    updateTime: now,
  });
  // What is there without a description is no volume, and may be somebody's.
  const isThere = await volumes.open(target).then(
    async (opened) => {
      await opened[Symbol.asyncDispose]();
      return true;
    },
    (error: unknown) => {
      if (!isReason(error, "VOLUME_NOT_FOUND")) throw error;
      return false;
    },
  );
  if (!isThere) await volumes.create({ name: target, stored: { formatVersion: 1, volume }, adopt: false });
}

async function removeAll({ top }: OpenVolume, signal: AbortSignal): Promise<void> {
  for await (const entries of top.entries()) {
    for (const { name, stat } of entries) {
      if (isOwn(name)) continue;
      if (stat.isDirectory()) await removeTree(top, name, signal);
      else await top.remove(name);
    }
  }
}

interface PlacedRecord {
  readonly record: VolumeRecord;
  readonly at: number;
}

/** An entry: its first record, the place of that, and the content of all of its records. */
interface RestoredEntry {
  readonly head: VolumeRecord;
  readonly at: number;
  readonly parts: AsyncIterable<Uint8Array>;
}

/** Brings the records of each entry together. What of an entry's parts nobody has taken is passed over. */
async function* entriesOf(records: AsyncGenerator<PlacedRecord>): AsyncGenerator<RestoredEntry> {
  for (let next = await records.next(); next.done !== true; next = await records.next()) {
    const { record: head, at } = next.value;
    if (head.kind === VolumeEntryKind.UNSPECIFIED) throw damaged("a part without a beginning");
    const rest = { more: head.more };
    const nextPart = async (): Promise<Uint8Array> => {
      const part = await records.next();
      if (part.done === true || part.value.record.kind !== VolumeEntryKind.UNSPECIFIED) {
        throw damaged("a file without an end");
      }
      rest.more = part.value.record.more;
      return part.value.record.content;
    };
    const parts = async function* () {
      yield head.content;
      while (rest.more) yield await nextPart();
    };
    yield { head, at, parts: parts() };
    while (rest.more) await nextPart();
  }
}

function metaOf({ mode, mtimeNs, userId, groupId }: VolumeRecord): EntryMeta {
  return { mode, mtimeNs, userId, groupId };
}

/** What Linux takes for where a symlink leads. */
const longestTarget = 4095;

function targetOf({ target }: VolumeRecord): Buffer {
  if (target.length === 0 || target.length > longestTarget || target.includes(0)) throw damaged("a symlink to nowhere");
  return Buffer.from(target);
}

function damaged(what: string): Error {
  return fail("RESTORE_REFUSED", `The records of a volume are not in order: ${what}`);
}

/** Files that are compared at once. */
const mostBeside = 16;

/** Compares what is in a volume with records, in their order. */
class PathReader implements AsyncDisposable {
  readonly #finder: DirectoryFinder;
  #path: Name = Buffer.alloc(0);
  #pending: Promise<void>[] = [];

  constructor({ top }: OpenVolume) {
    this.#finder = new DirectoryFinder(top);
  }

  async isEqual(head: VolumeRecord, parts: AsyncIterable<Uint8Array>): Promise<boolean> {
    const path = Buffer.from(head.path);
    if (path.length === 0) return head.kind === VolumeEntryKind.DIRECTORY;
    const directory = await this.#goTo(parentOf(path));
    return directory !== undefined && (await isEqualIn(directory, path, { head, parts }));
  }

  /** The same of a file whose content is in one record, beside others of its directory. */
  async compareBeside(head: VolumeRecord, done: (isEqual: boolean) => void): Promise<void> {
    const path = Buffer.from(head.path);
    const directory = await this.#goTo(parentOf(path));
    if (directory === undefined) {
      done(false);
      return;
    }
    const parts = async function* () {
      yield head.content;
    };
    const compare = async (): Promise<void> => done(await isEqualIn(directory, path, { head, parts: parts() }));
    this.#pending.push(compare());
    if (this.#pending.length >= mostBeside) await this.settle();
  }

  /** Waits for all comparisons that are under way. */
  async settle(): Promise<void> {
    await allOf(this.#pending.splice(0));
  }

  async #goTo(path: Name): Promise<Directory | undefined> {
    if (!this.#path.equals(path)) await this.settle();
    this.#path = Buffer.from(path);
    return await this.#finder.at(path);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.allSettled(this.#pending);
    await this.#finder[Symbol.asyncDispose]();
  }
}

async function isEqualIn(
  directory: Directory,
  path: Name,
  { head, parts }: { readonly head: VolumeRecord; readonly parts: AsyncIterable<Uint8Array> },
): Promise<boolean> {
  const name = path.subarray(path.lastIndexOf(0x2f) + 1);
  try {
    const stat = await directory.find(name);
    if (stat === undefined || !isSameTime(Number(stat.mtimeNs), Number(head.mtimeNs))) return false;
    if (head.kind === VolumeEntryKind.DIRECTORY) return stat.isDirectory();
    if (head.kind === VolumeEntryKind.SYMLINK) {
      return stat.isSymbolicLink() && (await directory.readSymlink(name)).equals(head.target);
    }
    return await hasContent(directory, name, parts);
  } catch (error) {
    if (isChangedMeanwhile(error) || hasFileCode(error, "EACCES")) return false;
    throw error;
  }
}

/** Node sets times as seconds in a double, which tells a quarter of a microsecond. */
function isSameTime(one: number, other: number): boolean {
  return Math.abs(one - other) < 2000;
}

async function hasContent(directory: Directory, name: Name, parts: AsyncIterable<Uint8Array>): Promise<boolean> {
  const file = await readFileOf(directory, { name });
  if (typeof file === "string") return false;
  await using opened = file;
  return await opened.isContent(parts);
}
