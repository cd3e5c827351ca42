import { hash } from "node:crypto";

import { createBase58check } from "@scure/base";

const base58check = createBase58check((bytes: Uint8Array) => hash("sha256", bytes, "buffer"));

/** First byte of every TRON address of the main network, before its encoding. */
const tronVersion = 0x41;

/** Whether a text is a TRON address: base58 with a checksum that fits, of the main network's version and 20 bytes. */
export function isTronAddress(text: string): boolean {
  try {
    const bytes = base58check.decode(text);
    return bytes.length === 21 && bytes[0] === tronVersion;
  } catch {
    return false; // that is the answer
  }
}
