import { randomUUIDv7 } from "node:crypto";

import type { ServiceImpl } from "@connectrpc/connect";

import { HardwareDeviceSchema } from "../../gen/lucid/repository/v1/hardware_device_pb.ts";
import * as rpc from "../../gen/lucid/repository/v1/wallet_service_pb.ts";
import { codecFor } from "../schema/codec.ts";
import { requestMark } from "../schema/create-once.ts";
import { documentResponse } from "../schema/document-response.ts";
import { entity } from "../schema/entity.ts";
import { onlyWritable } from "../schema/field-mask.ts";
import { badRequest } from "../schema/refusals.ts";
import type { Repositories } from "./collections.ts";
import { deviceDocument } from "./wallet-document.ts";

const codec = codecFor(HardwareDeviceSchema);

const registered = documentResponse(rpc.RegisterHardwareDeviceResponseSchema, "device");
const got = documentResponse(rpc.GetHardwareDeviceResponseSchema, "device");
const updated = documentResponse(rpc.UpdateHardwareDeviceResponseSchema, "device");
const listed = documentResponse(rpc.ListHardwareDevicesResponseSchema, "devices");
const deleted = documentResponse(rpc.DeleteHardwareDeviceResponseSchema, "device");
const undeleted = documentResponse(rpc.UndeleteHardwareDeviceResponseSchema, "device");

type DeviceCalls = Pick<
  ServiceImpl<typeof rpc.WalletService>,
  | "registerHardwareDevice"
  | "getHardwareDevice"
  | "updateHardwareDevice"
  | "listHardwareDevices"
  | "deleteHardwareDevice"
  | "undeleteHardwareDevice"
>;

/** The part of WalletService that keeps the devices which hold keys. */
export function hardwareDevices({ db, collections, pageTokens }: Repositories): DeviceCalls {
  const devices = entity({
    db,
    schema: HardwareDeviceSchema,
    id: "device_id",
    name: "device",
    reasons: {
      notFound: "HARDWARE_DEVICE_NOT_FOUND",
      alreadyExists: "HARDWARE_DEVICE_ALREADY_EXISTS",
      notDeleted: "HARDWARE_DEVICE_NOT_DELETED",
    },
    ready: collections.ready,
    pageTokens,
  });

  return {
    async registerHardwareDevice(request, context) {
      const device = onlyWritable(HardwareDeviceSchema, request.device ?? codec.decode({}));
      device.deviceId = randomUUIDv7();
      const now = new Date();
      const document = {
        ...deviceDocument(device, () => true),
        first_connected: now,
        ...(device.connected && { last_connected: now }),
      };
      const mark = requestMark(rpc.RegisterHardwareDeviceRequestSchema, request);
      return registered([(await devices.insert(document, context, mark)).document]);
    },

    async getHardwareDevice({ deviceId, showDeleted }, context) {
      const filter = showDeleted ? { device_id: deviceId } : devices.live(deviceId);
      return got([await devices.get(filter, context, { device_id: deviceId })]);
    },

    async updateHardwareDevice({ device: sent, updateMask, etag }, context) {
      if (sent === undefined) throw badRequest({ field: "device", description: "must be set" });
      const found = await devices.update(
        { schema: HardwareDeviceSchema, message: sent, mask: updateMask, etag, id: sent.deviceId },
        (isChanged) => deviceDocument(onlyWritable(HardwareDeviceSchema, sent), isChanged),
        context,
        (set, isChanged) => {
          if (isChanged("connected") && sent.connected) set["last_connected"] = new Date();
        },
      );
      return updated([found]);
    },

    async listHardwareDevices(request, context) {
      const equal = request.userId === "" ? {} : { user_id: request.userId };
      const { documents, nextPageToken } = await devices.list(
        {
          filter: { ...equal, ...(!request.showDeleted && { deleted_at: null }) },
          restrictions: { equal: Object.keys(equal) },
          fallback: "created_at desc",
          schema: rpc.ListHardwareDevicesRequestSchema,
          request,
        },
        context,
      );
      return listed(documents, { nextPageToken });
    },

    async deleteHardwareDevice({ deviceId, etag, validateOnly }, context) {
      return deleted([await devices.delete(deviceId, { etag, validateOnly }, context)]);
    },

    async undeleteHardwareDevice({ deviceId, etag }, context) {
      return undeleted([await devices.undelete(deviceId, { etag }, context)]);
    },
  };
}
