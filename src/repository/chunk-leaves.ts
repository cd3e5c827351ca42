import { setImmediate as turn } from "node:timers/promises";

import type { HandlerContext } from "@connectrpc/connect";
import type { Db } from "mongodb";

import { ChunkSchema } from "../../gen/lucid/repository/v1/chunk_pb.ts";
import { fail } from "../errors.ts";
import { merkleTree } from "../proofs/merkle.ts";
import { cancellable } from "../schema/call-options.ts";
import { collectionOf } from "../schema/collection.ts";

/** What a Merkle tree and its manifest need of a chunk. */
export interface ChunkLeaf {
  /** The 32 bytes of its hash: what the leaf holds. */
  readonly hash: Uint8Array;
  readonly sizeBytes: bigint;
}

const { name: chunkCollection } = collectionOf(ChunkSchema);

interface StoredLeaf {
  readonly chunk_index: unknown;
  readonly hash: unknown;
  readonly size_bytes: unknown;
}

const leafFields = { _id: 0, chunk_index: 1, hash: 1, size_bytes: 1 };

type Context = Pick<HandlerContext, "timeoutMs" | "signal">;

/**
 * How many chunks are in memory at once. Each such window is a query of its own: a server whose planner sorts although the
 * index has the order would otherwise sort a whole session, and no cursor waits while its documents are hashed.
 */
const windowChunks = 5000;

/** After how many chunks other calls get their turn: hashing one takes 4 µs, and nothing else runs meanwhile. */
const turnChunks = 500;

/**
 * The first `count` chunks of a session in the order of their indexes. Fails with `CHUNK_MISSING`, naming the first index that
 * there is no chunk for, and with `DOCUMENT_DAMAGED` for a stored hash that is none.
 */
export async function* chunkLeaves(
  db: Db,
  { sessionId, count }: { readonly sessionId: string; readonly count: number },
  context: Context,
): AsyncGenerator<ChunkLeaf> {
  const chunks = db.collection(chunkCollection);
  let index = 0;
  while (index < count) {
    const end = Math.min(count, index + windowChunks);
    const found = await chunks
      .find({ session_id: sessionId, chunk_index: { $gte: index, $lt: end } }, cancellable(context))
      .project<StoredLeaf>(leafFields)
      .sort({ session_id: 1, chunk_index: 1 })
      .batchSize(windowChunks + 1)
      .toArray();
    for (const { chunk_index: at, hash, size_bytes: sizeBytes } of found) {
      if (Number(at) !== index) break;
      yield { hash: hashOf(hash, { sessionId, index }), sizeBytes: sizeOf(sizeBytes) };
      index += 1;
      if (index % turnChunks === 0) await turn();
    }
    if (index < end) {
      throw fail("CHUNK_MISSING", `Session ${sessionId} has no chunk ${index}`, {
        metadata: { session_id: sessionId, chunk_index: String(index) },
      });
    }
  }
}

/** The leaves of those chunks of a session that there are of some, few enough for one window, by their indexes. */
export async function chunkLeavesAt(
  db: Db,
  { sessionId, indexes }: { readonly sessionId: string; readonly indexes: readonly number[] },
  context: Context,
): Promise<ReadonlyMap<number, Uint8Array>> {
  const found = await db
    .collection(chunkCollection)
    .find({ session_id: sessionId, chunk_index: { $in: [...indexes] } }, cancellable(context))
    .project<StoredLeaf>(leafFields)
    .toArray();
  return new Map(
    found.map(({ chunk_index: at, hash }) => [Number(at), hashOf(hash, { sessionId, index: Number(at) })]),
  );
}

/** What the first chunks of a session come to. */
export interface ChunkTree {
  readonly root: Uint8Array;
  readonly totalSize: bigint;
}

/** The tree of the first `count` chunks of a session. Fails as `chunkLeaves` does. */
export async function chunkTree(
  db: Db,
  session: { readonly sessionId: string; readonly count: number },
  context: Context,
): Promise<ChunkTree> {
  const tree = merkleTree();
  let totalSize = 0n;
  for await (const { hash, sizeBytes } of chunkLeaves(db, session, context)) {
    tree.append(hash);
    totalSize += sizeBytes;
  }
  return { root: tree.root(), totalSize };
}

/** The index after a session's last chunk: how many chunks it has where none is missing. */
export async function chunkCount(db: Db, sessionId: string, context: Context): Promise<number> {
  const last = await db
    .collection(chunkCollection)
    .findOne(
      { session_id: sessionId },
      { projection: { _id: 0, chunk_index: 1 }, sort: { session_id: -1, chunk_index: -1 }, ...cancellable(context) },
    );
  return last === null ? 0 : Number(last["chunk_index"]) + 1;
}

function hashOf(stored: unknown, { sessionId, index }: { readonly sessionId: string; readonly index: number }) {
  if (typeof stored === "string" && /^[0-9a-f]{64}$/.test(stored)) return Buffer.from(stored, "hex");
  throw fail("DOCUMENT_DAMAGED", `Chunk ${index} of session ${sessionId} holds no SHA-256 hash`, {
    metadata: { field: "hash", session_id: sessionId, chunk_index: String(index) },
  });
}

/** int, long and double are all numbers of bytes. */
function sizeOf(stored: unknown): bigint {
  return typeof stored === "bigint" || Number.isSafeInteger(stored) ? BigInt(stored as bigint | number) : 0n;
}
