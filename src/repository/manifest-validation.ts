import type { HandlerContext } from "@connectrpc/connect";
import type { Db } from "mongodb";

import type { Manifest } from "../../gen/lucid/repository/v1/manifest_pb.ts";
import { MerkleAlgorithm, MerkleAlgorithmSchema } from "../../gen/lucid/repository/v1/merkle_pb.ts";
import { fail, reasonOf } from "../errors.ts";
import { hex } from "../proofs/merkle.ts";
import { storedName } from "../schema/stored-field.ts";
import { chunkCount, type ChunkTree, chunkTree } from "./chunk-leaves.ts";

/** Fails with `MERKLE_ALGORITHM_NOT_SUPPORTED` where a manifest's tree is one that the service cannot make. */
export function needKnownTree({ manifestId, merkleAlgorithm }: Manifest): void {
  if (merkleAlgorithm === MerkleAlgorithm.RFC6962_SHA256) return;
  const algorithm = String(storedName(MerkleAlgorithmSchema, merkleAlgorithm));
  throw fail("MERKLE_ALGORITHM_NOT_SUPPORTED", `The tree of manifest ${manifestId} is not made by RFC6962_SHA256`, {
    metadata: { manifest_id: manifestId, merkle_algorithm: algorithm },
  });
}

/** What a manifest says otherwise than the chunks of its session do; empty where they agree. */
export async function differences(db: Db, manifest: Manifest, context: HandlerContext): Promise<string[]> {
  const { sessionId, merkleRoot, totalSize } = manifest;
  const count = Number(manifest.chunkCount);
  const there = await chunkCount(db, sessionId, context);
  const found = there > count ? [`The session has a chunk ${there - 1}, beyond the ${count} of the manifest`] : [];
  const tree = await treeOrProblem(db, { sessionId, count }, context);
  if (typeof tree === "string") return [...found, tree];
  const root = hex(tree.root);
  if (tree.totalSize !== totalSize)
    found.push(`The chunks have ${tree.totalSize} bytes, the manifest says ${totalSize}`);
  if (root !== merkleRoot) found.push(`The chunks make the root ${root}, the manifest says ${merkleRoot}`);
  return found;
}

/** Chunks that make no tree are a finding, and not a failure of the call. */
async function treeOrProblem(
  db: Db,
  session: { readonly sessionId: string; readonly count: number },
  context: HandlerContext,
): Promise<ChunkTree | string> {
  try {
    return await chunkTree(db, session, context);
  } catch (error) {
    const { reason, metadata } = reasonOf(error) ?? {};
    if (reason === "CHUNK_MISSING") return `Chunk ${metadata?.["chunk_index"]} is missing`;
    if (reason === "DOCUMENT_DAMAGED") return `Chunk ${metadata?.["chunk_index"]} holds no SHA-256 hash`;
    throw error;
  }
}
