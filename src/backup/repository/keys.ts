import {
  createCipheriv,
  createDecipheriv,
  createHmac,
  createSecretKey,
  hkdfSync,
  type KeyObject,
  randomBytes,
  timingSafeEqual,
} from "node:crypto";

/** Bytes that sealing adds. */
export const TAG_BYTES = 16;
const NONCE_BYTES = 12;
const CIPHER = "aes-256-gcm";

/** What did not open: damaged, forged, under another key, or under another name. */
export class NotAuthentic extends Error {}

/**
 * Seals and opens bytes under one key: AES-256-GCM where the repository is encrypted; where it is not, the bytes as they are and
 * a tag of HMAC-SHA-256, so that damage is found all the same.
 */
export interface Seal {
  /** The sealed bytes, `TAG_BYTES` longer. `nonce` is 12 bytes and never used twice with one key; `context` is authenticated too. */
  seal(bytes: Uint8Array, nonce: Uint8Array, context: Uint8Array): readonly [Uint8Array, Uint8Array];
  /** The bytes; throws `NotAuthentic`. */
  open(sealed: Uint8Array, nonce: Uint8Array, context: Uint8Array): Buffer;
}

/** The keys of a repository. All come from its secret. */
export interface Keys {
  readonly encrypted: boolean;
  /** Name of a chunk with this content, 32 bytes: without the secret nobody can tell whether a known text is in a repository. */
  chunkName(plain: Uint8Array): Buffer;
  /** Seeds the choice of chunk boundaries, so that their lengths do not identify a known text. 1056 bytes. */
  readonly boundarySeed: Buffer;
  /** Seals what is in one pack. Every pack has a key of its own, so that an offset may serve as nonce. */
  forPack(pack: Uint8Array): Seal;
  /** Seals an object as a whole: a random nonce, then the sealed bytes; bound to its name. */
  sealObject(name: string, bytes: Uint8Array): Buffer;
  /** Reverses `sealObject`; throws `NotAuthentic`. */
  openObject(name: string, sealed: Uint8Array): Buffer;
}

/** Derives the keys from `secret` (32 bytes). */
export function deriveKeys(secret: Uint8Array, repositoryId: Uint8Array, encrypted: boolean): Keys {
  const derive = (purpose: string, length = 32) =>
    Buffer.from(hkdfSync("sha256", secret, repositoryId, `lucid-backup/1/${purpose}`, length));
  const nameKey = createSecretKey(derive("chunk-name"));
  const packKey = derive("pack");
  const sealWith = encrypted ? gcmSeal : tagSeal;
  const objects = sealWith(createSecretKey(derive("object")));
  return {
    encrypted,
    chunkName: (plain) => createHmac("sha256", nameKey).update(plain).digest(),
    boundarySeed: derive("boundary", 32 + 256 * 4),
    forPack: (pack) =>
      sealWith(createSecretKey(Buffer.from(hkdfSync("sha256", packKey, pack, "lucid-backup/1/pack", 32)))),
    sealObject(name, bytes) {
      const nonce = randomBytes(NONCE_BYTES);
      return Buffer.concat([nonce, ...objects.seal(bytes, nonce, Buffer.from(name))]);
    },
    openObject: (name, sealed) =>
      objects.open(sealed.subarray(NONCE_BYTES), sealed.subarray(0, NONCE_BYTES), Buffer.from(name)),
  };
}

/** AES-256-GCM under `key`. */
export function gcmSeal(key: KeyObject): Seal {
  return {
    seal(bytes, nonce, context) {
      const cipher = createCipheriv(CIPHER, key, nonce, { authTagLength: TAG_BYTES }).setAAD(context);
      const body = cipher.update(bytes);
      cipher.final(); // a stream cipher: nothing is left to come
      return [body, cipher.getAuthTag()];
    },
    open(sealed, nonce, context) {
      const length = sealed.byteLength - TAG_BYTES;
      if (length < 0 || nonce.byteLength !== NONCE_BYTES) throw new NotAuthentic("Too short");
      const decipher = createDecipheriv(CIPHER, key, nonce, { authTagLength: TAG_BYTES }).setAAD(context);
      decipher.setAuthTag(sealed.subarray(length));
      const bytes = decipher.update(sealed.subarray(0, length));
      try {
        decipher.final();
      } catch (cause) {
        throw new NotAuthentic("The tag does not fit", { cause });
      }
      return bytes;
    },
  };
}

function tagSeal(key: KeyObject): Seal {
  const tagOf = (bytes: Uint8Array, nonce: Uint8Array, context: Uint8Array) => {
    const lengths = Buffer.alloc(8);
    lengths.writeUInt32LE(nonce.byteLength, 0);
    lengths.writeUInt32LE(context.byteLength, 4);
    const hmac = createHmac("sha256", key).update(lengths).update(nonce).update(context).update(bytes);
    return hmac.digest().subarray(0, TAG_BYTES);
  };
  return {
    seal: (bytes, nonce, context) => [bytes, tagOf(bytes, nonce, context)],
    open(sealed, nonce, context) {
      const length = sealed.byteLength - TAG_BYTES;
      if (length < 0) throw new NotAuthentic("Too short");
      const bytes = Buffer.from(sealed.buffer, sealed.byteOffset, length);
      if (!timingSafeEqual(tagOf(bytes, nonce, context), sealed.subarray(length)))
        throw new NotAuthentic("The tag does not fit");
      return bytes;
    },
  };
}
