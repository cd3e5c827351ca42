import { randomUUIDv7 } from "node:crypto";

import { type Timestamp, timestampFromDate } from "@bufbuild/protobuf/wkt";
import type { ServiceImpl } from "@connectrpc/connect";

import { UserCredentialsSchema } from "../../gen/lucid/repository/v1/user_credentials_pb.ts";
import { UserSchema } from "../../gen/lucid/repository/v1/user_pb.ts";
import * as rpc from "../../gen/lucid/repository/v1/user_service_pb.ts";
import type { Config } from "../config.ts";
import { fail } from "../errors.ts";
import { cancellable } from "../schema/call-options.ts";
import { codecFor } from "../schema/codec.ts";
import { requestMark } from "../schema/create-once.ts";
import { documentResponse } from "../schema/document-response.ts";
import { entity } from "../schema/entity.ts";
import { mostLong, sum } from "../schema/expressions.ts";
import { onlyWritable } from "../schema/field-mask.ts";
import { dateAtOrAfter } from "../schema/filters.ts";
import { badRequest } from "../schema/refusals.ts";
import { isTronAddress } from "../schema/tron-address.ts";
import type { Repositories } from "./collections.ts";
import { secretsOf } from "./secrets.ts";
import { documentOf, prepared } from "./user-document.ts";
import { filterOf, searchFilter } from "./user-query.ts";
import { statisticsOf } from "./user-statistics.ts";
import { existingOrder, type Watches } from "./watch/watches.ts";

const codec = codecFor(UserSchema);

const created = documentResponse(rpc.CreateUserResponseSchema, "user");
const got = documentResponse(rpc.GetUserResponseSchema, "user");
const gotByEmail = documentResponse(rpc.GetUserByEmailResponseSchema, "user");
const gotByUsername = documentResponse(rpc.GetUserByUsernameResponseSchema, "user");
const gotByTronAddress = documentResponse(rpc.GetUserByTronAddressResponseSchema, "user");
const batch = documentResponse(rpc.BatchGetUsersResponseSchema, "users");
const updated = documentResponse(rpc.UpdateUserResponseSchema, "user");
const deleted = documentResponse(rpc.DeleteUserResponseSchema, "user");
const undeleted = documentResponse(rpc.UndeleteUserResponseSchema, "user");
const listed = documentResponse(rpc.ListUsersResponseSchema, "users");
const searched = documentResponse(rpc.SearchUsersResponseSchema, "users");
const succeeded = documentResponse(rpc.RecordLoginSuccessResponseSchema, "user");
const failed = documentResponse(rpc.RecordLoginFailureResponseSchema, "user");
const incremented = documentResponse(rpc.IncrementSessionCountResponseSchema, "user");
const told = documentResponse(rpc.WatchUsersResponseSchema, "user");
const adjusted = documentResponse(rpc.AdjustStorageUsedResponseSchema, "user");

