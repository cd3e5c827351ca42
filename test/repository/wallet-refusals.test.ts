import { randomUUID } from "node:crypto";

import type { MessageInitShape } from "@bufbuild/protobuf";
import { afterAll, beforeAll, expect, test } from "vitest";

import type { WalletSchema } from "../../gen/lucid/repository/v1/wallet_pb.ts";
import { WalletService } from "../../gen/lucid/repository/v1/wallet_service_pb.ts";
import {
  deviceRefusals,
  type MadeWallets,
  register,
  taken,
  type WalletCall,
  type Wallets,
} from "./hardware-device-refusals.ts";
import { bad, long, megabyte, noToken, nothing, type Refusal, stale, unknown, untried } from "./refusals.ts";
import { newUser, refusalOf, tronAddress } from "./support.ts";
import { newWallet, type WalletsApp, walletsApp } from "./wallet-support.ts";

const noWallet = { code: "NotFound", reason: "WALLET_NOT_FOUND" };

const create = (wallets: Wallets, { wallet: { userId } }: MadeWallets, init: MessageInitShape<typeof WalletSchema>) =>
  wallets.createWallet({ userId, wallet: { tronAddress: tronAddress(), ...init } });
const masked = (wallets: Wallets, { wallet: { walletId } }: MadeWallets, ...paths: string[]) =>
  wallets.updateWallet({ wallet: { walletId }, updateMask: { paths } });

