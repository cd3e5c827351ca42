import { createHash } from "node:crypto";

import { fromBinary, toBinary } from "@bufbuild/protobuf";

import { type RepositoryConfig, RepositoryConfigSchema } from "../../../gen/lucid/backup/v1/repository_pb.ts";
import { fail } from "../../errors.ts";
import type { ObjectStorage } from "./storage.ts";

/** The version of the format that this code writes, and the highest that it reads. */
export const FORMAT_VERSION = 1;
const CONFIG_NAME = "config";
const MAGIC = Buffer.from("LUCIDRC1");
const CHECKSUM_BYTES = 32;

/** Reads what the repository is; undefined where there is none. Fails with `BACKUP_REPOSITORY_DAMAGED`, `BACKUP_FORMAT_UNKNOWN`. */
export async function readConfig(storage: ObjectStorage, signal: AbortSignal): Promise<RepositoryConfig | undefined> {
  const bytes = await storage.get(CONFIG_NAME, { signal });
  return bytes === undefined ? undefined : decodeConfig(bytes);
}

/** Stores the config of a new repository, or replaces the one that is there in one step. */
export async function putConfig(
  storage: ObjectStorage,
  config: RepositoryConfig,
  options: { readonly ifAbsent: boolean; readonly signal: AbortSignal },
): Promise<void> {
  await storage.put(CONFIG_NAME, encodeConfig(config), options);
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
    throw configDamaged("The repository's config is damaged");
  if (!bytes.subarray(0, MAGIC.byteLength).equals(MAGIC)) throw configUnknown("of its config");
  const config = fromBinary(RepositoryConfigSchema, bytes.subarray(MAGIC.byteLength, end));
  if (config.formatVersion > FORMAT_VERSION || config.formatVersion < 1)
    throw configUnknown(`version ${config.formatVersion}`);
  return config;
}

export function configUnknown(what: string) {
  return fail("BACKUP_FORMAT_UNKNOWN", `The backup repository has a format that this version does not know: ${what}`, {
    metadata: { object: CONFIG_NAME },
  });
}

export function configDamaged(message: string) {
  return fail("BACKUP_REPOSITORY_DAMAGED", message, { metadata: { object: CONFIG_NAME } });
}
