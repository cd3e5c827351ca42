import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";
import type { Db } from "mongodb";

import type { Manifest } from "../../gen/lucid/repository/v1/manifest_pb.ts";
import type { ManifestService } from "../../gen/lucid/repository/v1/manifest_service_pb.ts";
import { MerkleAlgorithm } from "../../gen/lucid/repository/v1/merkle_pb.ts";
import { fail } from "../errors.ts";
import { areIncluded, isGrown, isIncluded } from "../proofs/checks.ts";
import { hex, proveConsistency, proveInclusion } from "../proofs/merkle.ts";
import { proveMany } from "../proofs/multi-proof.ts";
import { badRequest } from "../schema/refusals.ts";
import { chunkLeaves, chunkLeavesAt } from "./chunk-leaves.ts";
import { keptTrees, type LeavesAt } from "./kept-trees.ts";
import { needKnownTree } from "./manifest-validation.ts";

const algorithm = MerkleAlgorithm.RFC6962_SHA256;

/** Bytes of trees that are kept: those of some 16 million chunks. */
const keptBytes = 8 * 2 ** 20;

type Proofs = Pick<
  ServiceImpl<typeof ManifestService>,
  | "getInclusionProof"
  | "getInclusionMultiProof"
  | "getConsistencyProof"
  | "verifyInclusionProof"
  | "verifyInclusionMultiProof"
  | "verifyConsistencyProof"
>;

/** Makes proofs from the chunks of a manifest's session, and checks proofs of anybody. */
export function manifestProofs(
  db: Db,
  manifestOf: (manifestId: string, context: HandlerContext) => Promise<Manifest>,
): Proofs {
  const trees = keptTrees(keptBytes);

  async function* hashesOf(
    sessionId: string,
    count: number,
    context: HandlerContext,
    seen: (hash: Uint8Array) => void = () => {},
  ): AsyncGenerator<Uint8Array> {
    for await (const { hash } of chunkLeaves(db, { sessionId, count }, context)) {
      seen(hash);
      yield hash;
    }
  }

  /** Makes a proof of all chunks of the session. */
  const proveByAll = async <P extends { readonly root: Uint8Array }>(
    manifest: Manifest,
    prove: (hashes: AsyncIterable<Uint8Array>) => Promise<P>,
    context: HandlerContext,
  ): Promise<P> => {
    const size = Number(manifest.chunkCount);
    const tree = trees.grow(size);
    const proven = await prove(hashesOf(manifest.sessionId, size, context, (hash) => tree.add(hash)));
    needSameRoot(manifest, hex(proven.root));
    tree.keep(proven.root);
    return proven;
  };

  /** The manifest that proves chunks with those indexes, its tree, and how some of the leaves are read. */
  const treeOf = async (manifestId: string, chunkIndexes: readonly bigint[], context: HandlerContext) => {
    const manifest = await manifestOf(manifestId, context);
    needKnownTree(manifest);
    const { sessionId, chunkCount, merkleRoot } = manifest;
    const beyond = chunkIndexes.find((index) => index >= chunkCount);
    if (beyond !== undefined) throw outOfRange(manifest, beyond);
    const tree = { root: bytes(merkleRoot), size: Number(chunkCount) };
    const leavesAt: LeavesAt = (indexes) => chunkLeavesAt(db, { sessionId, indexes }, context);
    return { manifest, tree, leavesAt };
  };

  return {
    async getInclusionProof({ manifestId, chunkIndex }, context) {
      const { manifest, tree, leavesAt } = await treeOf(manifestId, [chunkIndex], context);
      const place = { ...tree, index: Number(chunkIndex) };
      const { proof, leaf } =
        (await trees.prove(place, leavesAt)) ??
        (await proveByAll(manifest, (hashes) => proveInclusion(hashes, place), context));
      return {
        proof: { algorithm, leafIndex: chunkIndex, treeSize: manifest.chunkCount, hashes: proof.hashes.map(hex) },
        chunkHash: hex(leaf),
        merkleRoot: manifest.merkleRoot,
      };
    },

    async getInclusionMultiProof({ manifestId, chunkIndexes }, context) {
      const { manifest, tree, leavesAt } = await treeOf(manifestId, chunkIndexes, context);
      const place = { ...tree, indexes: chunkIndexes.map(Number).toSorted((one, other) => one - other) };
      const { proof, leaves } =
        (await trees.proveMany(place, leavesAt)) ??
        (await proveByAll(manifest, (hashes) => proveMany(hashes, place), context));
      const [leafIndexes, hashes] = [proof.indexes.map(BigInt), proof.hashes.map(hex)];
      return {
        proof: { algorithm, leafIndexes, treeSize: manifest.chunkCount, hashes },
        chunkHashes: leaves.map(hex),
        merkleRoot: manifest.merkleRoot,
      };
    },

    async getConsistencyProof({ manifestId, firstSize, secondSize: sent }, context) {
      const manifest = await manifestOf(manifestId, context);
      needKnownTree(manifest);
      const { sessionId, chunkCount } = manifest;
      const secondSize = sent === 0n ? chunkCount : sent;
      if (firstSize > secondSize)
        throw badRequest({ field: "first_size", description: `must be at most ${secondSize}` });
      const sizes = { firstSize: Number(firstSize), secondSize: Number(secondSize) };
      const made = await proveConsistency(hashesOf(sessionId, sizes.secondSize, context), sizes);
      const [firstRoot, secondRoot] = [hex(made.firstRoot), hex(made.secondRoot)];
      if (firstSize === chunkCount) needSameRoot(manifest, firstRoot);
      if (secondSize === chunkCount) needSameRoot(manifest, secondRoot);
      return { proof: { algorithm, firstSize, secondSize, hashes: made.proof.hashes.map(hex) }, firstRoot, secondRoot };
    },

    verifyInclusionProof({ proof, chunkHash, merkleRoot }) {
      return { valid: isIncluded(proof, { data: chunkHash, root: merkleRoot }) };
    },

    verifyInclusionMultiProof({ proof, chunkHashes, merkleRoot }) {
      return { valid: areIncluded(proof, { data: chunkHashes, root: merkleRoot }) };
    },

    verifyConsistencyProof({ proof, firstRoot, secondRoot }) {
      return { valid: isGrown(proof, { first: firstRoot, second: secondRoot }) };
    },
  };
}

function outOfRange({ manifestId, chunkCount }: Manifest, chunkIndex: bigint) {
  return fail("CHUNK_OUT_OF_RANGE", `The manifest ${manifestId} has no chunk ${chunkIndex}`, {
    metadata: { manifest_id: manifestId, chunk_index: String(chunkIndex), chunk_count: String(chunkCount) },
  });
}

/** A proof that leads to another root than the manifest's would be of no use to who trusts the manifest. */
function needSameRoot({ manifestId, merkleRoot }: Manifest, computed: string): void {
  if (computed === merkleRoot) return;
  throw fail("MANIFEST_ROOT_MISMATCH", `The chunks do not make the root of manifest ${manifestId}`, {
    metadata: { manifest_id: manifestId, merkle_root: merkleRoot, computed_root: computed },
  });
}

function bytes(text: string): Uint8Array {
  return Buffer.from(text, "hex");
}
