import type { BigIntStats } from "node:fs";

import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";

import type { ConsistencyPointSchema } from "../../../gen/lucid/admin/v1/backup_service_pb.ts";
import { Store } from "../../../gen/lucid/admin/v1/common_pb.ts";
import { VolumeSchema } from "../../../gen/lucid/admin/v1/volume_pb.ts";
import {
  type Stream,
  type UnitSchema,
  VolumeEntryKind,
  VolumeFilesSchema,
  VolumeRecordSchema,
} from "../../../gen/lucid/backup/v1/manifest_pb.ts";
import { fail } from "../../errors.ts";
import { type Directory, type Entry, isSame, type Name } from "../../stores/volumes/directory.ts";
import { ofVolume } from "../../stores/volumes/failures.ts";
import { type ReadFile, readFileOf } from "../../stores/volumes/file-reader.ts";
import { allOf } from "../../stores/volumes/groups.ts";
import { isOwn, type OpenVolume, type Volumes } from "../../stores/volumes/volumes.ts";
import { joinPath, shownPath, type Step, walk } from "../../stores/volumes/walk.ts";
import type { RecordSink, Source, SourceRun, StreamWriter, Work } from "../contracts.ts";

/** Files of a directory that are read at once. */
const filesAtOnce = 16;
const mostExamples = 20;
/** Files with several names that are remembered at once: a hundred bytes each. */
const mostLinkedFiles = 100_000;

/**
 * Backs volumes up: files, directories and symlinks as they are, whatever others do to them meanwhile. A volume is read as it is
 * walked through, in memory that does not grow with it.
 */
export function volumeSource(options: {
  readonly volumes: Volumes;
  /** What the folder of the repository is. A backup that would be of itself has no end: it is left out. */
  readonly repository: () => Promise<BigIntStats | undefined>;
}): Source {
  const { volumes, repository } = options;
  return {
    store: Store.VOLUMES,
    async begin(selection, sink, work) {
      const names = selection.volumes.length > 0 ? selection.volumes : await volumes.names();
      const left = await repository();
      const stack = new AsyncDisposableStack();
      try {
        const opened: OpenVolume[] = [];
        for (const name of names.toSorted()) {
          const volume = stack.use(await volumes.open(name));
          if (left !== undefined && isSame(volume.top.stat, left)) throw holdsRepository(name);
          await named(name, plan(volume, work, left));
          opened.push(volume);
        }
        return new VolumesRun(opened, { sink, work, left }, stack);
      } catch (error) {
        await stack.disposeAsync();
        throw error;
      }
    },
  };
}

/** What reading a volume comes to; an error of its file system names it. */
async function named<T>(name: string, reading: Promise<T>): Promise<T> {
  try {
    return await reading;
  } catch (error) {
    throw ofVolume(name, error);
  }
}

/** Counts what there is before it is read: what progress is told by. */
async function plan({ name, top }: OpenVolume, { meter, signal }: Work, left: BigIntStats | undefined): Promise<void> {
  let entries = 1;
  for await (const step of walk(top, { signal, enters: entersBut(left) })) {
    if (step.type !== "entries") continue;
    entries += step.entries.length;
    meter.plan(Store.VOLUMES, name, entries);
  }
}

function entersBut(left: BigIntStats | undefined) {
  return (path: Name, { stat }: Entry): boolean => !isOwn(path) && !(left !== undefined && isSame(stat, left));
}

interface Options {
  readonly sink: RecordSink;
  readonly work: Work;
  readonly left: BigIntStats | undefined;
}

class VolumesRun implements SourceRun {
  readonly #volumes: readonly OpenVolume[];
  readonly #options: Options;
  readonly #stack: AsyncDisposableStack;
  readonly #units: MessageInitShape<typeof UnitSchema>[] = [];

  constructor(volumes: readonly OpenVolume[], options: Options, stack: AsyncDisposableStack) {
    this.#volumes = volumes;
    this.#options = options;
    this.#stack = stack;
  }

  async read(): Promise<void> {
    for (const volume of this.#volumes) {
      this.#units.push(await named(volume.name, new VolumeRead(volume, this.#options).run()));
    }
  }

  /** Files have no common point in time. */
  async cut(): Promise<MessageInitShape<typeof ConsistencyPointSchema>> {
    return {};
  }

  async finish(): Promise<MessageInitShape<typeof UnitSchema>[]> {
    return this.#units;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack.disposeAsync();
  }
}

