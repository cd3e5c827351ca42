import type {
  GetAuditConsistencyProofResponse,
  GetAuditInclusionProofResponse,
} from "../../gen/lucid/repository/v1/audit_log_service_pb.ts";
import type {
  GetConsistencyProofResponse,
  GetInclusionMultiProofResponse,
  GetInclusionProofResponse,
} from "../../gen/lucid/repository/v1/manifest_service_pb.ts";
import { areIncluded, isGrown, isIncluded, recordHash } from "../proofs/checks.ts";
import type { TreeHead } from "./heads.ts";

/*
 * What is wrong with an answer that comes with a proof, by the answer alone and what its reader trusts already; undefined where
 * nothing is. Each looks at all that the answer says: a proof that holds may be one of something else than was asked for.
 */

/** Of the proof that a chunk is one of a manifest's. */
export function faultOfChunk(
  { proof, chunkHash, merkleRoot }: GetInclusionProofResponse,
  trusted: {
    readonly index?: bigint | undefined;
    readonly hash?: string | undefined;
    readonly head?: TreeHead | undefined;
  },
): string | undefined {
  const head = { treeSize: proof?.treeSize ?? 0n, rootHash: merkleRoot };
  if (isOther(head, trusted.head)) return "It leads to another tree than the one given";
  if (trusted.hash !== undefined && trusted.hash !== chunkHash) return "It is of a chunk with another hash";
  if (trusted.index !== undefined && trusted.index !== proof?.leafIndex) return "It is of a chunk in another place";
  return isIncluded(proof, { data: chunkHash, root: merkleRoot }) ? undefined : "It does not lead to the root";
}

/** Of the proof that several chunks are among those of a manifest. */
export function faultOfChunks(
  { proof, chunkHashes, merkleRoot }: GetInclusionMultiProofResponse,
  trusted: { readonly indexes?: readonly bigint[] | undefined; readonly head?: TreeHead | undefined },
): string | undefined {
  const head = { treeSize: proof?.treeSize ?? 0n, rootHash: merkleRoot };
  if (isOther(head, trusted.head)) return "It leads to another tree than the one given";
  const asked = new Set(trusted.indexes);
  const isOfThese = asked.size === proof?.leafIndexes.length && proof.leafIndexes.every((index) => asked.has(index));
  if (trusted.indexes !== undefined && !isOfThese) return "It is of chunks in other places";
  return areIncluded(proof, { data: chunkHashes, root: merkleRoot }) ? undefined : "It does not lead to the root";
}

/** Of the proof that the tree of a manifest's chunks starts with a smaller one. */
export function faultOfGrowth(
  { proof, firstRoot, secondRoot }: GetConsistencyProofResponse,
  trusted: { readonly first?: AskedHead | undefined; readonly head?: TreeHead | undefined },
): string | undefined {
  const first = { treeSize: proof?.firstSize ?? 0n, rootHash: firstRoot };
  const second = { treeSize: proof?.secondSize ?? 0n, rootHash: secondRoot };
  if (isOther(first, trusted.first)) return "The smaller tree is another than the one given";
  if (isOther(second, trusted.head)) return "The larger tree is another than the one given";
  return isGrown(proof, { first: firstRoot, second: secondRoot }) ? undefined : "It does not lead to both roots";
}

/** Of the proof that a record is in the audit log. */
export function faultOfRecord(
  { record, proof, treeHead }: GetAuditInclusionProofResponse,
  trusted: { readonly auditId?: string | undefined; readonly head?: TreeHead | undefined },
): string | undefined {
  if (record === undefined || treeHead === undefined) return "It has no record, or no head";
  if (trusted.auditId !== undefined && trusted.auditId !== record.auditId) return "It is of another record";
  if (isOther(treeHead, trusted.head)) return "It leads to another tree than the one given";
  if (recordHash(record) !== record.hash) return "The record is not what its hash was made of";
  if (proof?.leafIndex !== record.sequence - 1n) return "It is of a record in another place";
  if (proof.treeSize !== treeHead.treeSize) return "It is of a tree of another size";
  return isIncluded(proof, { data: record.hash, root: treeHead.rootHash }) ? undefined : "It does not lead to the root";
}

/** Of the proof that the audit log has only grown. */
export function faultOfLog(
  { proof, first, second }: GetAuditConsistencyProofResponse,
  trusted: { readonly first?: TreeHead | undefined; readonly head?: TreeHead | undefined },
): string | undefined {
  if (first === undefined || second === undefined) return "It has no heads";
  if (isOther(first, trusted.first)) return "The log does not start with the records that it had";
  if (isOther(second, trusted.head)) return "It leads to another tree than the one given";
  const isOfThese = proof?.firstSize === first.treeSize && proof.secondSize === second.treeSize;
  if (!isOfThese) return "It is of a tree of another size";
  const roots = { first: first.rootHash, second: second.rootHash };
  return isGrown(proof, roots) ? undefined : "It does not lead to both roots";
}

/** A tree that was asked for by its size, and perhaps by a root that was kept. */
export interface AskedHead {
  readonly treeSize: bigint;
  readonly rootHash: string | undefined;
}

/** Both count: from a root alone nobody sees how many leaves are below it, so that a place could be told as another one. */
function isOther(told: TreeHead, trusted: AskedHead | undefined): boolean {
  if (trusted === undefined) return false;
  return told.treeSize !== trusted.treeSize || (trusted.rootHash !== undefined && told.rootHash !== trusted.rootHash);
}
