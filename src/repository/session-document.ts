import type { Document } from "bson";

import { type Session, SessionSchema } from "../../gen/lucid/repository/v1/session_pb.ts";
import { codecFor } from "../schema/codec.ts";
import { badRequest, tooLarge, type WrongField } from "../schema/refusals.ts";

const codec = codecFor(SessionSchema);

export const defaultMaxSizeBytes = 100n * 1024n ** 3n;

/** Makes a session, a copy of what a caller sent, the one that is stored: defaults where nothing is set. */
export function prepared(session: Session): Session {
  session.maxSizeBytes ??= defaultMaxSizeBytes;
  session.storageProvider ??= "local";
  return session;
}

/**
 * The document of a prepared session. Fails with `BAD_REQUEST` where what is needed is missing or a value is none that can be
 * stored; `isStored` says which top fields are, so that an update is not held to fields that it does not change.
 */
export function documentOf(session: Session, isStored: (name: string) => boolean): Document {
  const wrong: WrongField[] = [];
  if (isStored("user_id") && session.userId === "")
    wrong.push({ field: "session.user_id", description: "must be set" });
  const document = codec.encode(session, "session");
  for (const name of ["rdp_connection_info", "pipeline_state", "metadata"]) {
    if (isStored(name)) wrong.push(...tooLarge(`session.${name}`, document[name]));
  }
  if (wrong.length > 0) throw badRequest(...wrong);
  return document;
}
