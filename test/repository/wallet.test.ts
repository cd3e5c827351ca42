import { randomBytes, randomUUID } from "node:crypto";

import { type DescMessage, toBinary } from "@bufbuild/protobuf";
import { timestampDate } from "@bufbuild/protobuf/wkt";
import { afterAll, beforeAll, expect, test } from "vitest";

import { HardwareWalletType } from "../../gen/lucid/repository/v1/user_pb.ts";
import {
  WalletSchema,
  WalletStatus,
  WalletTransactionStatus,
  WalletType,
} from "../../gen/lucid/repository/v1/wallet_pb.ts";
import { WalletSecretsSchema } from "../../gen/lucid/repository/v1/wallet_secrets_pb.ts";
import { WalletService } from "../../gen/lucid/repository/v1/wallet_service_pb.ts";
import { newUser, refusalOf, tronAddress } from "./support.ts";
import { deviceInit, newWallet, type WalletsApp, walletsApp } from "./wallet-support.ts";

let service: WalletsApp;
beforeAll(async () => {
  service = await walletsApp();
});
afterAll(() => service[Symbol.asyncDispose]());

const time = (minute: number) => new Date(Date.UTC(2026, 0, 1, 0, minute));

test("a new wallet is active, not primary, and has nothing that only the service sets", async () => {
  const { userId } = await newUser(service.users);
  const address = tronAddress();
  const { wallet } = await service.wallets.createWallet({
    userId,
    wallet: {
      tronAddress: address,
      walletId: "chosen by the caller",
      userId: "another",
      status: WalletStatus.LOCKED,
      isPrimary: true,
      isVerified: true,
      verifiedAt: { seconds: 1n },
      transactionCount: 9n,
      etag: "x",
    },
  });
  expect(wallet).toMatchObject({
    userId,
    tronAddress: address,
    walletType: WalletType.SOFTWARE,
    status: WalletStatus.ACTIVE,
    isPrimary: false,
    isVerified: false,
    transactionCount: 0n,
    revision: 1n,
    etag: '"1"',
  });
  expect(wallet?.walletId).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-7/);
  expect(wallet).not.toHaveProperty("verifiedAt");
});

test.for(["wallets", "overHttp"] as const)("a wallet is found by each of its keys (%s)", async (listener) => {
  const wallets = service[listener];
  const made = await newWallet(service, {
    walletType: WalletType.HARDWARE,
    nickname: "ü",
    publicKey: "04ab",
    hardwareWallet: { type: HardwareWalletType.TREZOR, model: "T", appVersion: "1" },
    tags: ["cold", "old"],
    metadata: { a: [1, { "c.d": "$x" }], $where: "1" },
  });
  const { walletId } = made;
  expect((await wallets.getWallet({ walletId })).wallet).toStrictEqual(made);
  expect((await wallets.getWalletByTronAddress({ tronAddress: made.tronAddress })).wallet).toStrictEqual(made);
  const primary = (await wallets.setPrimaryWallet({ walletId })).wallet;
  expect((await wallets.getPrimaryWallet({ userId: made.userId })).wallet).toStrictEqual(primary);
});

test("a create that is repeated with its request_id returns the first wallet, and its secrets are stored once", async () => {
  const { userId } = await newUser(service.users);
  const request = {
    userId,
    wallet: { tronAddress: tronAddress() },
    secrets: { encryptedPrivateKey: Buffer.from("k") },
    requestId: randomUUID(),
  };
  const made = await Promise.all(Array.from({ length: 10 }, () => service.wallets.createWallet(request)));
  expect(new Set(made.map(({ wallet }) => wallet?.walletId)).size).toBe(1);
  await service.users.deleteUser({ userId });
  expect((await service.wallets.createWallet(request)).wallet).toEqual(made[0]?.wallet);
  expect(await service.db.collection("wallet_secrets").countDocuments({ user_id: userId })).toBe(1);
});

