import { hash } from "node:crypto";

import { toJson } from "@bufbuild/protobuf";

import { type AuditRecord, AuditRecordSchema } from "../../gen/lucid/repository/v1/audit_record_pb.ts";
import {
  MerkleAlgorithm,
  type MerkleConsistencyProof,
  type MerkleInclusionMultiProof,
  type MerkleInclusionProof,
} from "../../gen/lucid/repository/v1/merkle_pb.ts";
import { leafHash, verifyConsistency, verifyInclusion } from "./merkle.ts";
import { verifyMany } from "./multi-proof.ts";

/** Whether a proof, as it is sent, leads from a leaf that holds `data` to `root`; both are hashes in hexadecimal. Never throws. */
export function isIncluded(
  proof: MerkleInclusionProof | undefined,
  { data, root }: { readonly data: string; readonly root: string },
): boolean {
  const [leaf, end, hashes] = [bytesOf(data), bytesOf(root), hashesOf(proof)];
  if (proof === undefined || leaf === undefined || end === undefined || hashes === undefined) return false;
  const path = { index: Number(proof.leafIndex), size: Number(proof.treeSize), hashes };
  return verifyInclusion(path, { leaf: leafHash(leaf), root: end });
}

/** Whether a proof, as it is sent, leads from leaves that hold `data`, in the order of its places, to `root`. Never throws. */
export function areIncluded(
  proof: MerkleInclusionMultiProof | undefined,
  { data, root }: { readonly data: readonly string[]; readonly root: string },
): boolean {
  const [leaves, end, hashes] = [allBytesOf(data), bytesOf(root), hashesOf(proof)];
  if (proof === undefined || leaves === undefined || end === undefined || hashes === undefined) return false;
  const paths = { indexes: proof.leafIndexes.map(Number), size: Number(proof.treeSize), hashes };
  return verifyMany(paths, { leaves: leaves.map(leafHash), root: end });
}

/** Whether a proof, as it is sent, shows that the tree of one root starts with the tree of another. Never throws. */
export function isGrown(
  proof: MerkleConsistencyProof | undefined,
  { first, second }: { readonly first: string; readonly second: string },
): boolean {
  const [firstRoot, secondRoot, hashes] = [bytesOf(first), bytesOf(second), hashesOf(proof)];
  if (proof === undefined || firstRoot === undefined || secondRoot === undefined || hashes === undefined) return false;
  const sizes = { firstSize: Number(proof.firstSize), secondSize: Number(proof.secondSize) };
  return verifyConsistency({ ...sizes, hashes }, { firstRoot, secondRoot });
}

/** The hash of a record of the audit log as `audit_record.proto` has everyone compute it, from all that the record says. */
export function recordHash(record: AuditRecord): string {
  const { hash: _, ...members } = toJson(AuditRecordSchema, record) as Record<string, unknown>; // a message is an object
  return hash("sha256", JSON.stringify(sorted(members)), "hex");
}

/** The same value with its names in order, as RFC 8785 has them; all else JSON.stringify writes as it asks for. */
function sorted(value: unknown): unknown {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return value;
  const entries = Object.entries(value).toSorted(([one], [other]) => (one < other ? -1 : 1));
  return Object.fromEntries(entries.map(([name, member]) => [name, sorted(member)]));
}

function hashesOf(
  proof: { readonly algorithm: MerkleAlgorithm; readonly hashes: readonly string[] } | undefined,
): Uint8Array[] | undefined {
  if (proof?.algorithm !== MerkleAlgorithm.RFC6962_SHA256) return undefined;
  return allBytesOf(proof.hashes);
}

function allBytesOf(texts: readonly string[]): Uint8Array[] | undefined {
  const all = texts.map(bytesOf).filter((one) => one !== undefined);
  return all.length === texts.length ? all : undefined;
}

function bytesOf(text: string): Uint8Array | undefined {
  return /^[0-9a-f]{64}$/.test(text) ? Buffer.from(text, "hex") : undefined;
}
