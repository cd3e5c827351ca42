import { create, fromBinary, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";

import {
  type StoredVolumeUsage,
  StoredVolumeUsageSchema,
  type VolumeUsage,
} from "../../../gen/lucid/admin/v1/volume_pb.ts";
import { VolumeWindow } from "../../../gen/lucid/admin/v1/volume_service_pb.ts";
import { isReason } from "../../errors.ts";
import type { Directory } from "../../stores/volumes/directory.ts";
import { hasFileCode, isChangedMeanwhile } from "../../stores/volumes/failures.ts";
import { readOwnFile, writeOwnFile } from "../../stores/volumes/own-files.ts";

/** One measure of the past. */
export interface Sample {
  readonly timeMs: number;
  readonly usedBytes: bigint;
  readonly fileCount: bigint;
}

/** What a volume held, and holds by the newest measure. */
export interface History {
  readonly newest: VolumeUsage | undefined;
  /** The oldest first. */
  readonly samples: readonly Sample[];
}

const minuteMs = 60_000;
const hourMs = 60 * minuteMs;
const dayMs = 24 * hourMs;

/** How far back a window goes, and at what distance from each other its measures are kept. */
const windows = [
  { window: VolumeWindow.HOUR, ageMs: hourMs, everyMs: minuteMs },
  { window: VolumeWindow.DAY, ageMs: dayMs, everyMs: 15 * minuteMs },
  { window: VolumeWindow.WEEK, ageMs: 7 * dayMs, everyMs: hourMs },
  { window: VolumeWindow.MONTH, ageMs: 30 * dayMs, everyMs: 4 * hourMs },
] as const;

const fileName = "usage";
const mostBytes = 256 * 1024;

/** Reads what is stored of a volume. What cannot be read counts as nothing: measures come again, and nothing else rests on it. */
export async function readHistory(own: Directory): Promise<History> {
  return await storedHistory(own).catch(() => nothing);
}

const nothing: History = { newest: undefined, samples: [] };

/** The same for who writes over it: what only could not be read now is not lost. */
async function storedHistory(own: Directory): Promise<History> {
  const bytes = await readOwnFile(own, fileName, { mostBytes }).catch((error: unknown) => {
    // No file, or none of ours.
    if (isReason(error, "VOLUME_DAMAGED") || isReason(error, "VOLUME_PATH_REFUSED") || isChangedMeanwhile(error))
      return;
    throw error;
  });
  const stored = bytes === undefined ? undefined : decoded(bytes);
  if (stored === undefined) return nothing;
  const samples = stored.timesMs.map((timeMs, index) => ({
    timeMs: Number(timeMs),
    usedBytes: stored.usedBytes[index] ?? 0n,
    fileCount: stored.fileCounts[index] ?? 0n,
  }));
  return { newest: stored.newest, samples };
}

function decoded(bytes: Buffer): StoredVolumeUsage | undefined {
  try {
    return fromBinary(StoredVolumeUsageSchema, bytes);
  } catch {
    return undefined;
  }
}

/**
 * Stores one measure more. Where two processes do at once, one of the two may be lost, and no other. Where nothing can be written, it
 * is told all the same: a volume whose storage is full is the very one that somebody looks at.
 */
export async function addToHistory(own: Directory, newest: VolumeUsage, sample: Sample): Promise<History> {
  const { samples: before } = await storedHistory(own);
  const samples = thinned([...before.filter(({ timeMs }) => timeMs < sample.timeMs), sample], sample.timeMs);
  const init: MessageInitShape<typeof StoredVolumeUsageSchema> = {
    newest,
    timesMs: samples.map(({ timeMs }) => BigInt(timeMs)),
    usedBytes: samples.map(({ usedBytes }) => usedBytes),
    fileCounts: samples.map(({ fileCount }) => fileCount),
  };
  const bytes = toBinary(StoredVolumeUsageSchema, create(StoredVolumeUsageSchema, init));
  await writeOwnFile(own, fileName, bytes, { ifAbsent: false }).catch((error: unknown) => {
    if (!hasFileCode(error, "ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM")) throw error;
  });
  return { newest, samples };
}

/** Keeps the first measure of each stretch of time, which is the longer the longer it is ago; always the newest. */
export function thinned(samples: readonly Sample[], nowMs: number): Sample[] {
  const taken = new Set<string>();
  return samples.filter((sample, index) => {
    const stretch = windows.find(({ ageMs }) => nowMs - sample.timeMs < ageMs)?.everyMs;
    if (stretch === undefined) return false;
    const key = `${stretch}/${Math.floor(sample.timeMs / stretch)}`;
    if (taken.has(key)) return index === samples.length - 1;
    taken.add(key);
    return true;
  });
}

/** The measures of a window, at its distance from each other. */
export function inWindow(samples: readonly Sample[], window: VolumeWindow, nowMs: number): Sample[] {
  const found = windows.find((candidate) => candidate.window === window);
  if (found === undefined) return [];
  let last = Number.NEGATIVE_INFINITY;
  return samples.filter(({ timeMs }, index) => {
    if (timeMs < nowMs - found.ageMs) return false;
    const stretch = Math.floor(timeMs / found.everyMs);
    if (stretch === last && index < samples.length - 1) return false;
    last = stretch;
    return true;
  });
}

/** A measure as it is told. */
export function toldSample({ timeMs, usedBytes, fileCount }: Sample) {
  return { measureTime: timestampFromMs(timeMs), usedBytes, fileCount };
}
