import { randomUUID } from "node:crypto";

import type { Client } from "@connectrpc/connect";
import { afterAll, beforeAll, expect, test } from "vitest";

import { JobState } from "../../../gen/lucid/admin/v1/backup_service_pb.ts";
import {
  DataLifecycleService,
  RemovalOutcome,
  type WatchRemovalResponse,
} from "../../../gen/lucid/repository/v1/data_lifecycle_service_pb.ts";
import { TrustPolicyService } from "../../../gen/lucid/repository/v1/trust_policy_service_pb.ts";
import { purgeSchedule, removalKind } from "../../../src/repository/lifecycle/jobs.ts";
import { newUser, refusalOf, tronAddress } from "../support.ts";
import { newPolicy } from "../trust-policy-support.ts";
import { newWallet, type WalletsApp, walletsApp } from "../wallet-support.ts";

let service: WalletsApp;
let lifecycle: Client<typeof DataLifecycleService>;
let overHttp: Client<typeof DataLifecycleService>;
beforeAll(async () => {
  service = await walletsApp();
  lifecycle = service.app.client(DataLifecycleService);
  overHttp = service.app.http(DataLifecycleService);
});
afterAll(() => service[Symbol.asyncDispose]());

async function ended(removalId: string): Promise<WatchRemovalResponse> {
  let last: WatchRemovalResponse | undefined;
  for await (const event of overHttp.watchRemoval({ removalId })) {
    if (last !== undefined && !event.heartbeat) expect(event.sequence).toBe(last.sequence + 1n);
    expect(event.percent).toBeGreaterThanOrEqual(last?.percent ?? 0);
    last = event;
  }
  if (last === undefined) throw new Error("The watch told nothing");
  return last;
}

const longAgo = () => new Date(Date.now() - 31 * 86_400_000);

