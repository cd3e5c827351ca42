import { randomUUID } from "node:crypto";

import { timestampDate } from "@bufbuild/protobuf/wkt";
import { afterAll, beforeAll, expect, test } from "vitest";

import { lockAfterFailures, newUser, refusalOf, userInit, type UsersApp, usersApp } from "./support.ts";

let service: UsersApp;
beforeAll(async () => {
  service = await usersApp();
});
afterAll(() => service[Symbol.asyncDispose]());

const many = (count: number) => Array.from({ length: count }, (_, index) => index);

test("adjusting storage and counting sessions from many callers at once loses nothing", async () => {
  const { users, overHttp } = service;
  const { userId } = await newUser(users);
  await Promise.all(
    many(50).map((index) => (index % 2 === 0 ? users : overHttp).adjustStorageUsed({ userId, deltaBytes: 10n })),
  );
  await Promise.all(many(50).map(() => users.incrementSessionCount({ userId })));
  expect((await users.getUser({ userId })).user).toMatchObject({
    totalStorageUsed: 500n,
    totalSessions: 50n,
    revision: 101n,
  });
});

test.for(["email", "username", "tronAddress"] as const)(
  "of many users with one %s exactly one is created",
  async (key) => {
    const init = userInit({ username: `w_${randomUUID().slice(0, 8)}` });
    const calls = await Promise.allSettled(
      many(20).map(() => service.users.createUser({ user: { ...userInit(), [key]: init[key] } })),
    );
    expect(calls.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
    const name = key === "tronAddress" ? "tron_address" : key;
    expect(await service.db.collection("users").countDocuments({ [name]: init[key] })).toBe(1);
  },
);

test("of many creates with one request_id one creates, and all return its user", async () => {
  const request = { user: userInit(), credentials: { passwordHash: Buffer.from("hash") }, requestId: randomUUID() };
  const made = await Promise.all(many(20).map(() => service.users.createUser(request)));
  expect(new Set(made.map(({ user }) => user?.userId)).size).toBe(1);
  const userId = made[0]?.user?.userId ?? "";
  const secrets = await service.db.collection("authentication").find({}).toArray();
  // Every user that is not this one has its own; the others' secrets are gone.
  const owners = await service.db.collection("users").distinct("user_id");
  expect(secrets.map(({ user_id }) => user_id as string).filter((owner) => !owners.includes(owner))).toEqual([]);
  expect(secrets.filter(({ user_id }) => user_id === userId)).toHaveLength(1);
});

test("of many updates with one etag exactly one succeeds", async () => {
  const { userId, etag } = await newUser(service.users);
  const calls = await Promise.all(
    many(20).map((index) =>
      service.users.updateUser({ user: { userId, profile: { bio: `${index}` } }, etag }).then(
        ({ user }) => user?.profile?.bio,
        (error: unknown) => refusalOf(Promise.reject(error as Error)),
      ),
    ),
  );
  const won = calls.filter((call) => typeof call === "string");
  expect(won).toHaveLength(1);
  expect((await service.users.getUser({ userId })).user).toMatchObject({ profile: { bio: won[0] }, revision: 2n });
  for (const lost of calls.filter((call) => typeof call !== "string")) {
    expect(lost).toMatchObject({
      code: "Aborted",
      reason: "ETAG_MISMATCH",
      metadata: { user_id: userId, etag: '"2"' },
    });
  }
});

test("of many deletions exactly one succeeds", async () => {
  const { userId } = await newUser(service.users);
  const calls = await Promise.allSettled(many(10).map(() => service.users.deleteUser({ userId })));
  expect(calls.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
});

test("an account is locked by the failure that is one too many, and not before", async () => {
  const { users } = service;
  const { userId } = await newUser(users);
  const fail = async () => (await users.recordLoginFailure({ userId })).user;
  for (const attempt of many(lockAfterFailures - 1)) {
    const user = await fail();
    expect(user?.failedLoginAttempts).toBe(attempt + 1);
    expect(user?.accountLockedUntil).toBeUndefined();
  }
  const locked = await fail();
  expect(locked?.failedLoginAttempts).toBe(lockAfterFailures);
  const until = locked?.accountLockedUntil;
  const failedAt = locked?.lastFailedLogin;
  if (until === undefined || failedAt === undefined) throw new Error("The account is not locked");
  expect(timestampDate(until).getTime() - timestampDate(failedAt).getTime()).toBe(15 * 60_000);
  expect((await fail())?.accountLockedUntil).toStrictEqual(until);
  expect(await refusalOf(users.recordLoginSuccess({ userId }))).toMatchObject({
    code: "FailedPrecondition",
    reason: "USER_LOCKED",
    metadata: { user_id: userId, locked_until: timestampDate(until).toISOString() },
  });
  expect((await users.getUser({ userId })).user).not.toHaveProperty("lastLogin");
});

test("a lock that has ended lets the user in, and starts the count anew", async () => {
  const { users, db } = service;
  const { userId } = await newUser(users);
  const endLock = () =>
    db.collection("users").updateOne({ user_id: userId }, { $set: { account_locked_until: new Date(Date.now() - 1) } });
  for (const _ of many(lockAfterFailures)) await users.recordLoginFailure({ userId });
  await endLock();
  const again = (await users.recordLoginFailure({ userId })).user;
  expect(again?.failedLoginAttempts).toBe(1);
  expect(again?.accountLockedUntil).toBeUndefined();
  for (const _ of many(lockAfterFailures)) await users.recordLoginFailure({ userId });
  await endLock();
  const { user } = await users.recordLoginSuccess({ userId });
  expect(user?.failedLoginAttempts).toBe(0);
  expect(user?.accountLockedUntil).toBeUndefined();
  expect(user?.lastLogin).toStrictEqual(user?.updatedAt);
});

test("failures at once are all counted, and lock once", async () => {
  const { users } = service;
  const { userId } = await newUser(users);
  const after = await Promise.all(many(10).map(() => users.recordLoginFailure({ userId })));
  expect((await users.getUser({ userId })).user?.failedLoginAttempts).toBe(10);
  const locks = after.flatMap(({ user }) =>
    user?.accountLockedUntil === undefined ? [] : [timestampDate(user.accountLockedUntil).getTime()],
  );
  expect(locks).toHaveLength(10 - lockAfterFailures + 1);
  expect(new Set(locks).size).toBe(1);
});