/** What each rpc refuses. */
const refusals: readonly Refusal<WalletCall>[] = [
  ["createWallet: nothing", (w) => w.createWallet({}), bad("user_id", "wallet")],
  ["createWallet: long user", (w) => w.createWallet({ userId: long, wallet: {} }), bad("user_id")],
  [
    "createWallet: nobody",
    (w) => w.createWallet({ userId: nothing, wallet: { tronAddress: tronAddress() } }),
    { code: "NotFound", reason: "USER_NOT_FOUND", metadata: { user_id: nothing } },
  ],
  [
    "createWallet: an operator as user",
    (w) => w.createWallet({ userId: '{"$ne":null}', wallet: { tronAddress: tronAddress() } }),
    { reason: "USER_NOT_FOUND" },
  ],
  ["createWallet: no address", (w, made) => create(w, made, { tronAddress: "" }), bad("wallet.tron_address")],
  [
    "createWallet: no base58",
    (w, made) => create(w, made, { tronAddress: `T${"0".repeat(33)}` }),
    bad("wallet.tron_address"),
  ],
  [
    "createWallet: wrong checksum",
    (w, made) => create(w, made, { tronAddress: `T${"1".repeat(33)}` }),
    bad("wallet.tron_address"),
  ],
  [
    "createWallet: another chain's version",
    (w, made) => create(w, made, { tronAddress: tronAddress(0x00) }),
    { reason: "BAD_REQUEST" },
  ],
  [
    "createWallet: taken address",
    (w, made) => create(w, made, { tronAddress: made.other.tronAddress }),
    taken("WALLET_ALREADY_EXISTS", "wallet", "tron_address"),
  ],
  ["createWallet: unknown type", (w, made) => create(w, made, { walletType: unknown }), bad("wallet.wallet_type")],
  ["createWallet: empty nickname", (w, made) => create(w, made, { nickname: "" }), bad("wallet.nickname")],
  ["createWallet: long nickname", (w, made) => create(w, made, { nickname: "x".repeat(101) }), bad("wallet.nickname")],
  [
    "createWallet: a megabyte of nickname",
    (w, made) => create(w, made, { nickname: megabyte }),
    bad("wallet.nickname"),
  ],
  [
    "createWallet: public key that is no number",
    (w, made) => create(w, made, { publicKey: "0xzz" }),
    bad("wallet.public_key"),
  ],
  [
    "createWallet: device of nobody",
    (w, made) => create(w, made, { hardwareWallet: { model: "x" } }),
    bad("wallet.hardware_wallet.type"),
  ],
  [
    "createWallet: device without model",
    (w, made) => create(w, made, { hardwareWallet: { type: 1 } }),
    bad("wallet.hardware_wallet.model"),
  ],
  [
    "createWallet: long version",
    (w, made) => create(w, made, { hardwareWallet: { type: 1, model: "x", firmwareVersion: long } }),
    bad("wallet.hardware_wallet.firmware_version"),
  ],
  [
    "createWallet: long version of the program",
    (w, made) => create(w, made, { hardwareWallet: { type: 1, model: "x", appVersion: long } }),
    bad("wallet.hardware_wallet.app_version"),
  ],
  ["createWallet: tag with a space", (w, made) => create(w, made, { tags: ["ok", "a b"] }), bad("wallet.tags[1]")],
  ["createWallet: tag with a null", (w, made) => create(w, made, { tags: ["a\0"] }), bad("wallet.tags[0]")],
  ["createWallet: a tag twice", (w, made) => create(w, made, { tags: ["a", "a"] }), bad("wallet.tags")],
  [
    "createWallet: too many tags",
    (w, made) => create(w, made, { tags: Array.from({ length: 21 }, (_, at) => `t${at}`) }),
    bad("wallet.tags"),
  ],
  [
    "createWallet: null character in metadata",
    (w, made) => create(w, made, { metadata: { "a\0": 1 } }),
    bad("wallet.metadata"),
  ],
  [
    "createWallet: a megabyte of metadata",
    (w, made) => create(w, made, { metadata: { a: megabyte } }),
    bad("wallet.metadata"),
  ],
  [
    "createWallet: long key",
    (w, { wallet: { userId } }) =>
      w.createWallet({
        userId,
        wallet: { tronAddress: tronAddress() },
        secrets: { encryptedPrivateKey: new Uint8Array(4097) },
      }),
    bad("secrets.encrypted_private_key"),
  ],
  [
    "createWallet: long method",
    (w, { wallet: { userId } }) =>
      w.createWallet({ userId, wallet: { tronAddress: tronAddress() }, secrets: { encryptionMethod: long } }),
    bad("secrets.encryption_method"),
  ],
  [
    "createWallet: long path",
    (w, { wallet: { userId } }) =>
      w.createWallet({ userId, wallet: { tronAddress: tronAddress() }, secrets: { keyDerivationPath: long } }),
    bad("secrets.key_derivation_path"),
  ],
  [
    "createWallet: request_id",
    (w, { wallet: { userId } }) => w.createWallet({ userId, wallet: {}, requestId: "1" }),
    bad("request_id"),
  ],
  ["getWallet: no id", (w) => w.getWallet({}), bad("wallet_id")],
  ["getWallet: long id", (w) => w.getWallet({ walletId: long }), bad("wallet_id")],
  ["getWallet: nobody", (w) => w.getWallet({ walletId: nothing }), { ...noWallet, metadata: { wallet_id: nothing } }],
  ["getWallet: an operator", (w) => w.getWallet({ walletId: '{"$gt":""}', showDeleted: true }), noWallet],
  ["getWalletByTronAddress: nothing", (w) => w.getWalletByTronAddress({}), bad("tron_address")],
  [
    "getWalletByTronAddress: wrong checksum",
    (w) => w.getWalletByTronAddress({ tronAddress: `T${"1".repeat(33)}` }),
    bad("tron_address"),
  ],
  ["getWalletByTronAddress: nobody", (w) => w.getWalletByTronAddress({ tronAddress: tronAddress() }), noWallet],
  ["getPrimaryWallet: nothing", (w) => w.getPrimaryWallet({}), bad("user_id")],
  ["getPrimaryWallet: none", (w, { wallet: { userId } }) => w.getPrimaryWallet({ userId }), noWallet],
  ["listWallets: negative size", (w) => w.listWallets({ pageSize: -1 }), bad("page_size")],
  ["listWallets: made-up token", (w) => w.listWallets({ pageToken: "abc" }), noToken],
  ["listWallets: order without an index", (w) => w.listWallets({ orderBy: "last_used" }), bad("order_by")],
  ["listWallets: long order", (w) => w.listWallets({ orderBy: long }), bad("order_by")],
  ["listWallets: long user", (w) => w.listWallets({ filter: { userId: long } }), bad("filter.user_id")],
  ["listWallets: unknown status", (w) => w.listWallets({ filter: { status: unknown } }), bad("filter.status")],
  ["updateWallet: nothing", (w) => w.updateWallet({}), bad("wallet")],
  ["updateWallet: no id", (w) => w.updateWallet({ wallet: { nickname: "a" } }), bad("wallet")],
  ["updateWallet: nobody", (w) => w.updateWallet({ wallet: { walletId: nothing, nickname: "a" } }), noWallet],
  [
    "updateWallet: a megabyte of id",
    (w) => w.updateWallet({ wallet: { walletId: megabyte, nickname: "a" } }),
    { ...noWallet, metadata: { wallet_id: `${megabyte.slice(0, 256)}…` } },
  ],
  ["updateWallet: a megabyte of a path", (w, made) => masked(w, made, megabyte), { reason: "BAD_REQUEST" }],
  ["updateWallet: cleared address", (w, made) => masked(w, made, "tron_address"), bad("wallet.tron_address")],
  ["updateWallet: cleared by *", (w, made) => masked(w, made, "*"), bad("wallet.tron_address")],
  ["updateWallet: unknown field", (w, made) => masked(w, made, "encrypted_private_key"), bad("update_mask")],
  ["updateWallet: an operator", (w, made) => masked(w, made, "$set"), bad("update_mask")],
  ["updateWallet: below a list", (w, made) => masked(w, made, "tags.0"), bad("update_mask")],
  [
    "updateWallet: stale etag",
    (w, { wallet: { walletId } }) => w.updateWallet({ wallet: { walletId, nickname: "a" }, etag: '"99"' }),
    stale,
  ],
  [
    "updateWallet: taken address",
    (w, { wallet: { walletId }, other }) => w.updateWallet({ wallet: { walletId, tronAddress: other.tronAddress } }),
    taken("WALLET_ALREADY_EXISTS", "wallet", "tron_address"),
  ],
  ["updateWalletStatus: nothing", (w) => w.updateWalletStatus({}), bad("wallet_id", "status")],
  [
    "updateWalletStatus: unknown status",
    (w, { wallet: { walletId } }) => w.updateWalletStatus({ walletId, status: unknown }),
    bad("status"),
  ],
  ["updateWalletStatus: nobody", (w) => w.updateWalletStatus({ walletId: nothing, status: 1 }), noWallet],
  [
    "updateWalletStatus: same status",
    (w, { wallet: { walletId } }) => w.updateWalletStatus({ walletId, status: 1 }),
    { code: "FailedPrecondition", reason: "ILLEGAL_TRANSITION", metadata: { from: "ACTIVE", to: "ACTIVE" } },
  ],
  [
    "updateWalletStatus: stale etag",
    (w, { wallet: { walletId } }) => w.updateWalletStatus({ walletId, status: 3, etag: '"99"' }),
    stale,
  ],
  ["setPrimaryWallet: nothing", (w) => w.setPrimaryWallet({}), bad("wallet_id")],
  ["setPrimaryWallet: nobody", (w) => w.setPrimaryWallet({ walletId: nothing }), noWallet],
  ["markWalletVerified: nothing", (w) => w.markWalletVerified({}), bad("wallet_id")],
  [
    "markWalletVerified: no address",
    (w, { wallet: { walletId } }) => w.markWalletVerified({ walletId, tronAddress: "T" }),
    bad("tron_address"),
  ],
  [
    "markWalletVerified: another address",
    (w, { wallet: { walletId }, other }) => w.markWalletVerified({ walletId, tronAddress: other.tronAddress }),
    { reason: "WALLET_ADDRESS_CHANGED" },
  ],
  ["markWalletVerified: nobody", (w) => w.markWalletVerified({ walletId: nothing }), noWallet],
  ["recordWalletUse: nothing", (w) => w.recordWalletUse({}), bad("wallet_id")],
  [
    "recordWalletUse: negative",
    (w, { wallet: { walletId } }) => w.recordWalletUse({ walletId, count: -1 }),
    bad("count"),
  ],
  [
    "recordWalletUse: too many",
    (w, { wallet: { walletId } }) => w.recordWalletUse({ walletId, count: 1_000_001 }),
    bad("count"),
  ],
  ["recordWalletUse: nobody", (w) => w.recordWalletUse({ walletId: nothing }), noWallet],
  ["setWalletSecrets: nothing", (w) => w.setWalletSecrets({}), bad("wallet_id", "secrets")],
  ["setWalletSecrets: nobody", (w) => w.setWalletSecrets({ walletId: nothing, secrets: {} }), noWallet],
  ["deleteWallet: nothing", (w) => w.deleteWallet({}), bad("wallet_id")],
  ["deleteWallet: nobody", (w) => w.deleteWallet({ walletId: nothing, validateOnly: true }), noWallet],
  ["deleteWallet: stale etag", (w, { wallet: { walletId } }) => w.deleteWallet({ walletId, etag: '"99"' }), stale],
  ["undeleteWallet: nothing", (w) => w.undeleteWallet({}), bad("wallet_id")],
  ["undeleteWallet: nobody", (w) => w.undeleteWallet({ walletId: nothing }), noWallet],
  [
    "undeleteWallet: not deleted",
    (w, { wallet: { walletId } }) => w.undeleteWallet({ walletId }),
    { code: "FailedPrecondition", reason: "WALLET_NOT_DELETED" },
  ],
  ["listWalletBalances: nothing", (w) => w.listWalletBalances({}), bad("wallet_id")],
  ["listWalletBalances: nobody", (w) => w.listWalletBalances({ walletId: nothing }), noWallet],
  [
    "listWalletBalances: negative size",
    (w, { wallet: { walletId } }) => w.listWalletBalances({ walletId, pageSize: -1 }),
    bad("page_size"),
  ],
  [
    "listWalletBalances: made-up token",
    (w, { wallet: { walletId } }) => w.listWalletBalances({ walletId, pageToken: "abc" }),
    noToken,
  ],
  ["listWalletTransactions: nothing", (w) => w.listWalletTransactions({}), bad("wallet_id")],
  ["listWalletTransactions: nobody", (w) => w.listWalletTransactions({ walletId: nothing }), noWallet],
  [
    "listWalletTransactions: negative size",
    (w, { wallet: { walletId } }) => w.listWalletTransactions({ walletId, pageSize: -1 }),
    bad("page_size"),
  ],
  [
    "listWalletTransactions: made-up token",
    (w, { wallet: { walletId } }) => w.listWalletTransactions({ walletId, pageToken: "abc" }),
    noToken,
  ],
  [
    "listWalletTransactions: unknown status",
    (w, { wallet: { walletId } }) => w.listWalletTransactions({ walletId, status: unknown }),
    bad("status"),
  ],
  [
    "listWalletTransactions: order without an index",
    (w, { wallet: { walletId } }) => w.listWalletTransactions({ walletId, orderBy: "amount" }),
    bad("order_by"),
  ],
  ["getWalletStatistics: long user", (w) => w.getWalletStatistics({ userId: long }), bad("user_id")],
  ...deviceRefusals,
];

