import { randomUUID } from "node:crypto";

import type { Client } from "@connectrpc/connect";
import { afterAll, beforeAll, expect, test } from "vitest";

import type { User } from "../../gen/lucid/repository/v1/user_pb.ts";
import { UserSearchMode, UserService } from "../../gen/lucid/repository/v1/user_service_pb.ts";
import { bad, deep, long, megabyte, noToken, nothing, type Refusal, stale, unknown, untried } from "./refusals.ts";
import { newUser, refusalOf, tronAddress, userInit, type UsersApp, usersApp } from "./support.ts";

type Users = Client<typeof UserService>;

const missing = { code: "NotFound", reason: "USER_NOT_FOUND" };

/** What each rpc refuses. `made` is a live user, `other` another one. */
const refusals: readonly Refusal<(users: Users, made: User, other: User) => Promise<unknown>>[] = [
  ["createUser: nothing", (users) => users.createUser({}), bad("user")],
  ["createUser: no keys", (users) => users.createUser({ user: {} }), bad("user.email", "user.tron_address")],
  [
    "createUser: no e-mail address",
    (users) => users.createUser({ user: userInit({ email: "ada" }) }),
    bad("user.email"),
  ],
  ["createUser: short name", (users) => users.createUser({ user: userInit({ username: "ab" }) }), bad("user.username")],
  [
    "createUser: name with a space",
    (users) => users.createUser({ user: userInit({ username: "a da" }) }),
    bad("user.username"),
  ],
  [
    "createUser: name with a null",
    (users) => users.createUser({ user: userInit({ username: "ada\0" }) }),
    bad("user.username"),
  ],
  [
    "createUser: no base58",
    (users) => users.createUser({ user: userInit({ tronAddress: `T${"0".repeat(33)}` }) }),
    bad("user.tron_address"),
  ],
  ["createUser: unknown role", (users) => users.createUser({ user: userInit({ role: unknown }) }), bad("user.role")],
  [
    "createUser: long text about itself",
    (users) => users.createUser({ user: userInit({ profile: { bio: "x".repeat(501) } }) }),
    bad("user.profile.bio"),
  ],
  [
    "createUser: key of a link",
    (users) => users.createUser({ user: userInit({ profile: { socialLinks: { "a.b": "x" } } }) }),
    bad('user.profile.social_links["a.b"]'),
  ],
  [
    "createUser: no language",
    (users) => users.createUser({ user: userInit({ preferences: { language: "../en" } }) }),
    bad("user.preferences.language"),
  ],
  [
    "createUser: wallet of nobody",
    (users) => users.createUser({ user: userInit({ hardwareWallet: {} }) }),
    bad("user.hardware_wallet.type"),
  ],
  [
    "createUser: negative nodes",
    (users) => users.createUser({ user: userInit({ nodeCount: -1 }) }),
    bad("user.node_count"),
  ],
  [
    "createUser: null character in metadata",
    (users) => users.createUser({ user: userInit({ metadata: { "a\0": 1 } }) }),
    bad("user.metadata"),
  ],
  [
    "createUser: deep metadata",
    (users) => users.createUser({ user: userInit({ metadata: deep(31) }) }),
    bad("user.metadata"),
  ],
  [
    "createUser: a megabyte of metadata",
    (users) => users.createUser({ user: userInit({ metadata: { a: megabyte } }) }),
    bad("user.metadata"),
  ],
  [
    "createUser: a megabyte of name",
    (users) => users.createUser({ user: userInit({ username: megabyte }) }),
    bad("user.username"),
  ],
  ["createUser: request_id", (users) => users.createUser({ user: userInit(), requestId: "1" }), bad("request_id")],
  [
    "createUser: long secret",
    (users) => users.createUser({ user: userInit(), credentials: { salt: new Uint8Array(257) } }),
    bad("credentials.salt"),
  ],
  [
    "createUser: taken e-mail address",
    (users, made) => users.createUser({ user: userInit({ email: made.email.toUpperCase() }) }),
    taken("email"),
  ],
  [
    "createUser: taken name",
    (users, made) => users.createUser({ user: userInit({ username: made.username ?? "" }) }),
    taken("username"),
  ],
  [
    "createUser: taken address",
    (users, made) => users.createUser({ user: userInit({ tronAddress: made.tronAddress }) }),
    taken("tron_address"),
  ],
  ["getUser: no id", (users) => users.getUser({}), bad("user_id")],
  ["getUser: long id", (users) => users.getUser({ userId: long }), bad("user_id")],
  ["getUser: nobody", (users) => users.getUser({ userId: nothing }), { ...missing, metadata: { user_id: nothing } }],
  ["getUser: nothing, deleted or not", (users) => users.getUser({ userId: nothing, showDeleted: true }), missing],
  ["getUser: an operator as id", (users) => users.getUser({ userId: '{"$ne":null}' }), missing],
  ["getUserByEmail: nothing", (users) => users.getUserByEmail({}), bad("email")],
  [
    "getUserByEmail: nobody",
    (users) => users.getUserByEmail({ email: "a\0b" }),
    { ...missing, metadata: { email: "a\0b" } },
  ],
  ["getUserByUsername: nothing", (users) => users.getUserByUsername({}), bad("username")],
  [
    "getUserByUsername: nobody",
    (users) => users.getUserByUsername({ username: ".*" }),
    { ...missing, metadata: { username: ".*" } },
  ],
  ["getUserByTronAddress: nothing", (users) => users.getUserByTronAddress({}), bad("tron_address")],
  ["getUserByTronAddress: nobody", (users) => users.getUserByTronAddress({ tronAddress: tronAddress() }), missing],
  ["batchGetUsers: nothing", (users) => users.batchGetUsers({}), bad("user_ids")],
  [
    "batchGetUsers: too many",
    (users) => users.batchGetUsers({ userIds: Array.from({ length: 101 }, () => randomUUID()) }),
    bad("user_ids"),
  ],
  ["batchGetUsers: twice", (users) => users.batchGetUsers({ userIds: ["a", "a"] }), bad("user_ids")],
  ["batchGetUsers: empty id", (users) => users.batchGetUsers({ userIds: ["a", ""] }), bad("user_ids[1]")],
  ["updateUser: nothing", (users) => users.updateUser({}), bad("user")],
  ["updateUser: no id", (users) => users.updateUser({ user: { email: "a@example.com" } }), bad("user")],
  ["updateUser: nobody", (users) => users.updateUser({ user: { userId: nothing, emailVerified: true } }), missing],
  ["updateUser: cleared e-mail address", (users, { userId }) => update(users, userId, "email"), bad("user.email")],
  [
    "updateUser: cleared TRON address",
    (users, { userId }) => update(users, userId, "tron_address"),
    bad("user.tron_address"),
  ],
  [
    "updateUser: cleared by *",
    (users, { userId }) => update(users, userId, "*"),
    bad("user.email", "user.tron_address"),
  ],
  ["updateUser: unknown field", (users, { userId }) => update(users, userId, "password"), bad("update_mask")],
  [
    "updateUser: unknown inner field",
    (users, { userId }) => update(users, userId, "profile.password"),
    bad("update_mask"),
  ],
  [
    "updateUser: below a map",
    (users, { userId }) => update(users, userId, "profile.social_links.code"),
    bad("update_mask"),
  ],
  ["updateUser: below free data", (users, { userId }) => update(users, userId, "metadata.a"), bad("update_mask")],
  ["updateUser: below a value", (users, { userId }) => update(users, userId, "email.x"), bad("update_mask")],
  [
    "updateUser: a stored field that is no field",
    (users, { userId }) => update(users, userId, "_id"),
    bad("update_mask"),
  ],
  ["updateUser: an operator", (users, { userId }) => update(users, userId, "$set"), bad("update_mask")],
  ["updateUser: * and another", (users, { userId }) => update(users, userId, "*", "email"), bad("update_mask")],
  [
    "updateUser: stale etag",
    (users, { userId }) => users.updateUser({ user: { userId, emailVerified: true }, etag: '"99"' }),
    stale,
  ],
  [
    "updateUser: no etag at all",
    (users, { userId }) => users.updateUser({ user: { userId, emailVerified: true }, etag: "*" }),
    stale,
  ],
  [
    "updateUser: taken key",
    (users, made, other) => users.updateUser({ user: { userId: other.userId, email: made.email } }),
    taken("email"),
  ],
  ["setUserCredentials: nothing", (users) => users.setUserCredentials({}), bad("user_id", "credentials")],
  ["setUserCredentials: nobody", (users) => users.setUserCredentials({ userId: nothing, credentials: {} }), missing],
  ["deleteUser: no id", (users) => users.deleteUser({}), bad("user_id")],
  ["deleteUser: nobody", (users) => users.deleteUser({ userId: nothing }), missing],
  ["deleteUser: nothing, only checked", (users) => users.deleteUser({ userId: nothing, validateOnly: true }), missing],
  ["deleteUser: stale etag", (users, { userId }) => users.deleteUser({ userId, etag: '"99"' }), stale],
  [
    "deleteUser: stale etag, only checked",
    (users, { userId }) => users.deleteUser({ userId, etag: '"99"', validateOnly: true }),
    stale,
  ],
  ["undeleteUser: no id", (users) => users.undeleteUser({}), bad("user_id")],
  ["undeleteUser: nobody", (users) => users.undeleteUser({ userId: nothing }), missing],
  [
    "undeleteUser: not deleted",
    (users, { userId }) => users.undeleteUser({ userId }),
    { code: "FailedPrecondition", reason: "USER_NOT_DELETED" },
  ],
  ["listUsers: negative size", (users) => users.listUsers({ pageSize: -1 }), bad("page_size")],
  ["listUsers: made-up token", (users) => users.listUsers({ pageToken: "abc" }), noToken],
  ["listUsers: order without an index", (users) => users.listUsers({ orderBy: "last_login" }), bad("order_by")],
  ["listUsers: order by a secret", (users) => users.listUsers({ orderBy: "password_hash" }), bad("order_by")],
  ["listUsers: no order", (users) => users.listUsers({ orderBy: "email sideways" }), bad("order_by")],
  ["listUsers: half an order", (users) => users.listUsers({ orderBy: "email," }), bad("order_by")],
  [
    "listUsers: range and another order",
    (users) => users.listUsers({ orderBy: "email", filter: { createdFrom: { seconds: 1n } } }),
    bad("order_by"),
  ],
  ["listUsers: unknown status", (users) => users.listUsers({ filter: { status: unknown } }), bad("filter.status")],
  ["countUsers: unknown role", (users) => users.countUsers({ filter: { role: unknown } }), bad("filter.role")],
  ["searchUsers: nothing", (users) => users.searchUsers({}), bad("query")],
  ["searchUsers: null character", (users) => users.searchUsers({ query: "a\0b" }), bad("query")],
  [
    "searchUsers: short part",
    (users) => users.searchUsers({ query: "ab", mode: UserSearchMode.SUBSTRING }),
    { reason: "BAD_REQUEST" },
  ],
  [
    "searchUsers: made-up token",
    (users) => users.searchUsers({ query: "a", pageToken: "abc" }),
    { reason: "PAGE_TOKEN_INVALID" },
  ],
  ["recordLoginSuccess: no id", (users) => users.recordLoginSuccess({}), bad("user_id")],
  ["recordLoginSuccess: nobody", (users) => users.recordLoginSuccess({ userId: nothing }), missing],
  ["recordLoginFailure: no id", (users) => users.recordLoginFailure({}), bad("user_id")],
  ["recordLoginFailure: nobody", (users) => users.recordLoginFailure({ userId: nothing }), missing],
  ["incrementSessionCount: no id", (users) => users.incrementSessionCount({}), bad("user_id")],
  [
    "incrementSessionCount: nothing to add",
    (users) => users.incrementSessionCount({ userId: nothing, count: 0 }),
    bad("count"),
  ],
  ["incrementSessionCount: nobody", (users) => users.incrementSessionCount({ userId: nothing }), missing],
  ["adjustStorageUsed: no id", (users) => users.adjustStorageUsed({}), bad("user_id")],
  ["adjustStorageUsed: nobody", (users) => users.adjustStorageUsed({ userId: nothing, deltaBytes: 1n }), missing],
  ["getUserStatistics: no id", (users) => users.getUserStatistics({}), bad("user_id")],
  ["getUserStatistics: nobody", (users) => users.getUserStatistics({ userId: nothing }), missing],
  [
    "watchUsers: unknown status",
    (users) => Array.fromAsync(users.watchUsers({ filter: { status: unknown } })),
    bad("filter.status"),
  ],
  [
    "watchUsers: short interval",
    (users) => Array.fromAsync(users.watchUsers({ checkpointInterval: { nanos: 1 } })),
    bad("checkpoint_interval"),
  ],
  [
    "watchUsers: long token",
    (users) => Array.fromAsync(users.watchUsers({ resumeToken: "x".repeat(2049) })),
    bad("resume_token"),
  ],
  [
    "watchUsers: made-up token",
    (users) => Array.fromAsync(users.watchUsers({ resumeToken: "abc" })),
    { code: "InvalidArgument", reason: "WATCH_TOKEN_INVALID", fields: ["resume_token"] },
  ],
];

function taken(field: string) {
  return { code: "AlreadyExists", reason: "USER_ALREADY_EXISTS", metadata: { field }, fields: [`user.${field}`] };
}

function update(users: Users, userId: string, ...paths: string[]) {
  return users.updateUser({ user: { userId }, updateMask: { paths } });
}

let service: UsersApp;
let made: User;
let other: User;
beforeAll(async () => {
  service = await usersApp();
  made = await newUser(service.users, { username: `r_${randomUUID().slice(0, 8)}` });
  other = await newUser(service.users);
});
afterAll(() => service[Symbol.asyncDispose]());

test("every rpc is refused something here", () => {
  expect(untried(UserService, refusals)).toEqual([]);
});

test.for(refusals)("%s", async ([, call, expected]) => {
  expect(await refusalOf(call(service.users, made, other))).toMatchObject(expected);
  expect(await refusalOf(call(service.overHttp, made, other))).toMatchObject(expected);
  // What was refused has changed nothing.
  expect((await service.users.getUser({ userId: made.userId })).user).toStrictEqual(made);
});
