import { randomUUIDv7 } from "node:crypto";

import { clone } from "@bufbuild/protobuf";
import { type Timestamp, timestampFromDate } from "@bufbuild/protobuf/wkt";
import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";
import { type Document, serialize } from "bson";
import { type Db, type Filter, MongoServerError } from "mongodb";

import { type UserCredentials, UserCredentialsSchema } from "../../gen/lucid/repository/v1/user_credentials_pb.ts";
import { UserSchema } from "../../gen/lucid/repository/v1/user_pb.ts";
import * as rpc from "../../gen/lucid/repository/v1/user_service_pb.ts";
import type { Config } from "../config.ts";
import { fail, isReason } from "../errors.ts";
import { stringIn } from "../schema/bson-reader.ts";
import { cancellable, deadlineOf } from "../schema/call-options.ts";
import { codecFor } from "../schema/codec.ts";
import { collectionOf } from "../schema/collection.ts";
import { createOnce, duplicateKey, requestMark } from "../schema/create-once.ts";
import { documentResponse } from "../schema/document-response.ts";
import { maskedPaths, onlyWritable, valueAt } from "../schema/field-mask.ts";
import { listOrder, pageSizeOf, queryOf } from "../schema/list-query.ts";
import type { PageTokens } from "../schema/page-tokens.ts";
import { readPage } from "../schema/page.ts";
import { etagOf, revisionOfEtag } from "../schema/stored-field.ts";
import type { DomainCollections } from "./collections.ts";
import { documentOf, isTronAddress, prepared } from "./user-document.ts";
import { dateAtOrAfter, filterOf, searchFilter } from "./user-query.ts";
import { statisticsOf } from "./user-statistics.ts";

const codec = codecFor(UserSchema);
const credentialsCodec = codecFor(UserCredentialsSchema);

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
const adjusted = documentResponse(rpc.AdjustStorageUsedResponseSchema, "user");

