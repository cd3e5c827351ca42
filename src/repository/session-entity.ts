import { ChunkSchema } from "../../gen/lucid/repository/v1/chunk_pb.ts";
import { SessionSchema } from "../../gen/lucid/repository/v1/session_pb.ts";
import { type Entity, entity } from "../schema/entity.ts";
import { type ChunkCounters, chunkCounters } from "./chunk-counters.ts";
import type { Repositories } from "./collections.ts";

/** Sessions and chunks as they are stored, and the counters between them. */
export interface SessionEntities {
  readonly sessions: Entity;
  readonly chunks: Entity;
  readonly counters: ChunkCounters;
}

export function sessionEntities({ db, collections, pageTokens }: Repositories): SessionEntities {
  const sessions = entity({
    db,
    schema: SessionSchema,
    id: "session_id",
    name: "session",
    reasons: {
      notFound: "SESSION_NOT_FOUND",
      alreadyExists: "SESSION_ALREADY_EXISTS",
      notDeleted: "SESSION_NOT_DELETED",
    },
    ready: collections.ready,
    pageTokens,
  });
  const chunks = entity({
    db,
    schema: ChunkSchema,
    id: "chunk_id",
    name: "chunk",
    reasons: { notFound: "CHUNK_NOT_FOUND", alreadyExists: "CHUNK_ALREADY_EXISTS" },
    ready: collections.ready,
    pageTokens,
  });
  return { sessions, chunks, counters: chunkCounters({ sessions, chunks: chunks.collection }) };
}
