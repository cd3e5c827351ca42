import { randomUUIDv7 } from "node:crypto";

import type { Document } from "bson";

import { type Chunk, ChunkSchema, ChunkStatus, ChunkStatusSchema } from "../../gen/lucid/repository/v1/chunk_pb.ts";
import { codecFor } from "../schema/codec.ts";
import { isOutputOnly } from "../schema/field-mask.ts";
import { badRequest, tooLarge } from "../schema/refusals.ts";
import { stateMachine } from "../schema/state-machine.ts";
import type { CountedChunk } from "./chunk-counters.ts";

const codec = codecFor(ChunkSchema);
const outputOnly = ChunkSchema.fields.filter(isOutputOnly).map(({ name }) => name);

/** A session has tens of thousands of chunks. */
const mostMetadataBytes = 4096;

/** What the service reads of a stored chunk. */
export interface StoredChunk extends CountedChunk {
  readonly chunk_id: string;
  readonly session_id: string;
  readonly chunk_index: bigint | number;
  readonly hash: string;
}

/** The document of a chunk that is added to a session. Fails with `BAD_REQUEST`. */
export function documentOf(sent: Chunk, sessionId: string, now: Date): Document & StoredChunk {
  const document = codec.encode(sent, "chunk");
  for (const name of outputOnly) delete document[name];
  const [wrong] = tooLarge("chunk.metadata", document["metadata"], mostMetadataBytes);
  if (wrong !== undefined) throw badRequest(wrong);
  document["status"] ??= chunkStates.name(ChunkStatus.PENDING);
  if (sent.status === ChunkStatus.UPLOADED) document["uploaded_at"] = now;
  const made = { chunk_id: randomUUIDv7(), session_id: sessionId, created_at: now, updated_at: now, revision: 1n };
  // What the rules of the proto let through has the fields that a stored chunk needs.
  return Object.assign(document, made) as unknown as Document & StoredChunk;
}

const way = [
  ChunkStatus.PENDING,
  ChunkStatus.UPLOADING,
  ChunkStatus.UPLOADED,
  ChunkStatus.PROCESSING,
  ChunkStatus.ENCRYPTED,
  ChunkStatus.STORED,
] as const;

/** Forward, over any number of states; FAILED from every state but the last, and from there to the start again. */
export const chunkStates = stateMachine(ChunkStatusSchema, {
  ...Object.fromEntries(way.map((state, at) => [state, [...way.slice(at + 1), ChunkStatus.FAILED]])),
  [ChunkStatus.STORED]: [],
  [ChunkStatus.FAILED]: [ChunkStatus.PENDING],
});

/** What a step to a state sets besides the state: expressions over the chunk as it was before. */
export function chunkStepTimes(to: ChunkStatus, now: Date): Document {
  const unlessSet = (field: string) => ({ $ifNull: [`$${field}`, now] });
  switch (to) {
    case ChunkStatus.PENDING:
      return { uploaded_at: "$$REMOVE", processed_at: "$$REMOVE", encrypted_hash: "$$REMOVE" };
    case ChunkStatus.UPLOADED:
    case ChunkStatus.PROCESSING:
      return { uploaded_at: unlessSet("uploaded_at") };
    case ChunkStatus.ENCRYPTED:
    case ChunkStatus.STORED:
      return { uploaded_at: unlessSet("uploaded_at"), processed_at: unlessSet("processed_at") };
    default:
      return {};
  }
}
