import { ConnectError, type HandlerContext } from "@connectrpc/connect";
import { deserialize, type Document, ObjectId } from "bson";
import type { Collection } from "mongodb";

import { ChunkStatus, ChunkStatusSchema } from "../../gen/lucid/repository/v1/chunk_pb.ts";
import { SessionStatus } from "../../gen/lucid/repository/v1/session_pb.ts";
import { fail, isReason } from "../errors.ts";
import { auditPush } from "../schema/audited-call.ts";
import { hasItems, stringIn } from "../schema/bson-reader.ts";
import { cancellable, deadlineOf } from "../schema/call-options.ts";
import { documentBytes } from "../schema/document-bytes.ts";
import type { Entity } from "../schema/entity.ts";
import { storedName } from "../schema/stored-field.ts";
import { defaultMaxSizeBytes } from "./session-document.ts";
import { sessionStates } from "./session-states.ts";

/*
 * The counters of a session always equal its chunks, without a transaction over both:
 *
 * 1. Who is to write chunks announces it in the session.
 * 2. It writes the chunks, which tells by how much the counters change.
 * 3. In one statement it changes the counters and takes the announcement back.
 *
 * So a session without an announcement has the counters of its chunks, and of one with an announcement nothing is believed: who
 * reads it counts the chunks. A writer that dies leaves its announcement, and never a counter that is wrong and looks right.
 * An announcement is given up when it is so old that its writer is gone; then the chunks are counted and the result is stored,
 * unless anything has been announced or counted since the count began.
 */

/** Where a session holds the announcements, each with its id and time. */
export const announcedKey = "_chunk_writes";
/** Bytes of chunks that are announced: they are taken from what the session has room for until they are counted. */
const announcedBytesKey = "_chunk_write_bytes";

/** How long one write of chunks may take, whatever time its caller has. */
const writeMs = 60_000;
/**
 * Age at which an announcement is given up. A write that reaches the store later than this, from a process that stood still in
 * between, would go uncounted if that process died before its next statement: so it is far more than `writeMs`.
 */
const abandonedMs = 600_000;
/** Counting is done for those who come after, and does not end with the caller's time. */
const countMs = 10_000;

const counters = [
  "total_chunks",
  "chunks_uploaded",
  "chunks_processed",
  "chunks_encrypted",
  "total_size_bytes",
] as const;

/** By how much the counters of a session change, or what they are. */
export type ChunkTotals = Readonly<Record<(typeof counters)[number], bigint>>;

/** What the counters read of a chunk, by its stored names. */
export interface CountedChunk {
  readonly status: string;
  readonly size_bytes: bigint | number;
  readonly encrypted_hash?: string;
}

const names = (...states: readonly ChunkStatus[]) =>
  states.map((state) => String(storedName(ChunkStatusSchema, state)));
const processed = names(ChunkStatus.ENCRYPTED, ChunkStatus.STORED);
const uploaded = [...names(ChunkStatus.UPLOADED, ChunkStatus.PROCESSING), ...processed];

/** What one chunk adds to the counters. */
function totalsOf({ status, size_bytes: bytes, encrypted_hash: encryptedHash }: CountedChunk): ChunkTotals {
  const isProcessed = processed.includes(status);
  return {
    total_chunks: 1n,
    chunks_uploaded: uploaded.includes(status) ? 1n : 0n,
    chunks_processed: isProcessed ? 1n : 0n,
    chunks_encrypted: isProcessed && encryptedHash !== undefined ? 1n : 0n,
    total_size_bytes: BigInt(bytes),
  };
}

/** The same, counted by the store. */
const grouped: Document = {
  _id: "$session_id",
  total_chunks: { $sum: 1n },
  chunks_uploaded: { $sum: { $cond: [{ $in: ["$status", uploaded] }, 1n, 0n] } },
  chunks_processed: { $sum: { $cond: [{ $in: ["$status", processed] }, 1n, 0n] } },
  chunks_encrypted: {
    $sum: { $cond: [{ $and: [{ $in: ["$status", processed] }, { $gt: ["$encrypted_hash", null] }] }, 1n, 0n] },
  },
  total_size_bytes: { $sum: "$size_bytes" },
};

/** The sum of what chunks add to the counters, less that of what they added before. */
export function changeBy(added: readonly CountedChunk[], taken: readonly CountedChunk[] = []): ChunkTotals {
  const sum = Object.fromEntries(counters.map((name) => [name, 0n]));
  for (const [chunks, sign] of [[added, 1n] as const, [taken, -1n] as const]) {
    for (const totals of chunks.map(totalsOf))
      for (const name of counters) sum[name] = (sum[name] ?? 0n) + sign * totals[name];
  }
  return sum as ChunkTotals; // it has all of the names
}

type Context = Pick<HandlerContext, "signal" | "timeoutMs" | "values">;

