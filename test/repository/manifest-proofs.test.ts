import { createHash } from "node:crypto";

import { toJson } from "@bufbuild/protobuf";
import { afterAll, beforeAll, expect, test } from "vitest";

import {
  type GetInclusionMultiProofResponse,
  GetInclusionMultiProofResponseSchema,
  type GetInclusionProofResponse,
  GetInclusionProofResponseSchema,
} from "../../gen/lucid/repository/v1/manifest_service_pb.ts";
import { MerkleAlgorithm } from "../../gen/lucid/repository/v1/merkle_pb.ts";
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

const sha256 = (...parts: readonly Uint8Array[]) => createHash("sha256").update(Buffer.concat(parts)).digest();

/** Recomputes the root as a client would that has read no more than the JSON and the RFC: from the leaf up, side by side. */
function rootOfJson(response: GetInclusionProofResponse): string {
  const { proof, chunkHash } = toJson(GetInclusionProofResponseSchema, response) as {
    proof: { leafIndex?: string; treeSize: string; hashes?: string[] };
    chunkHash: string;
  }; // what the proto says
  const hashes = [...(proof.hashes ?? [])];
  const climb = (index: number, size: number): Uint8Array => {
    if (size === 1) return sha256(Buffer.of(0), Buffer.from(chunkHash, "hex"));
    const k = 2 ** Math.ceil(Math.log2(size) - 1);
    const beside = Buffer.from(hashes.pop() ?? "", "hex");
    return index < k
      ? sha256(Buffer.of(1), climb(index, k), beside)
      : sha256(Buffer.of(1), beside, climb(index - k, size - k));
  };
  const root = Buffer.from(climb(Number(proof.leafIndex ?? 0), Number(proof.treeSize))).toString("hex");
  return hashes.length === 0 ? root : "The proof has more hashes than levels";
}

test("every chunk of small sessions is proven, and what was proven is refused for any other", async () => {
  const { manifests, overHttp, db } = service;
  for (const size of [1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 17]) {
    const sessionId = await newSession(db, upTo(size));
    const { manifestId, merkleRoot } = await newManifest(manifests, { sessionId });
    for (const index of upTo(size)) {
      const client = index % 2 === 0 ? manifests : overHttp;
      const answer = await client.getInclusionProof({ manifestId, chunkIndex: BigInt(index) });
      expect(answer).toMatchObject({
        proof: { algorithm: MerkleAlgorithm.RFC6962_SHA256, leafIndex: BigInt(index), treeSize: BigInt(size) },
        chunkHash: hashOf(index),
        merkleRoot,
      });
      expect(rootOfJson(answer)).toBe(merkleRoot);
    }
    const { proof, chunkHash } = await manifests.getInclusionProof({ manifestId, chunkIndex: BigInt(size - 1) });
    if (proof === undefined) throw new Error("No proof was returned");
    const valid = async (request: object) =>
      (await overHttp.verifyInclusionProof({ proof, chunkHash, merkleRoot, ...request })).valid;
    expect(await valid({})).toBe(true);
    expect(await valid({ chunkHash: hashOf("another") })).toBe(false);
    expect(await valid({ merkleRoot: hashOf("another") })).toBe(false);
    expect(await valid({ proof: { ...proof, leafIndex: BigInt(size) } })).toBe(false);
    expect(await valid({ proof: { ...proof, hashes: [...proof.hashes, hashOf("more")] } })).toBe(false);
    if (size > 1) expect(await valid({ proof: { ...proof, hashes: proof.hashes.slice(1) } })).toBe(false);
  }
});

/** Recomputes the root from the JSON of a proof of many chunks, as the comment in `merkle.proto` says it. */
function rootOfMany(response: GetInclusionMultiProofResponse): string {
  const { proof, chunkHashes } = toJson(GetInclusionMultiProofResponseSchema, response) as {
    proof: { leafIndexes: string[]; treeSize: string; hashes?: string[] };
    chunkHashes: string[];
  }; // what the proto says
  const [hashes, data] = [[...(proof.hashes ?? [])], [...chunkHashes]];
  const bytes = (text: string | undefined) => Buffer.from(text ?? "", "hex");
  const make = (b: number, e: number): Uint8Array => {
    if (!proof.leafIndexes.some((index) => Number(index) >= b && Number(index) < e)) return bytes(hashes.shift());
    if (e - b === 1) return sha256(Buffer.of(0), bytes(data.shift()));
    const k = 2 ** Math.ceil(Math.log2(e - b) - 1);
    const left = make(b, b + k);
    return sha256(Buffer.of(1), left, make(b + k, e));
  };
  const root = Buffer.from(make(0, Number(proof.treeSize))).toString("hex");
  return hashes.length + data.length === 0 ? root : "The proof has more than the tree";
}

