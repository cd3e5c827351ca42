import { type PackDirectory, PackIndexSchema } from "../../../gen/lucid/backup/v1/repository_pb.ts";
import { isReason } from "../../errors.ts";
import { ChunkTable } from "./chunk-table.ts";
import { type Keys, NotAuthentic } from "./keys.ts";
import { objectNames, packOfObject, packsOfIndex } from "./names.ts";
import { chunksOf, readDirectory } from "./pack.ts";
import { readMessage } from "./sealed-object.ts";
import type { ObjectStorage } from "./storage.ts";

/** How many directories or indexes are read at once. */
const PARALLEL_READS = 4;

/** The packs that are there, in hex, with their sizes. */
export async function listPacks(storage: ObjectStorage, signal: AbortSignal): Promise<Map<string, number>> {
  const packs = new Map<string, number>();
  for await (const { name, size } of storage.list(objectNames.packs, signal)) {
    const pack = packOfObject(name);
    if (pack !== undefined) packs.set(pack, size);
  }
  return packs;
}

/**
 * Loads where the chunks of `packs`, in hex, stand, the newest first, at most `most` chunks: from indexes, and from the packs themselves
 * where these are in no index (their writer died) or the index is damaged. They were listed before: what an index says of a pack that is
 * gone does not count.
 */
export async function loadKnownChunks(
  place: { readonly storage: ObjectStorage; readonly keys: Keys },
  { packs, most }: { readonly packs: Iterable<string>; readonly most: number },
  signal: AbortSignal,
): Promise<ChunkTable> {
  const table = new ChunkTable(most);
  const unread = new Set(packs);
  const take = (directory: PackDirectory) => {
    if (!unread.delete(Buffer.from(directory.pack).toString("hex"))) return;
    for (const { name, pack, offset, sealedLength } of chunksOf(directory)) table.add(name, pack, offset, sealedLength);
  };

  const indexes: string[] = [];
  for await (const { name } of place.storage.list(objectNames.indexes, signal)) {
    if (packsOfIndex(name)?.some((pack) => unread.has(pack))) indexes.push(name);
  }
  await inParallel(indexes.toSorted().toReversed(), async (name) => {
    if (table.size >= most) return;
    const index = await readIndex(place, name, signal);
    index?.packs.forEach(take);
  });
  await inParallel([...unread].toSorted().toReversed(), async (pack) => {
    if (table.size >= most) return;
    const directory = await readSoundDirectory(place, Buffer.from(pack, "hex"), signal);
    if (directory !== undefined) take(directory);
  });
  return table;
}

type Place = Parameters<typeof loadKnownChunks>[0];

async function readIndex(place: Place, name: string, signal: AbortSignal) {
  try {
    return await readMessage(place, name, PackIndexSchema, signal);
  } catch (error) {
    // All that an index says stands in the packs, too; a verification reports the damage.
    if (error instanceof NotAuthentic) return undefined;
    throw error;
  }
}

async function readSoundDirectory({ storage, keys }: Place, pack: Buffer, signal: AbortSignal) {
  try {
    return await readDirectory(storage, keys, pack, signal);
  } catch (error) {
    // New backups do not refer to such a pack. Those that do say so when they are verified.
    if (isReason(error, "BACKUP_REPOSITORY_DAMAGED")) return undefined;
    throw error;
  }
}

async function inParallel<T>(items: readonly T[], work: (item: T) => Promise<void>): Promise<void> {
  const rest = items.values();
  await Promise.all(
    Array.from({ length: PARALLEL_READS }, async () => {
      for (const item of rest) await work(item);
    }),
  );
}
