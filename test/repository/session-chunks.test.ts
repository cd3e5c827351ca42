import { randomUUID } from "node:crypto";

import { afterAll, beforeAll, expect, test } from "vitest";

import { type Chunk, ChunkStatus } from "../../gen/lucid/repository/v1/chunk_pb.ts";
import { SessionStatus, SessionStatusSchema } from "../../gen/lucid/repository/v1/session_pb.ts";
import { storedName } from "../../src/schema/stored-field.ts";
import {
  chunkInit,
  countedRows,
  countersOf,
  newSession,
  sessionIn,
  type SessionsApp,
  sessionsApp,
} from "./session-support.ts";
import { refusalOf } from "./support.ts";

let service: SessionsApp;
beforeAll(async () => {
  service = await sessionsApp();
});
afterAll(() => service[Symbol.asyncDispose]());

const { PENDING, UPLOADING, UPLOADED, PROCESSING, ENCRYPTED, STORED, FAILED } = ChunkStatus;
const hash = "ab".repeat(32);

async function newChunk(sessionId: string, index: number, status: ChunkStatus = PENDING): Promise<Chunk> {
  const { chunk } = await service.sessions.addChunk({ sessionId, chunk: chunkInit(index, { status }) });
  if (chunk === undefined) throw new Error("No chunk was returned");
  return chunk;
}

/** The counters of a session, which equal its chunks. */
async function counters(sessionId: string) {
  const { session } = await service.sessions.getSession({ sessionId });
  expect(countersOf(session)).toEqual(await countedRows(service.db, sessionId));
  return countersOf(session);
}

test("a chunk is added once, whatever only the service sets", async () => {
  const { sessions } = service;
  const { sessionId, revision } = await newSession(sessions);
  const init = chunkInit(3, {
    chunkId: "chosen by the caller",
    sessionId: "another",
    processedAt: { seconds: 1n },
    deletedAt: { seconds: 1n },
    revision: 9n,
    storagePath: "/a",
    metadata: { $set: { a: 1 } },
  });
  const { chunk, alreadyPresent } = await sessions.addChunk({ sessionId, chunk: init });
  expect(alreadyPresent).toBe(false);
  expect(chunk).toMatchObject({
    sessionId,
    chunkIndex: 3n,
    sizeBytes: 1003n,
    status: PENDING,
    storagePath: "/a",
    metadata: { $set: { a: 1 } },
    revision: 1n,
    etag: '"1"',
  });
  expect(chunk?.chunkId).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-7/);
  for (const field of ["processedAt", "uploadedAt", "deletedAt"] as const) expect(chunk?.[field]).toBeUndefined();
  expect(await sessions.addChunk({ sessionId, chunk: chunkInit(3) })).toMatchObject({ chunk, alreadyPresent: true });
  expect((await sessions.listChunks({ sessionId })).chunks).toStrictEqual([chunk]);
  const { session } = await sessions.getSession({ sessionId });
  expect(session).toMatchObject({ totalChunks: 1n, totalSizeBytes: 1003n, revision: revision + 1n });
  for (const other of [chunkInit(3, { hash }), chunkInit(3, { sizeBytes: 1n })]) {
    expect(await refusalOf(sessions.addChunk({ sessionId, chunk: other }))).toMatchObject({
      code: "AlreadyExists",
      reason: "CHUNK_ALREADY_EXISTS",
      metadata: { session_id: sessionId, chunk_index: "3" },
    });
  }
  expect((await sessions.getSession({ sessionId })).session).toStrictEqual(session);
});

test("a session takes chunks until its tree is begun, and none while it is deleted", async () => {
  const { sessions } = service;
  for (const status of [SessionStatus.RECORDING, SessionStatus.ENCRYPTING]) {
    const { sessionId } = await sessionIn(sessions, status);
    await newChunk(sessionId, 0);
  }
  for (const status of [SessionStatus.MERKLE_BUILDING, SessionStatus.FAILED, SessionStatus.CANCELLED]) {
    const { sessionId } = await sessionIn(sessions, status);
    expect(await refusalOf(sessions.addChunk({ sessionId, chunk: chunkInit(0) }))).toMatchObject({
      code: "FailedPrecondition",
      reason: "SESSION_TAKES_NO_CHUNKS",
      metadata: { session_id: sessionId, status: storedName(SessionStatusSchema, status) },
    });
    expect(await counters(sessionId)).toMatchObject({ totalChunks: 0n });
  }
  const { sessionId } = await newSession(sessions);
  const { chunkId } = await newChunk(sessionId, 0);
  await sessions.deleteSession({ sessionId });
  const missing = { code: "NotFound", reason: "SESSION_NOT_FOUND" };
  for (const call of [
    () => sessions.addChunk({ sessionId, chunk: chunkInit(0) }),
    () => sessions.addChunk({ sessionId, chunk: chunkInit(1) }),
    () => sessions.addChunks(messages({ sessionId, chunks: [chunkInit(0)] })),
    () => sessions.updateChunkStatus({ chunkId, status: UPLOADED }),
    () => sessions.listChunks({ sessionId }),
    () => sessions.listChunkRanges({ sessionId }),
  ]) {
    expect(await refusalOf(call())).toMatchObject(missing);
  }
  await sessions.undeleteSession({ sessionId });
  expect(await counters(sessionId)).toMatchObject({ totalChunks: 1n });
});