/** Keeps users. Reads go from stored bytes to wire bytes; writes are single statements that the store carries out. */
export function userService(options: {
  readonly db: Db;
  readonly collections: Pick<DomainCollections, "ready">;
  readonly pageTokens: () => Promise<PageTokens>;
  readonly settings: Config["users"];
}): ServiceImpl<typeof rpc.UserService> {
  const { db, collections, pageTokens, settings } = options;
  const users = db.collection(collectionOf(UserSchema).name);
  const credentials = db.collection(collectionOf(UserCredentialsSchema).name);

  /** The one user that `filter` finds, as raw BSON. */
  const find = async (filter: Filter<Document>, context: HandlerContext): Promise<Uint8Array | null> =>
    users.findOne<Uint8Array>(filter, { raw: true, ...deadlineOf(context) });

  const get = async (filter: Filter<Document>, context: HandlerContext, about: Record<string, string>) => {
    const found = await find(filter, context);
    if (found === null) throw userNotFound(about);
    return [found];
  };

  /** Changes one user by an expression for each field, in one statement; returns it afterwards, null where none is found. */
  const change = async (filter: Filter<Document>, stages: Document[], context: HandlerContext, now = new Date()) => {
    await collections.ready();
    try {
      const found = await users.findOneAndUpdate(
        filter,
        [...stages, { $set: { revision: sum("$revision", 1n), updated_at: now } }],
        {
          returnDocument: "after",
          // Not `raw`: of this command the driver would leave the failure raw too, and no longer see which it may retry.
          useBigInt64: true,
          ...deadlineOf(context),
        },
      );
      return found === null ? null : serialize(found);
    } catch (error) {
      throw alreadyExists(error);
    }
  };

  /** Changes a live user, or says that there is none. */
  const changeLive = async (userId: string, set: Document, context: HandlerContext) => {
    const found = await change(live(userId), [{ $set: set }], context);
    if (found === null) throw userNotFound({ user_id: userId });
    return [found];
  };

  /** Why no live user was found that has that etag. */
  const whyNot = async (userId: string, context: HandlerContext) => {
    const found = await users.findOne(live(userId), { projection: { revision: 1 }, ...deadlineOf(context) });
    return found === null ? userNotFound({ user_id: userId }) : etagMismatch(userId, found);
  };

  return {
    async createUser(request, context) {
      const user = prepared(onlyWritable(UserSchema, request.user ?? codec.decode({})));
      const now = new Date();
      user.userId = randomUUIDv7();
      user.createdAt = user.updatedAt = timestampFromDate(now);
      user.revision = 1n;
      const document = documentOf(user, () => true);
      const mark = requestMark(rpc.CreateUserRequestSchema, request);
      await collections.ready();
      const { maxTimeMS } = deadlineOf(context);
      const limits = maxTimeMS === undefined ? {} : { maxTimeMS };
      // First the secrets, under an id that nobody knows yet: a user that is seen has them. A crash in between leaves secrets
      // that belong to no user and that nothing finds.
      if (request.credentials !== undefined) {
        const secrets = {
          ...secretsOf(request.credentials, user.userId),
          created_at: now,
          updated_at: now,
          revision: 1n,
        };
        await credentials.insertOne(secrets, limits);
      }
      try {
        const { document: stored, isNew } = await createOnce(users, document, mark, limits);
        if (!isNew && request.credentials !== undefined) await credentials.deleteOne({ user_id: user.userId }, limits);
        return created([stored]);
      } catch (error) {
        // Only where the store has refused the user is it sure that there is none.
        if (request.credentials !== undefined && isRefusal(error)) {
          await credentials.deleteOne({ user_id: user.userId }, limits);
        }
        throw alreadyExists(error);
      }
    },

    async getUser({ userId, showDeleted }, context) {
      const filter = showDeleted ? { user_id: userId } : live(userId);
      return got(await get(filter, context, { user_id: userId }));
    },

    async getUserByEmail({ email }, context) {
      return gotByEmail(await get({ email: email.toLowerCase(), deleted_at: null }, context, { email }));
    },

    async getUserByUsername({ username }, context) {
      const filter = { username: username.toLowerCase(), deleted_at: null };
      return gotByUsername(await get(filter, context, { username }));
    },

    async getUserByTronAddress({ tronAddress }, context) {
      if (!isTronAddress(tronAddress)) throw badRequest("tron_address", "must be a TRON address with a valid checksum");
      const filter = { tron_address: tronAddress, deleted_at: null };
      return gotByTronAddress(await get(filter, context, { tron_address: tronAddress }));
    },

    async batchGetUsers({ userIds }, context) {
      const filter = { user_id: { $in: userIds }, deleted_at: null };
      const found = await users.find<Uint8Array>(filter, { raw: true, ...cancellable(context) }).toArray();
      const byId = new Map(found.map((document) => [stringIn(document, "user_id"), document]));
      const documents = userIds.map((id) => byId.get(id)).filter((document) => document !== undefined);
      return batch(documents, { missingUserIds: userIds.filter((id) => !byId.has(id)) });
    },

    async updateUser({ user: sent, updateMask, etag }, context) {
      if (sent === undefined) throw badRequest("user", "must be set");
      const { userId } = sent;
      const paths = maskedPaths(UserSchema, sent, updateMask);
      const tops = new Set(paths.map((path) => path.split(".", 1)[0]));
      const document = documentOf(prepared(onlyWritable(UserSchema, sent)), (name) => tops.has(name));
      const set: Document = Object.fromEntries(paths.map((path) => [path, literal(valueAt(document, path))]));
      // Who has proven one address has not proven another.
      for (const [key, verified] of [
        ["email", "email_verified"],
        ["tron_address", "tron_verified"],
      ] as const) {
        if (!tops.has(key) || tops.has(verified)) continue;
        set[verified] = { $and: [{ $eq: [`$${key}`, set[key]] }, `$${verified}`] };
      }
      const filter = { ...live(userId), ...matching(etag) };
      const found = paths.length === 0 ? await find(filter, context) : await change(filter, [{ $set: set }], context);
      if (found === null) throw await whyNot(userId, context);
      return updated([found]);
    },

    async setUserCredentials({ userId, credentials: sent }, context) {
      await collections.ready();
      await get(live(userId), context, { user_id: userId });
      const secrets = secretsOf(sent ?? credentialsCodec.decode({}), userId);
      const absent = UserCredentialsSchema.fields.map(({ name }) => name).filter((name) => !(name in secrets));
      const kept = new Set(["created_at", "updated_at", "revision"]);
      const now = new Date();
      await credentials.updateOne(
        { user_id: userId },
        {
          $set: { ...secrets, updated_at: now },
          $unset: Object.fromEntries(absent.filter((name) => !kept.has(name)).map((name) => [name, ""])),
          $setOnInsert: { created_at: now },
          $inc: { revision: 1n },
        },
        { upsert: true, ...deadlineOf(context) },
      );
      return {};
    },

    async deleteUser({ userId, etag, validateOnly }, context) {
      const now = new Date();
      const filter = { ...live(userId), ...matching(etag) };
      const found = validateOnly
        ? await find(filter, context)
        : await change(filter, [{ $set: { deleted_at: now } }], context, now);
      if (found === null) throw await whyNot(userId, context);
      return deleted([found]);
    },

    async undeleteUser({ userId, etag }, context) {
      const filter = { user_id: userId, deleted_at: { $ne: null }, ...matching(etag) };
      const found = await change(filter, [{ $unset: "deleted_at" }], context);
      if (found !== null) return undeleted([found]);
      const projection = { revision: 1, deleted_at: 1 };
      const there = await users.findOne({ user_id: userId }, { projection, ...deadlineOf(context) });
      if (there === null) throw userNotFound({ user_id: userId });
      if (there["deleted_at"] instanceof Date) throw etagMismatch(userId, there);
      throw fail("USER_NOT_DELETED", `User ${userId} is not deleted`, { metadata: { user_id: userId } });
    },

    async listUsers(request, context) {
      const { filter, restrictions } = filterOf(request.filter, request.showDeleted);
      const order = listOrder(UserSchema, request.orderBy, restrictions, {
        id: "user_id",
        fallback: "created_at desc",
      });
      const { documents, nextPageToken } = await readPage({
        collection: users,
        filter,
        order,
        size: pageSizeOf(request.pageSize),
        query: queryOf(rpc.ListUsersRequestSchema, request),
        token: request.pageToken,
        tokens: await pageTokens(),
        limits: cancellable(context),
      });
      return listed(documents, { nextPageToken });
    },

    async countUsers({ filter, showDeleted }, context) {
      const count = await users.countDocuments(filterOf(filter, showDeleted).filter, cancellable(context));
      return { count: BigInt(count) };
    },

    async searchUsers(request, context) {
      const { documents, nextPageToken } = await readPage({
        collection: users,
        filter: { deleted_at: null, ...searchFilter(request) },
        order: { sort: { user_id: 1 } },
        size: pageSizeOf(request.pageSize),
        query: queryOf(rpc.SearchUsersRequestSchema, request),
        token: request.pageToken,
        tokens: await pageTokens(),
        limits: cancellable(context),
      });
      return searched(documents, { nextPageToken });
    },

    async recordLoginSuccess({ userId }, context) {
      const now = new Date();
      const set = { last_login: now, failed_login_attempts: 0, account_locked_until: "$$REMOVE" };
      const filter = { ...live(userId), account_locked_until: { $not: { $gt: now } } };
      const found = await change(filter, [{ $set: set }], context, now);
      if (found !== null) return succeeded([found]);
      const [user] = await get(live(userId), context, { user_id: userId });
      throw userLocked(userId, codec.decode(user ?? {}).accountLockedUntil);
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
      const found = await change(live(userId), stages, context, now);
      if (found === null) throw userNotFound({ user_id: userId });
      return failed([found]);
    },

    async incrementSessionCount({ userId, count = 1 }, context) {
      const total = { $min: [maxLong, sum("$total_sessions", BigInt(count))] };
      return incremented(await changeLive(userId, { total_sessions: total }, context));
    },

    async adjustStorageUsed({ userId, deltaBytes }, context) {
      // A sum of int64 that does not fit becomes a double, which the bounds turn into an int64 again.
      const total = { $max: [0n, { $min: [maxLong, sum("$total_storage_used", deltaBytes)] }] };
      return adjusted(await changeLive(userId, { total_storage_used: total }, context));
    },

    async getUserStatistics({ userId }, context) {
      const [found] = await get(live(userId), context, { user_id: userId });
      return { statistics: await statisticsOf(db, codec.decode(found ?? {}), cancellable(context)) };
    },
  };
}

