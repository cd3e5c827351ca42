import type { MessageInitShape } from "@bufbuild/protobuf";

import { type ChunkSchema, ChunkStatus } from "../../gen/lucid/repository/v1/chunk_pb.ts";
import type { Session } from "../../gen/lucid/repository/v1/session_pb.ts";
import { bad, long, megabyte, noToken, nothing, type Refusal, unknown } from "./refusals.ts";
import { chunkInit, type Sessions, someTree } from "./session-support.ts";

/** `made` is a live session that nothing is done with. */
export type SessionCall = (sessions: Sessions, made: Session) => Promise<unknown>;

export const missing = { code: "NotFound", reason: "SESSION_NOT_FOUND" };

/** A field of a new chunk that breaks its rule, by its name in proto. */
const wrongChunks: readonly [string, MessageInitShape<typeof ChunkSchema>][] = [
  ["chunk_index", { chunkIndex: -1n }],
  ["chunk_index", { chunkIndex: 2n ** 53n }],
  ["size_bytes", { sizeBytes: 0n }],
  ["size_bytes", { sizeBytes: 10_485_761n }],
  ["hash", { hash: "" }],
  ["hash", { hash: "AB".repeat(32) }],
  ["hash", { hash: megabyte }],
  ["encrypted_hash", { encryptedHash: "ab" }],
  ["status", { status: ChunkStatus.STORED }],
  ["status", { status: unknown }],
  ["storage_path", { storagePath: "x".repeat(1025) }],
  ["compression_ratio", { compressionRatio: 0 }],
  ["encryption_algorithm", { encryptionAlgorithm: "x".repeat(101) }],
  ["metadata", { metadata: { a: "x".repeat(5000) } }],
  ["metadata", { metadata: { "a\0": 1 } }],
];

async function* stream<T>(...messages: T[]) {
  yield* messages;
}

