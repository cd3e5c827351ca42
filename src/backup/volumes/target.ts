import type { BigIntStats } from "node:fs";

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
  VolumeRecordSchema,
} from "../../../gen/lucid/backup/v1/manifest_pb.ts";
import { fail, isReason } from "../../errors.ts";
import { isSame } from "../../stores/volumes/directory.ts";
import { removeTree } from "../../stores/volumes/remove-tree.ts";
import { type Occupied, TreeWriter } from "../../stores/volumes/tree-writer.ts";
import {
  isOwn,
  type OpenVolume,
  requireStillThere,
  volumeReplaced,
  type Volumes,
} from "../../stores/volumes/volumes.ts";
import type { RecordSource, RestorePlan, Target, TargetRun, Work } from "../contracts.ts";
import { RecordSet } from "../record-set.ts";
import { targetName } from "../selection.ts";
import { entriesOf, metaOf, type PlacedRecord, targetOf } from "./entries.ts";
import { PathReader } from "./path-reader.ts";

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
  if (roomFor(files) > declaredBytes) {
    const message = `The volume ${target} is declared to be smaller than what would be restored`;
    throw fail("RESTORE_REFUSED", message, { metadata: { ...metadata, bytes: String(roomFor(files)) } });
  }
}

/** What the files take, each once. */
function roomFor({ fileBytes, linkedBytes }: VolumeFiles): bigint {
  return fileBytes - linkedBytes;
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
  /** What was filled, whatever has its name by now. */
  directory: BigIntStats | undefined;

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

  /** Fails with `VOLUME_CHANGED` where a volume is not the one that was filled. */
  requireIn({ name, top }: OpenVolume): void {
    if (this.directory === undefined || !isSame(this.directory, top.stat)) throw volumeReplaced(name);
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
      await using writer = new TreeWriter(volume, { occupied, direct, signal: work.signal });
      for (const stream of restored.unit.streams) await this.#write(restored, stream, writer);
      await writer.settle();
      await requireStillThere(volumes, volume);
      restored.directory = volume.top.stat;
      restored.stage = "in place";
    }
  }

  async compare(): Promise<void> {
    const { volumes } = this.#options;
    for (const restored of this.#restored) {
      await using volume = await volumes.open(restored.target);
      restored.requireIn(volume);
      for (const stream of restored.unit.streams) await this.#compare(restored, stream, volume);
      await requireStillThere(volumes, volume);
      restored.stage = "compared";
    }
  }

  report(): MessageInitShape<typeof RestoredUnitSchema>[] {
    return this.#restored.map((restored) => restored.report());
  }

  async [Symbol.asyncDispose](): Promise<void> {}

  async #write(restored: RestoredVolume, stream: Stream, writer: TreeWriter): Promise<void> {
    await using entries = entriesOf(this.#records(restored, stream));
    /** The first names of files that have several. */
    const links = new Map<bigint, Buffer>();
    for await (const { head, at, parts } of entries) {
      const path = Buffer.from(head.path);
      const note = (isWritten: boolean): void => {
        if (isWritten) restored.written++;
        else {
          restored.skipped++;
          restored.skippedRecords.get(stream)?.add(at);
        }
      };
      const first = links.get(head.linkId);
      const linked = first === undefined ? undefined : await writer.putLink(path, first);
      if (linked !== undefined) {
        note(linked);
        continue;
      }
      const meta = metaOf(head);
      if (head.kind === VolumeEntryKind.DIRECTORY) note(await writer.putDirectory(path, meta));
      else if (head.kind === VolumeEntryKind.SYMLINK) note(await writer.putSymlink(path, targetOf(head), meta));
      else if (!head.more && head.linkId === 0n) {
        await writer.putWhole(path, new Uint8Array(head.content), meta, note);
      } else {
        const isWritten = await writer.putParts(path, parts, meta);
        note(isWritten);
        if (isWritten && head.linkId > 0n) remember(links, head.linkId, path);
      }
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

/** First names that are kept at once: a hundred bytes each. The names of more become files of their own. */
const mostLinks = 100_000;

function remember(links: Map<bigint, Buffer>, id: bigint, path: Buffer): void {
  links.set(id, path);
  const [oldest] = links.keys();
  if (links.size > mostLinks && oldest !== undefined) links.delete(oldest);
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
    declaredBytes: declared > roomFor(files) ? declared : roomFor(files) + 1n,
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
