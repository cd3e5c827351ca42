import { randomUUID } from "node:crypto";

import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Client } from "@connectrpc/connect";
import type { Db } from "mongodb";

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
    ({ session } = await sessions.updateSessionStatus({ sessionId, status: next }));
    if (session === undefined) throw new Error("No session was returned");
  }
  return session;
}
