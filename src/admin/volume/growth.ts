import { type Duration, durationFromMs, type Timestamp, timestampFromMs } from "@bufbuild/protobuf/wkt";

import type { Volume } from "../../../gen/lucid/admin/v1/volume_pb.ts";
import type { Sample } from "./history.ts";

const dayMs = 86_400_000;
const mostMs = 100 * 365 * dayMs;

/** How a volume grows. Only the number is there where there are too few measures. */
export interface Growth {
  readonly sampleCount: number;
  readonly fromTime?: Timestamp;
  readonly toTime?: Timestamp;
  readonly bytesPerDay?: number;
  readonly fit?: number;
  readonly timeToFull?: Duration;
  readonly timeToCritical?: Duration;
}

/** What becomes of a volume that goes on growing as its measures say. */
export function growthOf(
  samples: readonly Sample[],
  volume: Pick<Volume, "declaredBytes" | "criticalPercent">,
  nowMs: number,
): Growth {
  const [first, last] = [samples[0], samples.at(-1)];
  if (first === undefined || last === undefined || first === last) return { sampleCount: samples.length };
  const { perMs, fit } = line(samples.map(({ timeMs, usedBytes }) => [timeMs - first.timeMs, Number(usedBytes)]));
  const declared = Number(volume.declaredBytes);
  const full = timeTo(declared, { last, perMs, nowMs });
  const critical = timeTo((declared * volume.criticalPercent) / 100, { last, perMs, nowMs });
  return {
    sampleCount: samples.length,
    fromTime: timestampFromMs(first.timeMs),
    toTime: timestampFromMs(last.timeMs),
    bytesPerDay: perMs * dayMs,
    fit,
    ...(full !== undefined && { timeToFull: durationFromMs(full) }),
    ...(critical !== undefined && { timeToCritical: durationFromMs(critical) }),
  };
}

/** The straight line with the least squares of distances to the points. */
function line(points: readonly (readonly [x: number, y: number])[]): { perMs: number; fit: number } {
  const meanX = mean(points.map(([x]) => x));
  const meanY = mean(points.map(([, y]) => y));
  let [xx, xy, yy] = [0, 0, 0];
  for (const [x, y] of points) {
    xx += (x - meanX) ** 2;
    xy += (x - meanX) * (y - meanY);
    yy += (y - meanY) ** 2;
  }
  return { perMs: xx === 0 ? 0 : xy / xx, fit: yy === 0 ? 1 : xx === 0 ? 0 : xy ** 2 / (xx * yy) };
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** Milliseconds until there are so many bytes; undefined where that does not come. */
function timeTo(
  bytes: number,
  { last, perMs, nowMs }: { readonly last: Sample; readonly perMs: number; readonly nowMs: number },
): number | undefined {
  const left = bytes - Number(last.usedBytes);
  if (left <= 0) return 0;
  if (perMs <= 0) return undefined;
  const ms = Math.round(left / perMs - (nowMs - last.timeMs));
  return ms > mostMs ? undefined : Math.max(0, ms);
}
