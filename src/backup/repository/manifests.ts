import { createHash } from "node:crypto";

import { type Manifest, ManifestSchema, type Unit } from "../../../gen/lucid/backup/v1/manifest_pb.ts";
import { fail } from "../../errors.ts";
import { REFERENCE_BYTES } from "./chunk-reference.ts";
import { type Keys, NotAuthentic } from "./keys.ts";
import { CHUNK_NAME_BYTES, objectNames } from "./names.ts";
import { FORMAT_VERSION } from "./repository-config.ts";
import { openMessage, sealMessage } from "./sealed-object.ts";
import type { ObjectStorage } from "./storage.ts";

/** Stands in place of the manifest of a backup that was deleted or given up, so that no writer can put one there any more. */
export const REVOKED = Buffer.from("LUCIDRV1 This backup was deleted or given up. Its id cannot be used again.\n");
/** Ids become object names. */
const BACKUP_ID = /^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/;

interface Place {
  readonly storage: ObjectStorage;
  readonly keys: Keys;
}

/** What stands at the place of a backup's manifest. */
export type ManifestState =
  | { readonly state: "absent" | "revoked" }
  | { readonly state: "present"; readonly object: Buffer };

/** Looks at the place of a backup's manifest without opening it. */
export async function lookAtManifest(
  storage: ObjectStorage,
  backupId: string,
  signal: AbortSignal,
): Promise<ManifestState> {
  if (!BACKUP_ID.test(backupId)) return { state: "absent" };
  const object = await storage.get(objectNames.manifest(backupId), { signal });
  if (object === undefined) return { state: "absent" };
  return object.equals(REVOKED) ? { state: "revoked" } : { state: "present", object };
}

/** Throws where the id cannot be an object's name. */
export function checkBackupId(backupId: string): void {
  if (!BACKUP_ID.test(backupId)) throw new Error(`${backupId} cannot be the id of a backup`);
}

/**
 * Reads a manifest and checks it. Fails with `BACKUP_NOT_FOUND`, `BACKUP_MANIFEST_DAMAGED` and `BACKUP_FORMAT_UNKNOWN`.
 */
export async function readManifest({ storage, keys }: Place, backupId: string, signal: AbortSignal): Promise<Manifest> {
  const found = await lookAtManifest(storage, backupId, signal);
  if (found.state !== "present") throw backupNotFound(backupId);
  let manifest: Manifest;
  try {
    manifest = await openMessage(keys, objectNames.manifest(backupId), ManifestSchema, found.object);
  } catch (cause) {
    if (!(cause instanceof NotAuthentic)) throw cause;
    throw manifestDamaged(backupId, cause);
  }
  if (manifest.formatVersion > FORMAT_VERSION) {
    throw fail(
      "BACKUP_FORMAT_UNKNOWN",
      `Backup ${backupId} has format version ${manifest.formatVersion}, which this version does not know`,
      {
        metadata: { backup_id: backupId, format_version: String(manifest.formatVersion) },
      },
    );
  }
  if (
    manifest.backupId !== backupId ||
    !rootHashOf(manifest.units).equals(manifest.rootHash) ||
    !referencesAreSound(manifest)
  ) {
    throw manifestDamaged(backupId, undefined);
  }
  return manifest;
}

/** A manifest as an object. */
export function sealManifest(keys: Keys, manifest: Manifest): Promise<Buffer> {
  return sealMessage(keys, objectNames.manifest(manifest.backupId), ManifestSchema, manifest);
}

/** Ids of the backups that have a manifest or had one, the newest first where ids sort by time. */
export async function backupIds(storage: ObjectStorage, signal: AbortSignal): Promise<string[]> {
  const ids: string[] = [];
  for await (const { name } of storage.list(objectNames.manifests, signal)) {
    const id = name.slice(objectNames.manifests.length);
    if (BACKUP_ID.test(id)) ids.push(id);
  }
  return ids.toSorted().toReversed();
}

/** SHA-256 over units, streams, counts and chunk names; `docs/backup-format.md` says over which bytes. */
export function rootHashOf(units: readonly Unit[]): Buffer {
  const hash = createHash("sha256").update("lucid-backup-root-1\n");
  for (const { store, name, recordCount, recordBytes, streams } of units) {
    const text = Buffer.from(name);
    hash.update(uint32(store)).update(uint32(text.byteLength)).update(text);
    hash.update(uint64(recordCount)).update(uint64(recordBytes)).update(uint32(streams.length));
    for (const stream of streams) {
      hash.update(uint64(stream.recordCount)).update(uint64(stream.recordBytes)).update(uint64(stream.chunkCount));
      hash.update(stream.chunksHash);
    }
  }
  return hash.digest();
}

/** What can be said of references without reading a chunk. */
function referencesAreSound({ units }: Manifest): boolean {
  return units.every(({ streams }) =>
    streams.every(({ chunks, chunksHash, chunkCount, indirect }) => {
      if (chunks.byteLength % REFERENCE_BYTES !== 0) return false;
      if (indirect) return chunksHash.byteLength === 32;
      const hash = createHash("sha256");
      for (let at = 0; at < chunks.byteLength; at += REFERENCE_BYTES)
        hash.update(chunks.subarray(at, at + CHUNK_NAME_BYTES));
      return BigInt(chunks.byteLength / REFERENCE_BYTES) === chunkCount && hash.digest().equals(chunksHash);
    }),
  );
}

export function backupNotFound(backupId: string) {
  return fail("BACKUP_NOT_FOUND", `There is no backup ${backupId}`, { metadata: { backup_id: backupId } });
}

export function manifestDamaged(backupId: string, cause: unknown) {
  return fail("BACKUP_MANIFEST_DAMAGED", `The manifest of backup ${backupId} is damaged`, {
    metadata: { backup_id: backupId },
    cause,
  });
}

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

function uint64(value: bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(value);
  return bytes;
}