test("of many wallets with one address exactly one is created, and the others leave no secrets", async () => {
  const { userId } = await newUser(service.users);
  const request = { userId, wallet: { tronAddress: tronAddress() }, secrets: { encryptionMethod: "x" } };
  const calls = await Promise.allSettled(Array.from({ length: 20 }, () => service.wallets.createWallet(request)));
  expect(calls.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
  expect(await service.db.collection("wallets").countDocuments({ user_id: userId })).toBe(1);
  expect(await service.db.collection("wallet_secrets").countDocuments({ user_id: userId })).toBe(1);
});

test("an update changes the fields of its mask, and another address has to be proven anew", async () => {
  const { wallets } = service;
  const made = await newWallet(service, { nickname: "old", tags: ["a"], publicKey: "aa" });
  const { walletId, tronAddress: address } = made;
  const proven = (await wallets.markWalletVerified({ walletId, tronAddress: address })).wallet;
  expect(proven?.verifiedAt).toStrictEqual(proven?.updatedAt);
  expect((await wallets.markWalletVerified({ walletId })).wallet?.verifiedAt).toStrictEqual(proven?.verifiedAt);
  const renamed = (
    await wallets.updateWallet({
      wallet: { walletId, nickname: "$user_id", tronAddress: address, isPrimary: true, userId: "another" },
      updateMask: { paths: ["nickname", "tags", "tron_address", "is_primary", "user_id"] },
    })
  ).wallet;
  expect(renamed).toMatchObject({
    nickname: "$user_id",
    tags: [],
    publicKey: "aa",
    isVerified: true,
    isPrimary: false,
    userId: made.userId,
  });
  expect(renamed?.verifiedAt).toStrictEqual(proven?.verifiedAt);
  const moved = (await wallets.updateWallet({ wallet: { walletId, tronAddress: tronAddress() } })).wallet;
  expect(moved).toMatchObject({ isVerified: false });
  expect(moved).not.toHaveProperty("verifiedAt");
  expect(await refusalOf(wallets.markWalletVerified({ walletId, tronAddress: address }))).toMatchObject({
    code: "FailedPrecondition",
    reason: "WALLET_ADDRESS_CHANGED",
    metadata: { wallet_id: walletId, tron_address: address },
  });
});

test("an update of a part of the hardware leaves none without a maker and a model", async () => {
  const { wallets } = service;
  const { walletId } = await newWallet(service);
  const update = (...paths: string[]) =>
    wallets.updateWallet({
      wallet: { walletId, hardwareWallet: { type: HardwareWalletType.LEDGER, model: "Nano", firmwareVersion: "1" } },
      updateMask: { paths },
    });
  expect(await refusalOf(update("hardware_wallet.firmware_version"))).toMatchObject({
    code: "InvalidArgument",
    fields: ["wallet.hardware_wallet.type", "wallet.hardware_wallet.model"],
  });
  expect(await refusalOf(update("hardware_wallet.type"))).toMatchObject({ fields: ["wallet.hardware_wallet.model"] });
  const { wallet } = await update("hardware_wallet.type", "hardware_wallet.model");
  expect(wallet?.hardwareWallet).toMatchObject({ type: HardwareWalletType.LEDGER, model: "Nano" });
  expect((await update("hardware_wallet.firmware_version")).wallet?.hardwareWallet?.firmwareVersion).toBe("1");
});

test("a deleted wallet is not found, is no longer primary, lets go of its address and comes back not primary", async () => {
  const { wallets } = service;
  const made = await newWallet(service);
  const { walletId, userId, tronAddress: address } = made;
  const { wallet: primary } = await wallets.setPrimaryWallet({ walletId });
  expect((await wallets.deleteWallet({ walletId, validateOnly: true })).wallet).toStrictEqual(primary);
  const gone = (await wallets.deleteWallet({ walletId, etag: primary?.etag ?? "" })).wallet;
  expect(gone).toMatchObject({ walletId, isPrimary: false, revision: 3n });
  for (const call of [
    () => wallets.getWallet({ walletId }),
    () => wallets.getWalletByTronAddress({ tronAddress: address }),
    () => wallets.getPrimaryWallet({ userId }),
    () => wallets.setPrimaryWallet({ walletId }),
    () => wallets.markWalletVerified({ walletId }),
    () => wallets.updateWalletStatus({ walletId, status: WalletStatus.LOCKED }),
    () => wallets.recordWalletUse({ walletId }),
    () => wallets.setWalletSecrets({ walletId, secrets: {} }),
    () => wallets.listWalletBalances({ walletId }),
    () => wallets.deleteWallet({ walletId }),
  ]) {
    expect(await refusalOf(call())).toMatchObject({ code: "NotFound", reason: "WALLET_NOT_FOUND" });
  }
  expect((await wallets.getWallet({ walletId, showDeleted: true })).wallet).toStrictEqual(gone);
  const successor = await newWallet(service, { tronAddress: address });
  expect(await refusalOf(wallets.undeleteWallet({ walletId }))).toMatchObject({
    code: "AlreadyExists",
    reason: "WALLET_ALREADY_EXISTS",
    metadata: { field: "tron_address" },
  });
  await wallets.deleteWallet({ walletId: successor.walletId });
  const back = (await wallets.undeleteWallet({ walletId })).wallet;
  expect(back).toMatchObject({ walletId, isPrimary: false, tronAddress: address });
  expect(back?.deletedAt).toBeUndefined();
});

test("a use is counted, from many callers at once", async () => {
  const { walletId } = await newWallet(service);
  await Promise.all(Array.from({ length: 50 }, () => service.wallets.recordWalletUse({ walletId })));
  await service.wallets.recordWalletUse({ walletId, count: 950 });
  const { wallet } = await service.wallets.recordWalletUse({ walletId, count: 0 });
  expect(wallet?.transactionCount).toBe(1000n);
  expect(wallet?.lastUsed).toBeDefined();
});

/** Every message that a message holds, itself included. */
function within(message: DescMessage, found = new Set<DescMessage>()): Set<DescMessage> {
  if (found.has(message)) return found;
  found.add(message);
  for (const { message: inner } of message.fields) if (inner !== undefined) within(inner, found);
  return found;
}

test("secrets are stored apart, replaced as a whole, and no rpc returns a message that holds them", async () => {
  const { wallets, db } = service;
  const { userId } = await newUser(service.users);
  const given = {
    encryptedPrivateKey: randomBytes(64),
    encryptionMethod: randomUUID(),
    keyDerivationPath: randomUUID(),
  };
  const request = { userId, wallet: { tronAddress: tronAddress() }, secrets: { ...given, walletId: "another" } };
  const { wallet } = await wallets.createWallet(request);
  const walletId = wallet?.walletId ?? "";
  const stored = () =>
    db.collection("wallet_secrets").findOne({ wallet_id: walletId }, { projection: { _id: 0, _audit: 0 } });
  const times = { created_at: expect.any(Date) as Date, updated_at: expect.any(Date) as Date };
  const found = await db
    .collection("wallet_secrets")
    .findOne({ wallet_id: walletId }, { projection: { _id: 0, _audit: 0 }, promoteBuffers: true });
  expect(found).toEqual({
    wallet_id: walletId,
    user_id: userId,
    encrypted_private_key: given.encryptedPrivateKey,
    encryption_method: given.encryptionMethod,
    key_derivation_path: given.keyDerivationPath,
    ...times,
    revision: 1n,
  });
  await wallets.setWalletSecrets({ walletId, secrets: { encryptionMethod: "other" } });
  expect(await stored()).toMatchObject({ encryption_method: "other", revision: 2n, user_id: userId });
  expect(await stored()).not.toHaveProperty("encrypted_private_key");

  const [document] = await db.collection("wallets").find({ wallet_id: walletId }).toArray();
  const response = (await wallets.getWallet({ walletId })).wallet;
  if (response === undefined) throw new Error("No wallet was returned");
  for (const text of [
    JSON.stringify(document, (_, value: unknown) => String(value)),
    Buffer.from(toBinary(WalletSchema, response)),
  ])
    for (const secret of [given.encryptionMethod, given.keyDerivationPath]) expect(text.includes(secret)).toBe(false);

  const returned = new Set(WalletService.methods.flatMap(({ output }) => [...within(output)]));
  expect([...returned].map(({ typeName }) => typeName)).not.toContain(WalletSecretsSchema.typeName);
  expect([...returned].flatMap(({ fields }) => fields.filter(({ proto }) => proto.options?.debugRedact))).toEqual([]);
});

test("balances and transactions are shown as another service wrote them, page by page", async () => {
  const { wallets, db } = service;
  const { walletId, userId } = await newWallet(service);
  const one = { wallet_id: walletId, user_id: userId };
  await db
    .collection("wallet_balances")
    .insertMany([
      ...["USDT", "BTT", "TRX"].map((asset, at) => ({ ...one, asset, amount: `${at}.50`, observed_at: time(at) })),
      { ...one, wallet_id: "another", asset: "TRX" },
    ]);
  const first = await wallets.listWalletBalances({ walletId, pageSize: 2 });
  const second = await wallets.listWalletBalances({ walletId, pageSize: 2, pageToken: first.nextPageToken });
  expect([...first.balances, ...second.balances].map(({ asset, amount }) => [asset, amount])).toEqual([
    ["BTT", "1.50"],
    ["TRX", "2.50"],
    ["USDT", "0.50"],
  ]);
  expect(second.nextPageToken).toBe("");

  await db.collection("wallet_transactions").insertMany([
    ...[0, 1, 2, 3].map((at) => ({
      ...one,
      wallet_transaction_id: `t${at}`,
      status: at === 3 ? "PENDING" : "CONFIRMED",
      direction: "INCOMING",
      amount: "1",
      occurred_at: time(at),
    })),
    { ...one, wallet_id: "another", wallet_transaction_id: "other", occurred_at: time(9) },
  ]);
  const ids = async (request: object) =>
    (await wallets.listWalletTransactions({ walletId, ...request })).transactions.map(
      (found) => found.walletTransactionId,
    );
  expect(await ids({})).toEqual(["t3", "t2", "t1", "t0"]);
  expect(await ids({ orderBy: "occurred_at", status: WalletTransactionStatus.CONFIRMED })).toEqual(["t0", "t1", "t2"]);
  const occurred = {
    occurredFrom: { seconds: BigInt(time(1).getTime() / 1000) },
    occurredBefore: { seconds: BigInt(time(3).getTime() / 1000) },
  };
  expect(await ids(occurred)).toEqual(["t2", "t1"]);
});

test("wallets are listed by user and status, newest first, each once", async () => {
  const { wallets } = service;
  const { userId } = await newUser(service.users);
  const made: string[] = [];
  for (let index = 0; index < 5; index++) made.unshift((await newWallet(service, {}, userId)).walletId);
  await wallets.updateWalletStatus({ walletId: made[1] ?? "", status: WalletStatus.LOCKED });
  await wallets.deleteWallet({ walletId: made[2] ?? "" });
  const all = async (request: object) => {
    const found: string[] = [];
    let pageToken = "";
    do {
      const page = await wallets.listWallets({ ...request, pageSize: 2, pageToken });
      found.push(...page.wallets.map(({ walletId }) => walletId));
      pageToken = page.nextPageToken;
    } while (pageToken !== "");
    return found;
  };
  expect(await all({ filter: { userId } })).toEqual([made[0], made[1], made[3], made[4]]);
  expect(await all({ filter: { userId }, showDeleted: true, orderBy: "created_at" })).toEqual(made.toReversed());
  expect(await all({ filter: { userId, status: WalletStatus.LOCKED } })).toEqual([made[1]]);
  expect(await all({ filter: { status: WalletStatus.LOCKED } })).toContain(made[1]);
  expect(await all({})).toEqual(expect.arrayContaining([made[0], made[4]]));
  const future = { seconds: BigInt(Math.ceil(Date.now() / 1000) + 60) };
  expect(await all({ filter: { userId, createdFrom: future } })).toEqual([]);
  expect(await all({ filter: { userId, createdBefore: future } })).toHaveLength(4);
});

test("statistics are computed from what is stored", async () => {
  const { wallets } = service;
  const { userId } = await newUser(service.users);
  const [one, two, three, four] = await Promise.all([
    newWallet(service, {}, userId),
    newWallet(service, { walletType: WalletType.PAPER }, userId),
    newWallet(service, {}, userId),
    newWallet(service, {}, userId),
  ]);
  await wallets.setPrimaryWallet({ walletId: one.walletId });
  await wallets.markWalletVerified({ walletId: one.walletId });
  await wallets.markWalletVerified({ walletId: two.walletId });
  await wallets.updateWalletStatus({ walletId: three.walletId, status: WalletStatus.COMPROMISED });
  await wallets.recordWalletUse({ walletId: two.walletId, count: 3 });
  const last = (await wallets.recordWalletUse({ walletId: one.walletId, count: 4 })).wallet;
  await wallets.deleteWallet({ walletId: four.walletId });
  expect((await wallets.getWalletStatistics({ userId })).statistics).toMatchObject({
    totalWallets: 3n,
    walletsByStatus: { ACTIVE: 2n, COMPROMISED: 1n },
    walletsByType: { SOFTWARE: 2n, PAPER: 1n },
    verifiedWallets: 2n,
    primaryWallets: 1n,
    users: 1n,
    totalTransactionCount: 7n,
    lastUsed: last?.lastUsed,
  });
  const all = (await wallets.getWalletStatistics({})).statistics;
  expect(all?.users).toBeGreaterThanOrEqual(1n);
  expect(all?.totalWallets).toBeGreaterThanOrEqual(3n);
});

test("a device is registered once, found, changed, listed and deleted", async () => {
  const { wallets } = service;
  const { userId } = await newUser(service.users);
  const serialNumber = randomUUID();
  const device = deviceInit({
    serialNumber,
    userId,
    connected: true,
    tronAddress: tronAddress(),
    derivationPath: "m/44'/195'/0'/0/0",
  });
  const { device: made } = await wallets.registerHardwareDevice({ device });
  const deviceId = made?.deviceId ?? "";
  expect(made).toMatchObject({ userId, serialNumber, connected: true, revision: 1n });
  expect(made?.lastConnected).toStrictEqual(made?.firstConnected);
  expect(await refusalOf(wallets.registerHardwareDevice({ device }))).toMatchObject({
    code: "AlreadyExists",
    reason: "HARDWARE_DEVICE_ALREADY_EXISTS",
    metadata: { field: "serial_number" },
  });
  const { device: otherMaker } = await wallets.registerHardwareDevice({
    device: { ...device, walletType: HardwareWalletType.OTHER, connected: false },
  });
  expect(otherMaker).not.toHaveProperty("lastConnected");
  const again = (await wallets.updateHardwareDevice({ device: { deviceId, connected: true } })).device;
  if (again?.lastConnected === undefined || made?.lastConnected === undefined)
    throw new Error("It was never connected");
  expect(timestampDate(again.lastConnected).getTime()).toBeGreaterThanOrEqual(
    timestampDate(made.lastConnected).getTime(),
  );
  const off = (
    await wallets.updateHardwareDevice({
      device: { deviceId, pinProtected: true },
      updateMask: { paths: ["connected", "pin_protected"] },
    })
  ).device;
  expect(off).toMatchObject({ connected: false, pinProtected: true, lastConnected: again.lastConnected });
  const listed = (await wallets.listHardwareDevices({ userId, orderBy: "created_at" })).devices;
  expect(listed.map((found) => found.deviceId)).toEqual([deviceId, otherMaker?.deviceId]);
  expect((await wallets.getHardwareDevice({ deviceId })).device).toStrictEqual(off);
  await wallets.deleteHardwareDevice({ deviceId, etag: off?.etag ?? "" });
  expect((await wallets.listHardwareDevices({ userId })).devices).toHaveLength(1);
  expect((await wallets.undeleteHardwareDevice({ deviceId })).device).toMatchObject({ deviceId, revision: 5n });
});
