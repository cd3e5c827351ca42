import { createHash, randomUUID } from "node:crypto";

import { toJson } from "@bufbuild/protobuf";
import type { Client } from "@connectrpc/connect";
import { afterAll, beforeAll, expect, test } from "vitest";

import { AuditLogService } from "../../../gen/lucid/repository/v1/audit_log_service_pb.ts";
import { type AuditRecord, AuditEffect, AuditRecordSchema } from "../../../gen/lucid/repository/v1/audit_record_pb.ts";
import { newUser, refusalOf, userInit, type UsersApp, usersApp } from "../support.ts";

let service: UsersApp;
let audit: Client<typeof AuditLogService>;
beforeAll(async () => {
  service = await usersApp();
  audit = service.app.client(AuditLogService);
});
afterAll(() => service[Symbol.asyncDispose]());

async function recordsOf(resourceName: string, resourceType = "User"): Promise<AuditRecord[]> {
  const filter = { resourceType, resourceName };
  return (await audit.listAuditRecords({ filter, orderBy: "timestamp", pageSize: 1000 })).records;
}

const rpc = (name: string) => `lucid.repository.v1.UserService/${name}`;

test("a change leaves one record that says who did what to which resource", async () => {
  const requestId = randomUUID();
  const { user } = await service.users.createUser({ user: userInit(), requestId });
  const userId = user?.userId ?? "";
  await service.overHttp.updateUser({ user: { userId, emailVerified: true, profile: { bio: "b" } } });
  const [created, updated, ...more] = await recordsOf(userId);
  expect(more).toEqual([]);
  expect(created).toMatchObject({
    actor: { id: "anonymous", role: "", sourceAddress: "127.0.0.1" },
    rpc: rpc("CreateUser"),
    action: "create",
    resource: { type: "User", name: userId },
    effect: AuditEffect.CHANGED,
    outcome: "OK",
    requestId,
    changedFields: [],
    requestDigest: expect.stringMatching(/^[0-9a-f]{64}$/) as string,
  });
  expect(updated).toMatchObject({
    actor: { sourceAddress: "127.0.0.1" },
    rpc: rpc("UpdateUser"),
    outcome: "OK",
    changedFields: ["profile", "email_verified"],
  });
});

test("what changes nothing leaves no record of a change, and what is refused says so", async () => {
  const { userId } = await newUser(service.users);
  await service.users.updateUser({ user: { userId } });
  await service.users.deleteUser({ userId, validateOnly: true });
  await service.users.getUser({ userId });
  await refusalOf(service.users.updateUser({ user: { userId, emailVerified: true }, etag: '"99"' }));
  await refusalOf(service.users.undeleteUser({ userId }));
  await refusalOf(service.users.incrementSessionCount({ userId, count: 0 }));
  expect((await recordsOf(userId)).map(({ rpc: name, effect, outcome }) => [name, effect, outcome])).toEqual([
    [rpc("CreateUser"), AuditEffect.CHANGED, "OK"],
    [rpc("UpdateUser"), AuditEffect.NOT_CHANGED, "ABORTED"],
    [rpc("UndeleteUser"), AuditEffect.NOT_CHANGED, "FAILED_PRECONDITION"],
    [rpc("IncrementSessionCount"), AuditEffect.NOT_CHANGED, "INVALID_ARGUMENT"],
  ]);
});

test("an idempotent retry of a create leaves one record", async () => {
  const request = { user: userInit(), requestId: randomUUID() };
  const made = await Promise.all(Array.from({ length: 10 }, () => service.users.createUser(request)));
  const userId = made[0]?.user?.userId ?? "";
  expect(await recordsOf(userId)).toHaveLength(1);
  const filter = { rpc: rpc("CreateUser") };
  const { records } = await audit.listAuditRecords({ filter, pageSize: 1000 });
  expect(records.filter((record) => record.requestId === request.requestId)).toHaveLength(1);
});

test("the hash of a record is what its proto says: SHA-256 of its JSON in the canonical form", async () => {
  const { userId } = await newUser(service.users);
  const [record] = await recordsOf(userId);
  if (record === undefined) throw new Error("There is no record");
  const { hash: stored, ...said } = toJson(AuditRecordSchema, record) as Record<string, unknown>;
  const sorted = (value: unknown): unknown =>
    typeof value === "object" && value !== null && !Array.isArray(value)
      ? Object.fromEntries(
          Object.entries(value)
            .toSorted(([one], [other]) => (one < other ? -1 : 1))
            .map(([name, inner]) => [name, sorted(inner)]),
        )
      : value;
  expect(
    createHash("sha256")
      .update(JSON.stringify(sorted(said)))
      .digest("hex"),
  ).toBe(stored);
  const { head } = await audit.getAuditHead({});
  expect(head?.sequence).toBeGreaterThanOrEqual(record.sequence);
  expect(await audit.getAuditRecord({ auditId: record.auditId })).toMatchObject({ record: { hash: stored } });
});

test("the digest of a request tells of what it asks, and not of its secrets", async () => {
  const { userId } = await newUser(service.users);
  for (const salt of ["one", "other"])
    await service.users.setUserCredentials({ userId, credentials: { salt: Buffer.from(salt) } });
  for (const deltaBytes of [1n, 2n]) await service.users.adjustStorageUsed({ userId, deltaBytes });
  const [, one, other, least, more] = (await recordsOf(userId)).map(({ requestDigest }) => requestDigest);
  expect(one).toBe(other);
  expect(least).not.toBe(more);
});

test("documents keep no record once it is in the log", async () => {
  const { userId } = await newUser(service.users);
  await service.users.setUserCredentials({ userId, credentials: { salt: Buffer.from("s") } });
  expect(await recordsOf(userId)).toHaveLength(2);
  for (const name of ["users", "authentication"])
    expect(await service.db.collection(name).countDocuments({ user_id: userId, _audit: { $exists: true } })).toBe(0);
});

test("50 callers at once leave a chain without gaps or duplicates", async () => {
  const before = (await audit.getAuditHead({})).head?.sequence ?? 0n;
  const { userId } = await newUser(service.users);
  await Promise.all(
    Array.from({ length: 50 }, (_, index) =>
      (index % 2 === 0 ? service.users : service.overHttp).adjustStorageUsed({ userId, deltaBytes: 1n }),
    ),
  );
  expect(await recordsOf(userId)).toHaveLength(51);
  const steps = await Array.fromAsync(audit.verifyAuditLog({}));
  expect(steps.at(-1)?.result).toMatchObject({ whole: true, head: { sequence: before + 51n } });
});