/** The reading of one volume. */
class VolumeRead {
  readonly #volume: OpenVolume;
  readonly #options: Options;
  readonly #writer: StreamWriter;
  readonly #files = create(VolumeFilesSchema);
  readonly #links = new LinkIds();
  #records = 0;
  #bytes = 0;

  constructor(volume: OpenVolume, options: Options) {
    this.#volume = volume;
    this.#options = options;
    this.#writer = options.sink.open();
  }

  async run(): Promise<MessageInitShape<typeof UnitSchema>> {
    await using writer = this.#writer;
    const { work, left } = this.#options;
    const { top, name, stored } = this.#volume;
    for await (const step of walk(top, { signal: work.signal, enters: entersBut(left) })) {
      if (step.type === "entries") await this.#entries(step);
      else if (step.type === "end") await this.#directory(step);
      else if (step.why !== "changed") this.#unreadable(step.path);
    }
    work.signal.throwIfAborted();
    const stream = await writer.seal();
    this.#files.volume = create(VolumeSchema, stored.volume);
    return {
      store: Store.VOLUMES,
      name,
      description: { case: "volumeFiles", value: this.#files },
      streams: [stream] satisfies Stream[],
      recordCount: BigInt(this.#records),
      recordBytes: BigInt(this.#bytes),
    };
  }

  async #entries({ in: directory, path, entries }: Step & { type: "entries" }): Promise<void> {
    const wanted = entries.filter(({ stat }) => !stat.isDirectory());
    for (let from = 0; from < wanted.length; from += filesAtOnce) {
      const some = wanted.slice(from, from + filesAtOnce);
      // Large files are left for their turn; of the small ones there are a few megabytes at most.
      const read = await allOf(some.map((entry) => this.#read(directory, entry)));
      for (const [index, entry] of some.entries()) {
        const found = read[index];
        if (found !== undefined) await this.#entry(directory, joinPath(path, entry.name), { entry, found });
      }
    }
  }

  async #read(directory: Directory, entry: Entry): Promise<Found> {
    if (entry.stat.isSymbolicLink()) {
      return { kind: "symlink", target: await directory.readSymlink(entry.name).catch(() => undefined) };
    }
    if (!entry.stat.isFile()) return { kind: "special" };
    await using file = await disposable(readFileOf(directory, entry));
    if (typeof file.value === "string") return { kind: file.value };
    const whole = await file.value.whole();
    if (whole === undefined) return { kind: "large" };
    return { kind: "file", stat: file.value.stat, content: whole, outcome: await file.value.outcome() };
  }

  async #entry(
    directory: Directory,
    path: Name,
    { entry, found }: { readonly entry: Entry; readonly found: Found },
  ): Promise<void> {
    switch (found.kind) {
      case "file":
        this.#count(path, found.stat, found.outcome);
        this.#files.fileBytes += BigInt(found.content.length);
        return await this.#write([
          recordOf(path, VolumeEntryKind.FILE, found.stat, {
            content: found.content,
            // What was changed while it was read may be another content than its other names have.
            linkId: found.outcome === "read" ? this.#linkId(found.stat) : 0n,
          }),
        ]);
      case "large":
        return await this.#large(directory, path, entry);
      case "symlink":
        if (found.target === undefined) return; // it has gone
        this.#files.symlinkCount++;
        return await this.#write([recordOf(path, VolumeEntryKind.SYMLINK, entry.stat, { target: found.target })]);
      case "special":
        this.#files.specialCount++;
        return;
      case "denied":
        return this.#unreadable(path);
      case "gone":
        return;
      default:
        return found satisfies never;
    }
  }

  async #large(directory: Directory, path: Name, entry: Entry): Promise<void> {
    await using opened = await disposable(readFileOf(directory, entry));
    const file = opened.value;
    if (file === "denied") this.#unreadable(path);
    if (typeof file === "string") return;
    let first = true;
    let part: Buffer | undefined;
    for await (const next of file.parts(this.#options.work.signal)) {
      // One behind, since the last one has to say that it is; in a copy, since the reader has one buffer.
      if (part !== undefined) await this.#part(path, file.stat, { content: part, first, more: true });
      first &&= part === undefined;
      part = Buffer.from(next);
    }
    await this.#part(path, file.stat, { content: part ?? Buffer.alloc(0), first, more: false });
    this.#count(path, file.stat, await file.outcome());
  }

