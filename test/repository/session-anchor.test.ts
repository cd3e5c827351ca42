import { randomUUID } from "node:crypto";

import { timestampMs } from "@bufbuild/protobuf/wkt";
import { afterAll, beforeAll, expect, test } from "vitest";

import { ChunkStatus } from "../../gen/lucid/repository/v1/chunk_pb.ts";
import { MerkleAlgorithm } from "../../gen/lucid/repository/v1/merkle_pb.ts";
import { SessionStatus } from "../../gen/lucid/repository/v1/session_pb.ts";
import { merkleRoot } from "../../src/proofs/merkle.ts";
import { chunkInit, newSession, sessionIn, type SessionsApp, sessionsApp, someTree } from "./session-support.ts";
import { refusalOf } from "./support.ts";

let service: SessionsApp;
beforeAll(async () => {
  service = await sessionsApp();
});
afterAll(() => service[Symbol.asyncDispose]());

const { ENCRYPTING, MERKLE_BUILDING, ANCHORING, COMPLETED } = SessionStatus;

async function* once<T>(message: T) {
  yield message;
}

/** A session with chunks of these indexes, in a state. */
async function withChunks(indexes: readonly number[], status: SessionStatus = MERKLE_BUILDING): Promise<string> {
  const { sessions } = service;
  const { sessionId } = await sessionIn(sessions, ENCRYPTING);
  const chunks = indexes.map((index) => chunkInit(index, { status: ChunkStatus.UPLOADED }));
  if (chunks.length > 0) await sessions.addChunks(once({ sessionId, chunks }));
  if (status === MERKLE_BUILDING) await sessions.updateSessionStatus({ sessionId, status });
  return sessionId;
}

/** The root of the chunks with the indexes up to `count`, computed here. */
async function rootOf(count: number): Promise<string> {
  const hashes = Array.from({ length: count }, (_, index) => Buffer.from(String(chunkInit(index).hash), "hex"));
  return Buffer.from((await merkleRoot(hashes)).root).toString("hex");
}

test.for([1, 2, 3, 7])("a tree is built of %i chunks, whatever the order they came in", async (count) => {
  const { sessions } = service;
  const sessionId = await withChunks(Array.from({ length: count }, (_, index) => index).toReversed());
  const { session } = await sessions.buildMerkleTree({ sessionId });
  expect(session?.merkleTree).toMatchObject({
    rootHash: await rootOf(count),
    treeHeight: Math.ceil(Math.log2(count)),
    leafCount: BigInt(count),
    algorithm: MerkleAlgorithm.RFC6962_SHA256,
    checked: true,
    builtAt: session?.updatedAt,
  });
  expect((await sessions.getSession({ sessionId })).session).toStrictEqual(session);
  const again = (await sessions.buildMerkleTree({ sessionId, etag: session?.etag ?? "" })).session;
  expect(again?.merkleTree).toMatchObject({ rootHash: session?.merkleTree?.rootHash });
});

test("a tree is built only of a session that takes no more chunks and has no gap", async () => {
  const { sessions, db } = service;
  const missing = (index: number) => ({
    code: "FailedPrecondition",
    reason: "CHUNK_MISSING",
    metadata: expect.objectContaining({ chunk_index: String(index) }) as object,
  });
  expect(await refusalOf(sessions.buildMerkleTree({ sessionId: await withChunks([]) }))).toMatchObject(missing(0));
  expect(await refusalOf(sessions.buildMerkleTree({ sessionId: await withChunks([0, 1, 3]) }))).toMatchObject(
    missing(2),
  );
  const early = await withChunks([0], ENCRYPTING);
  for (const call of [
    () => sessions.buildMerkleTree({ sessionId: early }),
    () => sessions.setMerkleTree({ sessionId: early, merkleTree: someTree }),
  ]) {
    expect(await refusalOf(call())).toMatchObject({
      code: "FailedPrecondition",
      reason: "SESSION_WRONG_STATUS",
      metadata: { session_id: early, status: "ENCRYPTING", needed: "MERKLE_BUILDING" },
    });
  }
  const sessionId = await withChunks([0]);
  const stale = { code: "Aborted", reason: "ETAG_MISMATCH" };
  expect(await refusalOf(sessions.buildMerkleTree({ sessionId, etag: '"1"' }))).toMatchObject(stale);
  // Somebody had announced chunks before the session came here, and is not done.
  const announced = { $push: { _chunk_writes: { id: "x", at: new Date() } as never } };
  await db.collection("sessions").updateOne({ session_id: sessionId }, announced);
  const busy = { code: "Aborted", reason: "SESSION_BUSY", metadata: { session_id: sessionId } };
  expect(await refusalOf(sessions.buildMerkleTree({ sessionId }))).toMatchObject(busy);
  expect(await refusalOf(sessions.setMerkleTree({ sessionId, merkleTree: someTree }))).toMatchObject(busy);
  await db.collection("sessions").updateOne({ session_id: sessionId }, { $set: { "_chunk_writes.0.at": new Date(0) } });
  expect((await sessions.buildMerkleTree({ sessionId })).session?.merkleTree?.checked).toBe(true);
});

