import { createSecretKey, hkdfSync, randomBytes, scrypt, type ScryptOptions } from "node:crypto";
import { readFile } from "node:fs/promises";

import type { WrappedSecret } from "../../../gen/lucid/backup/v1/repository_pb.ts";
import { fail } from "../../errors.ts";
import { gcmSeal, NotAuthentic } from "./keys.ts";
import { configDamaged, configUnknown } from "./repository-config.ts";

const LEAST_KEY_FILE_BYTES = 32;
const KEY_ID_BYTES = 8;
/** 64 MiB and a third of a second: what OWASP advises for passphrases, should the file hold one. */
const SCRYPT = { scryptCostLog2: 16, scryptBlockSize: 8, scryptParallelization: 2 };
/** A config is not authenticated before its key is derived: it must not be able to ask for more memory than this. */
const MOST_SCRYPT_BYTES = 1 << 30;

/** How a wrapping key comes from a key file; a repository keeps it for life, so that a key file keeps its id there. */
export type Derivation = Pick<
  WrappedSecret,
  "derivation" | "scryptCostLog2" | "scryptBlockSize" | "scryptParallelization" | "salt"
>;

/** What a key file is to one repository: the key that wraps its secret. */
export interface WrappingKey {
  /**
   * Tells the key file from others, 16 hex digits. Who wants to find a weak content by it has to try each at the cost of the
   * derivation, as with the wrapped secret beside it.
   */
  readonly id: string;
  /** The fields of a wrapped secret that are new with each key file. */
  wrap(secret: Uint8Array): Pick<WrappedSecret, "nonce" | "sealedSecret" | "keyId">;
  /** The secret, or undefined where another key has wrapped it. */
  unwrap(wrapped: WrappedSecret): Buffer | undefined;
}

/** How a new repository derives. */
export function newDerivation(): Derivation {
  return { derivation: "scrypt", ...SCRYPT, salt: randomBytes(16) };
}

/** `setting` is what failures name. Fails with `BACKUP_REPOSITORY_WRONG_KEY` where the file cannot serve as one. */
export async function readKeyFile(path: string, setting: string): Promise<Buffer> {
  const unfit = (why: string, cause?: unknown) =>
    fail("BACKUP_REPOSITORY_WRONG_KEY", `The file of ${setting} ${why}`, { metadata: { setting }, cause });
  const content = await readFile(path).catch((cause: unknown) => {
    throw unfit("cannot be read", cause);
  });
  if (content.byteLength < LEAST_KEY_FILE_BYTES) throw unfit(`holds fewer than ${LEAST_KEY_FILE_BYTES} bytes`);
  return content;
}

/** Derives the key; slow on purpose. */
export async function wrappingKey(
  content: Buffer,
  derivation: Derivation,
  repositoryId: Uint8Array,
): Promise<WrappingKey> {
  const key = await stretch(content, derivation);
  const seal = gcmSeal(createSecretKey(key));
  const id = Buffer.from(hkdfSync("sha256", key, repositoryId, "lucid-backup/1/key-id", KEY_ID_BYTES));
  return {
    id: id.toString("hex"),
    wrap(secret) {
      const nonce = randomBytes(12);
      return { nonce, sealedSecret: Buffer.concat(seal.seal(secret, nonce, repositoryId)), keyId: id };
    },
    unwrap({ sealedSecret, nonce }) {
      try {
        return seal.open(sealedSecret, nonce, repositoryId);
      } catch (error) {
        if (error instanceof NotAuthentic) return undefined;
        throw error;
      }
    },
  };
}

function stretch(content: Buffer, { derivation, salt, ...how }: Derivation): Promise<Buffer> {
  const { scryptCostLog2: costLog2, scryptBlockSize: r, scryptParallelization: p } = how;
  if (derivation !== "scrypt") throw configUnknown(`derivation ${derivation}`);
  const bytes = 128 * r * (2 ** costLog2 + p);
  if (costLog2 < 1 || r < 1 || p < 1 || p > 64 || bytes > MOST_SCRYPT_BYTES) {
    throw configDamaged("The repository's config asks for an impossible key derivation");
  }
  const options: ScryptOptions = { N: 2 ** costLog2, r, p, maxmem: bytes + (1 << 20) };
  return new Promise((resolve, reject) => {
    scrypt(content, salt, 32, options, (error, key) => (error === null ? resolve(key) : reject(error)));
  });
}
