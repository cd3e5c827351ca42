import { createHash, createSecretKey, randomBytes, scrypt, type ScryptOptions } from "node:crypto";
import { readFile } from "node:fs/promises";

import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { timestampNow } from "@bufbuild/protobuf/wkt";

import {
  type RepositoryConfig,
  RepositoryConfigSchema,
  type WrappedSecret,
  WrappedSecretSchema,
} from "../../../gen/lucid/backup/v1/repository_pb.ts";
import { fail } from "../../errors.ts";
import { deriveKeys, gcmSeal, type Keys, NotAuthentic } from "./keys.ts";
import type { ObjectStorage } from "./storage.ts";

/** The version of the format that this code writes, and the highest that it reads. */
export const FORMAT_VERSION = 1;
const CONFIG_NAME = "config";
const MAGIC = Buffer.from("LUCIDRC1");
const CHECKSUM_BYTES = 32;
const SECRET_BYTES = 32;
const LEAST_KEY_FILE_BYTES = 32;
/** 64 MiB and a third of a second: what OWASP advises for passphrases, should the file hold one. */
const SCRYPT = { costLog2: 16, blockSize: 8, parallelization: 2 };
/** A config is not authenticated before its key is derived: it must not be able to ask for more memory than this. */
const MOST_SCRYPT_BYTES = 1 << 30;

/**
 * Opens the repository in `storage`, or makes one where there is none. Fails with `BACKUP_REPOSITORY_WRONG_KEY` where the key
 * file is not the one that it was made with, is missing, or is given for a repository that is not encrypted; with
 * `BACKUP_REPOSITORY_DAMAGED` and `BACKUP_FORMAT_UNKNOWN`.
 */
export async function openKeys(
  storage: ObjectStorage,
  keyFile: string | undefined,
  signal: AbortSignal,
): Promise<Keys> {
  const passphrase = keyFile === undefined ? undefined : await readKeyFile(keyFile);
  let bytes = await storage.get(CONFIG_NAME, { signal });
  if (bytes === undefined) {
    await storage.put(CONFIG_NAME, encodeConfig(await newConfig(passphrase)), { ifAbsent: true, signal });
    // Read again: another process may have been first, and then its secret counts.
    bytes = await storage.get(CONFIG_NAME, { signal });
    if (bytes === undefined) throw damaged("The repository's config is gone");
  }
  const config = decodeConfig(bytes);
  const secret = await secretOf(config, passphrase);
  return deriveKeys(secret, config.repositoryId, config.secret.case === "wrappedSecret");
}

async function readKeyFile(path: string): Promise<Buffer> {
  // A bad path is a mistake in the settings: it stops the start, with the system's own words.
  const passphrase = await readFile(path);
  if (passphrase.byteLength < LEAST_KEY_FILE_BYTES) {
    throw new Error(`The key file of the backup repository holds fewer than ${LEAST_KEY_FILE_BYTES} bytes`);
  }
  return passphrase;
}

async function newConfig(passphrase: Buffer | undefined): Promise<RepositoryConfig> {
  const secret = randomBytes(SECRET_BYTES);
  const config = create(RepositoryConfigSchema, {
    formatVersion: FORMAT_VERSION,
    repositoryId: randomBytes(16),
    createTime: timestampNow(),
  });
  if (passphrase === undefined) {
    config.secret = { case: "plainSecret", value: secret };
    return config;
  }
  const wrapped = create(WrappedSecretSchema, {
    derivation: "scrypt",
    scryptCostLog2: SCRYPT.costLog2,
    scryptBlockSize: SCRYPT.blockSize,
    scryptParallelization: SCRYPT.parallelization,
    salt: randomBytes(16),
    nonce: randomBytes(12),
  });
  const seal = gcmSeal(createSecretKey(await stretch(passphrase, wrapped)));
  wrapped.sealedSecret = Buffer.concat(seal.seal(secret, wrapped.nonce, config.repositoryId));
  config.secret = { case: "wrappedSecret", value: wrapped };
  return config;
}

async function secretOf(config: RepositoryConfig, passphrase: Buffer | undefined): Promise<Uint8Array> {
  switch (config.secret.case) {
    case "plainSecret":
      if (passphrase === undefined) return config.secret.value;
      // Going on would leave backups in the clear that somebody has set a key for.
      throw fail("BACKUP_REPOSITORY_WRONG_KEY", "The backup repository is not encrypted, but a key file is set");
    case "wrappedSecret": {
      if (passphrase === undefined) {
        throw fail("BACKUP_REPOSITORY_WRONG_KEY", "The backup repository is encrypted, and no key file is set");
      }
      const wrapped = config.secret.value;
      try {
        const seal = gcmSeal(createSecretKey(await stretch(passphrase, wrapped)));
        return seal.open(wrapped.sealedSecret, wrapped.nonce, config.repositoryId);
      } catch (cause) {
        if (!(cause instanceof NotAuthentic)) throw cause;
        throw fail("BACKUP_REPOSITORY_WRONG_KEY", "The key file is not the one of this backup repository", { cause });
      }
    }
    default:
      throw damaged("The repository's config holds no secret");
  }
}

function stretch(passphrase: Buffer, wrapped: WrappedSecret): Promise<Buffer> {
  const { scryptCostLog2: costLog2, scryptBlockSize: r, scryptParallelization: p } = wrapped;
  if (wrapped.derivation !== "scrypt") throw unknownFormat(`derivation ${wrapped.derivation}`);
  const bytes = 128 * r * (2 ** costLog2 + p);
  if (costLog2 < 1 || r < 1 || p < 1 || p > 64 || bytes > MOST_SCRYPT_BYTES) {
    throw damaged("The repository's config asks for an impossible key derivation");
  }
  const options: ScryptOptions = { N: 2 ** costLog2, r, p, maxmem: bytes + (1 << 20) };
  return new Promise((resolve, reject) => {
    scrypt(passphrase, wrapped.salt, 32, options, (error, key) => (error === null ? resolve(key) : reject(error)));
  });
}

/** Magic, message, SHA-256 over both. The checksum tells a damaged config from a wrong key. */
function encodeConfig(config: RepositoryConfig): Buffer {
  const bytes = Buffer.concat([MAGIC, toBinary(RepositoryConfigSchema, config)]);
  return Buffer.concat([bytes, createHash("sha256").update(bytes).digest()]);
}

function decodeConfig(bytes: Buffer): RepositoryConfig {
  const end = bytes.byteLength - CHECKSUM_BYTES;
  const checksum = createHash("sha256")
    .update(bytes.subarray(0, Math.max(0, end)))
    .digest();
  if (end < MAGIC.byteLength || !checksum.equals(bytes.subarray(end)))
    throw damaged("The repository's config is damaged");
  if (!bytes.subarray(0, MAGIC.byteLength).equals(MAGIC)) throw unknownFormat("of its config");
  const config = fromBinary(RepositoryConfigSchema, bytes.subarray(MAGIC.byteLength, end));
  if (config.formatVersion > FORMAT_VERSION || config.formatVersion < 1)
    throw unknownFormat(`version ${config.formatVersion}`);
  return config;
}

function unknownFormat(what: string) {
  return fail("BACKUP_FORMAT_UNKNOWN", `The backup repository has a format that this version does not know: ${what}`, {
    metadata: { object: CONFIG_NAME },
  });
}

function damaged(message: string) {
  return fail("BACKUP_REPOSITORY_DAMAGED", message, { metadata: { object: CONFIG_NAME } });
}
