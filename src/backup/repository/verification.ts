import type { Manifest, Unit } from "../../../gen/lucid/backup/v1/manifest_pb.ts";
import { PackIndexSchema } from "../../../gen/lucid/backup/v1/repository_pb.ts";
import { fail } from "../../errors.ts";
import { ChunkReader } from "./chunk-reader.ts";
import { type Keys, NotAuthentic } from "./keys.ts";
import { manifestDamaged, readManifest } from "./manifests.ts";
import { hex, objectNames, packsOfIndex } from "./names.ts";
import { isPackHeader, PACK_HEADER_BYTES, readDirectory } from "./pack.ts";
import { splitPacks } from "./presence.ts";
import { readMessage } from "./sealed-object.ts";
import type { ObjectStorage } from "./storage.ts";

/** How a verification says what it has done. */
export interface VerifyOptions {
  /** Called for every batch of records: whose they are, how many, how many bytes. Synchronous and cheap. */
  readonly onProgress?: (unit: Unit, records: number, bytes: number) => void;
}

/** What a verification has read and found right. */
export interface Verified {
  readonly recordCount: bigint;
  readonly recordBytes: bigint;
  readonly packCount: number;
}

/**
 * Reads all of a backup: its manifest again, each record of each stream, the frames of the packs and the indexes over them.
 * Counts, and compares with the manifest. Ends with the first thing that is wrong.
 */
export async function verifyBackup(
  place: { readonly storage: ObjectStorage; readonly keys: Keys },
  manifest: Manifest,
  { onProgress }: VerifyOptions,
  signal: AbortSignal,
): Promise<Verified> {
  const { backupId } = manifest;
  const stored = await readManifest(place, backupId, signal);
  if (!Buffer.from(stored.rootHash).equals(manifest.rootHash)) throw manifestDamaged(backupId, undefined);
  const packs = new Set(splitPacks(stored.packs));
  const reader = new ChunkReader(place, backupId);
  let recordCount = 0n;
  let recordBytes = 0n;
  for (const unit of stored.units) {
    let [unitCount, unitBytes] = [0n, 0n];
    for (const stream of unit.streams) {
      for await (const batch of reader.records(stream, signal)) {
        const bytes = batch.reduce((sum, record) => sum + record.byteLength, 0);
        unitCount += BigInt(batch.length);
        unitBytes += BigInt(bytes);
        onProgress?.(unit, batch.length, bytes);
      }
      for await (const { pack } of reader.references(stream, signal)) {
        if (!packs.has(hex(pack))) throw manifestDamaged(backupId, undefined);
      }
    }
    if (unitCount !== unit.recordCount || unitBytes !== unit.recordBytes) throw manifestDamaged(backupId, undefined);
    recordCount += unitCount;
    recordBytes += unitBytes;
  }
  for (const pack of packs) await verifyPack(place, backupId, pack, signal);
  await verifyIndexes(place, packs, signal);
  return { recordCount, recordBytes, packCount: packs.size };
}

type Place = Parameters<typeof verifyBackup>[0];

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
async function verifyIndexes(place: Place, packs: ReadonlySet<string>, signal: AbortSignal): Promise<void> {
  for await (const { name } of place.storage.list(objectNames.indexes, signal)) {
    if (packsOfIndex(name)?.some((pack) => packs.has(pack)) !== true) continue;
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
}
