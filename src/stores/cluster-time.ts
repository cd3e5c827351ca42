import type { ClientSession, Db, Timestamp } from "mongodb";

/** How long MongoDB may take to tell its time, in milliseconds: callers wait for it, and a server may stand still for seconds. */
const pingMs = 30_000;

/**
 * The time of the cluster, at which all that was written before has happened; undefined where the server has none, as a standalone.
 * Reads of the session, which is to be causally consistent, see all that from here on.
 */
export async function timeNow(db: Db, session: ClientSession): Promise<Timestamp | undefined> {
  await db.command({ ping: 1, maxTimeMS: pingMs }, { session, readPreference: "primary" });
  return session.operationTime;
}

/** A session whose reads see all that was written before now, which is its `operationTime`. */
export async function sessionFromNow(db: Db): Promise<ClientSession> {
  const session = db.client.startSession({ causalConsistency: true });
  try {
    await timeNow(db, session);
    return session;
  } catch (error) {
    await session.endSession();
    throw error;
  }
}