  async #part(
    path: Name,
    stat: BigIntStats,
    { content, first, more }: { readonly content: Buffer; readonly first: boolean; readonly more: boolean },
  ): Promise<void> {
    this.#files.fileBytes += BigInt(content.length);
    const record = first
      ? recordOf(path, VolumeEntryKind.FILE, stat, { content, more, linkId: this.#linkId(stat) })
      : encode({ content, more });
    await this.#write([record], { items: more ? 0 : 1 });
  }

  async #directory({ in: directory, path }: Step & { type: "end" }): Promise<void> {
    if (path.length > 0) this.#files.directoryCount++;
    await this.#write([recordOf(path, VolumeEntryKind.DIRECTORY, directory.stat, {})]);
  }

  #count(path: Name, stat: BigIntStats, outcome: "read" | "changed"): void {
    this.#files.fileCount++;
    if (outcome === "read") return;
    this.#files.changedCount++;
    addExample(this.#files.changedExamples, path);
  }

  #linkId(stat: BigIntStats): bigint {
    if (stat.nlink < 2n) return 0n;
    const { id, isFirst } = this.#links.of(stat);
    if (id === 0n) this.#files.hardLinkCount++;
    else if (!isFirst) this.#files.linkedBytes += stat.size;
    return id;
  }

  #unreadable(path: Name): void {
    this.#files.unreadableCount++;
    addExample(this.#files.unreadableExamples, path);
  }

  async #write(records: readonly Uint8Array[], { items = records.length } = {}): Promise<void> {
    await this.#writer.write(records);
    let bytes = 0;
    for (const { byteLength } of records) bytes += byteLength;
    this.#records += records.length;
    this.#bytes += bytes;
    this.#options.work.meter.add(Store.VOLUMES, this.#volume.name, items, bytes);
  }
}

/** Numbers files that have several names, as long as not all of them have been met. */
class LinkIds {
  readonly #files = new Map<string, { readonly id: bigint; left: bigint }>();
  #last = 0n;

  /** 0 where there are too many of them to be remembered. */
  of({ dev, ino, ctimeNs, nlink }: BigIntStats): { readonly id: bigint; readonly isFirst: boolean } {
    // Whatever is done to a file changes this time: its next name has another content then, and begins anew.
    const key = `${dev}:${ino}:${ctimeNs}`;
    const known = this.#files.get(key);
    if (known === undefined) {
      if (this.#files.size === mostLinkedFiles) return { id: 0n, isFirst: true };
      this.#files.set(key, { id: ++this.#last, left: nlink - 1n });
      return { id: this.#last, isFirst: true };
    }
    if (--known.left === 0n) this.#files.delete(key);
    return { id: known.id, isFirst: false };
  }
}

/** What an entry was found to be when it was read. */
type Found =
  | {
      readonly kind: "file";
      readonly stat: BigIntStats;
      readonly content: Buffer;
      readonly outcome: "read" | "changed";
    }
  | { readonly kind: "symlink"; readonly target: Buffer | undefined }
  | { readonly kind: "large" | "special" | "denied" | "gone" };

function recordOf(
  path: Name,
  kind: VolumeEntryKind,
  stat: BigIntStats,
  rest: Pick<MessageInitShape<typeof VolumeRecordSchema>, "content" | "more" | "target" | "linkId">,
): Uint8Array {
  return encode({
    path,
    kind,
    mode: Number(stat.mode & 0o7777n),
    mtimeNs: stat.mtimeNs,
    userId: Number(stat.uid),
    groupId: Number(stat.gid),
    ...rest,
  });
}

function encode(record: MessageInitShape<typeof VolumeRecordSchema>): Uint8Array {
  return toBinary(VolumeRecordSchema, create(VolumeRecordSchema, record));
}

function addExample(examples: string[], path: Name): void {
  if (examples.length < mostExamples) examples.push(shownPath(path));
}

/** A file that may not have been opened, to be closed where it was. */
async function disposable(opening: Promise<ReadFile | "gone" | "denied">) {
  const value = await opening;
  return {
    value,
    [Symbol.asyncDispose]: async () => {
      if (typeof value !== "string") await value[Symbol.asyncDispose]();
    },
  };
}

function holdsRepository(name: string): Error {
  const message = `The volume ${name} is the folder of the backup repository`;
  return fail("VOLUME_IN_USE", message, { metadata: { volume: name } });
}
