import { createHmac, hkdfSync, randomBytes, timingSafeEqual } from "node:crypto";

import { fail } from "../errors.ts";

/** Makes positions in lists opaque, and binds them to the query that they are of. */
export interface PageTokens {
  encode(query: Uint8Array, position: string): string;
  /** Undefined for the empty token. Fails with `PAGE_TOKEN_INVALID` where it was made up, changed, or is of another query. */
  decode(query: Uint8Array, token: string): string | undefined;
}

const sealBytes = 16;

/** Page tokens that whoever knows `secret` can read again; an empty one is replaced by a random one. */
export function pageTokens(secret: string): PageTokens {
  const input = secret === "" ? randomBytes(32) : secret;
  const key = Buffer.from(hkdfSync("sha256", input, "", "lucid page tokens", 32));
  const seal = (query: Uint8Array, position: Buffer): Buffer => {
    const length = Buffer.alloc(4);
    length.writeUInt32BE(query.byteLength);
    return createHmac("sha256", key).update(length).update(query).update(position).digest().subarray(0, sealBytes);
  };
  return {
    encode(query, position) {
      const bytes = Buffer.from(position);
      return Buffer.concat([seal(query, bytes), bytes]).toString("base64url");
    },
    decode(query, token) {
      if (token === "") return undefined;
      const bytes = Buffer.from(token, "base64url");
      const position = bytes.subarray(sealBytes);
      const isWhole = bytes.length > sealBytes && bytes.toString("base64url") === token;
      if (!isWhole || !timingSafeEqual(bytes.subarray(0, sealBytes), seal(query, position))) {
        const fields = [{ field: "page_token", description: "must be the token of a call with the same other fields" }];
        throw fail("PAGE_TOKEN_INVALID", "The page token is not one of this list", { fields });
      }
      return position.toString();
    },
  };
}
