import type { Db } from "mongodb";

import { serverCode } from "./errors.ts";
import { idValue } from "./ordered.ts";
import { rawDocuments } from "./raw-batches.ts";
import { idOf, keyText, sameBytes } from "./raw-bson.ts";
import { commandBatches, deleteRaw, insertRaw, upsertRaw } from "./raw-writes.ts";
import { requireWritten } from "./replay.ts";
import type { RestoredCollection } from "./restored-collection.ts";

/** Documents that are looked up at once. */
const lookupDocuments = 500;

/**
 * Puts the documents of a restored collection from where they were written into the one that is there: in the place of those
 * with their `_id`s, or only those that are missing. What is left out is removed from where it was written, so that the rest is
 * what has to be found when the two are compared.
 */
export async function merge(restored: RestoredCollection, signal: AbortSignal): Promise<void> {
  const { db, name, place, way, ledger } = restored;
  for await (const documents of batchesOf(db, place, signal)) {
    if (way === "overwrite") {
      requireWritten(await upsertRaw(db, name, documents), restored.namespace);
      restored.written += documents.length;
      continue;
    }
    const errors = await insertRaw(db, name, documents);
    requireWritten(
      errors.filter(({ code }) => code !== serverCode.duplicateKey),
      restored.namespace,
    );
    const skipped = errors.flatMap(({ index }) => documents[index] ?? []);
    for (const document of skipped) ledger.remove(document);
    await deleteRaw(
      db,
      place,
      skipped.flatMap((document) => idOf(document) ?? []),
    );
    restored.skipped += skipped.length;
    restored.written += documents.length - skipped.length;
  }
}

/** Compares what was put into a collection with what it was taken from; what else is there does not matter. */
export async function compareMerged(
  { db, name, place }: RestoredCollection,
  note: (documents: readonly Uint8Array[], equal: number) => void,
  signal: AbortSignal,
): Promise<void> {
  for await (const documents of batchesOf(db, place, signal)) {
    const expected = new Map(documents.map((document) => [keyText(idOf(document) ?? new Uint8Array(0)), document]));
    const ids = documents.flatMap((document) => idOf(document) ?? []).map(idValue);
    let equal = 0;
    for await (const found of rawDocuments(db, { find: name, filter: { _id: { $in: ids } } })) {
      const document = expected.get(keyText(idOf(found) ?? new Uint8Array(0)));
      if (document !== undefined && sameBytes(document, found)) equal++;
    }
    note(documents, equal);
  }
}

async function* batchesOf(db: Db, collection: string, signal: AbortSignal): AsyncGenerator<Uint8Array[]> {
  let documents: Uint8Array[] = [];
  let bytes = 0;
  const most = 4 * 1024 * 1024;
  for await (const document of rawDocuments(db, { find: collection })) {
    documents.push(document);
    bytes += document.byteLength;
    if (documents.length < lookupDocuments && bytes < most) continue;
    signal.throwIfAborted();
    yield* commandBatches(documents, ({ byteLength }) => byteLength);
    [documents, bytes] = [[], 0];
  }
  if (documents.length > 0) yield* commandBatches(documents, ({ byteLength }) => byteLength);
}
