import { create } from "@bufbuild/protobuf";
import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";
import type { Document } from "bson";
import type { Db } from "mongodb";

import { MerkleAlgorithm } from "../../gen/lucid/repository/v1/merkle_pb.ts";
import {
  BlockchainAnchorSchema,
  type Session,
  SessionMerkleTreeSchema,
  SessionSchema,
  SessionStatus,
  SessionStatusSchema,
} from "../../gen/lucid/repository/v1/session_pb.ts";
import * as rpc from "../../gen/lucid/repository/v1/session_service_pb.ts";
import { fail, isReason } from "../errors.ts";
import { hex, treeHeight } from "../proofs/merkle.ts";
import { hasItems } from "../schema/bson-reader.ts";
import { codecFor } from "../schema/codec.ts";
import { documentResponse } from "../schema/document-response.ts";
import { type Entity } from "../schema/entity.ts";
import { literal, matching } from "../schema/expressions.ts";
import { onlyWritable } from "../schema/field-mask.ts";
import { badRequest } from "../schema/refusals.ts";
import { storedName } from "../schema/stored-field.ts";
import { announcedKey, type ChunkCounters } from "./chunk-counters.ts";
import { chunkCount, chunkTree } from "./chunk-leaves.ts";
import { sessionStates } from "./session-states.ts";

const codec = codecFor(SessionSchema);
const treeCodec = codecFor(SessionMerkleTreeSchema);
const anchorCodec = codecFor(BlockchainAnchorSchema);

const built = documentResponse(rpc.BuildMerkleTreeResponseSchema, "session");
const set = documentResponse(rpc.SetMerkleTreeResponseSchema, "session");
const anchored = documentResponse(rpc.SetBlockchainAnchorResponseSchema, "session");

type AnchorRpcs = Pick<
  ServiceImpl<typeof rpc.SessionService>,
  "buildMerkleTree" | "setMerkleTree" | "setBlockchainAnchor"
>;

const building = sessionStates.name(SessionStatus.MERKLE_BUILDING);