test("a session takes no more bytes than it may have, and as many as that", async () => {
  const { sessions } = service;
  const { sessionId } = await newSession(sessions, { maxSizeBytes: 100n });
  const sized = (index: number, bytes: number) => chunkInit(index, { sizeBytes: BigInt(bytes) });
  await sessions.addChunk({ sessionId, chunk: sized(0, 60) });
  expect(await refusalOf(sessions.addChunk({ sessionId, chunk: sized(1, 41) }))).toMatchObject({
    code: "FailedPrecondition",
    reason: "SESSION_FULL",
    metadata: { session_id: sessionId, max_size_bytes: "100", room_bytes: "40" },
  });
  // A retry of what is there takes no room.
  const chunks = [sized(0, 60), sized(1, 30), sized(2, 11), sized(3, 10), sized(4, 1)];
  const response = await sessions.addChunks(messages({ sessionId, chunks }));
  expect(response).toMatchObject({ receivedCount: 5n, addedCount: 2n, alreadyPresentCount: 1n, failedCount: 2n });
  expect(response.failures.map(({ chunkIndex }) => chunkIndex)).toEqual([2n, 4n]);
  expect(await counters(sessionId)).toMatchObject({ totalChunks: 3n, totalSizeBytes: 100n });
  const full = await newSession(sessions, { maxSizeBytes: 1000n });
  const many = Array.from({ length: 50 }, (_, index) => sized(index, 30));
  const calls = await Promise.allSettled(many.map((chunk) => sessions.addChunk({ sessionId: full.sessionId, chunk })));
  const taken = calls.filter(({ status }) => status === "fulfilled").length;
  expect(taken).toBeLessThanOrEqual(33);
  expect(await counters(full.sessionId)).toMatchObject({ totalSizeBytes: BigInt(taken) * 30n });
});

test("a chunk's states carry it from counter to counter, and set its times", async () => {
  const { sessions } = service;
  const { sessionId } = await newSession(sessions);
  const { chunkId } = await newChunk(sessionId, 0);
  const step = async (status: ChunkStatus, more = {}) =>
    (await sessions.updateChunkStatus({ chunkId, status, ...more })).chunk;
  const count = async () => Object.values(await counters(sessionId)).slice(0, 4);
  expect(await step(UPLOADING)).not.toHaveProperty("uploadedAt");
  expect(await count()).toEqual([1n, 0n, 0n, 0n]);
  const there = await step(UPLOADED, { storagePath: "$hash", compressionRatio: 2.5 });
  expect(there).toMatchObject({ storagePath: "$hash", compressionRatio: 2.5, uploadedAt: there?.updatedAt });
  expect(await count()).toEqual([1n, 1n, 0n, 0n]);
  await step(PROCESSING);
  expect(await count()).toEqual([1n, 1n, 0n, 0n]);
  const encrypted = await step(ENCRYPTED, { encryptedHash: hash, encryptionAlgorithm: "AES-256-GCM" });
  expect(encrypted).toMatchObject({ encryptedHash: hash, storagePath: "$hash", uploadedAt: there?.uploadedAt });
  expect(encrypted?.processedAt).toStrictEqual(encrypted?.updatedAt);
  expect(await count()).toEqual([1n, 1n, 1n, 1n]);
  await step(FAILED);
  expect(await count()).toEqual([1n, 0n, 0n, 0n]);
  const again = await step(PENDING);
  for (const field of ["encryptedHash", "uploadedAt", "processedAt"]) expect(again).not.toHaveProperty(field);
  // Over several states at once, and unencrypted.
  const stored = await step(STORED, { etag: again?.etag ?? "" });
  expect(stored?.uploadedAt).toStrictEqual(stored?.processedAt);
  expect(await count()).toEqual([1n, 1n, 1n, 0n]);
  expect(await refusalOf(step(FAILED))).toMatchObject({
    code: "FailedPrecondition",
    reason: "ILLEGAL_TRANSITION",
    metadata: { chunk_id: chunkId, from: "STORED", to: "FAILED" },
  });
  expect(await refusalOf(step(UPLOADED, { etag: '"1"' }))).toMatchObject({ reason: "ILLEGAL_TRANSITION" });
  const other = await newChunk(sessionId, 1, UPLOADED);
  expect(other.uploadedAt).toStrictEqual(other.createdAt);
  expect(
    await refusalOf(sessions.updateChunkStatus({ chunkId: other.chunkId, status: STORED, etag: '"9"' })),
  ).toMatchObject({ code: "Aborted", reason: "ETAG_MISMATCH" });
  expect(await count()).toEqual([2n, 2n, 1n, 0n]);
});

