import type { ConnectError } from "@connectrpc/connect";

import type { Manifest } from "../../../gen/lucid/backup/v1/manifest_pb.ts";
import { isReason } from "../../errors.ts";
import type { RecordSource } from "../contracts.ts";
import { type BackupWriter, beginBackup } from "./backup-writer.ts";
import { ChunkReader } from "./chunk-reader.ts";
import { collect, deleteBackup, type Freed } from "./collection.ts";
import { openLocalStorage } from "./local-storage.ts";
import { backupIds, readManifest } from "./manifests.ts";
import { type KeyFiles, openKeys } from "./secret.ts";
import type { ObjectStorage } from "./storage.ts";
import { type Verified, type VerifyOptions, verifyBackup } from "./verification.ts";

/** A backup as a listing shows it: what its manifest says, or why that cannot be read. */
export type ListedBackup =
  | { readonly backupId: string; readonly manifest: Manifest; readonly error?: undefined }
  | { readonly backupId: string; readonly manifest?: undefined; readonly error: ConnectError };

/**
 * A repository of backups. Any number of processes may use one at the same time. Every call fails with
 * `BACKUP_REPOSITORY_UNAVAILABLE` where its storage cannot be used.
 */
export interface BackupRepository extends AsyncDisposable {
  /** Whether what is stored is encrypted. */
  readonly encrypted: boolean;
  /** Tells the key file from others; undefined where the repository is not encrypted. */
  readonly keyId: string | undefined;
  /** Of the key file that opened it before, where it has just taken the new one. That one opens it no more. */
  readonly formerKeyId: string | undefined;
  /**
   * Begins a backup. `backupId`: 1 to 128 letters, digits, `.`, `_`, `-`, the first one a letter or digit. The signal holds for
   * all of the backup. Fails with `BACKUP_ALREADY_EXISTS` and `JOB_LEASE_LOST`, see `BackupWriter.seal`.
   */
  begin(backupId: string, signal: AbortSignal): Promise<BackupWriter>;
  /** The backups, in descending order of their ids, all below `before`. One that cannot be read does not hide the others. */
  list(signal: AbortSignal, before?: string): AsyncIterable<ListedBackup>;
  /** One backup. Fails with `BACKUP_NOT_FOUND`, `BACKUP_MANIFEST_DAMAGED`, `BACKUP_FORMAT_UNKNOWN`. */
  get(backupId: string, signal: AbortSignal): Promise<Manifest>;
  /**
   * Reads streams of a manifest of this repository. `backupId` is what failures name. Fails with `BACKUP_CHUNK_MISSING`,
   * `BACKUP_CHUNK_DAMAGED`, `BACKUP_MANIFEST_DAMAGED`, before anything wrong is handed out.
   */
  reader(signal: AbortSignal, backupId?: string): Promise<RecordSource>;
  /** Reads all of a backup again and checks it. Fails as `get` and `reader` do, and with `BACKUP_REPOSITORY_DAMAGED`. */
  verify(manifest: Manifest, options: VerifyOptions, signal: AbortSignal): Promise<Verified>;
  /** Deletes a backup and what no other one needs; with `validateOnly` only says what would be freed. */
  delete(backupId: string, options: { readonly validateOnly: boolean }, signal: AbortSignal): Promise<Freed>;
  /** Removes what no backup needs: of backups that came to nothing or were deleted while another one ran. */
  collect(signal: AbortSignal): Promise<Freed>;
}

/** Where a repository stands and what unlocks it. */
export interface RepositoryOptions extends KeyFiles {
  /** The folder; made on first use. */
  readonly dir: string;
}

/**
 * Opens a repository, or makes it where there is none; takes it from the old key file where that is the one that fits. Fails with `BACKUP_REPOSITORY_WRONG_KEY`, `BACKUP_REPOSITORY_DAMAGED`,
 * `BACKUP_FORMAT_UNKNOWN`, `BACKUP_REPOSITORY_UNAVAILABLE`.
 */
export async function openRepository({ dir, ...files }: RepositoryOptions): Promise<BackupRepository> {
  return await openRepositoryIn(await openLocalStorage(dir), files);
}

/** The same in any storage. */
export async function openRepositoryIn(storage: ObjectStorage, files: KeyFiles = {}): Promise<BackupRepository> {
  const closing = new AbortController();
  const { keys, keyId, formerKeyId } = await openKeys(storage, files, closing.signal);
  const place = { storage, keys };
  const until = (signal: AbortSignal) => AbortSignal.any([signal, closing.signal]);
  return {
    encrypted: keys.encrypted,
    keyId,
    formerKeyId,
    begin: (backupId, signal) => beginBackup(place, backupId, until(signal)),
    async *list(signal, before) {
      for (const backupId of await backupIds(storage, until(signal))) {
        if (before !== undefined && backupId >= before) continue;
        try {
          yield { backupId, manifest: await readManifest(place, backupId, until(signal)) };
        } catch (error) {
          if (isReason(error, "BACKUP_NOT_FOUND")) continue;
          if (!isReason(error, "BACKUP_MANIFEST_DAMAGED") && !isReason(error, "BACKUP_FORMAT_UNKNOWN")) throw error;
          // What has a reason is a ConnectError.
          yield { backupId, error: error as ConnectError };
        }
      }
    },
    get: (backupId, signal) => readManifest(place, backupId, until(signal)),
    reader: (signal, backupId = "") => {
      signal.throwIfAborted();
      return Promise.resolve(new ChunkReader(place, backupId));
    },
    verify: (manifest, options, signal) => verifyBackup(place, manifest, options, until(signal)),
    delete: (backupId, options, signal) => deleteBackup(place, backupId, options, until(signal)),
    collect: (signal) => collect(place, until(signal)),
    async [Symbol.asyncDispose]() {
      closing.abort(new Error("The backup repository is closed"));
    },
  };
}