/** What the rpcs about chunks of a session, its tree and its anchor refuse. */
export const chunkRefusals: readonly Refusal<SessionCall>[] = [
  ["addChunk: nothing", (sessions) => sessions.addChunk({}), bad("session_id", "chunk")],
  [
    "addChunk: nothing there",
    (sessions) => sessions.addChunk({ sessionId: nothing, chunk: chunkInit(0) }),
    { ...missing, metadata: { session_id: nothing } },
  ],
  ...wrongChunks.flatMap(([field, init]): Refusal<SessionCall>[] => [
    [
      `addChunk: ${field} ${Object.values(init).join().slice(0, 20)}`,
      (sessions, { sessionId }) => sessions.addChunk({ sessionId, chunk: chunkInit(0, init) }),
      bad(`chunk.${field}`),
    ],
  ]),
  ["addChunks: nothing", (sessions) => sessions.addChunks(stream()), bad("session_id")],
  ["addChunks: no session", (sessions) => sessions.addChunks(stream({ chunks: [chunkInit(0)] })), bad("session_id")],
  [
    "addChunks: two sessions",
    (sessions, { sessionId }) => sessions.addChunks(stream({ sessionId }, { sessionId: nothing })),
    bad("session_id"),
  ],
  ["addChunks: nothing there", (sessions) => sessions.addChunks(stream({ sessionId: nothing })), missing],
  ["addChunks: long session", (sessions) => sessions.addChunks(stream({ sessionId: long })), bad("session_id")],
  [
    "addChunks: a wrong hash",
    (sessions, { sessionId }) =>
      sessions.addChunks(stream({ sessionId, chunks: [chunkInit(0, { hash: "x" }), chunkInit(1)] })),
    bad("chunks[0].hash"),
  ],
  [
    "addChunks: many in one message",
    (sessions, { sessionId }) =>
      sessions.addChunks(stream({ sessionId, chunks: Array.from({ length: 1001 }, (_, index) => chunkInit(index)) })),
    bad("chunks"),
  ],
  ["updateChunkStatus: nothing", (sessions) => sessions.updateChunkStatus({}), bad("chunk_id", "status")],
  [
    "updateChunkStatus: encrypted without a hash",
    (sessions) => sessions.updateChunkStatus({ chunkId: nothing, status: ChunkStatus.ENCRYPTED }),
    { code: "InvalidArgument", reason: "BAD_REQUEST" },
  ],
  [
    "updateChunkStatus: a wrong hash",
    (sessions) =>
      sessions.updateChunkStatus({ chunkId: nothing, status: ChunkStatus.STORED, encryptedHash: "A".repeat(64) }),
    bad("encrypted_hash"),
  ],
  [
    "updateChunkStatus: nothing there",
    (sessions) => sessions.updateChunkStatus({ chunkId: nothing, status: ChunkStatus.STORED }),
    { code: "NotFound", reason: "CHUNK_NOT_FOUND", metadata: { chunk_id: nothing } },
  ],
  ["listChunks: no session", (sessions) => sessions.listChunks({}), bad("session_id")],
  ["listChunks: nothing there", (sessions) => sessions.listChunks({ sessionId: nothing }), missing],
  [
    "listChunks: unknown state",
    (sessions, { sessionId }) => sessions.listChunks({ sessionId, status: unknown }),
    bad("status"),
  ],
  [
    "listChunks: made-up token",
    (sessions, { sessionId }) => sessions.listChunks({ sessionId, pageToken: "abc" }),
    noToken,
  ],
  [
    "listChunkRanges: below the first",
    (sessions, { sessionId }) => sessions.listChunkRanges({ sessionId, fromIndex: -1n }),
    bad("from_index"),
  ],
  ["listChunkRanges: nothing there", (sessions) => sessions.listChunkRanges({ sessionId: nothing }), missing],
  ["buildMerkleTree: no session", (sessions) => sessions.buildMerkleTree({}), bad("session_id")],
  ["buildMerkleTree: nothing there", (sessions) => sessions.buildMerkleTree({ sessionId: nothing }), missing],
  ["setMerkleTree: nothing", (sessions) => sessions.setMerkleTree({}), bad("session_id", "merkle_tree")],
  [
    "setMerkleTree: an empty tree",
    (sessions, { sessionId }) => sessions.setMerkleTree({ sessionId, merkleTree: {} }),
    bad("merkle_tree.root_hash", "merkle_tree.leaf_count"),
  ],
  [
    "setMerkleTree: a tall tree of an unknown kind",
    (sessions, { sessionId }) =>
      sessions.setMerkleTree({ sessionId, merkleTree: { ...someTree, treeHeight: 65, algorithm: unknown } }),
    bad("merkle_tree.tree_height", "merkle_tree.algorithm"),
  ],
  [
    "setMerkleTree: nothing there",
    (sessions) => sessions.setMerkleTree({ sessionId: nothing, merkleTree: someTree }),
    missing,
  ],
  [
    "setBlockchainAnchor: nothing",
    (sessions) => sessions.setBlockchainAnchor({}),
    bad("session_id", "blockchain_anchor"),
  ],
  [
    "setBlockchainAnchor: no root",
    (sessions, { sessionId }) =>
      sessions.setBlockchainAnchor({ sessionId, blockchainAnchor: { blockHeight: -1n, confirmationCount: -1n } }),
    bad("blockchain_anchor.block_height", "blockchain_anchor.merkle_root", "blockchain_anchor.confirmation_count"),
  ],
  [
    "setBlockchainAnchor: hashes that are none",
    (sessions, { sessionId }) =>
      sessions.setBlockchainAnchor({
        sessionId,
        blockchainAnchor: { blockId: "x", transactionHash: "AB".repeat(32), merkleRoot: someTree.rootHash },
      }),
    bad("blockchain_anchor.block_id", "blockchain_anchor.transaction_hash"),
  ],
  [
    "setBlockchainAnchor: nothing there",
    (sessions) =>
      sessions.setBlockchainAnchor({ sessionId: nothing, blockchainAnchor: { merkleRoot: someTree.rootHash } }),
    missing,
  ],
];
