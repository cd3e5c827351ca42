import type { Db } from "mongodb";

import { fail } from "../../errors.ts";
import { changed, type DocumentChange, documentChangeOf } from "./change-record.ts";
import { idValue } from "./ordered.ts";
import { rawDocuments } from "./raw-batches.ts";
import { documentOf, idOf, keyText, sameBytes } from "./raw-bson.ts";
import { commandBatches, deleteRaw, insertRaw, upsertRaw, type WriteError } from "./raw-writes.ts";

/** A round of changes has at most this many bytes and changes, so that they fit in memory. */
const roundBytes = 16 * 1024 * 1024;
const roundChanges = 50_000;

/** Documents that are looked up at once. */
const lookupDocuments = 500;

/** Bytes of changed documents after which they are written. */
const writeBytes = 4 * 1024 * 1024;

/** Changes of one collection, those of a document together and in order. */
export type ChangesByDocument = Map<string, DocumentChange[]>;

/** Where changes are applied. */
export interface ReplayTarget {
  readonly db: Db;
  readonly collection: string;
  /** Whether documents have to keep their places. */
  readonly capped: boolean;
  /** Told of what was there and what came in its place. */
  readonly note: (before: Uint8Array | undefined, after: Uint8Array | undefined) => void;
}

/**
 * Puts changes together to rounds that fit in memory, by collection and document. Within a round the order of changes matters
 * for each document only.
 */
export async function* roundsOf(
  records: AsyncIterable<readonly Uint8Array[]>,
  wanted: (collection: number) => boolean,
): AsyncGenerator<{ changes: Map<number, ChangesByDocument>; records: number; bytes: number }> {
  let round = { changes: new Map<number, ChangesByDocument>(), records: 0, bytes: 0 };
  for await (const batch of records) {
    for (const record of batch) {
      round.records++;
      round.bytes += record.byteLength;
      const change = documentChangeOf(record);
      if (change !== undefined && wanted(change.collection)) collect(round.changes, change);
    }
    if (round.bytes >= roundBytes || round.records >= roundChanges) {
      yield round;
      round = { changes: new Map(), records: 0, bytes: 0 };
    }
  }
  if (round.records > 0) yield round;
}

function collect(changes: Map<number, ChangesByDocument>, change: DocumentChange): void {
  const byDocument = changes.get(change.collection) ?? new Map<string, DocumentChange[]>();
  changes.set(change.collection, byDocument);
  const key = keyText(change.id);
  const earlier = byDocument.get(key);
  if (earlier === undefined) byDocument.set(key, [change]);
  else earlier.push(change);
}

/** Applies a round's changes of one collection: each document is read, changed here, and written once. */
export async function replay(target: ReplayTarget, changes: ChangesByDocument, signal: AbortSignal): Promise<void> {
  const keys = [...changes.keys()];
  for (let start = 0; start < keys.length; start += lookupDocuments) {
    signal.throwIfAborted();
    await replaySome(
      target,
      new Map(keys.slice(start, start + lookupDocuments).map((key) => [key, changes.get(key) ?? []])),
    );
  }
}

async function replaySome(target: ReplayTarget, changes: ChangesByDocument): Promise<void> {
  const { db, collection, note } = target;
  const ids = Array.from(changes.values(), ([first]) => (first === undefined ? undefined : idValue(first.id)));
  const command = { find: collection, filter: { _id: { $in: ids } } };
  let writes: Write[] = [];
  let bytes = 0;
  const add = (before: Uint8Array | undefined, of: readonly DocumentChange[]): void => {
    const after = of.reduce(changed, before);
    if (before === undefined ? after === undefined : after !== undefined && sameBytes(before, after)) return;
    note(before, after);
    writes.push({ before, after });
    bytes += (before?.byteLength ?? 0) + (after?.byteLength ?? 0);
  };
  for await (const document of rawDocuments(db, command)) {
    const key = keyText(idOf(document) ?? new Uint8Array(0));
    const ofDocument = changes.get(key);
    // A server also finds what it holds to be equal: 1 and 1.0.
    if (ofDocument === undefined) continue;
    changes.delete(key);
    add(document, ofDocument);
    if (bytes < writeBytes) continue;
    await writeAll(target, writes);
    [writes, bytes] = [[], 0];
  }
  for (const ofDocument of changes.values()) add(undefined, ofDocument);
  await writeAll(target, writes);
}

interface Write {
  readonly before: Uint8Array | undefined;
  readonly after: Uint8Array | undefined;
}

/**
 * Deletes and inserts rather than updates: an update does not take every document, and nobody else is at work on these. Only in
 * a capped collection that would move them to the end.
 */
async function writeAll({ db, collection, capped }: ReplayTarget, writes: readonly Write[]): Promise<void> {
  const deleted = capped ? writes.filter(({ after }) => after === undefined) : writes;
  const ids = deleted.flatMap(({ before }) => (before === undefined ? [] : (idOf(before) ?? [])));
  for (const batch of commandBatches(ids, idBytes)) await deleteRaw(db, collection, batch);
  const documents = writes.flatMap(({ after }) => after ?? []);
  for (const batch of commandBatches(documents, ({ byteLength }) => byteLength)) {
    const errors = capped ? await writeCapped(db, collection, batch, writes) : await insertRaw(db, collection, batch);
    requireWritten(errors, `${db.databaseName}.${collection}`);
  }
}

async function writeCapped(
  db: Db,
  collection: string,
  batch: readonly Uint8Array[],
  writes: readonly Write[],
): Promise<WriteError[]> {
  const known = new Set(writes.filter(({ before }) => before !== undefined).map(({ after }) => after));
  const changedOnes = batch.filter((document) => known.has(document));
  const errors = changedOnes.length === 0 ? [] : await upsertRaw(db, collection, changedOnes);
  const added = batch.filter((document) => !known.has(document));
  return added.length === 0 ? errors : [...errors, ...(await insertRaw(db, collection, added, { ordered: true }))];
}

function idBytes(id: Uint8Array): number {
  return documentOf([id]).byteLength + 64;
}

/** Fails with `STORE_REFUSED` where the server did not take documents. */
export function requireWritten(errors: readonly WriteError[], namespace: string): void {
  const [first] = errors;
  if (first === undefined) return;
  const metadata = { store: "mongodb", namespace, server_code: String(first.code), documents: String(errors.length) };
  throw fail("STORE_REFUSED", `MongoDB did not take ${errors.length} documents of ${namespace}`, { metadata });
}
