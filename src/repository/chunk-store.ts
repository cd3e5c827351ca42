import { ConnectError, type HandlerContext } from "@connectrpc/connect";
import type { Document } from "bson";
import { type Collection, MongoBulkWriteError } from "mongodb";

import type { Chunk } from "../../gen/lucid/repository/v1/chunk_pb.ts";
import { fail, isReason, reasonOf } from "../errors.ts";
import { auditApplied, auditCarrier, auditKey, auditRecord } from "../schema/audited-call.ts";
import { deadlineOf } from "../schema/call-options.ts";
import { isDuplicate } from "../schema/create-once.ts";
import { changeBy, type ChunkCounters } from "./chunk-counters.ts";
import { documentOf, type StoredChunk } from "./chunk-document.ts";

/** What became of a chunk that was to be added. */
export type Added =
  | { readonly kind: "added"; readonly document: Document }
  /** One of the same index, size and hash was there. */
  | { readonly kind: "present" }
  | { readonly kind: "refused"; readonly error: ConnectError };

type Context = Pick<HandlerContext, "signal" | "timeoutMs" | "values">;

/** A chunk with its place among those that are added together. */
interface Item {
  readonly chunk: Chunk;
  readonly place: number;
}

/** One that is not there yet. */
interface NewItem extends Item {
  readonly document: Document & StoredChunk;
}

/** Adds chunks to sessions and counts them. */
export interface ChunkStore {
  /**
   * Adds several chunks in one statement, and says of each, in their order, what became of it. Fails where none can be added:
   * with `SESSION_NOT_FOUND`, `SESSION_TAKES_NO_CHUNKS`, or what the store says.
   */
  add(sessionId: string, chunks: readonly Chunk[], context: Context): Promise<readonly Added[]>;
}

export function chunkStore({ chunks, counters }: { chunks: Collection; counters: ChunkCounters }): ChunkStore {
  /** What is stored under these indexes. */
  const storedUnder = async (sessionId: string, indexes: readonly bigint[], limits: { maxTimeMS?: number }) => {
    const found = await chunks
      .find({ session_id: sessionId, chunk_index: among(indexes) }, limits)
      .project<Omit<StoredChunk, "session_id" | "status">>({
        _id: 0,
        chunk_id: 1,
        chunk_index: 1,
        hash: 1,
        size_bytes: 1,
      })
      .toArray();
    return new Map(found.map((stored) => [BigInt(stored.chunk_index), stored]));
  };

  /**
   * Inserts documents in any order; returns which of them are stored, and by which other chunks the indexes of the rest are
   * taken. Fails where that is not known of all.
   */
  const insertAll = async (documents: readonly (Document & StoredChunk)[], limits: { maxTimeMS?: number }) => {
    const refused = new Set<Document>(await refusedOf(chunks, [...documents], limits));
    if (refused.size === 0) return { added: new Set(documents), others: new Map<bigint, ComparedChunk>() };
    const indexes = documents.filter((document) => refused.has(document)).map((one) => BigInt(one.chunk_index));
    const others = await storedUnder(documents[0]?.session_id ?? "", indexes, limits);
    // The driver sends a statement again when its connection breaks; a server that does not know it for the same one refuses
    // what it has stored itself.
    const isOwn = (one: StoredChunk) => others.get(BigInt(one.chunk_index))?.chunk_id === one.chunk_id;
    return { added: new Set(documents.filter((one) => !refused.has(one) || isOwn(one))), others };
  };

  /** Inserts chunks and counts those that are new; says of all what became of them. */
  const insert = async (sessionId: string, items: readonly NewItem[], outcomes: Added[], context: Context) => {
    const documents = items.map(({ document }) => document);
    const addsBytes = documents.reduce((sum, { size_bytes: bytes }) => sum + BigInt(bytes), 0n);
    const write = async (brief: Context) => {
      const limits = deadlineOf(brief);
      const [first] = documents;
      const about = { resource: { type: "Session", name: sessionId } };
      const key = { session_id: sessionId, chunk_index: first?.chunk_index };
      const carrier = auditCarrier(brief, { collection: chunks.collectionName, key, ...about });
      if (first !== undefined && carrier !== undefined) (first as Document)[auditKey] = [carrier.record];
      const result = await insertAll(documents, limits);
      const change = changeBy([...result.added]);
      const isCarried = first === undefined || result.added.has(first);
      auditApplied(carrier, isCarried);
      if (isCarried || result.added.size === 0) return { result, change };
      // The chunk that was to carry the record was not stored; the session carries it with the sum of the others.
      const ofSession = { collection: counters.sessions, key: { session_id: sessionId }, ...about };
      return { result, change, record: auditRecord(brief, ofSession) };
    };
    const { added, others } = await counters.counted({ sessionId, addsBytes, write }, context);
    for (const { chunk, place, document } of items) {
      const other = others.get(chunk.chunkIndex);
      if (added.has(document)) outcomes[place] = { kind: "added", document };
      else outcomes[place] = other === undefined ? conflict(sessionId) : compared(sessionId, chunk, other);
    }
  };

  /** Inserts what the session has room for. */
  const insertWithin = async (sessionId: string, items: readonly NewItem[], outcomes: Added[], context: Context) => {
    let fitting = items;
    for (let attempt = 1; ; attempt++) {
      try {
        await insert(sessionId, fitting, outcomes, context);
        return;
      } catch (error) {
        if (!(error instanceof ConnectError) || !isReason(error, "SESSION_FULL")) throw error;
        const room = attempt === 3 ? 0n : BigInt(reasonOf(error)?.metadata["room_bytes"] ?? 0);
        const { fit, rest } = split(fitting, room);
        for (const { place } of rest) outcomes[place] = { kind: "refused", error };
        if (fit.length === 0) return;
        fitting = fit;
      }
    }
  };

  return {
    async add(sessionId, sent, context) {
      const outcomes: Added[] = [];
      const now = new Date();
      let rest: readonly Item[] = sent.map((chunk, place) => ({ chunk, place }));
      while (rest.length > 0) {
        // Looked up first, since a retry of a whole upload finds most of them there, and each that the store refuses costs a lot.
        const indexes = rest.map(({ chunk }) => chunk.chunkIndex);
        const stored = await storedUnder(sessionId, indexes, deadlineOf(context));
        // The first of those with one index is added, and the next ones are compared with it.
        const firsts = new Map<bigint, NewItem>();
        const later: Item[] = [];
        for (const item of rest) {
          const { chunk, place } = item;
          const there = stored.get(chunk.chunkIndex);
          if (there !== undefined) outcomes[place] = compared(sessionId, chunk, there);
          else if (firsts.has(chunk.chunkIndex)) later.push(item);
          else {
            const document = documentOrRefusal(chunk, sessionId, now);
            if (document instanceof ConnectError) outcomes[place] = { kind: "refused", error: document };
            else firsts.set(chunk.chunkIndex, { ...item, document });
          }
        }
        if (firsts.size > 0) await insertWithin(sessionId, [...firsts.values()], outcomes, context);
        rest = later;
      }
      return outcomes;
    },
  };
}

