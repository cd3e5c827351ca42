import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";
import type { Db } from "mongodb";

import type { Manifest } from "../../gen/lucid/repository/v1/manifest_pb.ts";
import type { ManifestService } from "../../gen/lucid/repository/v1/manifest_service_pb.ts";
import { MerkleAlgorithm } from "../../gen/lucid/repository/v1/merkle_pb.ts";
import { fail } from "../errors.ts";
import { isGrown, isIncluded } from "../proofs/checks.ts";
import { hex, proveConsistency, proveInclusion } from "../proofs/merkle.ts";
import { badRequest } from "../schema/refusals.ts";
import { chunkLeaves, chunkLeavesAt } from "./chunk-leaves.ts";
import { keptTrees, type Place, type ProvenLeaf } from "./kept-trees.ts";
import { needKnownTree } from "./manifest-validation.ts";

const algorithm = MerkleAlgorithm.RFC6962_SHA256;

/** Bytes of trees that are kept: those of some 16 million chunks. */
const keptBytes = 8 * 2 ** 20;

type Proofs = Pick<
  ServiceImpl<typeof ManifestService>,
  "getInclusionProof" | "getConsistencyProof" | "verifyInclusionProof" | "verifyConsistencyProof"
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

  /** Proves a chunk by all chunks of the session. */
  const proveByAll = async (
    manifest: Manifest,
    { index, size }: Place,
    context: HandlerContext,
  ): Promise<ProvenLeaf> => {
    const tree = trees.grow(size);
    const hashes = hashesOf(manifest.sessionId, size, context, (hash) => tree.add(hash));
    const { proof, leaf, root } = await proveInclusion(hashes, { index, size });
    needSameRoot(manifest, hex(root));
    tree.keep(root);
    return { proof, leaf };
  };

  return {
    async getInclusionProof({ manifestId, chunkIndex }, context) {
      const manifest = await manifestOf(manifestId, context);
      needKnownTree(manifest);
      const { sessionId, chunkCount, merkleRoot } = manifest;
      if (chunkIndex >= chunkCount) throw outOfRange(manifest, chunkIndex);
      const place = { root: bytes(merkleRoot), index: Number(chunkIndex), size: Number(chunkCount) };
      const leavesAt = (indexes: readonly number[]) => chunkLeavesAt(db, { sessionId, indexes }, context);
      const { proof, leaf } = (await trees.prove(place, leavesAt)) ?? (await proveByAll(manifest, place, context));
      return {
        proof: { algorithm, leafIndex: chunkIndex, treeSize: chunkCount, hashes: proof.hashes.map(hex) },
        chunkHash: hex(leaf),
        merkleRoot,
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
