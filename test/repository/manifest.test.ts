import { randomUUID } from "node:crypto";

import { timestampDate } from "@bufbuild/protobuf/wkt";
import { afterAll, beforeAll, expect, test } from "vitest";

import { ManifestValidationStatus } from "../../gen/lucid/repository/v1/manifest_pb.ts";
import { MerkleAlgorithm } from "../../gen/lucid/repository/v1/merkle_pb.ts";
import { merkleRoot } from "../../src/proofs/merkle.ts";
import {
  hashOf,
  manifestInit,
  type ManifestsApp,
  manifestsApp,
  newManifest,
  newSession,
  storeChunks,
  upTo,
} from "./manifest-support.ts";
import { refusalOf } from "./support.ts";

let service: ManifestsApp;
beforeAll(async () => {
  service = await manifestsApp();
});
afterAll(() => service[Symbol.asyncDispose]());

const { PENDING, VALID, INVALID } = ManifestValidationStatus;

/** The root of chunks with these indexes. */
async function rootOf(indexes: readonly number[]): Promise<string> {
  const { root } = await merkleRoot(indexes.map((index) => Buffer.from(hashOf(index), "hex")));
  return Buffer.from(root).toString("hex");
}

test("a root that is given is stored as it is, with defaults and nothing that only the service sets", async () => {
  const init = manifestInit({
    manifestId: "chosen by the caller",
    blockchainAnchored: true,
    blockchainTransactionId: hashOf("x"),
    validationStatus: VALID,
    validationErrors: ["none"],
    revision: 99n,
    etag: "x",
    metadata: { a: 1 },
  });
  const before = Date.now();
  const { manifest } = await service.manifests.createManifest({ manifest: init });
  expect(manifest).toMatchObject({
    sessionId: init.sessionId,
    merkleRoot: init.merkleRoot,
    merkleAlgorithm: MerkleAlgorithm.RFC6962_SHA256,
    chunkCount: 3n,
    totalSize: 6n,
    blockchainAnchored: false,
    validationStatus: PENDING,
    validationErrors: [],
    metadata: { a: 1 },
    revision: 1n,
    etag: '"1"',
  });
  expect(manifest).not.toHaveProperty("blockchainTransactionId");
  expect(manifest?.manifestId).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-/);
  const createdAt = manifest?.createdAt === undefined ? 0 : timestampDate(manifest.createdAt).getTime();
  expect(createdAt).toBeGreaterThanOrEqual(before);
  const stored = await service.db.collection("manifests").findOne({ manifest_id: manifest?.manifestId ?? "" });
  expect(stored).toMatchObject({ merkle_algorithm: "RFC6962_SHA256", validation_status: "PENDING", chunk_count: 3n });
});

test.for(["manifests", "overHttp"] as const)("without a root it is computed from the chunks (%s)", async (listener) => {
  const manifests = service[listener];
  const sessionId = await newSession(service.db, upTo(11));
  const made = await newManifest(manifests, { sessionId });
  expect(made).toMatchObject({
    sessionId,
    merkleRoot: await rootOf(upTo(11)),
    merkleAlgorithm: MerkleAlgorithm.RFC6962_SHA256,
    chunkCount: 11n,
    totalSize: 66n,
    validationStatus: PENDING,
  });
  expect((await manifests.getManifest({ manifestId: made.manifestId })).manifest).toStrictEqual(made);
  expect((await manifests.getManifestBySession({ sessionId })).manifest).toStrictEqual(made);
});

test("a manifest of chunks that are not all there is not computed", async () => {
  const { manifests, db } = service;
  for (const [indexes, missing] of [
    [[], "0"],
    [[0, 1, 3], "2"],
  ] as const) {
    const sessionId = await newSession(db, indexes);
    expect(await refusalOf(manifests.createManifest({ manifest: { sessionId } }))).toMatchObject({
      code: "FailedPrecondition",
      reason: "CHUNK_MISSING",
      metadata: { session_id: sessionId, chunk_index: missing },
    });
    expect(await refusalOf(manifests.getManifestBySession({ sessionId }))).toMatchObject({
      code: "NotFound",
      reason: "MANIFEST_NOT_FOUND",
      metadata: { session_id: sessionId },
    });
  }
});

