import type { ConnectError } from "@connectrpc/connect";

import type { Manifest, Stream, Unit } from "../../../gen/lucid/backup/v1/manifest_pb.ts";
import { PackIndexSchema } from "../../../gen/lucid/backup/v1/repository_pb.ts";
import { fail, reasonOf } from "../../errors.ts";
import { ChunkReader } from "./chunk-reader.ts";
import type { ChunkReference } from "./chunk-reference.ts";
import { type Keys, NotAuthentic } from "./keys.ts";
import { manifestDamaged, readManifest } from "./manifests.ts";
import { hex, objectNames, packsOfIndex } from "./names.ts";
import { chunksOf, isPackHeader, PACK_HEADER_BYTES, readDirectory } from "./pack.ts";
import { splitPacks } from "./presence.ts";
import { readMessage } from "./sealed-object.ts";
import type { ObjectStorage } from "./storage.ts";

/** Something that is wrong with a backup. */
export interface BackupProblem {
  readonly error: ConnectError;
  /** What cannot be restored whole because of it; undefined where no unit is read through the damaged object. */
  readonly unit?: Unit;
}

/** How much a verification reads, and how it says what it has done. */
export interface VerifyOptions {
  /** Share of the chunks whose content is read, 0 to 100, chosen by chance. Default 100. */
  readonly readPercent?: number;
  /** Called for every batch of records: whose they are, how many, how many bytes were read. Synchronous and cheap. */
  readonly onProgress?: (unit: Unit, records: number, bytes: number) => void;
  /** Called with what is wrong, once for each stream, pack and index. Without it the first problem ends the verification. */
  readonly onProblem?: (problem: BackupProblem) => void;
}

/** What a verification has looked at. */
export interface Verified {
  readonly recordCount: bigint;
  /** Bytes of content that were read. */
  readonly recordBytes: bigint;
  readonly packCount: number;
}

interface Place {
  readonly storage: ObjectStorage;
  readonly keys: Keys;
}

/** Failures that tell of the backup. Any other one tells that it could not be looked at. */
const damage: ReadonlySet<string | undefined> = new Set([
  "BACKUP_CHUNK_DAMAGED",
  "BACKUP_CHUNK_MISSING",
  "BACKUP_MANIFEST_DAMAGED",
  "BACKUP_REPOSITORY_DAMAGED",
]);

/** Directories in memory at once: neighbours in a stream stand in few packs. One holds up to 8192 chunks, some 2 MiB. */
const DIRECTORIES_KEPT = 8;

/**
 * Checks a backup: its manifest again, each stream, the frames of the packs and the indexes over them. Of a stream each record is
 * read, counted and compared with the manifest; with `readPercent` below 100 a share of its chunks is read, and the others
 * are looked up in the directories of their packs.
 */
export async function verifyBackup(
  place: Place,
  manifest: Manifest,
  options: VerifyOptions,
  signal: AbortSignal,
): Promise<Verified> {
  const { backupId } = manifest;
  const { readPercent = 100, onProgress, onProblem } = options;
  const stored = await readManifest(place, backupId, signal);
  if (!Buffer.from(stored.rootHash).equals(manifest.rootHash)) throw manifestDamaged(backupId, undefined);
  const packs = new Set(splitPacks(stored.packs));
  const reader = new ChunkReader(place, backupId, packs);
  const check =
    readPercent === 100
      ? (stream: Stream) => allRecords(reader, stream, signal)
      : (stream: Stream) => someChunks(reader, stream, { place, backupId, readPercent }, signal);
  const tried = async (work: Promise<void>, unit?: Unit): Promise<void> => {
    try {
      await work;
    } catch (error) {
      if (onProblem === undefined || !damage.has(reasonOf(error)?.reason)) throw error;
      onProblem({ error: error as ConnectError, ...(unit && { unit }) }); // it has a reason
    }
  };

  let [recordCount, recordBytes] = [0n, 0n];
  for (const unit of stored.units) {
    for (const stream of unit.streams) {
      const checked = async (): Promise<void> => {
        for await (const { records, bytes } of check(stream)) {
          recordCount += BigInt(records);
          recordBytes += BigInt(bytes);
          onProgress?.(unit, records, bytes);
        }
      };
      await tried(checked(), unit);
    }
    await tried(sameSums(backupId, unit), unit);
  }
  for (const pack of packs) await tried(verifyPack(place, backupId, pack, signal));
  for await (const { name } of place.storage.list(objectNames.indexes, signal)) {
    if (packsOfIndex(name)?.some((pack) => packs.has(pack)) === true) await tried(verifyIndex(place, name, signal));
  }
  return { recordCount, recordBytes, packCount: packs.size };
}

/** What was looked at of a stream since the last time this was told. */
interface Looked {
  readonly records: number;
  readonly bytes: number;
}

