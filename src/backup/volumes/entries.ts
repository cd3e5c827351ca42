import { VolumeEntryKind, type VolumeRecord } from "../../../gen/lucid/backup/v1/manifest_pb.ts";
import { fail } from "../../errors.ts";
import type { EntryMeta } from "../../stores/volumes/tree-writer.ts";

/** A record, and which one of its stream it is. */
export interface PlacedRecord {
  readonly record: VolumeRecord;
  readonly at: number;
}

/** An entry: its first record, the place of that, and the content of all of its records. */
export interface RestoredEntry {
  readonly head: VolumeRecord;
  readonly at: number;
  readonly parts: AsyncIterable<Uint8Array>;
}

/** Brings the records of each entry together. What of an entry's parts nobody has taken is passed over. */
export async function* entriesOf(records: AsyncGenerator<PlacedRecord>): AsyncGenerator<RestoredEntry> {
  for (let next = await records.next(); next.done !== true; next = await records.next()) {
    const { record: head, at } = next.value;
    if (head.kind === VolumeEntryKind.UNSPECIFIED) throw damaged("a part without a beginning");
    const rest = { more: head.more };
    const nextPart = async (): Promise<Uint8Array> => {
      const part = await records.next();
      if (part.done === true || part.value.record.kind !== VolumeEntryKind.UNSPECIFIED) {
        throw damaged("a file without an end");
      }
      rest.more = part.value.record.more;
      return part.value.record.content;
    };
    const parts = async function* () {
      yield head.content;
      while (rest.more) yield await nextPart();
    };
    yield { head, at, parts: parts() };
    while (rest.more) await nextPart();
  }
}

/**
 * What an entry gets besides its content. No file gets the bits by which whoever runs it acts as its owner or group: a file that was changed
 * while it was read may have another's content by them. A directory only gets that which has its group passed on.
 */
export function metaOf({ kind, mode, mtimeNs, userId, groupId }: VolumeRecord): EntryMeta {
  return { mode: mode & (kind === VolumeEntryKind.DIRECTORY ? 0o3777 : 0o1777), mtimeNs, userId, groupId };
}

/** What Linux takes for where a symlink leads. */
const longestTarget = 4095;

/** Where a symlink leads. */
export function targetOf({ target }: VolumeRecord): Buffer {
  if (target.length === 0 || target.length > longestTarget || target.includes(0)) throw damaged("a symlink to nowhere");
  return Buffer.from(target);
}

function damaged(what: string): Error {
  return fail("RESTORE_REFUSED", `The records of a volume are not in order: ${what}`);
}
