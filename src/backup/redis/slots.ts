/** Number of slots of a cluster. */
const slotCount = 16_384;

/** The slot of a key in a cluster: CRC-16 (XMODEM) of the key, or of what stands between its first braces. */
export function slotOf(key: Uint8Array): number {
  const open = key.indexOf(0x7b);
  const close = open === -1 ? -1 : key.indexOf(0x7d, open + 1);
  const tag = close > open + 1 ? key.subarray(open + 1, close) : key;
  let crc = 0;
  for (const byte of tag) {
    crc ^= byte << 8;
    for (let bit = 0; bit < 8; bit++) crc = crc & 0x8000 ? ((crc << 1) ^ 0x1021) & 0xffff : (crc << 1) & 0xffff;
  }
  return crc % slotCount;
}

/** A name that begins with `prefix` and is in the slot of `key`, so that a cluster renames the one to the other. */
export function nameInSlot(prefix: string, key: Uint8Array): Buffer {
  const slot = slotOf(key);
  for (let number = 0; ; number++) {
    const name = Buffer.from(`${prefix}{${number}}`);
    if (slotOf(name) === slot) return name; // one in 16384 is
  }
}
