import { ConnectError, type ServiceImpl } from "@connectrpc/connect";
import { deserialize, type Document, ObjectId, serialize } from "bson";
import type { Db } from "mongodb";

import { ChunkStatusSchema } from "../../gen/lucid/repository/v1/chunk_pb.ts";
import * as rpc from "../../gen/lucid/repository/v1/session_service_pb.ts";
import { fail } from "../errors.ts";
import { cancellable } from "../schema/call-options.ts";
import { documentResponse } from "../schema/document-response.ts";
import { type Entity } from "../schema/entity.ts";
import { literal } from "../schema/expressions.ts";
import { pageSizeOf, queryOf } from "../schema/list-query.ts";
import type { PageTokens } from "../schema/page-tokens.ts";
import { readPage } from "../schema/page.ts";
import { badRequest } from "../schema/refusals.ts";
import { storedName } from "../schema/stored-field.ts";
import { changeBy, type ChunkCounters } from "./chunk-counters.ts";
import { chunkStates, chunkStepTimes, type StoredChunk } from "./chunk-document.ts";
import { chunkRanges } from "./chunk-ranges.ts";
import { chunkStore } from "./chunk-store.ts";
import { upload } from "./chunk-upload.ts";

const added = documentResponse(rpc.AddChunkResponseSchema, "chunk");
const stepped = documentResponse(rpc.UpdateChunkStatusResponseSchema, "chunk");
const listed = documentResponse(rpc.ListChunksResponseSchema, "chunks");

type ChunkRpcs = Pick<
  ServiceImpl<typeof rpc.SessionService>,
  "addChunk" | "addChunks" | "updateChunkStatus" | "listChunks" | "listChunkRanges"
>;

type Context = Parameters<Entity["step"]>[2];

/** Where a chunk holds the mark of the last step. */
const stepKey = "_step";

/** How often a step is tried while others change the chunk. */
const mostTries = 10;

/** What SessionService does with chunks. */
export function chunkRpcs({
  db,
  sessions,
  chunks,
  counters,
  ready,
  pageTokens,
}: {
  readonly db: Db;
  readonly sessions: Entity;
  readonly chunks: Entity;
  readonly counters: ChunkCounters;
  readonly ready: () => Promise<void>;
  readonly pageTokens: () => Promise<PageTokens>;
}): ChunkRpcs {
  const { collection } = chunks;
  const store = chunkStore({ chunks: collection, counters });
  const liveSession = async (sessionId: string, context: Context) =>
    sessions.get(sessions.live(sessionId), context, { session_id: sessionId });

  return {
    async addChunk({ sessionId, chunk }, context) {
      if (chunk === undefined) throw badRequest({ field: "chunk", description: "must be set" });
      await ready();
      const [outcome] = await store.add(sessionId, [chunk], context);
      if (outcome?.kind === "added") return added([serialize(outcome.document)]);
      // What is there already was compared without a look at the session.
      await liveSession(sessionId, context);
      if (outcome?.kind === "refused") throw outcome.error;
      const key = { session_id: sessionId, chunk_index: chunk.chunkIndex };
      const about = { session_id: sessionId, chunk_index: String(chunk.chunkIndex) };
      return added([await chunks.get(key, context, about)], { alreadyPresent: true });
    },

    async addChunks(requests, context) {
      await ready();
      return upload(requests, { store, begin: (sessionId) => liveSession(sessionId, context) }, context);
    },

    async updateChunkStatus({ chunkId, status, etag, ...request }, context) {
      const now = new Date();
      const mark = new ObjectId();
      const set = { ...chunkStepTimes(status, now), ...setBy(request), [stepKey]: mark };
      const step = { machine: chunkStates, to: status, set, etag, now };
      const read = async (brief: Context) => chunks.get(chunks.live(chunkId), brief, { chunk_id: chunkId });
      let before = parsed(await read(context));
      const write = async (brief: Context) => {
        for (let attempt = 1; attempt <= mostTries; attempt++) {
          // From this very revision, so that what the step changes in the counters is known; beside that of an etag.
          const filter = { $and: [{ revision: before["revision"] }] };
          const found = await refusable(chunks.step(chunkId, { ...step, filter }, brief));
          const after = found instanceof Uint8Array ? found : await read(brief);
          const stored = parsed(after);
          // The driver sends a statement again when its connection breaks; a server that does not know it for the same one
          // finds that it does not fit any more.
          if (mark.equals(stored[stepKey] as ObjectId)) return { result: after, change: changeBy([stored], [before]) };
          if (found instanceof ConnectError) throw found;
          before = stored;
        }
        throw fail("STORE_CONFLICT", `Others change the chunk ${chunkId} all the time; try again`, {
          metadata: { chunk_id: chunkId },
        });
      };
      return stepped([await counters.counted({ sessionId: before.session_id, write }, context)]);
    },

    async listChunks(request, context) {
      const { sessionId, status, pageSize, pageToken } = request;
      await liveSession(sessionId, context);
      const { documents, nextPageToken } = await readPage({
        collection,
        filter: {
          session_id: sessionId,
          ...(status !== 0 && { status: storedName(ChunkStatusSchema, status) }),
        },
        // An index is unique within the session, and so is the place of a page's last chunk.
        order: { sort: { chunk_index: 1 } },
        size: pageSizeOf(pageSize),
        query: queryOf(rpc.ListChunksRequestSchema, request),
        token: pageToken,
        tokens: await pageTokens(),
        limits: cancellable(context),
      });
      return listed(documents, { nextPageToken });
    },

    async listChunkRanges({ sessionId, fromIndex }, context) {
      await liveSession(sessionId, context);
      return chunkRanges(db, { sessionId, fromIndex }, context);
    },
  };
}

function parsed(raw: Uint8Array): Document & StoredChunk {
  return deserialize(raw, { useBigInt64: true }) as Document & StoredChunk; // what a chunk's collection holds
}

/** What a step says, or why it was refused. */
async function refusable<T>(step: Promise<T>): Promise<T | ConnectError> {
  try {
    return await step;
  } catch (error) {
    if (error instanceof ConnectError) return error;
    throw error;
  }
}

/** What is known of a chunk by the time of a step, as expressions; what is not set stays. */
function setBy(request: {
  readonly encryptedHash?: string | undefined;
  readonly encryptionAlgorithm?: string | undefined;
  readonly storagePath?: string | undefined;
  readonly compressionRatio?: number | undefined;
}): Document {
  const sent = {
    encrypted_hash: request.encryptedHash,
    encryption_algorithm: request.encryptionAlgorithm,
    storage_path: request.storagePath,
    compression_ratio: request.compressionRatio,
  };
  return Object.fromEntries(
    Object.entries(sent).flatMap(([name, value]) => (value === undefined ? [] : [[name, literal(value)]])),
  );
}
