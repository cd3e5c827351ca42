import type { MongoClient } from "mongodb";

import { type ChangeEvent, stateRecord } from "./change-record.ts";
import type { ChangeTail } from "./change-tail.ts";
import type { TrackedCollection } from "./collections.ts";
import { idValue } from "./ordered.ts";
import { rawDocuments } from "./raw-batches.ts";
import { documentIn, idOf, keyText } from "./raw-bson.ts";

/** Most documents that are watched. With more, some may come back with their fields in another order. */
const mostWatched = 100_000;

/** Documents and bytes that are read at once, and how often a document is read that changes all the time. */
const batchDocuments = 100;
const batchBytes = 16 * 1024 * 1024;
const mostRounds = 10;

interface Watched {
  readonly collection: TrackedCollection;
  /** What `idOf` returns for it. */
  readonly id: Uint8Array;
  /** Counts its changes. */
  changes: number;
  /** Whether it was updated after a field had been removed. */
  reordered: boolean;
}

/**
 * Knows documents of which the order of fields cannot be told from a copy and the changes: while their collection was read, a
 * field was removed, and there was another update after that. Holds at most 100,000 keys.
 */
export class Reordered {
  readonly #watched = new Map<string, Watched>();

  /** Takes note of a change. */
  note(collection: TrackedCollection, event: ChangeEvent): void {
    if (event.id === undefined) return;
    const key = `${collection.number}:${keyText(event.id)}`;
    const watched = this.#watched.get(key);
    if (watched !== undefined) {
      watched.changes++;
      watched.reordered ||= event.operation === "update";
    } else if (isBeingRead(collection) && removesFields(event) && this.#watched.size < mostWatched) {
      this.#watched.set(key, { collection, id: Uint8Array.from(event.id), changes: 0, reordered: false });
    }
  }

  /** Records what such documents are now, where their collections have been read. */
  async settle(
    tail: ChangeTail,
    options: { readonly client: MongoClient; readonly signal: AbortSignal },
  ): Promise<void> {
    const done = [...this.#watched].filter(([, { collection }]) => !isBeingRead(collection));
    let open = done.map(([, watched]) => watched).filter(({ reordered }) => reordered);
    for (let round = 0; round < mostRounds && open.length > 0; round++) {
      const unsettled: Watched[] = [];
      for (const batch of batchesOf(open)) {
        options.signal.throwIfAborted();
        unsettled.push(...(await settleBatch(tail, batch, options.client)));
      }
      open = unsettled;
    }
    for (const [key] of done) this.#watched.delete(key);
  }
}

function isBeingRead({ read, copy, gone }: TrackedCollection): boolean {
  return !gone && read && copy?.proven !== true;
}

function removesFields({ operation, raw }: ChangeEvent): boolean {
  const element = raw.get("updateDescription");
  if (operation !== "update" || element === undefined) return false;
  // An element is its type, its name with an end, its value.
  const removed = documentIn(element.subarray("updateDescription".length + 2), "removedFields");
  // An empty array has five bytes.
  return removed !== undefined && removed.byteLength > 5;
}

function* batchesOf(watched: readonly Watched[]): Generator<[TrackedCollection, Watched[]]> {
  for (const [collection, some] of Map.groupBy(watched, (each) => each.collection)) {
    for (let start = 0; start < some.length; start += batchDocuments) {
      yield [collection, some.slice(start, start + batchDocuments)];
    }
  }
}

/**
 * Reads documents and records them as of a mark, where nothing happened to them from before the reading until the mark. Returns
 * those that something did happen to.
 */
async function settleBatch(
  tail: ChangeTail,
  [collection, batch]: [TrackedCollection, Watched[]],
  client: MongoClient,
): Promise<Watched[]> {
  if (collection.gone) return [];
  const { version } = collection;
  const changes = batch.map((watched) => watched.changes);
  const found = await documentsOf(collection, batch, client);
  const unsettled: Watched[] = [];
  await tail.mark((time) => {
    for (const [index, watched] of batch.entries()) {
      const document = found.documents.get(keyText(watched.id));
      const seen = document !== undefined || found.complete;
      if (seen && collection.version === version && watched.changes === changes[index]) {
        tail.append(stateRecord(collection.number, { time, id: watched.id, document }));
      } else {
        unsettled.push(watched);
      }
    }
  });
  return unsettled;
}

async function documentsOf(
  { database, collection }: TrackedCollection,
  batch: readonly Watched[],
  client: MongoClient,
): Promise<{ documents: Map<string, Uint8Array>; complete: boolean }> {
  const filter = { _id: { $in: batch.map(({ id }) => idValue(id)) } };
  const command = { find: collection, filter, hint: { _id: 1 }, readConcern: { level: "majority" } };
  const documents = new Map<string, Uint8Array>();
  let bytes = 0;
  for await (const document of rawDocuments(client.db(database), command)) {
    const id = idOf(document);
    if (id !== undefined) documents.set(keyText(id), document);
    bytes += document.byteLength;
    if (bytes > batchBytes) return { documents, complete: false };
  }
  return { documents, complete: true };
}
