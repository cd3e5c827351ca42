import type { Document } from "bson";

import { SessionStatusSchema } from "../../gen/lucid/repository/v1/session_pb.ts";
import {
  type SearchSessionsRequest,
  type SessionFilter,
  SessionSearchMode,
} from "../../gen/lucid/repository/v1/session_service_pb.ts";
import { textPart, timeRange } from "../schema/filters.ts";
import type { Restrictions } from "../schema/list-query.ts";
import { storedName } from "../schema/stored-field.ts";

/** The documents that a filter means, and what an index must serve for it. */
export function filterOf(filter: SessionFilter | undefined, showDeleted: boolean) {
  const { userId = "", status = 0, createdFrom, createdBefore } = filter ?? {};
  const equal: Document = {
    ...(userId !== "" && { user_id: userId }),
    ...(status !== 0 && { status: storedName(SessionStatusSchema, status) }),
  };
  const created = timeRange(createdFrom, createdBefore);
  const restrictions: Restrictions = {
    equal: Object.keys(equal),
    ...(created !== undefined && { range: "created_at" }),
  };
  const unlessDeleted = showDeleted ? {} : { deleted_at: null };
  return {
    filter: { ...equal, ...(created !== undefined && { created_at: created }), ...unlessDeleted },
    restrictions,
  };
}

/** The documents that a search finds: its text is a part of a name or id, taken literally. */
export function searchFilter({ query, mode }: SearchSessionsRequest): Document {
  const part = textPart(query, mode === SessionSearchMode.SUBSTRING ? "anywhere" : "start");
  return { $or: [{ session_id: part }, { session_name: part }] };
}
