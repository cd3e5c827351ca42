import { randomUUID } from "node:crypto";

import { afterAll, beforeAll, expect, test } from "vitest";

import { newUser, type UsersApp, usersApp } from "./support.ts";

let service: UsersApp;
beforeAll(async () => {
  service = await usersApp();
});
afterAll(() => service[Symbol.asyncDispose]());

test("storage stops at 0 and at the largest int64", async () => {
  const { users } = service;
  const { userId } = await newUser(users);
  const adjusted = async (deltaBytes: bigint) =>
    (await users.adjustStorageUsed({ userId, deltaBytes })).user?.totalStorageUsed;
  expect(await adjusted(100n)).toBe(100n);
  expect(await adjusted(-30n)).toBe(70n);
  expect(await adjusted(-71n)).toBe(0n);
  expect(await adjusted(2n ** 63n - 2n)).toBe(2n ** 63n - 2n);
  expect(await adjusted(2n ** 63n - 1n)).toBe(2n ** 63n - 1n);
  expect(await adjusted(-(2n ** 63n))).toBe(0n);
});

test("sessions are counted one by one or many at once", async () => {
  const { userId } = await newUser(service.users);
  await service.users.incrementSessionCount({ userId });
  expect((await service.users.incrementSessionCount({ userId, count: 41 })).user?.totalSessions).toBe(42n);
});

test("statistics are computed from the user's sessions and their chunks", async () => {
  const { users, db } = service;
  const { userId } = await newUser(users, { nodeCount: 4, totalPootScore: 2.5 });
  const none = (await users.getUserStatistics({ userId })).statistics;
  expect(none).toMatchObject({
    userId,
    totalSessions: 0n,
    totalChunks: 0n,
    avgSessionDurationSeconds: 0,
    nodesOperated: 4,
  });
  expect(none?.lastActivity).toBeUndefined();

  const time = (minute: number) => new Date(Date.UTC(2026, 0, 1, 0, minute));
  const sessions = [
    { status: "COMPLETED", duration_seconds: 100n, updated_at: time(1) },
    { status: "COMPLETED", duration_seconds: 201n, updated_at: time(2) },
    { status: "RECORDING", updated_at: time(3) },
    { status: "PENDING", updated_at: time(4) },
    { status: "FAILED", updated_at: time(5) },
    { status: "COMPLETED", duration_seconds: 9999n, updated_at: time(50), deleted_at: time(51) },
  ].map((session) => ({ session_id: randomUUID(), user_id: userId, created_at: time(0), ...session }));
  const chunks = sessions.flatMap(({ session_id }, at) => [
    { session_id, chunk_index: 0, size_bytes: 10n + BigInt(at), status: "STORED", uploaded_at: time(10 + at) },
    { session_id, chunk_index: 1, size_bytes: 1000n, status: "FAILED", uploaded_at: time(9) },
    { session_id, chunk_index: 2, size_bytes: 5, status: "PENDING" },
  ]);
  const others = {
    session_id: randomUUID(),
    user_id: "another",
    status: "COMPLETED",
    created_at: time(0),
    updated_at: time(59),
  };
  await db.collection("sessions").insertMany([...sessions, others]);
  const ofOthers = { session_id: others.session_id, chunk_index: 0, size_bytes: 7n, status: "STORED" };
  const alike = () => ({ chunk_id: randomUUID(), hash: "ab".repeat(32), created_at: time(0) });
  await db.collection("chunks").insertMany([...chunks, ofOthers].map((chunk) => ({ ...chunk, ...alike() })));
  const stored = 10n + 11n + 12n + 13n + 14n;
  expect((await users.getUserStatistics({ userId })).statistics).toMatchObject({
    totalSessions: 5n,
    activeSessions: 2n,
    completedSessions: 2n,
    totalChunks: 15n,
    totalStorageBytes: stored + 5n * 5n,
    totalBandwidthBytes: stored + 5n * 1000n,
    avgSessionDurationSeconds: 150.5,
    nodesOperated: 4,
    totalPootScore: 2.5,
    lastActivity: { seconds: BigInt(time(14).getTime() / 1000) },
  });
  const { user } = await users.recordLoginSuccess({ userId });
  expect((await users.getUserStatistics({ userId })).statistics?.lastActivity).toStrictEqual(user?.lastLogin);
});