const maxLong = 2n ** 63n - 1n;

/** An expression for a stored number, 0 where it is absent, and what is added to it. */
function sum(field: string, more: bigint | number): Document {
  return { $add: [{ $ifNull: [field, typeof more === "bigint" ? 0n : 0] }, more] };
}

/** What a caller sent is a value and never an expression, whatever it looks like. */
function literal(value: unknown): unknown {
  return value === undefined ? "$$REMOVE" : { $literal: value };
}

function live(userId: string): Document {
  return { user_id: userId, deleted_at: null };
}

function matching(etag: string): Document {
  // An etag that is none of this service's is that of no revision.
  return etag === "" ? {} : { revision: revisionOfEtag(etag) ?? -1n };
}

function secretsOf(sent: UserCredentials, userId: string): Document {
  const secrets = clone(UserCredentialsSchema, onlyWritable(UserCredentialsSchema, sent));
  secrets.userId = userId;
  const { revision: _, ...document } = credentialsCodec.encode(secrets, "credentials");
  return document;
}

function badRequest(field: string, description: string) {
  return fail("BAD_REQUEST", `The request breaks a rule: ${field}`, {
    metadata: { fields: field },
    fields: [{ field, description }],
  });
}

function userNotFound(metadata: Record<string, string>) {
  const [[key, value] = ["user_id", ""]] = Object.entries(metadata);
  return fail("USER_NOT_FOUND", `There is no user with ${key} ${value}`, {
    metadata,
    resource: { type: UserSchema.typeName, name: value },
  });
}

