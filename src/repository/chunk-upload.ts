import { create } from "@bufbuild/protobuf";
import type { HandlerContext } from "@connectrpc/connect";

import type { Chunk } from "../../gen/lucid/repository/v1/chunk_pb.ts";
import {
  type AddChunksRequest,
  type AddChunksResponse,
  AddChunksResponseSchema,
  ChunkFailureSchema,
} from "../../gen/lucid/repository/v1/session_service_pb.ts";
import { rpcStatusOf } from "../errors.ts";
import { badRequest } from "../schema/refusals.ts";
import type { ChunkStore } from "./chunk-store.ts";

/** Chunks in one statement: more make it no faster, and what one statement holds is what a dead writer leaves uncounted. */
const batchChunks = 1000;
/** Failures that are told one by one. */
const mostFailures = 1000;

/**
 * Adds the chunks of a stream. Takes no more from the stream while as much as a statement holds is waiting, so that a slow store
 * slows the caller down; where the store has nothing to do, what there is is added at once, so that a slow caller need not fill
 * a batch.
 */
export async function upload(
  requests: AsyncIterable<AddChunksRequest>,
  {
    store,
    begin,
  }: {
    readonly store: ChunkStore;
    /** Fails where there is no such session. */
    readonly begin: (sessionId: string) => Promise<unknown>;
  },
  context: HandlerContext,
): Promise<AddChunksResponse> {
  const response = create(AddChunksResponseSchema);
  const waiting: Chunk[] = [];
  let begun = 0n;
  let sessionId = "";
  /** The statement that the store works on, and why one has failed. */
  const work: { running?: Promise<void> | undefined; failure?: { readonly cause: unknown } } = {};

  const add = async (chunks: readonly Chunk[], from: bigint) => {
    const outcomes = await store.add(sessionId, chunks, context);
    for (const [at, outcome] of outcomes.entries()) {
      if (outcome.kind === "added") response.addedCount += 1n;
      else if (outcome.kind === "present") response.alreadyPresentCount += 1n;
      else {
        response.failedCount += 1n;
        if (response.failures.length === mostFailures) continue;
        const { chunkIndex } = chunks[at] as Chunk; // there is an outcome for each
        const status = rpcStatusOf(outcome.error);
        response.failures.push(create(ChunkFailureSchema, { position: from + BigInt(at), chunkIndex, status }));
      }
    }
  };

  /** Lets the store work on what is waiting, one statement after the other. */
  const start = (): void => {
    if (work.running !== undefined || work.failure !== undefined || waiting.length === 0) return;
    const chunks = waiting.splice(0, batchChunks);
    work.running = add(chunks, begun)
      .catch((cause: unknown) => {
        work.failure = { cause };
      })
      .finally(() => {
        work.running = undefined;
        start();
      });
    begun += BigInt(chunks.length);
  };

  try {
    for await (const request of requests) {
      const isFirst = sessionId === "";
      sessionId = sessionOf(request, sessionId);
      if (isFirst) await begin(sessionId);
      response.receivedCount += BigInt(request.chunks.length);
      waiting.push(...request.chunks);
      start();
      while (work.running !== undefined && waiting.length >= batchChunks) await work.running;
      if (work.failure !== undefined) break;
    }
    if (sessionId === "") throw sessionMissing("must be set in the first message");
  } catch (error) {
    // What came before a message that breaks a rule is added; of a caller that has gone, only what is begun.
    if (context.signal.aborted) waiting.length = 0;
    throw error;
  } finally {
    while (work.running !== undefined) await work.running;
  }
  if (work.failure !== undefined) throw work.failure.cause;
  return response;
}

function sessionOf({ sessionId }: AddChunksRequest, before: string): string {
  if (before === "" && sessionId === "") throw sessionMissing("must be set in the first message");
  if (sessionId !== "" && before !== "" && sessionId !== before)
    throw sessionMissing("must be the same in all messages");
  return sessionId === "" ? before : sessionId;
}

function sessionMissing(description: string) {
  return badRequest({ field: "session_id", description });
}