test("a tree that is set must be that of the chunks where all of them are there", async () => {
  const { sessions } = service;
  const sessionId = await withChunks([0, 1, 2]);
  const set = async (merkleTree: object) =>
    (await sessions.setMerkleTree({ sessionId, merkleTree })).session?.merkleTree;
  const wrong = {
    code: "FailedPrecondition",
    reason: "MERKLE_TREE_MISMATCH",
    metadata: { session_id: sessionId },
  };
  expect(await refusalOf(set(someTree))).toMatchObject(wrong);
  expect(await refusalOf(set({ rootHash: await rootOf(2), leafCount: 2n }))).toMatchObject(wrong);
  expect((await sessions.getSession({ sessionId })).session?.merkleTree).toBeUndefined();
  const right = { rootHash: await rootOf(3), leafCount: 3n, treeHeight: 60, verificationHash: "ab".repeat(32) };
  expect(await set(right)).toMatchObject({ ...right, treeHeight: 2, checked: true });
  // Chunks may be somewhere else, and trees of another shape.
  expect(await set({ ...someTree, leafCount: 4n })).toMatchObject({ checked: false, treeHeight: 2 });
  const other = { ...someTree, treeHeight: 5, algorithm: MerkleAlgorithm.OTHER };
  expect(await set(other)).toMatchObject({ ...other, checked: false });
});

test("an anchor needs a tree with its root, and completes the session in the same write", async () => {
  const { sessions } = service;
  const sessionId = await withChunks([0, 1]);
  const root = await rootOf(2);
  const anchor = { merkleRoot: root, transactionHash: "cd".repeat(32), blockHeight: 7n, confirmationCount: 3n };
  const illegal = { code: "FailedPrecondition", reason: "ILLEGAL_TRANSITION" };
  const set = async (blockchainAnchor: object, etag = "") =>
    (await sessions.setBlockchainAnchor({ sessionId, blockchainAnchor, etag })).session;
  expect(await refusalOf(set(anchor))).toMatchObject({
    ...illegal,
    metadata: { session_id: sessionId, from: "MERKLE_BUILDING", to: "COMPLETED" },
  });
  await sessions.buildMerkleTree({ sessionId });
  const before = (await sessions.updateSessionStatus({ sessionId, status: ANCHORING })).session;
  expect(await refusalOf(set({ ...anchor, merkleRoot: "00".repeat(32) }))).toMatchObject({
    code: "FailedPrecondition",
    reason: "MERKLE_TREE_MISMATCH",
  });
  expect(await refusalOf(set(anchor, '"1"'))).toMatchObject({ code: "Aborted", reason: "ETAG_MISMATCH" });
  expect((await sessions.getSession({ sessionId })).session).toStrictEqual(before);
  const done = await set(anchor, before?.etag ?? "");
  expect(done).toMatchObject({
    status: COMPLETED,
    blockchainAnchor: { ...anchor, verified: false, anchoredAt: done?.updatedAt },
    revision: (before?.revision ?? 0n) + 1n,
  });
  // What confirms it never falls, and another anchor is none of this session.
  const raised = await set({ ...anchor, confirmationCount: 6n, verified: true });
  expect(raised?.blockchainAnchor).toMatchObject({ confirmationCount: 6n, verified: true });
  const fallen = await set({ ...anchor, confirmationCount: 1n });
  expect(fallen?.blockchainAnchor).toMatchObject({
    confirmationCount: 6n,
    verified: true,
    anchoredAt: done?.blockchainAnchor?.anchoredAt,
  });
  expect(await refusalOf(set({ ...anchor, transactionHash: "ef".repeat(32) }))).toMatchObject(illegal);
  expect(await refusalOf(set({ merkleRoot: root }))).toMatchObject(illegal);
});

