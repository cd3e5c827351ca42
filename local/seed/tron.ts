import { createHash } from "node:crypto";

const ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";

/** Gives the TRON address of 20 bytes: base58check with the version byte 0x41, so that it starts with `T`. */
export function tronAddress(account: Buffer): string {
  const payload = Buffer.concat([Buffer.of(0x41), account]);
  const checksum = sha256(sha256(payload)).subarray(0, 4);
  // The version byte is not zero, so there are no leading zeros to keep.
  let number = BigInt(`0x${Buffer.concat([payload, checksum]).toString("hex")}`);
  let text = "";
  while (number > 0n) {
    text = (ALPHABET[Number(number % 58n)] ?? "") + text;
    number /= 58n;
  }
  return text;
}

function sha256(bytes: Buffer): Buffer {
  return createHash("sha256").update(bytes).digest();
}