function etagMismatch(userId: string, { revision }: Document) {
  const etag = etagOf(BigInt(revision as bigint | number)); // a stored revision
  return fail("ETAG_MISMATCH", `User ${userId} was changed meanwhile`, { metadata: { user_id: userId, etag } });
}

function userLocked(userId: string, until: Timestamp | undefined) {
  const time = dateAtOrAfter(until ?? timestampFromDate(new Date()));
  return fail("USER_LOCKED", `User ${userId} is locked`, {
    metadata: { user_id: userId, locked_until: time.toISOString() },
    retryAfterMs: Math.max(0, time.getTime() - Date.now()),
  });
}

/** Whether an error says for sure that a document was not stored. */
function isRefusal(error: unknown): boolean {
  if (isReason(error, "REQUEST_ID_REUSED")) return true;
  return error instanceof MongoServerError && (error.code === 11_000 || error.code === 121);
}

/** Turns the refusal of a key that another live user has into one that names it; returns anything else as it is. */
function alreadyExists(error: unknown): unknown {
  const [field] = duplicateKey(error) ?? [];
  if (field === undefined) return error;
  return fail("USER_ALREADY_EXISTS", `There is another user with that ${field}`, {
    metadata: { field },
    fields: [{ field: `user.${field}`, description: "is taken" }],
    cause: error,
  });
}