/** The document of a chunk, or why it cannot be stored, which keeps no other from it. */
function documentOrRefusal(chunk: Chunk, sessionId: string, now: Date): (Document & StoredChunk) | ConnectError {
  try {
    return documentOf(chunk, sessionId, now);
  } catch (error) {
    if (error instanceof ConnectError) return error;
    throw error;
  }
}

/** Takes as many as there is room for, each that fits. */
function split<T extends Item>(items: readonly T[], room: bigint) {
  let left = room;
  const fit: T[] = [];
  const rest: T[] = [];
  for (const item of items) {
    const fits = item.chunk.sizeBytes <= left;
    if (fits) left -= item.chunk.sizeBytes;
    (fits ? fit : rest).push(item);
  }
  return { fit, rest };
}

type ComparedChunk = Pick<StoredChunk, "chunk_id" | "hash" | "size_bytes">;

function compared(sessionId: string, chunk: Chunk, there: ComparedChunk): Added {
  if (there.hash === chunk.hash && BigInt(there.size_bytes) === chunk.sizeBytes) return { kind: "present" };
  const about = { session_id: sessionId, chunk_index: String(chunk.chunkIndex) };
  const message = `Session ${sessionId} has another chunk ${chunk.chunkIndex}`;
  return { kind: "refused", error: fail("CHUNK_ALREADY_EXISTS", message, { metadata: about }) };
}

/** Somebody had taken the index of a chunk, and has given it up again. */
function conflict(sessionId: string): Added {
  const about = { metadata: { session_id: sessionId } };
  return { kind: "refused", error: fail("STORE_CONFLICT", "Another write got in the way; try again", about) };
}

/** A filter for indexes: as one range where they lie close together, which the index serves far faster than a list. */
function among(indexes: readonly bigint[]): Document {
  const first = indexes.reduce((least, index) => (index < least ? index : least));
  const last = indexes.reduce((most, index) => (index > most ? index : most));
  if (last - first < 2n * BigInt(indexes.length)) return { $gte: first, $lte: last };
  return { $in: [...indexes] };
}

/** Inserts in any order; returns those that were refused because their index was taken. */
async function refusedOf(
  chunks: Collection,
  documents: Document[],
  limits: { maxTimeMS?: number },
): Promise<readonly Document[]> {
  try {
    await chunks.insertMany(documents, { ordered: false, ...limits });
    return [];
  } catch (error) {
    if (!(error instanceof MongoBulkWriteError) || error.result.getWriteConcernError() !== undefined) throw error;
    const errors = error.result.getWriteErrors();
    if (!errors.every(isDuplicate)) throw error;
    return errors.flatMap(({ index }) => documents[index] ?? []);
  }
}