test("a manifest has the hashes in the order of their indexes, and needs all of them", async () => {
  const { sessions } = service;
  const sessionId = await withChunks([2, 0, 1]);
  const manifest = async () => (await sessions.getSessionManifest({ sessionId })).manifest;
  const { session } = await sessions.updateSession({ session: { sessionId, metadata: { a: 1 } } });
  const expected = {
    sessionId,
    userId: session?.userId,
    createdAt: session?.createdAt,
    totalChunks: 3n,
    totalSizeBytes: 3003n,
    chunkHashes: [0, 1, 2].map((index) => chunkInit(index).hash),
    metadata: { a: 1 },
  };
  expect(await manifest()).toMatchObject({ ...expected, merkleRoot: "" });
  await sessions.buildMerkleTree({ sessionId });
  expect(await manifest()).toMatchObject({
    ...expected,
    merkleRoot: await rootOf(3),
    merkleAlgorithm: MerkleAlgorithm.RFC6962_SHA256,
  });
  for (const [indexes, missing] of [
    [[0, 2], "1"],
    [[0, 1, 50_000], "2"],
  ] as const) {
    expect(await refusalOf(sessions.getSessionManifest({ sessionId: await withChunks(indexes) }))).toMatchObject({
      code: "FailedPrecondition",
      reason: "CHUNK_MISSING",
      metadata: { chunk_index: missing },
    });
  }
  const { manifest: ofNone } = await sessions.getSessionManifest({ sessionId: await withChunks([]) });
  expect(ofNone).toMatchObject({ totalChunks: 0n, chunkHashes: [] });
});

test("a session of more chunks than one message holds has no manifest in one", async () => {
  const { sessions, db } = service;
  const { sessionId } = await newSession(sessions);
  const rows = Array.from({ length: 40_001 }, (_, index) => ({
    chunk_id: randomUUID(),
    session_id: sessionId,
    chunk_index: BigInt(index),
    size_bytes: 1n,
    hash: "ab".repeat(32),
    status: "PENDING",
    created_at: new Date(),
  }));
  await db.collection("chunks").insertMany(rows);
  const manifest = () => sessions.getSessionManifest({ sessionId });
  expect(await refusalOf(manifest())).toMatchObject({
    code: "FailedPrecondition",
    reason: "SESSION_TOO_LARGE",
    metadata: { session_id: sessionId, chunk_count: "40001", most: "40000" },
  });
  await db.collection("chunks").deleteOne({ session_id: sessionId, chunk_index: 40_000n });
  expect((await manifest()).manifest?.chunkHashes).toHaveLength(40_000);
});

test("statistics of a session are computed from its chunks", async () => {
  const { sessions, db } = service;
  const { sessionId } = await newSession(sessions);
  const statistics = async () => (await sessions.getSessionStatistics({ sessionId })).statistics;
  const none = await statistics();
  expect(none).toMatchObject({
    sessionId,
    totalChunks: 0n,
    chunksByStatus: {},
    anchored: false,
    confirmationCount: 0n,
  });
  for (const field of ["minChunkSizeBytes", "avgChunkSizeBytes", "firstUploadedAt", "uploadBytesPerSecond"]) {
    expect(none).not.toHaveProperty(field);
  }
  const sizes = [100n, 300n, 800n];
  for (const [index, sizeBytes] of sizes.entries()) {
    const status = index < 2 ? ChunkStatus.UPLOADED : ChunkStatus.PENDING;
    const ratio = index === 2 ? {} : { compressionRatio: index + 1 };
    await sessions.addChunk({ sessionId, chunk: chunkInit(index, { sizeBytes, status, ...ratio }) });
  }
  // As if the two had come a while apart.
  const at = (second: number) => new Date(Date.UTC(2026, 0, 1, 0, 0, second));
  const chunks = db.collection("chunks");
  for (const index of [0, 1]) {
    const one = { session_id: sessionId, chunk_index: BigInt(index) };
    await chunks.updateOne(one, { $set: { uploaded_at: at(index * 4) } });
  }
  const fields = {
    duration_seconds: 60n,
    processing_time_seconds: 2.5,
    blockchain_anchor: { merkle_root: "00".repeat(32), anchored_at: at(9), confirmation_count: 6n, verified: false },
  };
  await db.collection("sessions").updateOne({ session_id: sessionId }, { $set: fields });
  const found = await statistics();
  expect(found).toMatchObject({
    totalChunks: 3n,
    chunksByStatus: { UPLOADED: 2n, PENDING: 1n },
    totalSizeBytes: 1200n,
    minChunkSizeBytes: 100n,
    avgChunkSizeBytes: 400,
    maxChunkSizeBytes: 800n,
    avgCompressionRatio: 1.5,
    durationSeconds: 60n,
    processingTimeSeconds: 2.5,
    uploadBytesPerSecond: 100,
    processingBytesPerSecond: 480,
    anchored: true,
    confirmationCount: 6n,
  });
  expect(found?.firstUploadedAt && timestampMs(found.firstUploadedAt)).toBe(at(0).getTime());
  expect(found?.lastUploadedAt && timestampMs(found.lastUploadedAt)).toBe(at(4).getTime());
});
