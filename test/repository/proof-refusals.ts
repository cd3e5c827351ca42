import type { Client } from "@connectrpc/connect";

import type { Manifest } from "../../gen/lucid/repository/v1/manifest_pb.ts";
import type { ManifestService } from "../../gen/lucid/repository/v1/manifest_service_pb.ts";
import { MerkleAlgorithm } from "../../gen/lucid/repository/v1/merkle_pb.ts";
import { hashOf } from "./manifest-support.ts";
import { bad, nothing, type Refusal } from "./refusals.ts";

export type Manifests = Client<typeof ManifestService>;

/** `made` is a live manifest. */
export type ManifestCall = (manifests: Manifests, made: Manifest) => Promise<unknown>;

export const missing = { code: "NotFound", reason: "MANIFEST_NOT_FOUND", metadata: { manifest_id: nothing } };

const inclusion = { algorithm: MerkleAlgorithm.RFC6962_SHA256, leafIndex: 0n, treeSize: 1n, hashes: [] as string[] };
const many = { algorithm: MerkleAlgorithm.RFC6962_SHA256, leafIndexes: [0n], treeSize: 1n, hashes: [] as string[] };
const consistency = {
  algorithm: MerkleAlgorithm.RFC6962_SHA256,
  firstSize: 1n,
  secondSize: 1n,
  hashes: [] as string[],
};
const aboutInclusion = { chunkHash: hashOf(0), merkleRoot: hashOf(1) };
const aboutConsistency = { firstRoot: hashOf(0), secondRoot: hashOf(1) };
const most = 2n ** 53n;
const tooManyIndexes = Array.from({ length: 1001 }, (_, at) => BigInt(at));
const tooManyHashes = Array.from({ length: 65 }, () => hashOf(0));

function checkInclusion(manifests: Manifests, proof: Partial<typeof inclusion>, about: object = {}) {
  return manifests.verifyInclusionProof({ proof: { ...inclusion, ...proof }, ...aboutInclusion, ...about });
}

function checkMany(manifests: Manifests, proof: Partial<typeof many>, about: object = {}) {
  return manifests.verifyInclusionMultiProof({
    proof: { ...many, ...proof },
    ...{ chunkHashes: [hashOf(0)], merkleRoot: hashOf(1) },
    ...about,
  });
}

function checkConsistency(manifests: Manifests, proof: Partial<typeof consistency>, about: object = {}) {
  return manifests.verifyConsistencyProof({ proof: { ...consistency, ...proof }, ...aboutConsistency, ...about });
}