let service: WalletsApp;
let made: MadeWallets;
beforeAll(async () => {
  service = await walletsApp();
  const { wallets, users } = service;
  const { userId } = await newUser(users);
  const [wallet, other, { device }, { device: otherDevice }] = await Promise.all([
    newWallet(service, {}, userId),
    newWallet(service),
    register(wallets, { serialNumber: randomUUID() }),
    register(wallets, {}),
  ]);
  if (device === undefined || otherDevice === undefined) throw new Error("No device was returned");
  made = { wallet, other, device, otherDevice };
});
afterAll(() => service[Symbol.asyncDispose]());

test("every rpc is refused something here", () => {
  expect(untried(WalletService, refusals)).toEqual([]);
});

test.for(refusals)("%s", async ([, call, expected]) => {
  const { wallets, overHttp } = service;
  expect(await refusalOf(call(wallets, made))).toMatchObject(expected);
  expect(await refusalOf(call(overHttp, made))).toMatchObject(expected);
  // What was refused has changed nothing.
  expect((await wallets.getWallet({ walletId: made.wallet.walletId })).wallet).toStrictEqual(made.wallet);
  expect((await wallets.getHardwareDevice({ deviceId: made.device.deviceId })).device).toStrictEqual(made.device);
});

test("what was refused has left no wallet, device or secret behind", async () => {
  const counts = await Promise.all(
    ["wallets", "hardware_wallets", "wallet_secrets"].map((name) => service.db.collection(name).countDocuments({})),
  );
  expect(counts).toEqual([2, 2, 0]);
});
