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
  const name = objectNames.writer(writerId);
  let condemnations: string[] = [];
  const put = async (ifAbsent: boolean, during: AbortSignal) => {
    const fields = { writerId, backupId, refreshTime: timestampNow(), condemnations };
    const object = await sealMessage(keys, name, WriterAnnouncementSchema, create(WriterAnnouncementSchema, fields));
    await storage.put(name, object, { ifAbsent, signal: during });
  };
  await put(true, signal);
  const condemned = await readCondemnations({ storage, keys }, signal);
  condemnations = [...condemned.keys()];
  if (condemnations.length > 0) await put(false, signal);

  // A refresh that fails is tried again a minute later. When all fail for an hour another process may give this writer up;
  // its manifest is then refused, whatever it still believes.
  const closing = new AbortController();
  let refresh = Promise.resolve();
  const timer = setInterval(() => {
    refresh = refresh.then(() => put(false, closing.signal)).catch(() => undefined);
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
      await storage.delete(name, AbortSignal.timeout(FAREWELL_MS)).catch(() => undefined);
    },
  };
}

/** The writers that are at work, or died less than an hour ago. */
export async function readAnnouncements(place: Place, signal: AbortSignal): Promise<WriterAnnouncement[]> {
  const announcements: WriterAnnouncement[] = [];
  for await (const { name } of place.storage.list(objectNames.writers, signal)) {
    const announcement = await opened(readMessage(place, name, WriterAnnouncementSchema, signal), name);
    if (announcement !== undefined) announcements.push(announcement);
  }
  return announcements;
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
