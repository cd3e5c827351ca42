import { create } from "@bufbuild/protobuf";

import { CondemnationSchema, type WriterAnnouncement } from "../../../gen/lucid/backup/v1/repository_pb.ts";
import { isReason } from "../../errors.ts";
import type { Keys } from "./keys.ts";
import { listPacks } from "./known-chunks.ts";
import { backupIds, backupNotFound, lookAtManifest, readManifest, REVOKED } from "./manifests.ts";
import { hex, newWriterId, objectNames, packsOfIndex, WRITER_ID_BYTES } from "./names.ts";
import { isExpired, readAnnouncements, removeAnnouncements, readCondemnations, splitPacks } from "./presence.ts";
import { sealMessage } from "./sealed-object.ts";
import type { ObjectStorage } from "./storage.ts";

interface Place {
  readonly storage: ObjectStorage;
  readonly keys: Keys;
}

/** What a deletion or a collection did. */
export interface Freed {
  /** Bytes that were removed. Those that a running backup may refer to are removed by a later collection. */
  readonly freedBytes: bigint;
}

/**
 * Deletes a backup and what no other one needs. With `validateOnly` changes nothing and says how many bytes would be freed if no
 * backup were running. Fails with `BACKUP_NOT_FOUND`. May be repeated after it broke off: then `collect` frees the rest.
 */
export async function deleteBackup(
  place: Place,
  backupId: string,
  { validateOnly }: { readonly validateOnly: boolean },
  signal: AbortSignal,
): Promise<Freed> {
  const found = await lookAtManifest(place.storage, backupId, signal);
  if (found.state !== "present") throw backupNotFound(backupId);
  const ownBytes = BigInt(found.object.byteLength);
  if (validateOnly) {
    const writers = await readAnnouncements(place, signal);
    const packs = await unneededPacks(place, writers, new Set([backupId]), signal);
    return { freedBytes: ownBytes + sum(packs.values()) };
  }
  // From here on the backup does not exist. The place stays taken, so that no writer that was given up can fill it again.
  await place.storage.put(objectNames.manifest(backupId), REVOKED, { ifAbsent: false, signal });
  const { freedBytes } = await collect(place, signal);
  return { freedBytes: freedBytes + ownBytes };
}

/**
 * Removes packs that no backup needs. Any number of processes may do this while others write and delete; it may break off
 * anywhere. Why that is safe is in `docs/backup-format.md`; the order of the steps is the reason. Fails with
 * `BACKUP_MANIFEST_DAMAGED` and removes nothing where it cannot be known what a backup needs.
 */
export async function collect(place: Place, signal: AbortSignal): Promise<Freed> {
  const { storage, keys } = place;
  const writers = await giveUpExpired(place, await readAnnouncements(place, signal), signal);
  const condemned = await readCondemnations(place, signal);

  // 1. Condemn: writers that begin after this refer to none of these packs.
  const unneeded = await unneededPacks(place, writers, new Set(), signal);
  for (const packs of condemned.values()) for (const pack of packs) unneeded.delete(pack);
  if (unneeded.size > 0) {
    const name = objectNames.condemnation(newWriterId());
    const packs = Buffer.from([...unneeded.keys()].toSorted().join(""), "hex");
    const object = await sealMessage(keys, name, CondemnationSchema, create(CondemnationSchema, { packs }));
    await storage.put(name, object, { ifAbsent: true, signal });
    condemned.set(name, splitPacks(packs));
  }
  if (condemned.size === 0)
    return { freedBytes: await removeEmptyIndexes(place, await listPacks(storage, signal), signal) };

  // 2. Look who may refer to them nevertheless: writers that began before. Only then 3. look what is needed: those that have
  // ended meanwhile have left their manifests.
  const since = await readAnnouncements(place, signal);
  const present = await listPacks(storage, signal);
  const needed = await neededPacks(place, new Set(), signal);
  let freedBytes = 0n;
  for (const [name, packs] of condemned) {
    if (since.some((writer) => !writer.condemnations.includes(name))) continue;
    let left = 0;
    for (const pack of packs) {
      if (needed.has(pack)) {
        left++;
        continue;
      }
      const size = present.get(pack);
      if (size === undefined) continue;
      await storage.delete(objectNames.pack(Buffer.from(pack, "hex")), signal);
      present.delete(pack);
      freedBytes += BigInt(size);
    }
    // While one of its packs is there, a condemnation stays: a pack that was condemned once is never referred to anew.
    if (left === 0) await storage.delete(name, signal);
  }
  return { freedBytes: freedBytes + (await removeEmptyIndexes(place, present, signal)) };
}

/**
 * Gives up writers that were not heard of for an hour: takes the place of their manifests, so that they cannot seal any more,
 * and then their announcements. Returns the others.
 */
async function giveUpExpired(
  { storage }: Place,
  writers: readonly WriterAnnouncement[],
  signal: AbortSignal,
): Promise<WriterAnnouncement[]> {
  const now = Date.now();
  const alive = writers.filter((writer) => !isExpired(writer, now));
  const aliveBackups = new Set(alive.map(({ backupId }) => backupId));
  for (const writer of writers) {
    if (!isExpired(writer, now)) continue;
    if (aliveBackups.has(writer.backupId)) {
      // Another writer has taken the backup over. Its place is not to be taken from that one.
      alive.push(writer);
      continue;
    }
    await storage.put(objectNames.manifest(writer.backupId), REVOKED, { ifAbsent: true, signal });
    await removeAnnouncements(storage, writer.writerId, signal);
  }
  return alive;
}

/** Packs, with their sizes, that no backup but those in `without` needs and that are not of a writer at work. */
async function unneededPacks(
  place: Place,
  writers: readonly WriterAnnouncement[],
  without: ReadonlySet<string>,
  signal: AbortSignal,
): Promise<Map<string, number>> {
  const packs = await listPacks(place.storage, signal);
  const needed = await neededPacks(place, without, signal);
  const alive = new Set(writers.map(({ writerId }) => hex(writerId)));
  for (const pack of packs.keys()) {
    if (needed.has(pack) || alive.has(pack.slice(0, WRITER_ID_BYTES * 2))) packs.delete(pack);
  }
  return packs;
}

/** The packs that manifests name, in hex. */
async function neededPacks(place: Place, without: ReadonlySet<string>, signal: AbortSignal): Promise<Set<string>> {
  const needed = new Set<string>();
  for (const backupId of await backupIds(place.storage, signal)) {
    if (without.has(backupId)) continue;
    try {
      const { packs } = await readManifest(place, backupId, signal);
      for (const pack of splitPacks(packs)) needed.add(pack);
    } catch (error) {
      // Deleted, now or long ago. Any other failure must end this: what the backup needs is not known.
      if (!isReason(error, "BACKUP_NOT_FOUND")) throw error;
    }
  }
  return needed;
}

async function removeEmptyIndexes(
  { storage }: Place,
  packs: ReadonlyMap<string, number>,
  signal: AbortSignal,
): Promise<bigint> {
  let freedBytes = 0n;
  for await (const { name, size } of storage.list(objectNames.indexes, signal)) {
    if (packsOfIndex(name)?.some((pack) => packs.has(pack)) ?? true) continue;
    await storage.delete(name, signal);
    freedBytes += BigInt(size);
  }
  return freedBytes;
}

function sum(sizes: Iterable<number>): bigint {
  let total = 0n;
  for (const size of sizes) total += BigInt(size);
  return total;
}
