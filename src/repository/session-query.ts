import type { Document } from "bson";

import { SessionSchema, SessionStatusSchema } from "../../gen/lucid/repository/v1/session_pb.ts";
import {
  type SearchSessionsRequest,
  type SessionFilter,
  SessionSearchMode,
  type WatchSessionsRequest,
} from "../../gen/lucid/repository/v1/session_service_pb.ts";
import { textPart } from "../schema/filters.ts";
import { filteredBy } from "../schema/list-query.ts";
import { storedName } from "../schema/stored-field.ts";
import { existingOrder } from "./watch/watches.ts";

/** The documents that a filter means, and what an index must serve for it. */
export function filterOf(filter: SessionFilter | undefined, showDeleted: boolean) {
  const { userId = "", status = 0, createdFrom, createdBefore } = filter ?? {};
  const equal: Document = {
    ...(userId !== "" && { user_id: userId }),
    ...(status !== 0 && { status: storedName(SessionStatusSchema, status) }),
  };
  return filteredBy(equal, { createdFrom, createdBefore, showDeleted });
}

/** What is watched, and what exists of it. */
export function watchedBy({ filter: wanted, sessionId, changesOnly }: WatchSessionsRequest) {
  const { filter, restrictions } = filterOf(wanted, false);
  const all = { ...filter, ...(sessionId !== "" && { session_id: sessionId }) };
  if (changesOnly) return { filter: all };
  // One session needs no order but that of the index that finds it.
  const order =
    sessionId === ""
      ? existingOrder(SessionSchema, restrictions, { id: "session_id", order: "created_at" })
      : ({ sort: { session_id: 1 } } as const);
  return { filter: all, existing: { filter: all, order } };
}

/** The documents that a search finds: its text is a part of a name or id, taken literally. */
export function searchFilter({ query, mode }: SearchSessionsRequest): Document {
  const part = textPart(query, mode === SessionSearchMode.SUBSTRING ? "anywhere" : "start");
  return { $or: [{ session_id: part }, { session_name: part }] };
}
