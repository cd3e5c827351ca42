import { createHash, randomUUID } from "node:crypto";

import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Client } from "@connectrpc/connect";
import type { Db } from "mongodb";

import type { ChunkSchema } from "../../gen/lucid/repository/v1/chunk_pb.ts";
import { type Session, type SessionSchema, SessionStatus } from "../../gen/lucid/repository/v1/session_pb.ts";
import { SessionService } from "../../gen/lucid/repository/v1/session_service_pb.ts";
import { type TestApp, testApp } from "../support/app.ts";
import { uniqueName } from "../support/stores.ts";

export type Sessions = Client<typeof SessionService>;

/** The service with a domain database that tests can look into. */
export interface SessionsApp extends AsyncDisposable {
  readonly app: TestApp;
  /** Clients of both listeners. */
  readonly sessions: Sessions;
  readonly overHttp: Sessions;
  readonly db: Db;
}

export async function sessionsApp(): Promise<SessionsApp> {
  const name = uniqueName("sessions");
  const app = await testApp({ LUCID_MONGODB_DATABASE: name });
  const db = app.mongodb.db(name, { useBigInt64: true });
  return {
    app,
    sessions: app.client(SessionService),
    overHttp: app.http(SessionService),
    db,
    async [Symbol.asyncDispose]() {
      await db.dropDatabase();
      await app[Symbol.asyncDispose]();
    },
  };
}

/** The states in which a session is on its way, in their order, and the last one. */
export const pipeline = [
  SessionStatus.PENDING,
  SessionStatus.RECORDING,
  SessionStatus.PROCESSING,
  SessionStatus.ENCRYPTING,
  SessionStatus.MERKLE_BUILDING,
  SessionStatus.ANCHORING,
  SessionStatus.COMPLETED,
] as const;

export async function newSession(
  sessions: Sessions,
  init: MessageInitShape<typeof SessionSchema> = {},
): Promise<Session> {
  const { session } = await sessions.createSession({ session: { userId: randomUUID(), ...init } });
  if (session === undefined) throw new Error("No session was returned");
  return session;
}

/** A tree of chunks that are somewhere else. */
export const someTree = { rootHash: "12".repeat(32), leafCount: 3n };

/** A new session that has gone through the pipeline up to a state. */
export async function sessionIn(
  sessions: Sessions,
  status: SessionStatus,
  init: MessageInitShape<typeof SessionSchema> = {},
): Promise<Session> {
  let session: Session | undefined = await newSession(sessions, init);
  const way = [...pipeline.slice(1, pipeline.findIndex((state) => state === status) + 1)];
  if (!pipeline.some((state) => state === status)) way.push(status as never);
  for (const next of way) {
    const { sessionId } = session;
    if (next === SessionStatus.ANCHORING) await sessions.setMerkleTree({ sessionId, merkleTree: someTree });
    ({ session } = await sessions.updateSessionStatus({ sessionId, status: next }));
    if (session === undefined) throw new Error("No session was returned");
  }
  return session;
}

/** What a new chunk needs. Chunks of one index are the same unless `init` says otherwise. */
export function chunkInit(
  index: number,
  init: MessageInitShape<typeof ChunkSchema> = {},
): MessageInitShape<typeof ChunkSchema> {
  const hash = createHash("sha256").update(`chunk ${index}`).digest("hex");
  return { chunkIndex: BigInt(index), sizeBytes: BigInt(1000 + index), hash, ...init };
}

/** The counters of a session. */
export function countersOf(session: Session | undefined) {
  const { totalChunks, chunksUploaded, chunksProcessed, chunksEncrypted, totalSizeBytes } = session ?? {};
  return { totalChunks, chunksUploaded, chunksProcessed, chunksEncrypted, totalSizeBytes };
}

/** What the counters of a session must be: its chunks, counted one by one. */
export async function countedRows(db: Db, sessionId: string) {
  const rows = await db.collection("chunks").find({ session_id: sessionId }).toArray();
  const inState = (...states: string[]) => rows.filter(({ status }) => states.includes(String(status)));
  const processed = inState("ENCRYPTED", "STORED");
  return {
    totalChunks: BigInt(rows.length),
    chunksUploaded: BigInt(inState("UPLOADED", "PROCESSING", "ENCRYPTED", "STORED").length),
    chunksProcessed: BigInt(processed.length),
    chunksEncrypted: BigInt(processed.filter((row) => "encrypted_hash" in row).length),
    totalSizeBytes: rows.reduce((sum, row) => sum + (row["size_bytes"] as bigint), 0n),
  };
}
