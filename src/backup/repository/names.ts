import { randomBytes } from "node:crypto";

/** Bytes of a chunk's name, a keyed hash of its content. */
export const CHUNK_NAME_BYTES = 32;
/** Bytes of a writer's id: milliseconds since 1970 (6, big-endian) and 6 random ones, so that ids sort by time. */
export const WRITER_ID_BYTES = 12;
/** Bytes of a pack's name: the id of its writer and its number there (uint32, big-endian). */
export const PACK_NAME_BYTES = WRITER_ID_BYTES + 4;

/** Makes an id that no other writer has. */
export function newWriterId(): Buffer {
  const id = Buffer.alloc(WRITER_ID_BYTES);
  id.writeUIntBE(Date.now(), 0, 6);
  randomBytes(6).copy(id, 6);
  return id;
}

/** The name of a writer's pack. */
export function packName(writerId: Uint8Array, number: number): Buffer {
  const name = Buffer.alloc(PACK_NAME_BYTES);
  name.set(writerId);
  name.writeUInt32BE(number, WRITER_ID_BYTES);
  return name;
}

export function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("hex");
}

/** Where things stand: `packs/<writer>/<number>` and so on, all parts in hex but backup ids. */
export const objectNames = {
  packs: "packs/",
  indexes: "indexes/",
  manifests: "manifests/",
  writers: "writers/",
  condemnations: "condemned/",

  pack(name: Uint8Array): string {
    const text = hex(name);
    return `packs/${text.slice(0, WRITER_ID_BYTES * 2)}/${text.slice(WRITER_ID_BYTES * 2)}`;
  },
  /** The index over the packs `first` to `last` of a writer. */
  index(writerId: Uint8Array, first: number, last: number): string {
    return `indexes/${hex(writerId)}/${hexNumber(first)}-${hexNumber(last)}`;
  },
  manifest: (backupId: string) => `manifests/${backupId}`,
  /** All announcements of a writer. */
  announcements: (writerId: Uint8Array) => `writers/${hex(writerId)}/`,
  announcement: (writerId: Uint8Array, number: number) => `writers/${hex(writerId)}/${hexNumber(number)}`,
  condemnation: (id: Uint8Array) => `condemned/${hex(id)}`,
} as const;

/** The pack that an object of that name holds, in hex; undefined for what is no pack. */
export function packOfObject(name: string): string | undefined {
  const match = /^packs\/([0-9a-f]{24})\/([0-9a-f]{8})$/.exec(name);
  return match === null ? undefined : `${match[1]}${match[2]}`;
}

/** The packs that an index covers by its name, in hex and ascending; undefined for what is no index. */
export function packsOfIndex(name: string): string[] | undefined {
  const match = /^indexes\/([0-9a-f]{24})\/([0-9a-f]{8})-([0-9a-f]{8})$/.exec(name);
  if (match === null) return undefined;
  const [first, last] = [Number.parseInt(match[2] ?? "", 16), Number.parseInt(match[3] ?? "", 16)];
  if (last < first || last - first >= MOST_INDEXED_PACKS) return undefined;
  return Array.from({ length: last - first + 1 }, (_, i) => `${match[1]}${hexNumber(first + i)}`);
}

/** A writer puts an index of its own whenever this many packs are durable. */
export const MOST_INDEXED_PACKS = 64;

function hexNumber(number: number): string {
  return number.toString(16).padStart(8, "0");
}
