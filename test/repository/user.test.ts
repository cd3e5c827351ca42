import { randomUUID } from "node:crypto";

import { create } from "@bufbuild/protobuf";
import { timestampDate } from "@bufbuild/protobuf/wkt";
import { ObjectId } from "bson";
import { afterAll, beforeAll, expect, test } from "vitest";

import {
  HardwareWalletType,
  UserHardwareWalletSchema,
  UserRole,
  UserStatus,
} from "../../gen/lucid/repository/v1/user_pb.ts";
import { newUser, refusalOf, tronAddress, userInit, type UsersApp, usersApp } from "./support.ts";

let service: UsersApp;
beforeAll(async () => {
  service = await usersApp();
});
afterAll(() => service[Symbol.asyncDispose]());

test("a new user has lower-case keys, defaults and nothing that only the service sets", async () => {
  const init = userInit({
    email: "Ada.Lovelace@Example.com",
    username: "Ada_Lovelace",
    userId: "chosen by the caller",
    totalStorageUsed: 99n,
    revision: 99n,
    etag: "x",
    deletedAt: { seconds: 1n },
    preferences: { theme: "light" },
  });
  const before = Date.now();
  const { user } = await service.users.createUser({ user: init });
  expect(user).toMatchObject({
    email: "ada.lovelace@example.com",
    username: "ada_lovelace",
    tronAddress: init.tronAddress,
    role: UserRole.USER,
    status: UserStatus.PENDING_VERIFICATION,
    preferences: {
      language: "en",
      timezone: "UTC",
      emailNotifications: true,
      sessionNotifications: true,
      payoutNotifications: true,
      theme: "light",
      autoAnchorSessions: true,
    },
    totalStorageUsed: 0n,
    revision: 1n,
    etag: '"1"',
  });
  expect(user?.userId).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-/);
  expect(user?.deletedAt).toBeUndefined();
  const createdAt = user?.createdAt === undefined ? 0 : timestampDate(user.createdAt).getTime();
  expect(createdAt).toBeGreaterThanOrEqual(before);
  expect(createdAt).toBeLessThanOrEqual(Date.now());
});

test.for(["users", "overHttp"] as const)("a user is found by each of its keys (%s)", async (listener) => {
  const users = service[listener];
  const made = await newUser(users, {
    username: `Name_${randomUUID().slice(0, 8)}`,
    role: UserRole.NODE_OPERATOR,
    status: UserStatus.ACTIVE,
    profile: { displayName: "Ada", bio: "ü", socialLinks: { code: "https://example.com/a" } },
    hardwareWallet: { type: HardwareWalletType.TREZOR, connectedAt: { seconds: 5n, nanos: 123_000_000 } },
    emailVerified: true,
    nodeCount: 0,
    totalPootScore: 1.5,
    metadata: { a: [1, "x", null, { $b: { "c.d": true } }] },
  });
  const found = [
    (await users.getUser({ userId: made.userId })).user,
    (await users.getUserByEmail({ email: made.email.toUpperCase() })).user,
    (await users.getUserByUsername({ username: made.username?.toUpperCase() ?? "" })).user,
    (await users.getUserByTronAddress({ tronAddress: made.tronAddress })).user,
    (await users.batchGetUsers({ userIds: [made.userId] })).users[0],
  ];
  for (const user of found) expect(user).toStrictEqual(made);
});

test("a batch has its users in the order of the request, and names those that there are not", async () => {
  const made = await Promise.all([1, 2, 3].map(() => newUser(service.users)));
  await service.users.deleteUser({ userId: made[1]?.userId ?? "" });
  const userIds = [made[2], made[1], made[0]].map((user) => user?.userId ?? "");
  const { users, missingUserIds } = await service.users.batchGetUsers({ userIds: [...userIds, "nobody"] });
  expect(users.map(({ userId }) => userId)).toEqual([userIds[0], userIds[2]]);
  expect(missingUserIds).toEqual([userIds[1], "nobody"]);
});

