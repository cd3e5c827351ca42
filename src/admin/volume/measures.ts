import { setTimeout as delay } from "node:timers/promises";

import { create } from "@bufbuild/protobuf";
import { durationFromMs, timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { ConnectError } from "@connectrpc/connect";

import {
  type Volume,
  VolumeLevel,
  type VolumeUsage,
  VolumeUsageSchema,
} from "../../../gen/lucid/admin/v1/volume_pb.ts";
import { fail } from "../../errors.ts";
import type { Volumes } from "../../stores/volumes/volumes.ts";
import { addToHistory, type History } from "./history.ts";
import { measure, type ReadDirectories } from "./measure.ts";

/** Takes measures of volumes: one of a volume at a time, which all share who want one. Disposing it stops those that run. */
export interface Measures extends AsyncDisposable {
  /** Takes a measure, or shares the one that runs; undefined where it has not come to an end after `waitMs`, and goes on. */
  take(name: string, options: { readonly waitMs: number; readonly signal: AbortSignal }): Promise<History | undefined>;
  /** The same with a measure that looks at every file and is begun no earlier than now. */
  takeExact(
    name: string,
    options: { readonly waitMs: number; readonly signal: AbortSignal },
  ): Promise<History | undefined>;
  /** Whether one is being taken here. */
  isTaking(name: string): boolean;
}

/** How long a measure may rest on what an earlier one has read. */
const exactEveryMs = 10 * 60_000;

/** Directories that are remembered of all volumes together; of which none was measured for longest is forgotten first. */
const mostRemembered = 200_000;

interface Running {
  readonly isExact: boolean;
  readonly done: Promise<History>;
}

interface Remembered {
  readonly directories: ReadDirectories;
  readonly exactMs: number;
}

export function openMeasures(volumes: Volumes): Measures {
  const running = new Map<string, Running>();
  const remembered = new Map<string, Remembered>();
  const closing = new AbortController();

  const remember = (name: string, value: Remembered): void => {
    remembered.delete(name);
    remembered.set(name, value);
    let count = 0;
    for (const { directories } of remembered.values()) count += directories.size;
    for (const [oldest, { directories }] of remembered) {
      if (count <= mostRemembered || oldest === name) return;
      remembered.delete(oldest);
      count -= directories.size;
    }
  };

  const takeNow = async (name: string, isExact: boolean): Promise<History> => {
    await using volume = await volumes.open(name);
    const beganMs = Date.now();
    const before = remembered.get(name);
    const isKnown = !isExact && before !== undefined && beganMs - before.exactMs < exactEveryMs;
    const known = isKnown ? before.directories : undefined;
    const { sums, directories } = await measure(volume.top, { signal: closing.signal, known });
    const exactMs = isKnown ? before.exactMs : beganMs;
    remember(name, { directories, exactMs });
    const usage = create(VolumeUsageSchema, {
      usedBytes: BigInt(Math.round(sums.bytes)),
      allocatedBytes: BigInt(Math.round(sums.allocated)),
      fileCount: BigInt(sums.files),
      directoryCount: BigInt(sums.directories),
      otherCount: BigInt(sums.others),
      skippedCount: BigInt(sums.skipped),
      measureTime: timestampFromMs(beganMs),
      exactTime: timestampFromMs(exactMs),
      measureDuration: durationFromMs(Date.now() - beganMs),
    });
    const sample = { timeMs: beganMs, usedBytes: usage.usedBytes, fileCount: usage.fileCount };
    return await addToHistory(volume.own, usage, sample);
  };

  const begin = (name: string, isExact: boolean): Running => {
    const done = takeNow(name, isExact).finally(() => {
      if (running.get(name) === own) running.delete(name);
    });
    // Whoever waits is told of a failure; where nobody does any more, nobody is.
    done.catch(() => undefined);
    const own = { isExact, done };
    running.set(name, own);
    return own;
  };

  return {
    async take(name, options) {
      closing.signal.throwIfAborted();
      return within((running.get(name) ?? begin(name, false)).done, options);
    },

    async takeExact(name, { waitMs, signal }) {
      closing.signal.throwIfAborted();
      const untilMs = Date.now() + waitMs;
      const wait = <T>(promise: Promise<T>) => within(promise, { waitMs: Math.max(0, untilMs - Date.now()), signal });
      // What runs now may have passed by what has been written since; what runs after it was begun later than this call.
      for (let current = running.get(name), isLater = false; ; current = running.get(name), isLater = true) {
        if (current === undefined) return await wait(begin(name, true).done);
        if (isLater && current.isExact) return await wait(current.done);
        const ended = current.done.then(
          () => true,
          () => true,
        );
        if ((await wait(ended)) === undefined) return undefined;
      }
    },

    isTaking: (name) => running.has(name),

    async [Symbol.asyncDispose]() {
      closing.abort(fail("DRAINING", "The service is stopping"));
      await Promise.allSettled([...running.values()].map(({ done }) => done));
    },
  };
}

/** What a promise gives within a time; undefined where it takes longer. */
async function within<T>(
  promise: Promise<T>,
  { waitMs, signal }: { readonly waitMs: number; readonly signal: AbortSignal },
): Promise<T | undefined> {
  const over = new AbortController();
  const late = delay(waitMs, undefined, { signal: AbortSignal.any([signal, over.signal]) }).catch(() => undefined);
  try {
    const first = await Promise.race([promise, late]);
    signal.throwIfAborted();
    return first;
  } finally {
    over.abort();
  }
}

/** Usage with what follows from the declared size. */
export function levelled(
  usage: VolumeUsage,
  volume: Pick<Volume, "declaredBytes" | "warningPercent" | "criticalPercent">,
) {
  const usedPercent = (100 * Number(usage.usedBytes)) / Number(volume.declaredBytes);
  return create(VolumeUsageSchema, { ...usage, usedPercent, level: levelOf(usedPercent, volume) });
}

function levelOf(
  percent: number,
  { warningPercent, criticalPercent }: Pick<Volume, "warningPercent" | "criticalPercent">,
) {
  if (percent >= 100) return VolumeLevel.FULL;
  if (percent >= criticalPercent) return VolumeLevel.CRITICAL;
  return percent >= warningPercent ? VolumeLevel.WARNING : VolumeLevel.NORMAL;
}

/** There is no measure yet that a call needs. */
export function beingMeasured(name: string): ConnectError {
  return fail("VOLUME_BEING_MEASURED", `The volume ${name} is being measured, which takes longer; try again`, {
    metadata: { volume: name },
    retryAfterMs: 5000,
  });
}