test("many chunks are proven at once by fewer hashes than one by one, and what was proven is refused for any other", async () => {
  const { manifests, overHttp, db } = service;
  const size = 3 * 64 + 5;
  const sessionId = await newSession(db, upTo(size));
  const { manifestId, merkleRoot } = await newManifest(manifests, { sessionId });
  // The first one is made of all chunks, as that of most chunks is; the others of what was kept.
  for (const [at, indexes] of [[7], [70, 3], [0, 1, 64, 128, size - 1], upTo(size), [5]].entries()) {
    const client = at % 2 === 0 ? manifests : overHttp;
    const answer = await client.getInclusionMultiProof({ manifestId, chunkIndexes: indexes.map(BigInt) });
    const sorted = indexes.toSorted((one, other) => one - other);
    expect(answer).toMatchObject({
      proof: {
        algorithm: MerkleAlgorithm.RFC6962_SHA256,
        leafIndexes: sorted.map(BigInt),
        treeSize: BigInt(size),
      },
      chunkHashes: sorted.map(hashOf),
      merkleRoot,
    });
    expect(rootOfMany(answer)).toBe(merkleRoot);
    const { proof, chunkHashes } = answer;
    if (proof === undefined) throw new Error("No proof was returned");
    const valid = async (request: object) =>
      (await client.verifyInclusionMultiProof({ proof, chunkHashes, merkleRoot, ...request })).valid;
    expect(await valid({})).toBe(true);
    expect(await valid({ chunkHashes: chunkHashes.with(0, hashOf("another")) })).toBe(false);
    expect(await valid({ chunkHashes: [...chunkHashes, hashOf("more")].slice(0, 1000) })).toBe(false);
    expect(await valid({ merkleRoot: hashOf("another") })).toBe(false);
    expect(await valid({ proof: { ...proof, leafIndexes: proof.leafIndexes.with(0, 6n) } })).toBe(false);
    expect(await valid({ proof: { ...proof, hashes: [...proof.hashes, hashOf("more")] } })).toBe(false);
    if (indexes.length > 1) expect(await valid({ chunkHashes: chunkHashes.toReversed() })).toBe(false);
  }
  const hashesOf = async (chunkIndex: bigint) =>
    (await manifests.getInclusionProof({ manifestId, chunkIndex })).proof?.hashes.length ?? 0;
  const near = [64n, 65n, 66n, 67n];
  const single = (await Promise.all(near.map(hashesOf))).reduce((sum, each) => sum + each);
  const together = await manifests.getInclusionMultiProof({ manifestId, chunkIndexes: near });
  expect(together.proof?.hashes.length).toBeLessThan(single / 4);
});

test("no chunk is proven beside one that is missing, changed or out of range", async () => {
  const { manifests, db } = service;
  const size = 3 * 64 + 5;
  const sessionId = await newSession(db, upTo(size));
  const { manifestId } = await newManifest(manifests, { sessionId });
  const proofOf = (...chunkIndexes: bigint[]) => manifests.getInclusionMultiProof({ manifestId, chunkIndexes });
  await proofOf(1n, 2n);
  const chunks = db.collection("chunks");
  await chunks.updateOne({ session_id: sessionId, chunk_index: 100n }, { $set: { hash: hashOf("another") } });
  expect(rootOfMany(await proofOf(1n, 2n))).toMatch(/^[0-9a-f]{64}$/);
  expect(await refusalOf(proofOf(1n, 100n))).toMatchObject({ reason: "MANIFEST_ROOT_MISMATCH" });
  await chunks.deleteOne({ session_id: sessionId, chunk_index: 100n });
  expect(await refusalOf(proofOf(1n, 99n))).toMatchObject({
    reason: "CHUNK_MISSING",
    metadata: { session_id: sessionId, chunk_index: "100" },
  });
  expect(await refusalOf(proofOf(1n, 500n, 197n))).toMatchObject({
    code: "OutOfRange",
    reason: "CHUNK_OUT_OF_RANGE",
    metadata: { manifest_id: manifestId, chunk_index: "500", chunk_count: "197" },
  });
});

