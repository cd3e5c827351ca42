import { createClient, createRouterTransport } from "@connectrpc/connect";
import { afterAll, beforeAll, expect, test } from "vitest";

import { WalletStatus, WalletTransactionStatus } from "../../gen/lucid/repository/v1/wallet_pb.ts";
import { WalletService } from "../../gen/lucid/repository/v1/wallet_service_pb.ts";
import { domainCollections } from "../../src/repository/collections.ts";
import { walletService } from "../../src/repository/wallet.ts";
import { pageTokens } from "../../src/schema/page-tokens.ts";
import { expectIndexed, usesIndexBesideFilter, type WatchedDb, watchedDb } from "./plans.ts";
import { tronAddress } from "./support.ts";
import { deviceInit } from "./wallet-support.ts";

let plans: WatchedDb;
beforeAll(async () => {
  plans = await watchedDb();
});
afterAll(() => plans[Symbol.asyncDispose]());

/** The handlers on a real store, which is asked through collections that write down the filters. */
function service() {
  const { watched, db } = plans;
  const tokens = pageTokens("");
  const handlers = walletService({
    db: watched,
    collections: domainCollections(db, ({ name }) => expect.unreachable(name)),
    pageTokens: async () => tokens,
  });
  return createClient(
    WalletService,
    createRouterTransport(({ service: serve }) => {
      serve(WalletService, handlers);
    }),
  );
}

const upTo = (count: number) => Array.from({ length: count }, (_, index) => index);
const at = { seconds: 1_700_000_000n };
const [userId, walletStatus] = ["owner", WalletStatus.ACTIVE];

/** Makes collections large, so that the server has a reason to choose. */
async function fill(walletId: string): Promise<void> {
  const { db } = plans;
  const common = (index: number) => ({ user_id: `${index % 100}`, created_at: new Date(index) });
  const wallets = upTo(2000).map((index) => ({
    ...common(index),
    wallet_id: `filler${index}`,
    tron_address: `T${index}`,
    status: index % 2 === 0 ? "ACTIVE" : "LOCKED",
  }));
  const devices = upTo(2000).map((index) => ({
    ...common(index),
    device_id: `filler${index}`,
    wallet_type: "LEDGER",
    model: "x",
    firmware_version: "1",
  }));
  const balances = upTo(2000).map((index) => ({ wallet_id: `${index % 10}`, user_id: "x", asset: `A${index}` }));
  const transactions = upTo(2000).map((index) => ({
    wallet_transaction_id: `filler${index}`,
    wallet_id: index % 10 === 0 ? walletId : `${index % 10}`,
    user_id: "x",
    status: "PENDING",
    occurred_at: new Date(index),
  }));
  await db.collection("wallets").insertMany(wallets);
  await db.collection("hardware_wallets").insertMany(devices);
  await db.collection("wallet_balances").insertMany(balances);
  await db.collection("wallet_transactions").insertMany(transactions);
}

test("first pages of a wallet's balances and transactions are read from an index, in its order", async () => {
  const { db, asked } = plans;
  const wallets = service();
  await db.collection("users").insertOne({ user_id: userId });
  const { wallet } = await wallets.createWallet({ userId, wallet: { tronAddress: tronAddress() } });
  const walletId = wallet?.walletId ?? "";
  await fill(walletId);
  await wallets.listWalletBalances({ walletId });
  for (const orderBy of ["", "occurred_at"]) {
    for (const filter of [{}, { status: WalletTransactionStatus.PENDING }, { occurredFrom: at }]) {
      await wallets.listWalletTransactions({ walletId, orderBy, ...filter, pageSize: 2 });
    }
  }
  const shown = asked.filter(({ collection }) => collection.startsWith("wallet_"));
  expect(shown).toHaveLength(1 + 6);
  for (const each of shown) await expectIndexed(db, each);
});

test("no read of wallets or devices scans the collection, on any page of any order and filter", async ({ skip }) => {
  const { db, asked } = plans;
  if (!(await usesIndexBesideFilter(db))) skip("this server scans where a filter names a field outside the index");
  const wallets = service();
  const { wallet } = await wallets.createWallet({ userId, wallet: { tronAddress: tronAddress() } });
  const { walletId = "", tronAddress: address = "" } = wallet ?? {};
  await wallets.setPrimaryWallet({ walletId });
  await wallets.getWallet({ walletId });
  await wallets.getWalletByTronAddress({ tronAddress: address });
  await wallets.getPrimaryWallet({ userId });
  const { device } = await wallets.registerHardwareDevice({ device: deviceInit() });
  await wallets.getHardwareDevice({ deviceId: device?.deviceId ?? "" });
  for (const filter of [{}, { userId }, { status: walletStatus }, { userId, status: walletStatus }]) {
    for (const request of [{ filter }, { filter, orderBy: "created_at" }, { filter: { ...filter, createdFrom: at } }]) {
      for (const showDeleted of [false, true]) {
        const first = { ...request, showDeleted, pageSize: 1 };
        const { nextPageToken: pageToken } = await wallets.listWallets(first);
        if (pageToken !== "") await wallets.listWallets({ ...first, pageToken });
      }
    }
  }
  for (const owner of ["", userId]) await wallets.listHardwareDevices({ userId: owner, pageSize: 2 });
  const looked = asked.filter(({ collection }) => ["wallets", "hardware_wallets"].includes(collection));
  expect(looked.length).toBeGreaterThan(30);
  for (const each of looked) await expectIndexed(db, each);
});