test("what was deleted long ago is purged by a job, with what is a part of it", async () => {
  const { wallets, users, db } = service;
  const { userId } = await newUser(users);
  const secrets = { encryptionMethod: "x" };
  const made = await Promise.all(
    [1, 2].map(() => wallets.createWallet({ userId, wallet: { tronAddress: tronAddress() }, secrets })),
  );
  const [old = "", young = ""] = made.map(({ wallet }) => wallet?.walletId ?? "");
  for (const walletId of [old, young]) await wallets.deleteWallet({ walletId });
  await db.collection("wallets").updateOne({ wallet_id: old }, { $set: { deleted_at: longAgo() } });

  const { removal: planned } = await lifecycle.purgeDeleted({ validateOnly: true });
  expect(planned).toMatchObject({ removalId: "", afterDays: 30 });
  expect(planned?.places.map(({ name, found, done }) => [name, found, done])).toEqual([
    ["wallets", 1n, 0n],
    ["wallet_secrets", 1n, 0n],
  ]);
  // Its record has to reach the audit log first.
  while ((await db.collection("wallets").countDocuments({ wallet_id: old, "_audit.0": { $exists: true } })) > 0) {
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  const requestId = randomUUID();
  const { removal } = await lifecycle.purgeDeleted({ requestId });
  const removalId = removal?.removalId ?? "";
  expect((await overHttp.purgeDeleted({ requestId })).removal?.removalId).toBe(removalId);
  const last = await ended(removalId);
  expect(last).toMatchObject({ state: JobState.SUCCEEDED, percent: 100 });
  const { removal: done } = await lifecycle.getRemoval({ removalId });
  expect(done).toMatchObject({ state: JobState.SUCCEEDED, afterDays: 30, percent: 100 });
  expect(done?.places.find(({ name }) => name === "wallets")).toMatchObject({
    outcome: RemovalOutcome.REMOVED,
    found: 1n,
    done: 1n,
    held: 0n,
  });
  expect(await db.collection("wallet_secrets").distinct("wallet_id")).toEqual([young]);
  expect(await refusalOf(wallets.undeleteWallet({ walletId: old }))).toMatchObject({ reason: "WALLET_NOT_FOUND" });
  expect((await wallets.undeleteWallet({ walletId: young })).wallet).toMatchObject({ walletId: young });
});

test("what is marked to be removed cannot be undeleted", async () => {
  const { walletId } = await newWallet(service);
  await service.wallets.deleteWallet({ walletId });
  await service.db.collection("wallets").updateOne({ wallet_id: walletId }, { $set: { _purge: new Date() } });
  expect(await refusalOf(service.wallets.undeleteWallet({ walletId }))).toMatchObject({
    code: "NotFound",
    reason: "WALLET_NOT_FOUND",
  });
});

test("a policy that is marked to be removed cannot be undeleted: its versions may be gone", async () => {
  const policies = service.app.client(TrustPolicyService);
  const { policyId } = await newPolicy(policies);
  await policies.deleteTrustPolicy({ policyId });
  await service.db.collection("trust_policies").updateOne({ policy_id: policyId }, { $set: { _purge: new Date() } });
  expect(await refusalOf(policies.undeleteTrustPolicy({ policyId }))).toMatchObject({
    code: "NotFound",
    reason: "TRUST_POLICY_NOT_FOUND",
  });
});

test("a user is erased by a job, once it is confirmed", async () => {
  const { wallets, users, db } = service;
  const { userId } = await newUser(users);
  const secrets = { keyDerivationPath: "m/0" };
  const { wallet } = await wallets.createWallet({ userId, wallet: { tronAddress: tronAddress() }, secrets });
  await wallets.registerHardwareDevice({ device: { walletType: 1, model: "x", firmwareVersion: "1", userId } });
  await users.setUserCredentials({ userId, credentials: { salt: Buffer.from("s") } });
  const other = await newWallet(service);

  const { removal: planned } = await lifecycle.eraseUser({ userId, validateOnly: true });
  const found = planned?.places.filter((place) => place.found > 0n).map(({ name }) => name);
  expect(found?.toSorted()).toEqual(["authentication", "hardware_wallets", "users", "wallet_secrets", "wallets"]);
  expect(await refusalOf(lifecycle.eraseUser({ userId }))).toMatchObject({
    code: "FailedPrecondition",
    reason: "CONFIRMATION_MISMATCH",
    metadata: { user_id: userId },
    fields: ["confirm_user_id"],
  });
  expect((await users.getUser({ userId })).user?.userId).toBe(userId);

  const { removal } = await lifecycle.eraseUser({ userId, confirmUserId: userId });
  expect(await ended(removal?.removalId ?? "")).toMatchObject({ state: JobState.SUCCEEDED, percent: 100 });
  const { removal: done } = await lifecycle.getRemoval({ removalId: removal?.removalId ?? "" });
  const counts = Object.fromEntries((done?.places ?? []).map((place) => [place.name, place.done]));
  expect(counts).toMatchObject({
    users: 1n,
    wallets: 1n,
    wallet_secrets: 1n,
    hardware_wallets: 1n,
    authentication: 1n,
  });
  for (const kept of ["blocks", "transactions", "audit_logs"])
    expect(done?.places.find(({ name }) => name === kept)).toMatchObject({ outcome: RemovalOutcome.KEPT });
  for (const { name } of await db.listCollections().toArray())
    expect([name, await db.collection(name).countDocuments({ user_id: userId })]).toEqual([name, 0]);
  for (const showDeleted of [false, true])
    expect(await refusalOf(users.getUser({ userId, showDeleted }))).toMatchObject({ reason: "USER_NOT_FOUND" });
  expect((await wallets.getWallet({ walletId: other.walletId })).wallet).toStrictEqual(other);
  // The address may be used again, and a second erasure finds nothing.
  await newWallet(service, { tronAddress: wallet?.tronAddress ?? "" });
  const again = await lifecycle.eraseUser({ userId, confirmUserId: userId });
  expect(await ended(again.removal?.removalId ?? "")).toMatchObject({ state: JobState.SUCCEEDED });
});

test("removals are listed, the newest first, page by page", async () => {
  const made: string[] = [];
  for (const afterDays of [1000, 1001, 1002]) {
    made.unshift((await lifecycle.purgeDeleted({ afterDays })).removal?.removalId ?? "");
  }
  const first = await lifecycle.listRemovals({ pageSize: 2 });
  expect(first.removals.map(({ removalId }) => removalId)).toEqual(made.slice(0, 2));
  const second = await overHttp.listRemovals({ pageSize: 2, pageToken: first.nextPageToken });
  expect(second.removals[0]).toMatchObject({ removalId: made[2], afterDays: 1000 });
  await ended(made[0] ?? "");
  expect(await refusalOf(lifecycle.cancelRemoval({ removalId: made[0] ?? "" }))).toMatchObject({
    code: "FailedPrecondition",
    reason: "JOB_ALREADY_FINISHED",
  });
});

test("a purge that is due is asked for once, by however many replicas", async () => {
  const asked = new Map<string, number>();
  const jobs = {
    create: async (kind: string, { requestId = "" }: { requestId?: string }) => {
      expect(kind).toBe(removalKind);
      asked.set(requestId, (asked.get(requestId) ?? 0) + 1);
      throw new Error("Not stored here");
    },
  };
  let warned = 0;
  // So often that the first look comes at once.
  const options = { jobs, everyHours: 0.5 / 3_600_000, afterDays: 30, log: { warn: () => warned++ } };
  const replicas = [purgeSchedule(options), purgeSchedule(options)];
  while (asked.size < 3) await new Promise((resolve) => setTimeout(resolve, 1));
  for (const replica of replicas) replica[Symbol.dispose]();
  const after = warned;
  await new Promise((resolve) => setTimeout(resolve, 5));
  expect(warned).toBeLessThanOrEqual(after + replicas.length);
  for (const requestId of asked.keys()) expect(requestId).toMatch(/^purge\/30\/[^/]+\/\d+$/);
});

const nobody = "00000000-0000-7000-8000-000000000000";
const missing = { code: "NotFound", reason: "REMOVAL_NOT_FOUND", metadata: { removal_id: nobody } };
const bad = (...fields: string[]) => ({ code: "InvalidArgument", reason: "BAD_REQUEST", fields });
type Calls = Client<typeof DataLifecycleService>;

async function firstOf(events: AsyncIterable<unknown>): Promise<void> {
  for await (const _ of events) return;
}

const refusals: readonly [string, (calls: Calls) => Promise<unknown>, object][] = [
  ["purgeDeleted: negative days", (calls) => calls.purgeDeleted({ afterDays: -1 }), bad("after_days")],
  ["purgeDeleted: too many days", (calls) => calls.purgeDeleted({ afterDays: 3651 }), bad("after_days")],
  ["purgeDeleted: request_id", (calls) => calls.purgeDeleted({ requestId: "1" }), bad("request_id")],
  ["eraseUser: nothing", (calls) => calls.eraseUser({}), bad("user_id")],
  ["eraseUser: null character", (calls) => calls.eraseUser({ userId: "a\0" }), bad("user_id")],
  ["eraseUser: long user", (calls) => calls.eraseUser({ userId: "x".repeat(129) }), bad("user_id")],
  [
    "eraseUser: long confirmation",
    (calls) => calls.eraseUser({ userId: "a", confirmUserId: "x".repeat(129) }),
    bad("confirm_user_id"),
  ],
  [
    "eraseUser: another user",
    (calls) => calls.eraseUser({ userId: "a", confirmUserId: "b" }),
    { reason: "CONFIRMATION_MISMATCH" },
  ],
  ["eraseUser: request_id", (calls) => calls.eraseUser({ userId: "a", requestId: "1" }), bad("request_id")],
  ["getRemoval: nothing", (calls) => calls.getRemoval({}), bad("removal_id")],
  ["getRemoval: nobody", (calls) => calls.getRemoval({ removalId: nobody }), missing],
  ["listRemovals: negative size", (calls) => calls.listRemovals({ pageSize: -1 }), bad("page_size")],
  [
    "listRemovals: made-up token",
    (calls) => calls.listRemovals({ pageToken: "abc" }),
    { reason: "PAGE_TOKEN_INVALID" },
  ],
  ["watchRemoval: nothing", (calls) => firstOf(calls.watchRemoval({})), bad("removal_id")],
  ["watchRemoval: nobody", (calls) => firstOf(calls.watchRemoval({ removalId: nobody })), missing],
  [
    "watchRemoval: negative sequence",
    (calls) => firstOf(calls.watchRemoval({ removalId: nobody, afterSequence: -1n })),
    bad("after_sequence"),
  ],
  [
    "watchRemoval: short heartbeat",
    (calls) => firstOf(calls.watchRemoval({ removalId: nobody, heartbeatInterval: { nanos: 1 } })),
    bad("heartbeat_interval"),
  ],
  ["cancelRemoval: nothing", (calls) => calls.cancelRemoval({}), bad("removal_id")],
  ["cancelRemoval: nobody", (calls) => calls.cancelRemoval({ removalId: nobody }), missing],
];

test("every rpc is refused something here", () => {
  const tried = new Set(refusals.map(([name]) => name.split(":", 1)[0]));
  expect(DataLifecycleService.methods.map(({ localName }) => localName).filter((name) => !tried.has(name))).toEqual([]);
});

test.for(refusals)("%s", async ([, call, expected]) => {
  expect(await refusalOf(call(lifecycle))).toMatchObject(expected);
  expect(await refusalOf(call(overHttp))).toMatchObject(expected);
});