/** Reads all records of a stream. */
async function* allRecords(reader: ChunkReader, stream: Stream, signal: AbortSignal): AsyncGenerator<Looked> {
  for await (const batch of reader.records(stream, signal)) {
    yield { records: batch.length, bytes: batch.reduce((sum, record) => sum + record.byteLength, 0) };
  }
}

/** Reads some chunks of a stream; the others stand in their packs where the stream says, or are read as well. */
async function* someChunks(
  reader: ChunkReader,
  stream: Stream,
  of: { readonly place: Place; readonly backupId: string; readonly readPercent: number },
  signal: AbortSignal,
): AsyncGenerator<Looked> {
  const { place, backupId, readPercent } = of;
  const directoryOf = packDirectories(place, signal);
  let passed = 0n;
  const chosen = async function* (): AsyncGenerator<ChunkReference> {
    for await (const reference of reader.references(stream, signal)) {
      passed++;
      const directory = await directoryOf(reference.pack);
      if (directory !== undefined && !isListed(reference, directory)) throw manifestDamaged(backupId, undefined);
      // What stands in no pack that can be asked may be in another one.
      if (directory === undefined || Math.random() * 100 < readPercent) yield reference;
    }
  };
  let told = 0;
  // A chunk knows nothing of records: they count as spread evenly.
  const recordsNow = (): number => {
    const now = stream.chunkCount === 0n ? 0 : Number((stream.recordCount * passed) / stream.chunkCount);
    const since = now - told;
    told = now;
    return since;
  };
  for await (const content of reader.contents(chosen(), signal)) {
    yield { records: recordsNow(), bytes: content.byteLength };
  }
  yield { records: recordsNow(), bytes: 0 };
}

/** Looks up what stands in a pack, by offset; undefined where its directory is missing or damaged. */
function packDirectories({ storage, keys }: Place, signal: AbortSignal) {
  const kept = new Map<string, ReadonlyMap<number, ChunkReference> | undefined>();
  return async (pack: Buffer): Promise<ReadonlyMap<number, ChunkReference> | undefined> => {
    const key = hex(pack);
    if (kept.has(key)) return kept.get(key);
    let found: ReadonlyMap<number, ChunkReference> | undefined;
    try {
      const directory = await readDirectory(storage, keys, pack, signal);
      found = directory && new Map(chunksOf(directory).map((chunk) => [chunk.offset, chunk]));
    } catch (error) {
      if (!damage.has(reasonOf(error)?.reason)) throw error; // otherwise told of the pack itself
    }
    const oldest = kept.keys().next();
    if (kept.size >= DIRECTORIES_KEPT && oldest.done !== true) kept.delete(oldest.value);
    kept.set(key, found);
    return found;
  };
}

function isListed(reference: ChunkReference, directory: ReadonlyMap<number, ChunkReference>): boolean {
  const { name, sealedLength, plainLength } = reference;
  const there = directory.get(reference.offset);
  return there?.name.equals(name) === true && there.sealedLength === sealedLength && there.plainLength === plainLength;
}

/** What a manifest says of a unit is the sum of what it says of its streams, each of which was compared with its records. */
async function sameSums(backupId: string, { streams, recordCount, recordBytes }: Unit): Promise<void> {
  const sum = (of: (stream: Stream) => bigint) => streams.reduce((total, stream) => total + of(stream), 0n);
  const isSame =
    sum((stream) => stream.recordCount) === recordCount && sum((stream) => stream.recordBytes) === recordBytes;
  if (!isSame) throw manifestDamaged(backupId, undefined);
}

/** What no chunk is read through: the beginning of a pack and the directory at its end. */
async function verifyPack(place: Place, backupId: string, pack: string, signal: AbortSignal): Promise<void> {
  const name = Buffer.from(pack, "hex");
  const object = objectNames.pack(name);
  const header = await place.storage.get(object, { range: { offset: 0, length: PACK_HEADER_BYTES }, signal });
  const directory = header === undefined ? undefined : await readDirectory(place.storage, place.keys, name, signal);
  if (header === undefined || directory === undefined) {
    throw fail("BACKUP_CHUNK_MISSING", "A pack of the backup is missing", { metadata: { backup_id: backupId, pack } });
  }
  if (!isPackHeader(header)) {
    throw fail("BACKUP_REPOSITORY_DAMAGED", "The beginning of a pack is damaged", { metadata: { object, pack } });
  }
}

/** Indexes can be made again from the packs; that one is damaged is worth knowing all the same. */
async function verifyIndex(place: Place, name: string, signal: AbortSignal): Promise<void> {
  try {
    await readMessage(place, name, PackIndexSchema, signal);
  } catch (cause) {
    if (!(cause instanceof NotAuthentic)) throw cause;
    throw fail("BACKUP_REPOSITORY_DAMAGED", "An index of the backup repository is damaged", {
      metadata: { object: name },
      cause,
    });
  }
}
