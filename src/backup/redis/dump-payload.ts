/** The polynomial of CRC-64/Jones, reflected. */
const polynomial = 0x95ac9329ac4bc9b5n;

/**
 * A payload of DUMP with a valid frame and nothing in it. RESTORE refuses it always: with `Bad data format` where it can read
 * payloads of that RDB version, and because of the version where it cannot. So it can be asked without anything being written.
 */
export function probePayload(rdbVersion: number): Buffer {
  const payload = Buffer.alloc(11);
  payload.writeUInt8(0xff, 0); // a type that there is not
  payload.writeUInt16LE(rdbVersion, 1);
  payload.writeBigUInt64LE(crc64(payload.subarray(0, 3)), 3);
  return payload;
}

/** The checksum in payloads of DUMP. */
export function crc64(bytes: Uint8Array): bigint {
  let crc = 0n;
  for (const byte of bytes) {
    crc ^= BigInt(byte);
    for (let bit = 0; bit < 8; bit++) crc = crc & 1n ? (crc >> 1n) ^ polynomial : crc >> 1n;
  }
  return crc;
}
