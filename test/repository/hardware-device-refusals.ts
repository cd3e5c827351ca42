import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Client } from "@connectrpc/connect";

import type { HardwareDevice, HardwareDeviceSchema } from "../../gen/lucid/repository/v1/hardware_device_pb.ts";
import type { Wallet } from "../../gen/lucid/repository/v1/wallet_pb.ts";
import type { WalletService } from "../../gen/lucid/repository/v1/wallet_service_pb.ts";
import { bad, long, megabyte, noToken, nothing, type Refusal, stale, unknown } from "./refusals.ts";
import { deviceInit } from "./wallet-support.ts";

export type Wallets = Client<typeof WalletService>;

/** What the calls are about: live ones, and another of each. */
export interface MadeWallets {
  readonly wallet: Wallet;
  readonly other: Wallet;
  readonly device: HardwareDevice;
  readonly otherDevice: HardwareDevice;
}

export type WalletCall = (wallets: Wallets, made: MadeWallets) => Promise<unknown>;

const noDevice = { code: "NotFound", reason: "HARDWARE_DEVICE_NOT_FOUND" };

export function taken(reason: string, name: string, field: string) {
  return { code: "AlreadyExists", reason, metadata: { field }, fields: [`${name}.${field}`] };
}

export const register = (wallets: Wallets, init: MessageInitShape<typeof HardwareDeviceSchema>) =>
  wallets.registerHardwareDevice({ device: deviceInit(init) });
const maskedDevice = (wallets: Wallets, { device: { deviceId } }: MadeWallets, ...paths: string[]) =>
  wallets.updateHardwareDevice({ device: { deviceId }, updateMask: { paths } });

/** What the rpcs about devices refuse. */
export const deviceRefusals: readonly Refusal<WalletCall>[] = [
  [
    "updateHardwareDevice: a megabyte of id",
    (w) => w.updateHardwareDevice({ device: { deviceId: megabyte, connected: true } }),
    noDevice,
  ],
  ["registerHardwareDevice: nothing", (w) => w.registerHardwareDevice({}), bad("device")],
  [
    "registerHardwareDevice: empty",
    (w) => w.registerHardwareDevice({ device: {} }),
    bad("device.wallet_type", "device.model", "device.firmware_version"),
  ],
  ["registerHardwareDevice: unknown maker", (w) => register(w, { walletType: unknown }), bad("device.wallet_type")],
  ["registerHardwareDevice: long model", (w) => register(w, { model: long }), bad("device.model")],
  [
    "registerHardwareDevice: long firmware version",
    (w) => register(w, { firmwareVersion: long }),
    bad("device.firmware_version"),
  ],
  [
    "registerHardwareDevice: long version of the program",
    (w) => register(w, { appVersion: long }),
    bad("device.app_version"),
  ],
  [
    "registerHardwareDevice: serial number with a control character",
    (w) => register(w, { serialNumber: "a\u0007" }),
    bad("device.serial_number"),
  ],
  ["registerHardwareDevice: no base58", (w) => register(w, { tronAddress: "T" }), bad("device.tron_address")],
  [
    "registerHardwareDevice: wrong checksum",
    (w) => register(w, { tronAddress: `T${"1".repeat(33)}` }),
    bad("device.tron_address"),
  ],
  ["registerHardwareDevice: no path", (w) => register(w, { derivationPath: "../m" }), bad("device.derivation_path")],
  ["registerHardwareDevice: empty user", (w) => register(w, { userId: "" }), bad("device.user_id")],
  [
    "registerHardwareDevice: negative count",
    (w) => register(w, { transactionCount: -1n }),
    bad("device.transaction_count"),
  ],
  [
    "registerHardwareDevice: a megabyte of metadata",
    (w) => register(w, { metadata: { a: megabyte } }),
    bad("device.metadata"),
  ],
  [
    "registerHardwareDevice: taken serial number",
    (w, { device }) => register(w, { serialNumber: device.serialNumber ?? "" }),
    taken("HARDWARE_DEVICE_ALREADY_EXISTS", "device", "serial_number"),
  ],
  [
    "registerHardwareDevice: request_id",
    (w) => w.registerHardwareDevice({ device: deviceInit(), requestId: "1" }),
    bad("request_id"),
  ],
  ["getHardwareDevice: nothing", (w) => w.getHardwareDevice({}), bad("device_id")],
  [
    "getHardwareDevice: nobody",
    (w) => w.getHardwareDevice({ deviceId: nothing }),
    { ...noDevice, metadata: { device_id: nothing } },
  ],
  ["updateHardwareDevice: nothing", (w) => w.updateHardwareDevice({}), bad("device")],
  ["updateHardwareDevice: no id", (w) => w.updateHardwareDevice({ device: { connected: true } }), bad("device")],
  [
    "updateHardwareDevice: nobody",
    (w) => w.updateHardwareDevice({ device: { deviceId: nothing, connected: true } }),
    noDevice,
  ],
  [
    "updateHardwareDevice: cleared by *",
    (w, made) => maskedDevice(w, made, "*"),
    bad("device.wallet_type", "device.model", "device.firmware_version"),
  ],
  ["updateHardwareDevice: unknown field", (w, made) => maskedDevice(w, made, "pin"), bad("update_mask")],
  [
    "updateHardwareDevice: stale etag",
    (w, { device: { deviceId } }) => w.updateHardwareDevice({ device: { deviceId, connected: true }, etag: "x" }),
    stale,
  ],
  [
    "updateHardwareDevice: taken serial number",
    (w, { device, otherDevice: { deviceId } }) =>
      w.updateHardwareDevice({ device: { deviceId, serialNumber: device.serialNumber ?? "" } }),
    taken("HARDWARE_DEVICE_ALREADY_EXISTS", "device", "serial_number"),
  ],
  ["listHardwareDevices: negative size", (w) => w.listHardwareDevices({ pageSize: -1 }), bad("page_size")],
  ["listHardwareDevices: made-up token", (w) => w.listHardwareDevices({ pageToken: "abc" }), noToken],
  ["listHardwareDevices: order without an index", (w) => w.listHardwareDevices({ orderBy: "model" }), bad("order_by")],
  ["listHardwareDevices: long user", (w) => w.listHardwareDevices({ userId: long }), bad("user_id")],
  ["deleteHardwareDevice: nothing", (w) => w.deleteHardwareDevice({}), bad("device_id")],
  ["deleteHardwareDevice: nobody", (w) => w.deleteHardwareDevice({ deviceId: nothing }), noDevice],
  [
    "deleteHardwareDevice: stale etag",
    (w, { device: { deviceId } }) => w.deleteHardwareDevice({ deviceId, etag: '"99"' }),
    stale,
  ],
  ["undeleteHardwareDevice: nothing", (w) => w.undeleteHardwareDevice({}), bad("device_id")],
  [
    "undeleteHardwareDevice: not deleted",
    (w, { device: { deviceId } }) => w.undeleteHardwareDevice({ deviceId }),
    { code: "FailedPrecondition", reason: "HARDWARE_DEVICE_NOT_DELETED" },
  ],
];
