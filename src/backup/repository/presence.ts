import { create } from "@bufbuild/protobuf";
import { timestampMs, timestampNow } from "@bufbuild/protobuf/wkt";

import {
  CondemnationSchema,
  type WriterAnnouncement,
  WriterAnnouncementSchema,
} from "../../../gen/lucid/backup/v1/repository_pb.ts";
import { fail } from "../../errors.ts";
import { type Keys, NotAuthentic } from "./keys.ts";
import { hex, newWriterId, objectNames, PACK_NAME_BYTES } from "./names.ts";
import { readMessage, sealMessage } from "./sealed-object.ts";
import type { ObjectStorage } from "./storage.ts";

/** A writer that was not heard of for this long may be given up. Only tidiness depends on it, not safety. */
export const WRITER_EXPIRY_MS = 60 * 60 * 1000;
const REFRESH_MS = 60_000;
const MOST_ATTEMPTS = 10;
/** Long enough for a storage that answers at all. */
const FAREWELL_MS = 10_000;

interface Place {
  readonly storage: ObjectStorage;
  readonly keys: Keys;
}

/** A writer's place in the repository while it works. Disposing it takes it away. */
export interface Presence extends AsyncDisposable {
  readonly writerId: Buffer;
  /** Packs that this writer must not refer to, in hex. */
  readonly condemned: ReadonlySet<string>;
}

/**
 * Announces a writer, then learns what is condemned. In this order: whoever condemns a pack after that sees the announcement,
 * and what was condemned before is known here. What the repository holds must be looked at after this.
 */
export async function announce({ storage, keys }: Place, backupId: string, signal: AbortSignal): Promise<Presence> {
  const writerId = newWriterId();
  const closing = new AbortController();
  let condemnations: string[] = [];
  let next = 0;
  const put = async (during: AbortSignal) => {
    const message = create(WriterAnnouncementSchema, {
      writerId,
      backupId,
      refreshTime: timestampNow(),
      condemnations,
    });
    // A name is taken where an earlier put failed after it had worked. A number counts only once it is known to be there.
    for (let isNew = false; !isNew; next++) {
      const name = objectNames.announcement(writerId, next);
      const object = await sealMessage(keys, name, WriterAnnouncementSchema, message);
      isNew = await storage.put(name, object, { ifAbsent: true, signal: during });
    }
  };
  // The one before the last stays: a folder that is read while a file in it is replaced may show neither the old nor the new.
  const refreshNow = async () => {
    await put(closing.signal);
    if (next > 2) await storage.delete(objectNames.announcement(writerId, next - 3), closing.signal);
  };
  await put(signal);
  const condemned = await readCondemnations({ storage, keys }, signal);
  condemnations = [...condemned.keys()];
  if (condemnations.length > 0) await put(signal);

  // A refresh that fails is tried again a minute later. When all fail for an hour another process may give this writer up;
  // its manifest is then refused, whatever it still believes.
  let refresh = Promise.resolve();
  const timer = setInterval(() => {
    refresh = refresh.then(refreshNow).catch(() => undefined);
  }, REFRESH_MS);
  timer.unref();

  return {
    writerId,
    condemned: new Set([...condemned.values()].flat()),
    async [Symbol.asyncDispose]() {
      clearInterval(timer);
      closing.abort();
      await refresh; // a late refresh would bring it back
      // Where this fails it expires by itself, and what the writer has to tell is more important.
      await removeAnnouncements(storage, writerId, AbortSignal.timeout(FAREWELL_MS)).catch(() => undefined);
    },
  };
}

/** The writers that are at work, or died less than an hour ago. */
export async function readAnnouncements(place: Place, signal: AbortSignal): Promise<WriterAnnouncement[]> {
  const announcements: WriterAnnouncement[] = [];
  for (let name of await newestAnnouncements(place.storage, objectNames.writers, signal)) {
    // One that vanishes between listing and reading was removed or has two successors. Nobody gets as far often.
    for (let attempt = 1; ; attempt++) {
      const announcement = await opened(readMessage(place, name, WriterAnnouncementSchema, signal), name);
      if (announcement !== undefined) {
        announcements.push(announcement);
        break;
      }
      const [newer] = await newestAnnouncements(place.storage, name.slice(0, name.lastIndexOf("/") + 1), signal);
      if (newer === undefined) break;
      if (attempt === MOST_ATTEMPTS) throw new Error("A writer announces itself faster than that can be read");
      name = newer;
    }
  }
  return announcements;
}

/** Takes a writer's announcements away. */
export async function removeAnnouncements(
  storage: ObjectStorage,
  writerId: Uint8Array,
  signal: AbortSignal,
): Promise<void> {
  const announcements = await Array.fromAsync(storage.list(objectNames.announcements(writerId), signal));
  for (const { name } of announcements) await storage.delete(name, signal);
}

/** The last announcement of each writer. */
async function newestAnnouncements(storage: ObjectStorage, prefix: string, signal: AbortSignal): Promise<string[]> {
  const newest = new Map<string, string>();
  for await (const { name } of storage.list(prefix, signal)) {
    const writer = name.slice(0, name.lastIndexOf("/"));
    if (name > (newest.get(writer) ?? "")) newest.set(writer, name);
  }
  return [...newest.values()];
}

/** Whether a writer was not heard of for so long that it may be given up. */
export function isExpired({ refreshTime }: WriterAnnouncement, now: number): boolean {
  return refreshTime === undefined || timestampMs(refreshTime) < now - WRITER_EXPIRY_MS;
}

/** The condemned packs, in hex, by the object that condemns them. */
export async function readCondemnations(place: Place, signal: AbortSignal): Promise<Map<string, string[]>> {
  const condemned = new Map<string, string[]>();
  for await (const { name } of place.storage.list(objectNames.condemnations, signal)) {
    const condemnation = await opened(readMessage(place, name, CondemnationSchema, signal), name);
    if (condemnation !== undefined) condemned.set(name, splitPacks(condemnation.packs));
  }
  return condemned;
}

/** The names of packs that stand one after the other, in hex. */
export function splitPacks(packs: Uint8Array): string[] {
  const names: string[] = [];
  for (let at = 0; at < packs.byteLength; at += PACK_NAME_BYTES)
    names.push(hex(packs.subarray(at, at + PACK_NAME_BYTES)));
  return names;
}

async function opened<T>(reading: Promise<T>, object: string): Promise<T> {
  try {
    return await reading;
  } catch (cause) {
    if (!(cause instanceof NotAuthentic)) throw cause;
    const metadata = { object };
    throw fail("BACKUP_REPOSITORY_DAMAGED", "An object of the backup repository is damaged", { metadata, cause });
  }
}
