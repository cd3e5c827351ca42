import { constants } from "node:fs";
import { access, statfs } from "node:fs/promises";

import { timestampMs } from "@bufbuild/protobuf/wkt";

import { VolumeLevel, type VolumeUsage } from "../../../gen/lucid/admin/v1/volume_pb.ts";
import { VolumeStatus } from "../../../gen/lucid/admin/v1/volume_service_pb.ts";
import type { OpenVolume } from "../../stores/volumes/volumes.ts";

interface Check {
  readonly name: string;
  readonly status: VolumeStatus;
  readonly message: string;
}

/** Percent of a file system's room and files that may be left before someone should look after it, and before it is too late. */
const fewPercent = { degraded: 10, unhealthy: 3 };
/** A measure that is this old says little of now. */
const staleMs = 24 * 3_600_000;

const worst = [VolumeStatus.UNHEALTHY, VolumeStatus.DEGRADED] as const;

/** How a volume is; changes nothing. `usage` has its level. */
export async function healthOf(
  { top }: Pick<OpenVolume, "top">,
  { usage, nowMs }: { readonly usage: VolumeUsage | undefined; readonly nowMs: number },
) {
  const storage = await statfs(top.place);
  const [storageBytes, storageFreeBytes] = [storage.blocks * storage.bsize, storage.bavail * storage.bsize];
  const checks = [
    await accessCheck(top.place),
    usageCheck(usage),
    roomCheck("storage_bytes", "bytes", { free: storage.bavail, all: storage.blocks }),
    roomCheck("storage_files", "files", { free: storage.ffree, all: storage.files }),
    measureCheck(usage, nowMs),
  ];
  return {
    status: worst.find((status) => checks.some((check) => check.status === status)) ?? VolumeStatus.HEALTHY,
    checks,
    storageBytes: int64Of(storageBytes),
    storageFreeBytes: int64Of(storageFreeBytes),
    storageFiles: int64Of(storage.files),
    storageFreeFiles: int64Of(storage.ffree),
  };
}

/** File systems without limits say so by numbers that no int64 holds. */
export function int64Of(value: number): bigint {
  return value < 2 ** 63 ? BigInt(Math.trunc(value)) : 2n ** 63n - 1n;
}

async function accessCheck(place: string): Promise<Check> {
  const name = "access";
  try {
    await access(place, constants.R_OK | constants.W_OK | constants.X_OK);
    return { name, status: VolumeStatus.HEALTHY, message: "It can be read and written" };
  } catch {
    return { name, status: VolumeStatus.UNHEALTHY, message: "It cannot be read and written" };
  }
}

const levels: ReadonlyMap<VolumeLevel, VolumeStatus> = new Map([
  [VolumeLevel.WARNING, VolumeStatus.DEGRADED],
  [VolumeLevel.CRITICAL, VolumeStatus.UNHEALTHY],
  [VolumeLevel.FULL, VolumeStatus.UNHEALTHY],
]);

function usageCheck(usage: VolumeUsage | undefined): Check {
  const name = "usage";
  if (usage === undefined) return { name, status: VolumeStatus.HEALTHY, message: "It has not been measured yet" };
  const message = `${usage.usedPercent.toFixed(1)} % of its declared size are used`;
  return { name, status: levels.get(usage.level) ?? VolumeStatus.HEALTHY, message };
}

function roomCheck(name: string, what: string, { free, all }: { readonly free: number; readonly all: number }): Check {
  if (all === 0) return { name, status: VolumeStatus.HEALTHY, message: `Its file system sets no limit of ${what}` };
  const percent = (100 * free) / all;
  const isFew = percent < fewPercent.degraded;
  const few = percent < fewPercent.unhealthy ? VolumeStatus.UNHEALTHY : VolumeStatus.DEGRADED;
  const message = `${percent.toFixed(1)} % of the ${what} of its file system are free`;
  return { name, status: isFew ? few : VolumeStatus.HEALTHY, message };
}

function measureCheck(usage: VolumeUsage | undefined, nowMs: number): Check {
  const name = "measures";
  if (usage?.measureTime === undefined) {
    return { name, status: VolumeStatus.DEGRADED, message: "It has not been measured yet" };
  }
  if (nowMs - timestampMs(usage.measureTime) > staleMs) {
    return { name, status: VolumeStatus.DEGRADED, message: "Its newest measure is older than a day" };
  }
  if (usage.skippedCount > 0n) {
    return {
      name,
      status: VolumeStatus.DEGRADED,
      message: `${usage.skippedCount} directories could not be looked into`,
    };
  }
  return { name, status: VolumeStatus.HEALTHY, message: "Its newest measure is complete" };
}
