// A reader made from docs/backup-format.md alone: no code of the service, no library, as plain as can be.
import { createDecipheriv, createHash, createHmac, hkdfSync, scryptSync } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { zstdDecompressSync } from "node:zlib";

type Fields = Map<number, (bigint | Buffer)[]>;
type Open = (key: Buffer, nonce: Buffer, aad: Buffer, sealed: Buffer) => Buffer;

/** Protobuf, as far as the format uses it: varints and length-delimited fields. */
function parse(bytes: Buffer): Fields {
  const fields: Fields = new Map();
  let at = 0;
  const varint = () => {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = bytes.readUInt8(at++);
      value |= BigInt(byte & 127) << shift;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const tag = Number(varint());
    let value: bigint | Buffer = varint();
    if ((tag & 7) === 2) {
      const end = at + Number(value);
      value = bytes.subarray(at, end);
      at = end;
    } else if ((tag & 7) !== 0) {
      throw new Error(`Wire type ${tag & 7}`);
    }
    fields.set(tag >>> 3, [...(fields.get(tag >>> 3) ?? []), value]);
  }
  return fields;
}

const bytesOf = (fields: Fields, number: number) => (fields.get(number)?.[0] as Buffer | undefined) ?? Buffer.alloc(0);
const numberOf = (fields: Fields, number: number) => (fields.get(number)?.[0] as bigint | undefined) ?? 0n;
const allOf = (fields: Fields, number: number) => (fields.get(number) as Buffer[] | undefined) ?? [];
const hkdf = (secret: Buffer, salt: Buffer, info: string) => Buffer.from(hkdfSync("sha256", secret, salt, info, 32));
const sha256 = (...parts: Buffer[]) => createHash("sha256").update(Buffer.concat(parts)).digest();
const u32 = (value: number) => Buffer.from(Uint32Array.of(value).buffer);
const u64 = (value: bigint) => Buffer.from(BigUint64Array.of(value).buffer);

const openGcm: Open = (key, nonce, aad, sealed) => {
  const decipher = createDecipheriv("aes-256-gcm", key, nonce, { authTagLength: 16 }).setAAD(aad);
  decipher.setAuthTag(sealed.subarray(-16));
  return Buffer.concat([decipher.update(sealed.subarray(0, -16)), decipher.final()]);
};

const openPlain: Open = (key, nonce, aad, sealed) => {
  const bytes = sealed.subarray(0, -16);
  const tag = createHmac("sha256", key)
    .update(Buffer.concat([u32(nonce.length), u32(aad.length), nonce, aad, bytes]))
    .digest();
  check(tag.subarray(0, 16).equals(sealed.subarray(-16)), "tag");
  return bytes;
};

function check(fits: boolean, what: string): void {
  if (!fits) throw new Error(`Wrong ${what}`);
}

/** Reads all streams of a backup. */
export function readMinimally(
  dir: string,
  backupId: string,
  keyFile?: string,
): { rootHash: string; streams: Buffer[][] } {
  const object = (name: string) => readFileSync(join(dir, name));
  const stored = object("config");
  check(sha256(stored.subarray(0, -32)).equals(stored.subarray(-32)), "checksum of the config");
  check(stored.subarray(0, 8).toString() === "LUCIDRC1", "magic of the config");
  const config = parse(stored.subarray(8, -32));
  check(numberOf(config, 1) === 1n, "version");
  const repositoryId = bytesOf(config, 2);
  let secret: Buffer = bytesOf(config, 4);
  let open = openPlain;
  if (config.has(5)) {
    const wrapped = parse(bytesOf(config, 5));
    const [N, r, p] = [2 ** Number(numberOf(wrapped, 2)), Number(numberOf(wrapped, 3)), Number(numberOf(wrapped, 4))];
    const key = scryptSync(readFileSync(keyFile ?? ""), bytesOf(wrapped, 5), 32, { N, r, p, maxmem: 2 ** 28 });
    secret = openGcm(key, bytesOf(wrapped, 6), repositoryId, bytesOf(wrapped, 7));
    open = openGcm;
  }
  const keyOf = (purpose: string) => hkdf(secret, repositoryId, `lucid-backup/1/${purpose}`);

  const name = `manifests/${backupId}`;
  const sealed = object(name);
  check(sealed.subarray(0, 8).toString() === "LUCIDOB1", "magic of the manifest");
  const manifest = parse(
    zstdDecompressSync(open(keyOf("object"), sealed.subarray(8, 20), Buffer.from(name), sealed.subarray(20))),
  );
  check(bytesOf(manifest, 2).toString() === backupId, "backup id");

  const readChunk = (reference: Buffer): Buffer => {
    const [chunk, pack, offset] = [reference.subarray(0, 32), reference.subarray(32, 48), reference.readUInt32LE(48)];
    const [sealedLength, length] = [reference.readUInt32LE(52), reference.readUInt32LE(56)];
    const packHex = pack.toString("hex");
    const bytes = object(`packs/${packHex.slice(0, 24)}/${packHex.slice(24)}`).subarray(offset, offset + sealedLength);
    const nonce = Buffer.alloc(12);
    nonce.writeUInt32BE(offset, 8);
    const body = open(
      hkdf(keyOf("pack"), pack, "lucid-backup/1/pack"),
      nonce,
      Buffer.concat([chunk, u32(length)]),
      bytes,
    );
    const content = body.length === length ? body : zstdDecompressSync(body);
    check(createHmac("sha256", keyOf("chunk-name")).update(content).digest().equals(chunk), "name of a chunk");
    return content;
  };
  const split = (bytes: Buffer, length: number) =>
    Array.from({ length: bytes.length / length }, (_, i) => bytes.subarray(i * length, (i + 1) * length));
  const readRecords = (references: Buffer[]): Buffer[] => {
    const content = Buffer.concat(references.map(readChunk));
    const records: Buffer[] = [];
    for (let at = 0; at < content.length;) {
      const end = at + 4 + content.readUInt32LE(at);
      records.push(content.subarray(at + 4, end));
      at = end;
    }
    return records;
  };

  const root: Buffer[] = [Buffer.from("lucid-backup-root-1\n")];
  const streams: Buffer[][] = [];
  for (const unit of allOf(manifest, 11).map(parse)) {
    const [unitName, unitStreams] = [bytesOf(unit, 2), allOf(unit, 8).map(parse)];
    root.push(u32(Number(numberOf(unit, 1))), u32(unitName.length), unitName);
    root.push(u64(numberOf(unit, 9)), u64(numberOf(unit, 10)), u32(unitStreams.length));
    for (const stream of unitStreams) {
      const direct = split(bytesOf(stream, 3), 60);
      const references = numberOf(stream, 4) === 1n ? readRecords(direct) : direct;
      const chunksHash = sha256(...references.map((reference) => reference.subarray(0, 32)));
      check(chunksHash.equals(bytesOf(stream, 6)), "chunks hash");
      check(BigInt(references.length) === numberOf(stream, 5), "chunk count");
      const records = readRecords(references);
      check(BigInt(records.length) === numberOf(stream, 1), "record count");
      root.push(u64(numberOf(stream, 1)), u64(numberOf(stream, 2)), u64(numberOf(stream, 5)), chunksHash);
      streams.push(records);
    }
  }
  check(sha256(...root).equals(bytesOf(manifest, 15)), "root hash");
  return { rootHash: bytesOf(manifest, 15).toString("hex"), streams };
}