test("chunks are listed in the order of their indexes, page by page and by state", async () => {
  const { sessions } = service;
  const { sessionId } = await newSession(sessions);
  await newChunk((await newSession(sessions)).sessionId, 5);
  for (const index of [5, 1, 3, 0, 20]) await newChunk(sessionId, index, index % 2 === 0 ? UPLOADED : PENDING);
  const listed = async (status?: ChunkStatus) => {
    const found: number[] = [];
    let pageToken = "";
    do {
      const page = await sessions.listChunks({ sessionId, pageSize: 2, pageToken, ...(status && { status }) });
      found.push(...page.chunks.map(({ chunkIndex }) => Number(chunkIndex)));
      pageToken = page.nextPageToken;
    } while (pageToken !== "");
    return found;
  };
  expect(await listed()).toEqual([0, 1, 3, 5, 20]);
  expect(await listed(PENDING)).toEqual([1, 3, 5]);
  const { nextPageToken: pageToken } = await sessions.listChunks({ sessionId, pageSize: 1 });
  expect(await refusalOf(sessions.listChunks({ sessionId, status: PENDING, pageToken }))).toMatchObject({
    reason: "PAGE_TOKEN_INVALID",
  });
});

test("ranges name the indexes that are there, and where to go on after a thousand", async () => {
  const { sessions, db } = service;
  const { sessionId } = await newSession(sessions);
  expect(await sessions.listChunkRanges({ sessionId })).toMatchObject({ ranges: [] });
  const indexes = [0, 1, 2, 4, 7, 8, ...Array.from({ length: 1200 }, (_, at) => 100 + 2 * at)];
  await db.collection("chunks").insertMany(
    indexes.map((index) => ({
      chunk_id: randomUUID(),
      session_id: sessionId,
      chunk_index: BigInt(index),
      size_bytes: 1n,
      hash,
      status: "PENDING",
      created_at: new Date(),
    })),
  );
  const first = await sessions.listChunkRanges({ sessionId });
  const range = (firstIndex: number, lastIndex: number) => ({
    firstIndex: BigInt(firstIndex),
    lastIndex: BigInt(lastIndex),
  });
  expect(first.ranges).toHaveLength(1000);
  expect(first.ranges.slice(0, 4)).toMatchObject([range(0, 2), range(4, 4), range(7, 8), range(100, 100)]);
  const second = await sessions.listChunkRanges({ sessionId, fromIndex: first.nextIndex ?? 0n });
  expect(second.ranges).toHaveLength(203);
  expect(second.nextIndex).toBeUndefined();
  expect((await sessions.listChunkRanges({ sessionId, fromIndex: 8n })).ranges[0]).toMatchObject(range(8, 8));
});

async function* messages<T>(...sent: T[]) {
  yield* sent;
}

test("the key of a session is stored apart and never returned", async () => {
  const { sessions, db } = service;
  const key = Buffer.from(randomUUID());
  const { session } = await sessions.createSession({
    session: { userId: "ada" },
    encryptionKey: {
      encryptionKey: key,
      sessionId: "another",
      expiresAt: { seconds: 4_000_000_000n },
    },
  });
  const sessionId = session?.sessionId ?? "";
  const stored = () => db.collection("encryption_keys").findOne({ session_id: sessionId }, { promoteBuffers: true });
  expect(await stored()).toMatchObject({
    encryption_key: key,
    revision: 1n,
    expires_at: new Date(4_000_000_000_000),
  });
  expect(await db.collection("sessions").findOne({ session_id: sessionId })).not.toHaveProperty("encryption_key");
  const next = Buffer.from(randomUUID());
  await sessions.setSessionEncryptionKey({ sessionId, encryptionKey: { encryptionKey: next } });
  expect(await stored()).toMatchObject({ encryption_key: next, revision: 2n });
  expect(await stored()).not.toHaveProperty("expires_at");
  const without = await newSession(sessions);
  expect(await db.collection("encryption_keys").countDocuments({ session_id: without.sessionId })).toBe(0);
});