test("a session that grows is shown to have only grown", async () => {
  const { manifests, overHttp, db } = service;
  const sessionId = await newSession(db, upTo(5));
  const { manifestId, merkleRoot: early } = await newManifest(manifests, { sessionId });
  await storeChunks(db, sessionId, [5, 6, 7, 8]);
  await manifests.deleteManifest({ manifestId });
  const late = await newManifest(manifests, { sessionId });
  for (const client of [manifests, overHttp]) {
    const answer = await client.getConsistencyProof({ manifestId: late.manifestId, firstSize: 5n });
    expect(answer).toMatchObject({
      proof: { algorithm: MerkleAlgorithm.RFC6962_SHA256, firstSize: 5n, secondSize: 9n },
      firstRoot: early,
      secondRoot: late.merkleRoot,
    });
    const { proof, firstRoot, secondRoot } = answer;
    if (proof === undefined) throw new Error("No proof was returned");
    const valid = async (request: object) =>
      (await client.verifyConsistencyProof({ proof, firstRoot, secondRoot, ...request })).valid;
    expect(await valid({})).toBe(true);
    expect(await valid({ firstRoot: secondRoot, secondRoot: firstRoot })).toBe(false);
    expect(await valid({ proof: { ...proof, firstSize: 6n } })).toBe(false);
    expect(await valid({ proof: { ...proof, hashes: proof.hashes.slice(1) } })).toBe(false);
  }
});

test("trees of all sizes of a session are consistent with each other, also beyond its manifest", async () => {
  const { manifests, db } = service;
  const sessionId = await newSession(db, upTo(9));
  const { manifestId } = await newManifest(manifests, { sessionId });
  await storeChunks(db, sessionId, [9, 10, 11]);
  const roots = new Map<bigint, string>();
  for (let secondSize = 1n; secondSize <= 12n; secondSize += 1n) {
    for (let firstSize = 1n; firstSize <= secondSize; firstSize += 1n) {
      const answer = await manifests.getConsistencyProof({ manifestId, firstSize, secondSize });
      const { proof, firstRoot, secondRoot } = answer;
      if (proof === undefined) throw new Error("No proof was returned");
      expect((await manifests.verifyConsistencyProof({ proof, firstRoot, secondRoot })).valid).toBe(true);
      expect(firstRoot).toBe(roots.get(firstSize) ?? secondRoot);
      roots.set(secondSize, secondRoot);
    }
  }
  expect(new Set(roots.values()).size).toBe(12);
});

test("a chunk of a tree that was read before is proven by few others, and never by what is no longer there", async () => {
  const { manifests, db } = service;
  const size = 3 * 64 + 5;
  const sessionId = await newSession(db, upTo(size));
  const { manifestId, merkleRoot } = await newManifest(manifests, { sessionId });
  const proofOf = (index: number) => manifests.getInclusionProof({ manifestId, chunkIndex: BigInt(index) });
  for (const index of [0, 1, 63, 64, 191, 192, size - 1]) {
    expect(rootOfJson(await proofOf(index))).toBe(merkleRoot);
  }
  const chunks = db.collection("chunks");
  const setHash = (index: number, hash: string) =>
    chunks.updateOne({ session_id: sessionId, chunk_index: BigInt(index) }, { $set: { hash } });
  // What lies far away is not read: the proof is still one of the manifest's tree.
  await setHash(100, hashOf("another"));
  expect(rootOfJson(await proofOf(10))).toBe(merkleRoot);
  expect(await refusalOf(proofOf(100))).toMatchObject({ reason: "MANIFEST_ROOT_MISMATCH" });
  await setHash(100, hashOf(100));
  expect(rootOfJson(await proofOf(100))).toBe(merkleRoot);
  await chunks.deleteOne({ session_id: sessionId, chunk_index: 101n });
  expect(await refusalOf(proofOf(100))).toMatchObject({
    reason: "CHUNK_MISSING",
    metadata: { session_id: sessionId, chunk_index: "101" },
  });
});

