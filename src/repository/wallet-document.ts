import type { Document } from "bson";

import { type HardwareDevice, HardwareDeviceSchema } from "../../gen/lucid/repository/v1/hardware_device_pb.ts";
import { HardwareWalletType } from "../../gen/lucid/repository/v1/user_pb.ts";
import { type Wallet, WalletSchema, WalletType } from "../../gen/lucid/repository/v1/wallet_pb.ts";
import { codecFor } from "../schema/codec.ts";
import { badRequest, tooLarge, type WrongField } from "../schema/refusals.ts";
import { isTronAddress } from "../schema/tron-address.ts";

const walletCodec = codecFor(WalletSchema);
const deviceCodec = codecFor(HardwareDeviceSchema);

/**
 * The document of a wallet, a copy of what a caller sent, with defaults where nothing is set. Fails with `BAD_REQUEST` where what is needed is missing or a value is none that
 * can be stored; `isStored` says which top fields are, so that an update is not held to fields that it does not change.
 */
export function walletDocument(wallet: Wallet, isStored: (name: string) => boolean): Document {
  if (wallet.walletType === WalletType.UNSPECIFIED) wallet.walletType = WalletType.SOFTWARE;
  const document = walletCodec.encode(wallet, "wallet");
  refuse(
    isStored("tron_address") ? wrongAddress("wallet.tron_address", wallet.tronAddress) : [],
    isStored("metadata") ? tooLarge("wallet.metadata", document["metadata"]) : [],
  );
  return document;
}

/** The same of a device. */
export function deviceDocument(device: HardwareDevice, isStored: (name: string) => boolean): Document {
  const document = deviceCodec.encode(device, "device");
  const missing = [
    ["wallet_type", device.walletType === HardwareWalletType.UNSPECIFIED],
    ["model", device.model === ""],
    ["firmware_version", device.firmwareVersion === ""],
  ] as const;
  refuse(
    missing.flatMap(([name, isMissing]) => (isStored(name) && isMissing ? mustBeSet(`device.${name}`) : [])),
    isStored("tron_address") && device.tronAddress !== undefined
      ? wrongAddress("device.tron_address", device.tronAddress)
      : [],
    isStored("metadata") ? tooLarge("device.metadata", document["metadata"]) : [],
  );
  return document;
}

function wrongAddress(field: string, address: string): readonly WrongField[] {
  if (address === "") return mustBeSet(field);
  return isTronAddress(address) ? [] : [{ field, description: "must be a TRON address with a valid checksum" }];
}

function mustBeSet(field: string): readonly WrongField[] {
  return [{ field, description: "must be set" }];
}

function refuse(...found: readonly (readonly WrongField[])[]): void {
  const wrong = found.flat();
  if (wrong.length > 0) throw badRequest(...wrong);
}
