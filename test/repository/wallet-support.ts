import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Client } from "@connectrpc/connect";
import type { Db } from "mongodb";

import type { HardwareDeviceSchema } from "../../gen/lucid/repository/v1/hardware_device_pb.ts";
import { HardwareWalletType } from "../../gen/lucid/repository/v1/user_pb.ts";
import { UserService } from "../../gen/lucid/repository/v1/user_service_pb.ts";
import type { Wallet, WalletSchema } from "../../gen/lucid/repository/v1/wallet_pb.ts";
import { WalletService } from "../../gen/lucid/repository/v1/wallet_service_pb.ts";
import { type TestApp, testApp } from "../support/app.ts";
import { uniqueName } from "../support/stores.ts";
import { newUser, tronAddress } from "./support.ts";

/** The service with a domain database that tests can look into. */
export interface WalletsApp extends AsyncDisposable {
  readonly app: TestApp;
  /** Clients of both listeners. */
  readonly wallets: Client<typeof WalletService>;
  readonly overHttp: Client<typeof WalletService>;
  readonly users: Client<typeof UserService>;
  readonly db: Db;
}

export async function walletsApp(): Promise<WalletsApp> {
  const name = uniqueName("wallets");
  const app = await testApp({ LUCID_MONGODB_DATABASE: name });
  const db = app.mongodb.db(name, { useBigInt64: true });
  return {
    app,
    wallets: app.client(WalletService),
    overHttp: app.http(WalletService),
    users: app.client(UserService),
    db,
    async [Symbol.asyncDispose]() {
      await db.dropDatabase();
      await app[Symbol.asyncDispose]();
    },
  };
}

/** A wallet of a user, of a new one where none is named. */
export async function newWallet(
  { wallets, users }: Pick<WalletsApp, "wallets" | "users">,
  init: MessageInitShape<typeof WalletSchema> = {},
  userId?: string,
): Promise<Wallet> {
  const owner = userId ?? (await newUser(users)).userId;
  const { wallet } = await wallets.createWallet({ userId: owner, wallet: { tronAddress: tronAddress(), ...init } });
  if (wallet === undefined) throw new Error("No wallet was returned");
  return wallet;
}

/** What a new device needs. */
export function deviceInit(
  init: MessageInitShape<typeof HardwareDeviceSchema> = {},
): MessageInitShape<typeof HardwareDeviceSchema> {
  return { walletType: HardwareWalletType.LEDGER, model: "Nano X", firmwareVersion: "2.1.0", ...init };
}