/** What SessionService does with the tree of a session, and with its place on the chain. */
export function anchorRpcs({
  db,
  sessions,
  counters,
}: {
  readonly db: Db;
  readonly sessions: Entity;
  readonly counters: ChunkCounters;
}): AnchorRpcs {
  /** A session whose chunks do not change any more: none are added in this state, and nobody is at it still. */
  const readyForTree = async (sessionId: string, context: HandlerContext): Promise<Session> => {
    const about = { session_id: sessionId };
    const found = await sessions.get(sessions.live(sessionId), context, about);
    const session = codec.decode(found);
    if (session.status !== SessionStatus.MERKLE_BUILDING) throw wrongStatus(session);
    const [counted = found] = await counters.upToDate([found], context);
    // An announcement that was given up has been taken back by now.
    if (hasItems(counted, announcedKey)) {
      throw fail("SESSION_BUSY", `Chunks of session ${sessionId} are being written`, {
        metadata: about,
        retryAfterMs: 1000,
      });
    }
    return codec.decode(counted);
  };

  const storeTree = async (
    { sessionId }: Session,
    tree: Document,
    { etag, now }: { readonly etag: string; readonly now: Date },
    context: HandlerContext,
  ) => {
    const filter = { deleted_at: null, status: building, ...matching(etag) };
    const stages = [{ $set: { merkle_tree: literal({ ...tree, built_at: now }) } }];
    const found = await sessions.change(sessionId, { stages, filter, now }, context);
    if (found !== null) return counters.upToDate([found], context);
    const there = codec.decode(await sessions.get(sessions.live(sessionId), context, { session_id: sessionId }));
    throw there.status === SessionStatus.MERKLE_BUILDING
      ? await sessions.whyNot(sessionId, context)
      : wrongStatus(there);
  };

  return {
    async buildMerkleTree({ sessionId, etag }, context) {
      const now = new Date();
      const session = await readyForTree(sessionId, context);
      // At least one, so that a session without chunks is refused for the first of them.
      const count = Math.max(1, await chunkCount(db, sessionId, context));
      const { root } = await chunkTree(db, { sessionId, count }, context);
      const tree = treeCodec.encode(
        create(SessionMerkleTreeSchema, {
          rootHash: hex(root),
          treeHeight: treeHeight(count),
          leafCount: BigInt(count),
          algorithm: MerkleAlgorithm.RFC6962_SHA256,
          checked: true,
        }),
      );
      return built(await storeTree(session, tree, { etag, now }, context));
    },

    async setMerkleTree({ sessionId, merkleTree: sent, etag }, context) {
      if (sent === undefined) throw badRequest({ field: "merkle_tree", description: "must be set" });
      const now = new Date();
      const session = await readyForTree(sessionId, context);
      const tree = onlyWritable(SessionMerkleTreeSchema, sent);
      if (tree.algorithm === MerkleAlgorithm.UNSPECIFIED) tree.algorithm = MerkleAlgorithm.RFC6962_SHA256;
      const count = Number(tree.leafCount);
      const there = await chunkCount(db, sessionId, context);
      if (there > count) throw mismatch(session, `has a chunk ${there - 1}, beyond the ${count} leaves of the tree`);
      if (tree.algorithm === MerkleAlgorithm.RFC6962_SHA256) {
        tree.treeHeight = treeHeight(count);
        if (there === count && session.totalChunks === tree.leafCount) {
          const root = hex((await chunkTree(db, { sessionId, count }, context)).root);
          if (root !== tree.rootHash) throw mismatch(session, `has chunks that make another root`);
          tree.checked = true;
        }
      }
      return set(await storeTree(session, treeCodec.encode(tree, "merkle_tree"), { etag, now }, context));
    },

    async setBlockchainAnchor({ sessionId, blockchainAnchor: sent, etag }, context) {
      if (sent === undefined) throw badRequest({ field: "blockchain_anchor", description: "must be set" });
      const now = new Date();
      const anchor = { anchored_at: now, ...anchorCodec.encode(sent, "blockchain_anchor") };
      const root = sent.merkleRoot;
      const step = {
        machine: sessionStates,
        to: SessionStatus.COMPLETED,
        set: { blockchain_anchor: literal(anchor) },
        filter: { "merkle_tree.root_hash": root },
        etag,
        now,
      };
      let found: Uint8Array | null;
      try {
        found = await sessions.step(sessionId, step, context);
      } catch (error) {
        if (!isReason(error, "ILLEGAL_TRANSITION")) throw error;
        found = await confirm(sessionId, anchor, { etag, now }, context);
        if (found === null) throw error;
      }
      if (found === null) throw mismatch({ sessionId }, `has no tree with the root ${root}`);
      return anchored(await counters.upToDate([found], context));
    },
  };

  /** Raises what confirms the anchor of a session that was completed with it; null where it was not. */
  async function confirm(
    sessionId: string,
    anchor: Document,
    { etag, now }: { readonly etag: string; readonly now: Date },
    context: HandlerContext,
  ) {
    const same = ["merkle_root", "block_id", "block_height", "transaction_hash"].map((name) => [
      `blockchain_anchor.${name}`,
      (anchor[name] as unknown) ?? null,
    ]);
    const filter = {
      deleted_at: null,
      status: sessionStates.name(SessionStatus.COMPLETED),
      ...matching(etag),
      ...(Object.fromEntries(same) as Document),
    };
    const raised = {
      "blockchain_anchor.confirmation_count": {
        $max: ["$blockchain_anchor.confirmation_count", anchor["confirmation_count"]],
      },
      "blockchain_anchor.verified": { $or: ["$blockchain_anchor.verified", anchor["verified"]] },
    };
    return sessions.change(sessionId, { stages: [{ $set: raised }], filter, now }, context);
  }
}

function wrongStatus({ sessionId, status }: Session) {
  const name = String(storedName(SessionStatusSchema, status));
  return fail("SESSION_WRONG_STATUS", `Session ${sessionId} is in state ${name}, not ${building}`, {
    metadata: { session_id: sessionId, status: name, needed: building },
  });
}

function mismatch({ sessionId }: Pick<Session, "sessionId">, what: string) {
  return fail("MERKLE_TREE_MISMATCH", `Session ${sessionId} ${what}`, { metadata: { session_id: sessionId } });
}
