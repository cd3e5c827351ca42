import { randomBytes } from "node:crypto";

import { create } from "@bufbuild/protobuf";
import { timestampNow } from "@bufbuild/protobuf/wkt";

import {
  type RepositoryConfig,
  RepositoryConfigSchema,
  type WrappedSecret,
  WrappedSecretSchema,
} from "../../../gen/lucid/backup/v1/repository_pb.ts";
import { fail } from "../../errors.ts";
import { deriveKeys, type Keys } from "./keys.ts";
import { hex } from "./names.ts";
import { configDamaged, FORMAT_VERSION, putConfig, readConfig } from "./repository-config.ts";
import type { ObjectStorage } from "./storage.ts";
import { newDerivation, readKeyFile, type WrappingKey, wrappingKey } from "./wrapping-key.ts";

const SECRET_BYTES = 32;

/** What may unlock a repository. */
export interface KeyFiles {
  /** File whose content unlocks the secret, at least 32 bytes. A repository that is made without one is not encrypted. */
  readonly keyFile?: string;
  /** The key file of before. A repository that it unlocks takes `keyFile` in its place; otherwise it is not even read. */
  readonly oldKeyFile?: string;
}

/** What has unlocked a repository. */
export interface Unlocked {
  readonly keys: Keys;
  /** Tells the key file from others, see `WrappingKey`; undefined where the repository is not encrypted. */
  readonly keyId?: string;
  /** Of the old key file, where the repository has just been taken from it. */
  readonly formerKeyId?: string;
}

/**
 * Opens the repository in `storage`, or makes one where there is none. Fails with `BACKUP_REPOSITORY_WRONG_KEY` where no key
 * file fits, one cannot be read, is missing, or is given for a repository that is not encrypted; with
 * `BACKUP_REPOSITORY_DAMAGED` and `BACKUP_FORMAT_UNKNOWN`.
 */
export async function openKeys(storage: ObjectStorage, files: KeyFiles, signal: AbortSignal): Promise<Unlocked> {
  const content = files.keyFile === undefined ? undefined : await readKeyFile(files.keyFile, "LUCID_BACKUP_KEY_FILE");
  const config = (await readConfig(storage, signal)) ?? (await makeConfig(storage, content, signal));
  const { repositoryId, secret } = config;
  switch (secret.case) {
    case "plainSecret":
      if (content === undefined) return { keys: deriveKeys(secret.value, repositoryId, false) };
      // Going on would leave backups in the clear that somebody has set a key for.
      throw wrongKey(
        "The backup repository was made without a key file and stays unencrypted, but one is set; an encrypted one needs another folder",
      );
    case "wrappedSecret": {
      if (content === undefined) throw wrongKey("The backup repository is encrypted, and no key file is set");
      const key = await wrappingKey(content, secret.value, repositoryId);
      const opened = key.unwrap(secret.value);
      if (opened !== undefined) return { keys: deriveKeys(opened, repositoryId, true), keyId: key.id };
      if (files.oldKeyFile === undefined) throw unfit(secret.value, { key_id: key.id });
      return await rotate(storage, { config, wrapped: secret.value, key, oldKeyFile: files.oldKeyFile }, signal);
    }
    default:
      throw configDamaged("The repository's config holds no secret");
  }
}

/**
 * Takes the secret from the old key file and wraps it for `key`. The config is replaced in one step. Replicas that do so at the
 * same time wrap one secret for one key file: whichever config is left, all of them open it.
 */
async function rotate(
  storage: ObjectStorage,
  of: {
    readonly config: RepositoryConfig;
    readonly wrapped: WrappedSecret;
    readonly key: WrappingKey;
    readonly oldKeyFile: string;
  },
  signal: AbortSignal,
): Promise<Unlocked> {
  const { config, wrapped, key } = of;
  const { repositoryId } = config;
  const old = await wrappingKey(await readKeyFile(of.oldKeyFile, "LUCID_BACKUP_OLD_KEY_FILE"), wrapped, repositoryId);
  const secret = old.unwrap(wrapped);
  if (secret === undefined) throw unfit(wrapped, { key_id: key.id, old_key_id: old.id });
  const rotated: RepositoryConfig = {
    ...config,
    secret: { case: "wrappedSecret", value: { ...wrapped, ...key.wrap(secret) } },
  };
  await putConfig(storage, rotated, { ifAbsent: false, signal });
  // The old key file may be destroyed when this is told: it counts what is there, not what was put.
  const stored = (await readConfig(storage, signal))?.secret;
  if (stored?.case !== "wrappedSecret") throw configDamaged("The repository's config holds no secret any more");
  if (key.unwrap(stored.value) === undefined) throw unfit(stored.value, { key_id: key.id, old_key_id: old.id });
  return { keys: deriveKeys(secret, repositoryId, true), keyId: key.id, formerKeyId: old.id };
}

/** Makes a repository; without the content of a key file one that is not encrypted. */
async function makeConfig(
  storage: ObjectStorage,
  content: Buffer | undefined,
  signal: AbortSignal,
): Promise<RepositoryConfig> {
  const secret = randomBytes(SECRET_BYTES);
  const config = create(RepositoryConfigSchema, {
    formatVersion: FORMAT_VERSION,
    repositoryId: randomBytes(16),
    createTime: timestampNow(),
  });
  if (content === undefined) {
    config.secret = { case: "plainSecret", value: secret };
  } else {
    const derivation = newDerivation();
    const key = await wrappingKey(content, derivation, config.repositoryId);
    const wrapped = create(WrappedSecretSchema, { ...derivation, ...key.wrap(secret) });
    config.secret = { case: "wrappedSecret", value: wrapped };
  }
  await putConfig(storage, config, { ifAbsent: true, signal });
  // Read again: another process may have been first, and then its secret counts.
  const stored = await readConfig(storage, signal);
  if (stored === undefined) throw configDamaged("The repository's config is gone");
  return stored;
}

function unfit({ keyId }: WrappedSecret, given: { readonly key_id: string; readonly old_key_id?: string }) {
  const message =
    given.old_key_id === undefined
      ? "The key file is not the one of this backup repository"
      : "Neither the key file nor the old one is the one of this backup repository";
  // Repositories that were made before there were ids do not say which one they want.
  return wrongKey(message, { ...given, ...(keyId.byteLength > 0 && { wanted_key_id: hex(keyId) }) });
}

function wrongKey(message: string, metadata: Readonly<Record<string, string>> = {}) {
  return fail("BACKUP_REPOSITORY_WRONG_KEY", message, { metadata });
}