test("an update changes the fields of its mask, clears those that are not set, and leaves the rest", async () => {
  const { userId } = await newUser(service.users, {
    username: `u_${randomUUID().slice(0, 8)}`,
    profile: { displayName: "Ada", bio: "old", location: "here" },
    metadata: { old: true },
    nodeCount: 3,
  });
  const { user } = await service.users.updateUser({
    user: {
      userId,
      profile: { bio: "$email", displayName: "ignored" },
      metadata: { $set: { x: "$$ROOT" } },
      status: UserStatus.ACTIVE,
    },
    updateMask: {
      paths: ["profile.bio", "profile.location", "metadata", "username", "node_count", "revision", "etag"],
    },
  });
  expect(user?.profile).toMatchObject({ displayName: "Ada", bio: "$email" });
  expect(user?.profile?.location).toBeUndefined();
  expect(user?.metadata).toStrictEqual({ $set: { x: "$$ROOT" } });
  expect(user).not.toHaveProperty("username");
  expect(user).not.toHaveProperty("nodeCount");
  expect(user).toMatchObject({ status: UserStatus.PENDING_VERIFICATION, revision: 2n, etag: '"2"' });
  expect((await service.users.getUser({ userId })).user).toStrictEqual(user);
});

test("an update of parts leaves no message without what it needs", async () => {
  const { users, overHttp, db } = service;
  const { userId } = await newUser(users);
  const update = (paths: string[], hardwareWallet?: { type: HardwareWalletType; model?: string }) =>
    users.updateUser({ user: { userId, ...(hardwareWallet && { hardwareWallet }) }, updateMask: { paths } });
  const typeIsMissing = {
    code: "InvalidArgument",
    reason: "BAD_REQUEST",
    fields: ["user.hardware_wallet.type"],
  };
  const ledger = { type: HardwareWalletType.LEDGER, model: "Nano" };
  expect(await refusalOf(update(["hardware_wallet.model"], ledger))).toMatchObject(typeIsMissing);
  // Nothing is cleared of nothing.
  await update(["hardware_wallet.model", "profile.bio"]);
  expect((await overHttp.getUser({ userId })).user).not.toHaveProperty("hardwareWallet");
  expect(
    await db.collection("users").findOne({ user_id: userId, $or: [{ profile: {} }, { hardware_wallet: {} }] }),
  ).toBeNull();

  await update(["hardware_wallet.type", "hardware_wallet.model"], ledger);
  expect(await refusalOf(update(["hardware_wallet.type"]))).toMatchObject(typeIsMissing);
  await update(["hardware_wallet.model"]);
  expect((await users.getUser({ userId })).user?.hardwareWallet).toStrictEqual(
    create(UserHardwareWalletSchema, { type: HardwareWalletType.LEDGER }),
  );
  const stale = users.updateUser({
    user: { userId, hardwareWallet: ledger },
    updateMask: { paths: ["hardware_wallet.model"] },
    etag: '"1"',
  });
  expect(await refusalOf(stale)).toMatchObject({ code: "Aborted", reason: "ETAG_MISMATCH" });
});

test("an update without a mask changes what is set, one with * replaces all that callers may set", async () => {
  const made = await newUser(service.users, { profile: { bio: "b" }, status: UserStatus.ACTIVE, emailVerified: true });
  const { userId, email } = made;
  const some = (await service.users.updateUser({ user: { userId, role: UserRole.ADMIN } })).user;
  expect(some).toMatchObject({ role: UserRole.ADMIN, status: UserStatus.ACTIVE, email, profile: { bio: "b" } });
  const address = made.tronAddress;
  const all = (
    await service.users.updateUser({ user: { userId, email, tronAddress: address }, updateMask: { paths: ["*"] } })
  ).user;
  expect(all).toMatchObject({
    role: UserRole.USER,
    status: UserStatus.PENDING_VERIFICATION,
    email,
    emailVerified: false,
  });
  expect(all?.profile).toBeUndefined();
  expect(all?.createdAt).toStrictEqual(made.createdAt);
});

test("an update that names only what the service sets changes nothing", async () => {
  const made = await newUser(service.users);
  const request = { user: { userId: made.userId, totalSessions: 5n }, updateMask: { paths: ["total_sessions"] } };
  expect((await service.users.updateUser(request)).user).toStrictEqual(made);
  expect(await refusalOf(service.users.updateUser({ ...request, etag: '"9"' }))).toMatchObject({
    reason: "ETAG_MISMATCH",
  });
});

