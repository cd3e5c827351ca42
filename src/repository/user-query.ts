import type { Timestamp } from "@bufbuild/protobuf/wkt";
import type { Document } from "bson";

import { UserRoleSchema, UserStatusSchema } from "../../gen/lucid/repository/v1/user_pb.ts";
import {
  type SearchUsersRequest,
  type UserFilter,
  UserSearchMode,
} from "../../gen/lucid/repository/v1/user_service_pb.ts";
import type { Restrictions } from "../schema/list-query.ts";
import { storedName } from "../schema/stored-field.ts";

/** The documents that a filter means, and what an index must serve for it. */
export function filterOf(filter: UserFilter | undefined, showDeleted: boolean) {
  const { role = 0, status = 0, createdFrom, createdBefore } = filter ?? {};
  const equal: Document = {
    ...(role !== 0 && { role: storedName(UserRoleSchema, role) }),
    ...(status !== 0 && { status: storedName(UserStatusSchema, status) }),
  };
  const range: Document = {
    ...(createdFrom !== undefined && { $gte: dateAtOrAfter(createdFrom) }),
    ...(createdBefore !== undefined && { $lt: dateAtOrAfter(createdBefore) }),
  };
  const hasRange = Object.keys(range).length > 0;
  const restrictions: Restrictions = { equal: Object.keys(equal), ...(hasRange && { range: "created_at" }) };
  const unlessDeleted = showDeleted ? {} : { deleted_at: null };
  return { filter: { ...equal, ...(hasRange && { created_at: range }), ...unlessDeleted }, restrictions };
}

/** Stored times are whole milliseconds: before or from a time means before or from the next one of these. */
export function dateAtOrAfter({ seconds, nanos }: Timestamp): Date {
  return new Date(Number(seconds) * 1000 + Math.ceil(nanos / 1_000_000));
}

/** The documents that a search finds: its text is a part of a key, taken literally. */
export function searchFilter({ query, mode }: SearchUsersRequest): Document {
  const start = mode === UserSearchMode.SUBSTRING ? "" : "^";
  const pattern = (text: string) => ({ $regex: start + text.replaceAll(/[\\^$.|?*+()[\]{}]/g, String.raw`\$&`) });
  const lower = pattern(query.toLowerCase());
  return { $or: [{ email: lower }, { username: lower }, { tron_address: pattern(query) }] };
}