test("a create that is repeated with its request_id returns the first manifest, though its chunks have gone", async () => {
  const { manifests, db } = service;
  const sessionId = await newSession(db, upTo(4));
  const request = { manifest: { sessionId }, requestId: randomUUID() };
  const { manifest: first } = await manifests.createManifest(request);
  await db.collection("chunks").deleteOne({ session_id: sessionId, chunk_index: 1n });
  expect((await manifests.createManifest(request)).manifest).toStrictEqual(first);
  await manifests.deleteManifest({ manifestId: first?.manifestId ?? "" });
  expect((await manifests.createManifest(request)).manifest).toMatchObject({ revision: 2n });
  expect(await db.collection("manifests").countDocuments({ session_id: sessionId })).toBe(1);
  const other = { ...request, manifest: { sessionId: "another" } };
  expect(await refusalOf(manifests.createManifest(other))).toMatchObject({
    code: "InvalidArgument",
    reason: "REQUEST_ID_REUSED",
    metadata: { request_id: request.requestId },
  });
});

test("of many manifests of one session at once exactly one is created", async () => {
  const { manifests } = service;
  const { sessionId = "" } = manifestInit();
  const calls = await Promise.allSettled(
    upTo(20).map(() => manifests.createManifest({ manifest: manifestInit({ sessionId }) })),
  );
  expect(calls.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
  for (const call of calls) {
    if (call.status === "fulfilled") continue;
    expect(await refusalOf(Promise.reject(call.reason as Error))).toMatchObject({
      code: "AlreadyExists",
      reason: "MANIFEST_ALREADY_EXISTS",
      metadata: { field: "session_id" },
      fields: ["manifest.session_id"],
    });
  }
});

test("an update changes metadata, and nothing that the manifest commits to", async () => {
  const { manifests } = service;
  const made = await newManifest(manifests, manifestInit({ metadata: { old: true } }));
  const { manifestId, etag } = made;
  const sent = { ...manifestInit({ merkleAlgorithm: MerkleAlgorithm.OTHER, chunkCount: 9n }), manifestId };
  for (const paths of [
    [],
    ["session_id", "merkle_root", "merkle_algorithm", "chunk_count", "total_size", "revision"],
  ]) {
    expect((await manifests.updateManifest({ manifest: sent, updateMask: { paths } })).manifest).toStrictEqual(made);
  }
  const metadata = { $set: { x: "$$ROOT" } };
  const update = { manifest: { ...sent, metadata }, updateMask: { paths: ["*"] }, etag };
  const { manifest } = await manifests.updateManifest(update);
  expect(manifest).toStrictEqual({ ...made, metadata, revision: 2n, etag: '"2"', updatedAt: manifest?.updatedAt });
  expect(await refusalOf(manifests.updateManifest(update))).toMatchObject({ code: "Aborted", reason: "ETAG_MISMATCH" });
  const cleared = await manifests.updateManifest({ manifest: { manifestId }, updateMask: { paths: ["metadata"] } });
  expect(cleared.manifest?.metadata).toBeUndefined();
});

test("a root is anchored by one transaction, of which more may be said later", async () => {
  const { manifests } = service;
  const { manifestId, etag } = await newManifest(manifests);
  const blockchainTransactionId = hashOf("transaction");
  const first = (await manifests.recordManifestAnchor({ manifestId, blockchainTransactionId, etag })).manifest;
  expect(first).toMatchObject({ blockchainAnchored: true, blockchainTransactionId, revision: 2n });
  expect(first).not.toHaveProperty("blockchainBlockHeight");
  expect(first?.blockchainTimestamp).toStrictEqual(first?.updatedAt);
  const more = { manifestId, blockchainTransactionId, blockchainBlockHeight: 0n };
  const second = (await manifests.recordManifestAnchor(more)).manifest;
  expect(second).toMatchObject({ blockchainBlockHeight: 0n, blockchainTimestamp: first?.blockchainTimestamp });
  const blockchainTimestamp = { seconds: 1_700_000_000n, nanos: 5_000_000 };
  const third = (await manifests.recordManifestAnchor({ manifestId, blockchainTransactionId, blockchainTimestamp }))
    .manifest;
  expect(third).toMatchObject({ blockchainBlockHeight: 0n, blockchainTimestamp, revision: 4n });
  expect(await refusalOf(manifests.recordManifestAnchor({ ...more, etag }))).toMatchObject({ reason: "ETAG_MISMATCH" });
  const other = { manifestId, blockchainTransactionId: hashOf("another") };
  expect(await refusalOf(manifests.recordManifestAnchor(other))).toMatchObject({
    code: "FailedPrecondition",
    reason: "MANIFEST_ALREADY_ANCHORED",
    metadata: { manifest_id: manifestId, blockchain_transaction_id: blockchainTransactionId },
  });
  expect((await manifests.getManifest({ manifestId })).manifest).toStrictEqual(third);
});

test("of many transactions at once exactly one anchors a root", async () => {
  const { manifests } = service;
  const { manifestId } = await newManifest(manifests);
  const calls = await Promise.allSettled(
    upTo(20).map((at) => manifests.recordManifestAnchor({ manifestId, blockchainTransactionId: hashOf(at) })),
  );
  const won = calls.flatMap((call) => (call.status === "fulfilled" ? [call.value.manifest] : []));
  expect(won).toHaveLength(1);
  expect((await manifests.getManifest({ manifestId })).manifest).toStrictEqual(won[0]);
});

test("a manifest is compared with its chunks as often as they change, and tells all that differs", async () => {
  const { manifests, db } = service;
  const chunks = db.collection("chunks");
  const sessionId = await newSession(db, upTo(6));
  const { manifestId, merkleRoot: root } = await newManifest(manifests, { sessionId });
  const validated = async () => {
    const { manifest } = await manifests.validateManifest({ manifestId });
    expect((await service.overHttp.getManifest({ manifestId })).manifest).toStrictEqual(manifest);
    return { status: manifest?.validationStatus, errors: manifest?.validationErrors };
  };
  const valid = { status: VALID, errors: [] };
  const invalid = (...errors: string[]) => ({ status: INVALID, errors });
  expect(await validated()).toEqual(valid);
  const set = (index: bigint, values: object) =>
    chunks.updateOne({ session_id: sessionId, chunk_index: index }, { $set: values });

  await set(2n, { hash: hashOf(99) });
  expect(await validated()).toEqual(
    invalid(`The chunks make the root ${await rootOf([0, 1, 99, 3, 4, 5])}, the manifest says ${root}`),
  );
  await set(2n, { hash: hashOf(2), size_bytes: 1000 });
  expect(await validated()).toEqual(invalid("The chunks have 1018 bytes, the manifest says 21"));
  await set(2n, { hash: "abc", size_bytes: 3n });
  expect(await validated()).toEqual(invalid("Chunk 2 holds no SHA-256 hash"));
  await set(2n, { hash: hashOf(2) });
  expect(await validated()).toEqual(valid);
  await storeChunks(db, sessionId, [6]);
  expect(await validated()).toEqual(invalid("The session has a chunk 6, beyond the 6 of the manifest"));
  await chunks.deleteOne({ session_id: sessionId, chunk_index: 3n });
  expect(await validated()).toEqual(
    invalid("The session has a chunk 6, beyond the 6 of the manifest", "Chunk 3 is missing"),
  );
  await chunks.deleteMany({ session_id: sessionId });
  expect(await validated()).toEqual(invalid("Chunk 0 is missing"));
  await storeChunks(db, sessionId, upTo(6));
  expect(await validated()).toEqual(valid);
});

test("a comparison that began later is not undone by an earlier one", async () => {
  const { manifests, db } = service;
  const sessionId = await newSession(db, upTo(3));
  const { manifestId } = await newManifest(manifests, { sessionId });
  const later = new Date(Date.now() + 60_000);
  const newer = { validation_status: "INVALID", validation_errors: ["Something"], validated_at: later };
  await db.collection("manifests").updateOne({ manifest_id: manifestId }, { $set: newer });
  const { manifest } = await manifests.validateManifest({ manifestId });
  expect(manifest).toMatchObject({
    validationStatus: INVALID,
    validationErrors: ["Something"],
    revision: 1n,
  });
});

test("a root of another tree is kept and named so; nothing is validated or proven by it", async () => {
  const { manifests, db } = service;
  const sessionId = await newSession(db, upTo(3));
  const made = await newManifest(manifests, manifestInit({ sessionId, merkleAlgorithm: MerkleAlgorithm.OTHER }));
  const { manifestId } = made;
  for (const call of [
    () => manifests.validateManifest({ manifestId }),
    () => manifests.getInclusionProof({ manifestId, chunkIndex: 0n }),
    () => manifests.getConsistencyProof({ manifestId, firstSize: 1n }),
  ]) {
    expect(await refusalOf(call())).toMatchObject({
      code: "FailedPrecondition",
      reason: "MERKLE_ALGORITHM_NOT_SUPPORTED",
      metadata: { manifest_id: manifestId, merkle_algorithm: "OTHER" },
    });
  }
  expect((await manifests.getManifest({ manifestId })).manifest).toStrictEqual(made);
});

test("a manifest that another program stored without naming its tree is read, and not validated", async () => {
  const { manifests, db } = service;
  const [manifestId, sessionId] = [randomUUID(), randomUUID()];
  const older = {
    manifest_id: manifestId,
    session_id: sessionId,
    merkle_root: hashOf("older"),
    chunk_count: 7,
    created_at: new Date(0),
  };
  await db.collection("manifests").insertOne(older);
  const { manifest } = await manifests.getManifestBySession({ sessionId });
  expect(manifest).toMatchObject({ manifestId, merkleRoot: older.merkle_root, chunkCount: 7n, merkleAlgorithm: 0 });
  expect(await refusalOf(manifests.validateManifest({ manifestId }))).toMatchObject({
    reason: "MERKLE_ALGORITHM_NOT_SUPPORTED",
    metadata: { merkle_algorithm: "UNSPECIFIED" },
  });
});

test("a deleted manifest is not found, can be shown, lets its session have another, and comes back", async () => {
  const { manifests } = service;
  const made = await newManifest(manifests);
  const { manifestId, sessionId, etag } = made;
  expect((await manifests.deleteManifest({ manifestId, etag, validateOnly: true })).manifest).toStrictEqual(made);
  const gone = (await manifests.deleteManifest({ manifestId, etag })).manifest;
  for (const call of [
    () => manifests.getManifest({ manifestId }),
    () => manifests.getManifestBySession({ sessionId }),
    () => manifests.updateManifest({ manifest: { manifestId, metadata: {} } }),
    () => manifests.recordManifestAnchor({ manifestId, blockchainTransactionId: hashOf(1) }),
    () => manifests.validateManifest({ manifestId }),
    () => manifests.getInclusionProof({ manifestId, chunkIndex: 0n }),
    () => manifests.getConsistencyProof({ manifestId, firstSize: 1n }),
    () => manifests.deleteManifest({ manifestId }),
  ]) {
    expect(await refusalOf(call())).toMatchObject({ code: "NotFound", reason: "MANIFEST_NOT_FOUND" });
  }
  expect((await manifests.getManifest({ manifestId, showDeleted: true })).manifest).toStrictEqual(gone);
  const successor = await newManifest(manifests, manifestInit({ sessionId }));
  expect(await refusalOf(manifests.undeleteManifest({ manifestId }))).toMatchObject({
    code: "AlreadyExists",
    reason: "MANIFEST_ALREADY_EXISTS",
  });
  await manifests.deleteManifest({ manifestId: successor.manifestId });
  const back = (await manifests.undeleteManifest({ manifestId, etag: gone?.etag ?? "" })).manifest;
  expect(back).toMatchObject({ manifestId, revision: 3n });
  expect((await manifests.getManifestBySession({ sessionId })).manifest).toStrictEqual(back);
});

test.for([
  ["$where", { $where: "sleep(1000)" }],
  ["dots", { "a.b.c": { "": 1, "d..e": 2 } }],
  ["operators", { $set: { merkle_root: "x" }, $literal: "$merkle_root", $$NOW: "$$ROOT" }],
  ["large text", { text: "é".repeat(100_000) }],
] as const)("metadata with %s is data and nothing else", async ([, metadata]) => {
  const { manifests } = service;
  const { manifestId, merkleRoot: root } = await newManifest(manifests, manifestInit({ metadata }));
  await manifests.updateManifest({ manifest: { manifestId, metadata: { before: 1 } } });
  await manifests.updateManifest({ manifest: { manifestId, metadata } });
  expect((await service.overHttp.getManifest({ manifestId })).manifest).toMatchObject({ metadata, merkleRoot: root });
});