test("who has proven one address has not proven another", async () => {
  const { userId, email } = await newUser(service.users, { emailVerified: true, tronVerified: true });
  const { users } = service;
  const same = (
    await users.updateUser({ user: { userId, email: email.toUpperCase() }, updateMask: { paths: ["email"] } })
  ).user;
  expect(same).toMatchObject({ emailVerified: true, tronVerified: true });
  const other = userInit();
  const changed = (
    await users.updateUser({ user: { userId, ...other }, updateMask: { paths: ["email", "tron_address"] } })
  ).user;
  expect(changed).toMatchObject({ email: other.email, emailVerified: false, tronVerified: false });
  const third = { ...userInit(), emailVerified: true };
  const proven = (
    await users.updateUser({ user: { userId, ...third }, updateMask: { paths: ["email", "email_verified"] } })
  ).user;
  expect(proven).toMatchObject({ email: third.email, emailVerified: true });
});

test("a deleted user is not found, can be shown, lets go of its keys and comes back", async () => {
  const { users } = service;
  const made = await newUser(users, { username: `d_${randomUUID().slice(0, 8)}` });
  const { userId, email, tronAddress: address, username } = made;
  const only = (await users.deleteUser({ userId, validateOnly: true, etag: made.etag })).user;
  expect(only).toStrictEqual(made);
  const gone = (await users.deleteUser({ userId, etag: made.etag })).user;
  expect(gone).toMatchObject({ userId, revision: 2n });
  expect(gone?.deletedAt).toStrictEqual(gone?.updatedAt);
  for (const call of [
    () => users.getUser({ userId }),
    () => users.getUserByEmail({ email }),
    () => users.getUserByUsername({ username: username ?? "" }),
    () => users.getUserByTronAddress({ tronAddress: address }),
    () => users.updateUser({ user: { userId, role: UserRole.ADMIN } }),
    () => users.deleteUser({ userId }),
    () => users.incrementSessionCount({ userId }),
    () => users.setUserCredentials({ userId, credentials: {} }),
  ]) {
    expect(await refusalOf(call())).toMatchObject({ code: "NotFound", reason: "USER_NOT_FOUND" });
  }
  expect((await users.getUser({ userId, showDeleted: true })).user).toStrictEqual(gone);
  const successor = await newUser(users, { email, username: username ?? "", tronAddress: address });
  expect(await refusalOf(users.undeleteUser({ userId }))).toMatchObject({
    code: "AlreadyExists",
    reason: "USER_ALREADY_EXISTS",
  });
  await users.deleteUser({ userId: successor.userId });
  const back = (await users.undeleteUser({ userId, etag: gone?.etag ?? "" })).user;
  expect(back).toMatchObject({ userId, email, revision: 3n });
  expect(back?.deletedAt).toBeUndefined();
  expect((await users.getUserByEmail({ email })).user).toStrictEqual(back);
});

test.for(["email", "username", "tron_address"] as const)(
  "a deleted user whose %s was taken stays deleted",
  async (key) => {
    const { users } = service;
    const made = await newUser(users, { username: `t_${randomUUID().slice(0, 8)}` });
    await users.deleteUser({ userId: made.userId });
    const taken = {
      email: { email: made.email },
      username: { username: made.username ?? "" },
      tron_address: { tronAddress: made.tronAddress },
    };
    await newUser(users, taken[key]);
    expect(await refusalOf(users.undeleteUser({ userId: made.userId }))).toEqual({
      code: "AlreadyExists",
      reason: "USER_ALREADY_EXISTS",
      metadata: { field: key },
      fields: [`user.${key}`],
    });
    expect((await users.getUser({ userId: made.userId, showDeleted: true })).user?.deletedAt).toBeDefined();
  },
);

