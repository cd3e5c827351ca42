import {
  createCipheriv,
  createDecipheriv,
  createHmac,
  createSecretKey,
  hkdfSync,
  randomBytes,
  timingSafeEqual,
} from "node:crypto";

import type { Db } from "mongodb";

import { fail } from "../errors.ts";
import { callTime } from "./call-options.ts";
import { isDuplicate } from "./create-once.ts";

/** Makes positions in lists, and in watches, opaque, and binds them to the query that they are of. */
export interface PageTokens {
  encode(query: Uint8Array, position: string): string;
  /** Undefined for the empty token. Fails with `PAGE_TOKEN_INVALID` where it was made up, changed, or is of another query. */
  decode(query: Uint8Array, token: string): string | undefined;
  /** The position of any token that `encode` made for the query; undefined for what is none. */
  open(query: Uint8Array, token: string): string | undefined;
}

const sealBytes = 16;

/** Page tokens that whoever knows `secret` can read again; an empty one is replaced by a random one. */
export function pageTokens(secret: string): PageTokens {
  const input = secret === "" ? randomBytes(32) : secret;
  const keyFor = (use: string) =>
    createSecretKey(Buffer.from(hkdfSync("sha256", input, "", `lucid page tokens ${use}`, 32)));
  const [sealKey, cipherKey] = [keyFor("seal"), keyFor("cipher")];
  const seal = (query: Uint8Array, position: Buffer): Buffer => {
    const length = Buffer.alloc(4);
    length.writeUInt32BE(query.byteLength);
    return createHmac("sha256", sealKey).update(length).update(query).update(position).digest().subarray(0, sealBytes);
  };
  // The seal of the content is what its encryption starts from, so that no number of tokens wears the key out, as random
  // starting values of AES-GCM would.
  const hide = (start: Buffer, bytes: Buffer) => createCipheriv("aes-256-ctr", cipherKey, start).update(bytes);
  const show = (start: Buffer, bytes: Buffer) => createDecipheriv("aes-256-ctr", cipherKey, start).update(bytes);
  const open = (query: Uint8Array, token: string): string | undefined => {
    const bytes = Buffer.from(token, "base64url");
    const start = bytes.subarray(0, sealBytes);
    const isWhole = bytes.length > sealBytes && bytes.toString("base64url") === token;
    const position = isWhole ? show(start, bytes.subarray(sealBytes)) : undefined;
    if (position === undefined || !timingSafeEqual(start, seal(query, position))) return undefined;
    return position.toString();
  };
  return {
    encode(query, position) {
      const bytes = Buffer.from(position);
      const start = seal(query, bytes);
      return Buffer.concat([start, hide(start, bytes)]).toString("base64url");
    },
    decode(query, token) {
      if (token === "") return undefined;
      const position = open(query, token);
      if (position === undefined) {
        const fields = [{ field: "page_token", description: "must be the token of a call with the same other fields" }];
        throw fail("PAGE_TOKEN_INVALID", "The page token is not one of this list", { fields });
      }
      return position;
    },
    open,
  };
}

/**
 * Page tokens for lists that are in MongoDB themselves. Where `secret` is empty, the first replica that needs one puts a random
 * one into `system`, so that tokens outlive processes and mean the same on every replica without a setting.
 */
export function sharedPageTokens(secret: string, system: Db): () => Promise<PageTokens> {
  let tokens: PageTokens | undefined = secret === "" ? undefined : pageTokens(secret);
  return async () => {
    tokens ??= pageTokens(await storedSecret(system));
    return tokens;
  };
}

async function storedSecret(system: Db): Promise<string> {
  const secrets = system.collection<{ _id: string; secret: string }>("secrets");
  const made = { secret: randomBytes(32).toString("base64") };
  for (let attempt = 1; ; attempt++) {
    try {
      const stored = await secrets.findOneAndUpdate(
        { _id: "page_tokens" },
        { $setOnInsert: made },
        // A secret that a failover could take back would take tokens with it.
        { upsert: true, returnDocument: "after", writeConcern: { w: "majority" }, ...callTime },
      );
      if (stored !== null) return stored.secret;
    } catch (error) {
      // Another replica came first; the next attempt finds what it made.
      if (!isDuplicate(error) || attempt === 3) throw error;
    }
  }
}