/** A write of chunks of one session. */
export interface ChunkWrite<T> {
  readonly sessionId: string;
  /** Bytes of the chunks that it adds; undefined where it adds none. */
  readonly addsBytes?: bigint;
  /**
   * Writes, within the time of the context that it gets. Fails with a reason only where nothing is written; how it ended is not
   * known where it fails otherwise.
   */
  readonly write: (context: Context) => Promise<Written<T>>;
}

/** How a write of chunks ended. */
export interface Written<T> {
  readonly result: T;
  readonly change: ChunkTotals;
  /** A record for the audit log that no chunk carries. */
  readonly record?: Document | undefined;
}

/** Keeps the counters of sessions equal to their chunks. */
export interface ChunkCounters {
  /** Name of the collection that holds them. */
  readonly sessions: string;
  /**
   * Writes chunks and counts them. Fails with `SESSION_NOT_FOUND`, and where chunks are added with `SESSION_TAKES_NO_CHUNKS` or
   * `SESSION_FULL`, metadata `room_bytes`.
   */
  counted<T>(write: ChunkWrite<T>, context: Context): Promise<T>;
  /** Stored sessions with the counters that their chunks have. */
  upToDate(documents: readonly Uint8Array[], context: Context): Promise<readonly Uint8Array[]>;
}

/** The states of a session in which chunks are added: its tree is not begun. */
const takesChunks = [
  SessionStatus.PENDING,
  SessionStatus.RECORDING,
  SessionStatus.PROCESSING,
  SessionStatus.ENCRYPTING,
].map((state) => sessionStates.name(state));