test("a create that is repeated with its request_id returns the first user as it is now", async () => {
  const { users, db } = service;
  const request = {
    user: userInit({ metadata: { a: 1, b: { c: 2, d: 3 } } }),
    credentials: { salt: Buffer.from("s") },
    requestId: randomUUID(),
  };
  const { user: first } = await users.createUser(request);
  const userId = first?.userId ?? "";
  await users.updateUser({ user: { userId, status: UserStatus.ACTIVE } });
  // As a client of a language whose maps have no order would send it.
  const shuffled = { ...request.user, metadata: { b: { d: 3, c: 2 }, a: 1 } };
  const again = await users.createUser({ ...request, user: shuffled, requestId: request.requestId.toUpperCase() });
  expect(again.user).toMatchObject({ userId, status: UserStatus.ACTIVE });
  expect(await db.collection("users").countDocuments({ email: first?.email ?? "" })).toBe(1);
  expect(await db.collection("authentication").countDocuments({ user_id: userId })).toBe(1);
  expect(await refusalOf(users.createUser({ ...request, user: userInit() }))).toEqual({
    code: "InvalidArgument",
    reason: "REQUEST_ID_REUSED",
    metadata: { request_id: request.requestId },
    fields: ["request_id"],
  });
  await users.deleteUser({ userId });
  expect((await users.createUser(request)).user).toMatchObject({ userId, revision: 3n });
});

test("a create and its retry may send whatever they like where only the service sets something", async () => {
  const { users } = service;
  const requestId = randomUUID();
  const [email, address] = [`${requestId}@example.com`, tronAddress()];
  const atNoTime = { seconds: 2n ** 63n - 1n };
  const { user } = await users.createUser({
    user: { email, tronAddress: address, createdAt: atNoTime },
    credentials: { updatedAt: atNoTime },
    requestId,
  });
  const again = await users.createUser({
    user: { email, tronAddress: address, revision: 7n, etag: '"7"' },
    credentials: {},
    requestId,
  });
  expect(again.user).toStrictEqual(user);
});

test.for([
  ["$where", { $where: "sleep(1000)" }],
  ["dots", { "a.b.c": { "": 1, "d..e": 2 } }],
  ["operators", { $set: { role: "SUPER_ADMIN" }, $literal: "$email", $$NOW: "$$ROOT" }],
  ["references", { ref: { $ref: "users", $id: "1" } }],
  ["names of the prototype", { constructor: 1, toString: 2, hasOwnProperty: { x: 1 } }],
  ["as many levels as are taken", { a: JSON.parse(`${"[".repeat(28)}1${"]".repeat(28)}`) as number }],
  ["large text", { text: "é".repeat(100_000) }],
] as const)("metadata with %s is data and nothing else", async ([, metadata]) => {
  const { userId } = await newUser(service.users, { metadata });
  expect((await service.users.getUser({ userId })).user?.metadata).toStrictEqual(metadata);
  await service.users.updateUser({ user: { userId, metadata: { before: 1 } } });
  await service.users.updateUser({ user: { userId, metadata }, updateMask: { paths: ["metadata"] } });
  const { user } = await service.overHttp.getUser({ userId });
  expect(user?.metadata).toStrictEqual(metadata);
  expect(user?.role).toBe(UserRole.USER);
});

test("a document that another program has damaged is reported by the name of its field, not passed on", async () => {
  const { userId } = await newUser(service.users);
  // Past the validator, as a restore or an older program could write.
  await service.db
    .collection("users")
    .updateOne({ user_id: userId }, { $set: { profile: { bio: new ObjectId() } } }, { bypassDocumentValidation: true });
  expect(await refusalOf(service.users.getUser({ userId }))).toMatchObject({
    code: "DataLoss",
    reason: "DOCUMENT_DAMAGED",
    metadata: { field: "profile.bio" },
  });
});

test("a TRON address is one only if its checksum and version fit", async () => {
  const good = tronAddress();
  const flipped = good.slice(0, -1) + (good.endsWith("2") ? "3" : "2");
  const bad = { code: "InvalidArgument", reason: "BAD_REQUEST", fields: ["user.tron_address"] };
  expect(await refusalOf(newUser(service.users, { tronAddress: flipped }))).toMatchObject(bad);
  expect(await refusalOf(newUser(service.users, { tronAddress: tronAddress(0x42) }))).toMatchObject(bad);
  expect(await refusalOf(newUser(service.users, { tronAddress: tronAddress(0x41, 19) }))).toMatchObject(bad);
  expect(await refusalOf(service.users.getUserByTronAddress({ tronAddress: flipped }))).toMatchObject({
    fields: ["tron_address"],
  });
});
