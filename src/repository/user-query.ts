import type { Document } from "bson";

import { UserRoleSchema, UserStatusSchema } from "../../gen/lucid/repository/v1/user_pb.ts";
import {
  type SearchUsersRequest,
  type UserFilter,
  UserSearchMode,
} from "../../gen/lucid/repository/v1/user_service_pb.ts";
import { textPart } from "../schema/filters.ts";
import { filteredBy } from "../schema/list-query.ts";
import { storedName } from "../schema/stored-field.ts";

/** The documents that a filter means, and what an index must serve for it. */
export function filterOf(filter: UserFilter | undefined, showDeleted: boolean) {
  const { role = 0, status = 0, createdFrom, createdBefore } = filter ?? {};
  const equal: Document = {
    ...(role !== 0 && { role: storedName(UserRoleSchema, role) }),
    ...(status !== 0 && { status: storedName(UserStatusSchema, status) }),
  };
  return filteredBy(equal, { createdFrom, createdBefore, showDeleted });
}

/** The documents that a search finds: its text is a part of a key, taken literally. */
export function searchFilter({ query, mode }: SearchUsersRequest): Document {
  const place = mode === UserSearchMode.SUBSTRING ? "anywhere" : "start";
  const lower = textPart(query.toLowerCase(), place);
  return { $or: [{ email: lower }, { username: lower }, { tron_address: textPart(query, place) }] };
}