export function chunkCounters({ sessions, chunks }: { sessions: Entity; chunks: Collection }): ChunkCounters {
  const { collection } = sessions;

  const announce = async (
    { sessionId, addsBytes }: Pick<ChunkWrite<unknown>, "sessionId" | "addsBytes">,
    context: Context,
  ) => {
    const id = new ObjectId();
    const taken = ["$total_size_bytes", `$${announcedBytesKey}`].map((field) => ({ $ifNull: [field, 0n] }));
    const most = { $ifNull: ["$max_size_bytes", defaultMaxSizeBytes] };
    const isRoom = { $expr: { $lte: [{ $add: [...taken, addsBytes] }, most] } };
    const filter = addsBytes === undefined ? {} : { status: { $in: takesChunks }, ...isRoom };
    const { matchedCount } = await collection.updateOne(
      { ...sessions.live(sessionId), [`${announcedKey}.id`]: { $ne: id }, ...filter },
      {
        $push: { [announcedKey]: { id, at: new Date() } as never }, // the driver knows no type of it
        ...(addsBytes !== undefined && { $inc: { [announcedBytesKey]: addsBytes } }),
      },
      deadlineOf(briefly(context)),
    );
    if (matchedCount > 0) return id;
    const why = await whyNot(sessionId, id, context);
    if (why !== undefined) throw why;
    return id;
  };

  /** Why nothing could be announced; undefined where it was, and the driver has sent it again when its connection broke. */
  const whyNot = async (sessionId: string, id: ObjectId, context: Context) => {
    const about = { session_id: sessionId };
    const found = deserialize(await sessions.get(sessions.live(sessionId), context, about), { useBigInt64: true });
    if (((found[announcedKey] ?? []) as Announced).some((one) => id.equals(one.id))) return undefined;
    const status = String(found["status"]);
    if (!takesChunks.includes(status)) {
      const message = `Session ${sessionId} takes no more chunks`;
      return fail("SESSION_TAKES_NO_CHUNKS", message, { metadata: { ...about, status } });
    }
    const most = BigInt(found["max_size_bytes"] ?? defaultMaxSizeBytes);
    const taken = BigInt(found["total_size_bytes"] ?? 0) + BigInt(found[announcedBytesKey] ?? 0);
    const room = most > taken ? most - taken : 0n;
    return fail("SESSION_FULL", `Session ${sessionId} has room for ${room} more bytes`, {
      metadata: { ...about, max_size_bytes: String(most), room_bytes: String(room) },
    });
  };

  /** Changes the counters and takes the announcement back. */
  const count = async (
    { sessionId, addsBytes = 0n }: Pick<ChunkWrite<unknown>, "sessionId" | "addsBytes">,
    id: ObjectId,
    { change, record }: Omit<Written<unknown>, "result">,
  ) => {
    const changes = { ...change, [announcedBytesKey]: -addsBytes };
    const changed = Object.entries(changes).filter(([, by]) => by !== 0n);
    const isChange = counters.some((name) => change[name] !== 0n);
    const { matchedCount } = await collection.updateOne(
      { session_id: sessionId, [`${announcedKey}.id`]: id },
      {
        $pull: { [announcedKey]: { id } as never },
        ...(changed.length > 0 && { $inc: { ...Object.fromEntries(changed), ...(isChange && { revision: 1n }) } }),
        ...(isChange && { $set: { updated_at: new Date() } }),
        ...(isChange && auditPush(record)),
      },
      { maxTimeMS: countMs },
    );
    if (matchedCount > 0 || !isChange) return;
    // It took so long that the announcement was given up: whether these chunks were counted then is not known.
    await collection.updateOne(
      { session_id: sessionId },
      { $push: { [announcedKey]: { id, at: new Date(0) } as never } },
      { maxTimeMS: countMs },
    );
    await repair(sessionId, { maxTimeMS: countMs });
  };

  const totalsIn = async (sessionIds: readonly string[], limits: { maxTimeMS?: number; signal?: AbortSignal }) => {
    const found = await chunks
      .aggregate<ChunkTotals & { _id: string }>(
        [{ $match: { session_id: { $in: [...sessionIds] } } }, { $group: grouped }],
        {
          // Along keys that never change: an entry that moved while it is read would be counted twice, or not at all.
          hint: { session_id: 1, chunk_index: 1 },
          useBigInt64: true,
          ...limits,
        },
      )
      .toArray();
    const byId = new Map(found.map(({ _id, ...totals }) => [_id, totals]));
    return (sessionId: string): ChunkTotals => {
      const totals = byId.get(sessionId);
      // A sum of few may be an int.
      const entries = counters.map((name) => [name, BigInt(totals?.[name] ?? 0)]);
      return Object.fromEntries(entries) as ChunkTotals; // it has all of the names
    };
  };

  /** A session as it is read, after its repair where it can be repaired. */
  const repaired = async (document: Uint8Array, context: Context) => {
    if (!hasItems(document, announcedKey)) return document;
    const announced = deserialize(document)[announcedKey] as Announced; // as they are written below
    if (!announced.every(isAbandoned)) return document;
    const sessionId = idOf(document);
    await repair(sessionId, cancellable(context));
    return (await sessions.find({ session_id: sessionId }, context)) ?? document;
  };

  /** Stores the count of a session whose announcements are all given up; leaves one alone that changes meanwhile. */
  const repair = async (sessionId: string, limits: { maxTimeMS?: number; signal?: AbortSignal }) => {
    const projection = { _id: 0, revision: 1, [announcedKey]: 1 };
    const before = await collection.findOne({ session_id: sessionId }, { projection, ...limits });
    const announced = (before?.[announcedKey] ?? []) as Announced; // as they are written above
    if (before === null || announced.length === 0 || !announced.every(isAbandoned)) return;
    const totals = (await totalsIn([sessionId], limits))(sessionId);
    await collection.updateOne(
      { session_id: sessionId, revision: before["revision"], [announcedKey]: announced },
      {
        $set: { ...totals, [announcedKey]: [], [announcedBytesKey]: 0n, updated_at: new Date() },
        $inc: { revision: 1n },
      },
      limits,
    );
  };

  return {
    sessions: collection.collectionName,

    async counted(chunkWrite, context) {
      const id = await announce(chunkWrite, context);
      let written;
      try {
        written = await chunkWrite.write(briefly(context));
      } catch (error) {
        // A deadline may have passed between a statement and what was to follow it.
        const isRefusal = error instanceof ConnectError && !isReason(error, "DEADLINE_EXCEEDED");
        if (isRefusal) await count(chunkWrite, id, { change: changeBy([]) });
        throw error;
      }
      await count(chunkWrite, id, written);
      return written.result;
    },

    async upToDate(documents, context) {
      const read: Uint8Array[] = [];
      for (const document of documents) read.push(await repaired(document, context));
      const announced = read.filter((document) => hasItems(document, announcedKey));
      if (announced.length === 0) return read;
      const totals = await totalsIn(announced.map(idOf), cancellable(context));
      return read.map((document) =>
        announced.includes(document) ? overlaid(document, totals(idOf(document))) : document,
      );
    },
  };
}

type Announced = readonly { readonly id: ObjectId; readonly at: Date }[];

function isAbandoned({ at }: Announced[number]): boolean {
  return Date.now() - at.getTime() > abandonedMs;
}

function idOf(session: Uint8Array): string {
  return stringIn(session, "session_id") ?? "";
}

/** The same document with these counters; all else keeps its type. */
function overlaid(session: Uint8Array, totals: ChunkTotals): Uint8Array {
  return documentBytes({ ...deserialize(session, { promoteValues: false }), ...totals });
}

/** The context of a call that has no more time than a write of chunks may take. */
function briefly(context: Context): Context {
  return {
    values: context.values,
    // A signal is made only for who asks for it.
    get signal() {
      return context.signal;
    },
    timeoutMs: () => Math.min(context.timeoutMs() ?? writeMs, writeMs),
  };
}
