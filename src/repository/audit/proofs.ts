import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";

import {
  type AuditLogService,
  GetAuditInclusionProofResponseSchema,
} from "../../../gen/lucid/repository/v1/audit_log_service_pb.ts";
import { MerkleAlgorithm } from "../../../gen/lucid/repository/v1/merkle_pb.ts";
import { fail } from "../../errors.ts";
import { hex } from "../../proofs/merkle.ts";
import { documentResponse } from "../../schema/document-response.ts";
import { badRequest } from "../../schema/refusals.ts";
import type { AuditLog } from "./log.ts";
import type { LoggedRecord } from "./record.ts";
import type { AuditRelay } from "./relay.ts";
import { isAsWritten, recordOf } from "./verify.ts";

const algorithm = MerkleAlgorithm.RFC6962_SHA256;
const proven = documentResponse(GetAuditInclusionProofResponseSchema, "record");

type Proofs = Pick<
  ServiceImpl<typeof AuditLogService>,
  "getAuditTreeHead" | "getAuditInclusionProof" | "getAuditConsistencyProof"
>;

/** Shows the Merkle tree over the log, and proves by it. */
export function auditProofs({
  log,
  relay,
  find,
}: {
  readonly log: Pick<AuditLog, "head" | "tree">;
  readonly relay: Pick<AuditRelay, "settled">;
  /** The record with an id; fails where there is none. */
  readonly find: (auditId: string, context: HandlerContext) => Promise<Uint8Array>;
}): Proofs {
  const { tree } = log;

  /** Records of the tree that is asked for; 0 asks for all. */
  const sizeOf = async (asked: bigint): Promise<bigint> => {
    const { sequence } = await log.head();
    if (asked > sequence) throw outOfRange(asked, sequence);
    return asked === 0n ? sequence : asked;
  };

  return {
    async getAuditTreeHead({ treeSize }, { signal }) {
      await relay.settled();
      const size = await sizeOf(treeSize);
      return { treeHead: headOf(size, await tree.root(Number(size), signal)) };
    },

    async getAuditInclusionProof({ auditId, treeSize }, context) {
      await relay.settled();
      const found = await find(auditId, context);
      const size = await sizeOf(treeSize);
      const { sequence, hash } = recordOf(found) as LoggedRecord;
      if (!isAsWritten(found) || sequence < 1n) throw altered(auditId);
      if (sequence > size) throw outOfRange(sequence, size);
      const place = { index: Number(sequence) - 1, size: Number(size), recordHash: hash };
      const { proof, root } = await tree.proveInclusion(place, context.signal);
      return proven([found], {
        proof: { algorithm, leafIndex: BigInt(proof.index), treeSize: size, hashes: proof.hashes.map(hex) },
        treeHead: headOf(size, root),
      });
    },

    async getAuditConsistencyProof({ firstSize, secondSize: asked }, { signal }) {
      if (asked !== 0n && firstSize > asked) {
        throw badRequest({ field: "first_size", description: "must be at most second_size" });
      }
      await relay.settled();
      const secondSize = await sizeOf(asked);
      if (firstSize > secondSize) throw outOfRange(firstSize, secondSize);
      const sizes = { firstSize: Number(firstSize), secondSize: Number(secondSize) };
      const { proof, firstRoot, secondRoot } = await tree.proveConsistency(sizes, signal);
      return {
        proof: { algorithm, firstSize, secondSize, hashes: proof.hashes.map(hex) },
        first: headOf(firstSize, firstRoot),
        second: headOf(secondSize, secondRoot),
      };
    },
  };
}

function headOf(treeSize: bigint, root: Uint8Array) {
  return { algorithm, treeSize, rootHash: hex(root) };
}

function outOfRange(asked: bigint, size: bigint) {
  return fail("AUDIT_TREE_OUT_OF_RANGE", `There are ${size} audit records, and ${asked} were asked for`, {
    metadata: { asked: String(asked), tree_size: String(size) },
  });
}

function altered(auditId: string) {
  return fail("AUDIT_TREE_DAMAGED", `The audit record ${auditId} is not as it was written`, {
    metadata: { audit_id: auditId },
  });
}