/** What the rpcs about proofs refuse. */
export const proofRefusals: readonly Refusal<ManifestCall>[] = [
  ["getInclusionProof: no id", (manifests) => manifests.getInclusionProof({}), bad("manifest_id")],
  [
    "getInclusionProof: negative index",
    (manifests, { manifestId }) => manifests.getInclusionProof({ manifestId, chunkIndex: -1n }),
    bad("chunk_index"),
  ],
  [
    "getInclusionProof: large index",
    (manifests, { manifestId }) => manifests.getInclusionProof({ manifestId, chunkIndex: 2n ** 31n }),
    bad("chunk_index"),
  ],
  ["getInclusionProof: none", (manifests) => manifests.getInclusionProof({ manifestId: nothing }), missing],
  [
    "getInclusionMultiProof: nothing",
    (manifests) => manifests.getInclusionMultiProof({}),
    bad("manifest_id", "chunk_indexes"),
  ],
  [
    "getInclusionMultiProof: numbers that are none",
    (manifests, { manifestId }) => manifests.getInclusionMultiProof({ manifestId, chunkIndexes: [-1n, 2n ** 31n] }),
    bad("chunk_indexes[0]", "chunk_indexes[1]"),
  ],
  [
    "getInclusionMultiProof: one twice",
    (manifests, { manifestId }) => manifests.getInclusionMultiProof({ manifestId, chunkIndexes: [1n, 1n] }),
    bad("chunk_indexes"),
  ],
  [
    "getInclusionMultiProof: too many",
    (manifests, { manifestId }) => manifests.getInclusionMultiProof({ manifestId, chunkIndexes: tooManyIndexes }),
    bad("chunk_indexes"),
  ],
  [
    "getInclusionMultiProof: none",
    (manifests) => manifests.getInclusionMultiProof({ manifestId: nothing, chunkIndexes: [0n] }),
    missing,
  ],
  ["getConsistencyProof: nothing", (manifests) => manifests.getConsistencyProof({}), bad("manifest_id", "first_size")],
  [
    "getConsistencyProof: large sizes",
    (manifests, { manifestId }) =>
      manifests.getConsistencyProof({ manifestId, firstSize: 2n ** 31n, secondSize: 2n ** 31n }),
    bad("first_size", "second_size"),
  ],
  [
    "getConsistencyProof: negative size",
    (manifests, { manifestId }) => manifests.getConsistencyProof({ manifestId, firstSize: 1n, secondSize: -1n }),
    bad("second_size"),
  ],
  [
    "getConsistencyProof: sizes the other way round",
    (manifests, { manifestId }) => manifests.getConsistencyProof({ manifestId, firstSize: 3n, secondSize: 2n }),
    bad("first_size"),
  ],
  [
    "getConsistencyProof: more than the manifest's",
    (manifests, { manifestId }) => manifests.getConsistencyProof({ manifestId, firstSize: 4n }),
    bad("first_size"),
  ],
  [
    "getConsistencyProof: none",
    (manifests) => manifests.getConsistencyProof({ manifestId: nothing, firstSize: 1n }),
    missing,
  ],
  [
    "verifyInclusionProof: nothing",
    (manifests) => manifests.verifyInclusionProof({}),
    bad("proof", "chunk_hash", "merkle_root"),
  ],
  [
    "verifyInclusionProof: another tree",
    (manifests) => checkInclusion(manifests, { algorithm: MerkleAlgorithm.OTHER as never }),
    bad("proof.algorithm"),
  ],
  [
    "verifyInclusionProof: numbers that are none",
    (manifests) => checkInclusion(manifests, { leafIndex: -1n, treeSize: 0n }),
    bad("proof.leaf_index", "proof.tree_size"),
  ],
  [
    "verifyInclusionProof: large numbers",
    (manifests) => checkInclusion(manifests, { leafIndex: most, treeSize: most }),
    bad("proof.leaf_index", "proof.tree_size"),
  ],
  [
    "verifyInclusionProof: no hash",
    (manifests) => checkInclusion(manifests, { hashes: [hashOf(0), ""] }),
    bad("proof.hashes[1]"),
  ],
  [
    "verifyInclusionProof: too many hashes",
    (manifests) => checkInclusion(manifests, { hashes: tooManyHashes }),
    bad("proof.hashes"),
  ],
  [
    "verifyInclusionProof: root that is none",
    (manifests) => checkInclusion(manifests, {}, { merkleRoot: "$where" }),
    bad("merkle_root"),
  ],
  [
    "verifyInclusionMultiProof: nothing",
    (manifests) => manifests.verifyInclusionMultiProof({}),
    bad("proof", "chunk_hashes", "merkle_root"),
  ],
  [
    "verifyInclusionMultiProof: an empty proof",
    (manifests) =>
      checkMany(manifests, { algorithm: MerkleAlgorithm.UNSPECIFIED as never, leafIndexes: [], treeSize: 0n }),
    bad("proof.algorithm", "proof.leaf_indexes", "proof.tree_size"),
  ],
  [
    "verifyInclusionMultiProof: numbers that are none",
    (manifests) => checkMany(manifests, { leafIndexes: [-1n, 2n ** 31n], treeSize: 2n ** 31n }),
    bad("proof.leaf_indexes[0]", "proof.leaf_indexes[1]", "proof.tree_size"),
  ],
  [
    "verifyInclusionMultiProof: too many leaves",
    (manifests) =>
      checkMany(manifests, { leafIndexes: tooManyIndexes }, { chunkHashes: tooManyIndexes.map(() => hashOf(0)) }),
    bad("proof.leaf_indexes", "chunk_hashes"),
  ],
  [
    "verifyInclusionMultiProof: too many hashes",
    (manifests) => checkMany(manifests, { hashes: Array.from({ length: 22_001 }, () => hashOf(0)) }),
    bad("proof.hashes"),
  ],
  [
    "verifyInclusionMultiProof: no hashes",
    (manifests) => checkMany(manifests, { hashes: [""] }, { chunkHashes: ["$where"], merkleRoot: "" }),
    bad("proof.hashes[0]", "chunk_hashes[0]", "merkle_root"),
  ],
  [
    "verifyConsistencyProof: nothing",
    (manifests) => manifests.verifyConsistencyProof({}),
    bad("proof", "first_root", "second_root"),
  ],
  [
    "verifyConsistencyProof: no algorithm",
    (manifests) => checkConsistency(manifests, { algorithm: MerkleAlgorithm.UNSPECIFIED as never }),
    bad("proof.algorithm"),
  ],
  [
    "verifyConsistencyProof: no sizes",
    (manifests) => checkConsistency(manifests, { firstSize: 0n, secondSize: 0n }),
    bad("proof.first_size", "proof.second_size"),
  ],
  [
    "verifyConsistencyProof: large sizes",
    (manifests) => checkConsistency(manifests, { firstSize: most, secondSize: most }),
    bad("proof.first_size", "proof.second_size"),
  ],
  [
    "verifyConsistencyProof: no hash",
    (manifests) => checkConsistency(manifests, { hashes: [hashOf(0).toUpperCase()] }),
    bad("proof.hashes[0]"),
  ],
  [
    "verifyConsistencyProof: too many hashes",
    (manifests) => checkConsistency(manifests, { hashes: tooManyHashes }),
    bad("proof.hashes"),
  ],
];