test("what is not there is not proven", async () => {
  const { manifests, db } = service;
  const sessionId = await newSession(db, [0, 1, 2, 4, 5]);
  const { manifestId } = await newManifest(manifests, manifestInit({ sessionId, chunkCount: 6n }));
  const missing = {
    code: "FailedPrecondition",
    reason: "CHUNK_MISSING",
    metadata: { session_id: sessionId, chunk_index: "3" },
  };
  for (const chunkIndex of [0n, 3n, 5n]) {
    expect(await refusalOf(manifests.getInclusionProof({ manifestId, chunkIndex }))).toMatchObject(missing);
  }
  expect(await refusalOf(manifests.getConsistencyProof({ manifestId, firstSize: 2n }))).toMatchObject(missing);
  const before = await manifests.getConsistencyProof({ manifestId, firstSize: 2n, secondSize: 3n });
  expect(before.proof?.hashes).toEqual([
    createHash("sha256")
      .update(Buffer.of(0))
      .update(Buffer.from(hashOf(2), "hex"))
      .digest("hex"),
  ]);
  expect(await refusalOf(manifests.getInclusionProof({ manifestId, chunkIndex: 6n }))).toMatchObject({
    code: "OutOfRange",
    reason: "CHUNK_OUT_OF_RANGE",
    metadata: { manifest_id: manifestId, chunk_index: "6", chunk_count: "6" },
  });
  await storeChunks(db, sessionId, [3]);
  expect(await refusalOf(manifests.getInclusionProof({ manifestId, chunkIndex: 6n }))).toMatchObject({
    reason: "CHUNK_OUT_OF_RANGE",
  });
});

test("chunks that no longer make the manifest's root prove nothing by it", async () => {
  const { manifests, db } = service;
  const sessionId = await newSession(db, upTo(7));
  const { manifestId, merkleRoot } = await newManifest(manifests, { sessionId });
  await db
    .collection("chunks")
    .updateOne({ session_id: sessionId, chunk_index: 6n }, { $set: { hash: hashOf("another") } });
  for (const call of [
    () => manifests.getInclusionProof({ manifestId, chunkIndex: 0n }),
    () => manifests.getConsistencyProof({ manifestId, firstSize: 3n }),
    () => manifests.getConsistencyProof({ manifestId, firstSize: 7n, secondSize: 7n }),
  ]) {
    const refusal = await refusalOf(call());
    expect(refusal).toMatchObject({
      code: "FailedPrecondition",
      reason: "MANIFEST_ROOT_MISMATCH",
      metadata: { manifest_id: manifestId, merkle_root: merkleRoot },
    });
    expect(refusal.metadata?.["computed_root"]).toMatch(/^[0-9a-f]{64}$/);
  }
  // Up to the changed chunk, trees that the manifest says nothing of are still consistent.
  const { proof, firstRoot, secondRoot } = await manifests.getConsistencyProof({
    manifestId,
    firstSize: 3n,
    secondSize: 6n,
  });
  expect((await manifests.verifyConsistencyProof({ ...(proof && { proof }), firstRoot, secondRoot })).valid).toBe(true);
});

test("a proof over many windows of chunks leads to the root", async () => {
  const { manifests, db } = service;
  const sessionId = await newSession(db, upTo(5003));
  const { manifestId, merkleRoot, totalSize } = await newManifest(manifests, { sessionId });
  expect(totalSize).toBe((5003n * 5004n) / 2n);
  for (const chunkIndex of [0n, 4999n, 5002n]) {
    const answer = await manifests.getInclusionProof({ manifestId, chunkIndex });
    expect(rootOfJson(answer)).toBe(merkleRoot);
    expect(answer.proof?.hashes.length).toBeLessThanOrEqual(13);
  }
  expect((await manifests.validateManifest({ manifestId })).manifest?.validationErrors).toEqual([]);
});