/** Keeps users. Reads go from stored bytes to wire bytes; writes are single statements that the store carries out. */
export function userService(
  options: Repositories & { readonly settings: Config["users"]; readonly watches: Pick<Watches, "of"> },
): ServiceImpl<typeof rpc.UserService> {
  const { db, collections, pageTokens, settings, watches } = options;
  const users = entity({
    db,
    schema: UserSchema,
    id: "user_id",
    name: "user",
    reasons: { notFound: "USER_NOT_FOUND", alreadyExists: "USER_ALREADY_EXISTS", notDeleted: "USER_NOT_DELETED" },
    ready: collections.ready,
    pageTokens,
  });
  const credentials = secretsOf(db, {
    schema: UserCredentialsSchema,
    name: "credentials",
    resource: "User",
    refusals: ["USER_ALREADY_EXISTS"],
  });
  const watched = watches.of({ schema: UserSchema, id: "user_id" });

  return {
    async createUser(request, context) {
      const user = prepared(onlyWritable(UserSchema, request.user ?? codec.decode({})));
      user.userId = randomUUIDv7();
      const document = documentOf(user, () => true);
      const mark = requestMark(rpc.CreateUserRequestSchema, request);
      await collections.ready(UserCredentialsSchema);
      const owner = { user_id: user.userId };
      const insert = () => users.insert(document, context, mark);
      const { document: stored } = await credentials.create(owner, request.credentials, insert, context);
      return created([stored]);
    },

    async getUser({ userId, showDeleted }, context) {
      const filter = showDeleted ? { user_id: userId } : users.live(userId);
      return got([await users.get(filter, context, { user_id: userId })]);
    },

    async getUserByEmail({ email }, context) {
      const filter = { email: email.toLowerCase(), deleted_at: null };
      return gotByEmail([await users.get(filter, context, { email })]);
    },

    async getUserByUsername({ username }, context) {
      const filter = { username: username.toLowerCase(), deleted_at: null };
      return gotByUsername([await users.get(filter, context, { username })]);
    },

    async getUserByTronAddress({ tronAddress }, context) {
      if (!isTronAddress(tronAddress))
        throw badRequest({ field: "tron_address", description: "must be a TRON address with a valid checksum" });
      const filter = { tron_address: tronAddress, deleted_at: null };
      return gotByTronAddress([await users.get(filter, context, { tron_address: tronAddress })]);
    },

    async batchGetUsers({ userIds }, context) {
      const { documents, missing } = await users.batch(userIds, context);
      return batch(documents, { missingUserIds: missing });
    },

    async updateUser({ user: sent, updateMask, etag }, context) {
      if (sent === undefined) throw badRequest({ field: "user", description: "must be set" });
      const found = await users.update(
        { schema: UserSchema, message: sent, mask: updateMask, etag, id: sent.userId },
        (isChanged) => documentOf(prepared(onlyWritable(UserSchema, sent)), isChanged),
        context,
        (set, isChanged) => {
          // Who has proven one address has not proven another.
          for (const [key, verified] of [
            ["email", "email_verified"],
            ["tron_address", "tron_verified"],
          ] as const) {
            if (!isChanged(key) || isChanged(verified)) continue;
            set[verified] = { $and: [{ $eq: [`$${key}`, set[key]] }, `$${verified}`] };
          }
        },
      );
      return updated([found]);
    },

    async setUserCredentials({ userId, credentials: sent }, context) {
      await collections.ready(UserCredentialsSchema);
      await users.get(users.live(userId), context, { user_id: userId });
      await credentials.replace({ user_id: userId }, sent, context);
      return {};
    },

    async deleteUser({ userId, etag, validateOnly }, context) {
      return deleted([await users.delete(userId, { etag, validateOnly }, context)]);
    },

    async undeleteUser({ userId, etag }, context) {
      return undeleted([await users.undelete(userId, { etag }, context)]);
    },

    async listUsers(request, context) {
      const query = filterOf(request.filter, request.showDeleted);
      const schema = rpc.ListUsersRequestSchema;
      const { documents, nextPageToken } = await users.list(
        { ...query, fallback: "created_at desc", schema, request },
        context,
      );
      return listed(documents, { nextPageToken });
    },

    async countUsers({ filter, showDeleted }, context) {
      return { count: await users.count(filterOf(filter, showDeleted).filter, context) };
    },

    async searchUsers(request, context) {
      const filter = { deleted_at: null, ...searchFilter(request) };
      const { documents, nextPageToken } = await users.list(
        { filter, fallback: "user_id", schema: rpc.SearchUsersRequestSchema, request },
        context,
      );
      return searched(documents, { nextPageToken });
    },

    async recordLoginSuccess({ userId }, context) {
      const now = new Date();
      const set = { last_login: now, failed_login_attempts: 0, account_locked_until: "$$REMOVE" };
      const filter = { deleted_at: null, account_locked_until: { $not: { $gt: now } } };
      const found = await users.change(userId, { stages: [{ $set: set }], filter, now }, context);
      if (found !== null) return succeeded([found]);
      const user = await users.get(users.live(userId), context, { user_id: userId });
      throw userLocked(userId, codec.decode(user).accountLockedUntil);
    },

    async recordLoginFailure({ userId }, context) {
      const { lockAfterFailures, lockMinutes } = settings;
      const now = new Date();
      const isLocked = { $gt: ["$account_locked_until", now] };
      const lockEnded = { $and: [{ $gt: ["$account_locked_until", null] }, { $not: [isLocked] }] };
      // Counts and locks in one statement: a lock that has ended starts anew, one that holds is not prolonged.
      const attempts = { $min: [2 ** 31 - 1, sum("$failed_login_attempts", 1)] };
      const isOneTooMany = { $gte: ["$failed_login_attempts", lockAfterFailures] };
      const until = { $cond: [isOneTooMany, new Date(now.getTime() + lockMinutes * 60_000), "$$REMOVE"] };
      const stages = [
        { $set: { failed_login_attempts: { $cond: [lockEnded, 1, attempts] }, last_failed_login: now } },
        { $set: { account_locked_until: { $cond: [isLocked, "$account_locked_until", until] } } },
      ];
      const found = await users.change(userId, { stages, now }, context);
      if (found === null) throw users.notFound({ user_id: userId });
      return failed([found]);
    },

    async incrementSessionCount({ userId, count = 1 }, context) {
      const total = { $min: [mostLong, sum("$total_sessions", BigInt(count))] };
      return incremented([await users.set(userId, { total_sessions: total }, context)]);
    },

    async adjustStorageUsed({ userId, deltaBytes }, context) {
      // A sum of int64 that does not fit becomes a double, which the bounds turn into an int64 again.
      const total = { $max: [0n, { $min: [mostLong, sum("$total_storage_used", deltaBytes)] }] };
      return adjusted([await users.set(userId, { total_storage_used: total }, context)]);
    },

    async getUserStatistics({ userId }, context) {
      const found = await users.get(users.live(userId), context, { user_id: userId });
      return { statistics: await statisticsOf(db, codec.decode(found), cancellable(context)) };
    },

    async *watchUsers(request, context) {
      const { filter, restrictions } = filterOf(request.filter, false);
      const order = existingOrder(UserSchema, restrictions, { id: "user_id", order: "created_at" });
      const existing = request.changesOnly ? undefined : { filter, order };
      const call = { schema: rpc.WatchUsersRequestSchema, request, filter, existing };
      for await (const { type, id: userId, revision, document, resumeToken } of watched.watch(call, context)) {
        yield told(document === undefined ? [] : [document], { type, userId, revision, resumeToken });
      }
    },
  };
}

function userLocked(userId: string, until: Timestamp | undefined) {
  const time = dateAtOrAfter(until ?? timestampFromDate(new Date()));
  return fail("USER_LOCKED", `User ${userId} is locked`, {
    metadata: { user_id: userId, locked_until: time.toISOString() },
    retryAfterMs: Math.max(0, time.getTime() - Date.now()),
  });
}
