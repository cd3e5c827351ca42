import { randomBytes, randomInt } from "node:crypto";
import type { FileHandle } from "node:fs/promises";

import { temporaryName } from "../../stores/volumes/own-files.ts";
import type { OpenVolume } from "../../stores/volumes/volumes.ts";

/** How much and how long. */
export interface PerformanceOptions {
  readonly bytes: number;
  readonly blockBytes: number;
  readonly budgetMs: number;
  readonly signal: AbortSignal;
}

const syncedBytes = 4096;
const mostSyncs = 100;

/** Parts of the time: the rest is for reading. */
const shares = { write: 0.5, sync: 0.3 };

/** Measures writes, syncs and reads in a scratch file, which loses its name at once: whatever happens, nothing of it stays. */
export async function measurePerformance({ own }: Pick<OpenVolume, "own">, options: PerformanceOptions) {
  const scratch = temporaryName();
  const beganMs = performance.now();
  const file = await own.createFile(scratch);
  try {
    await own.remove(scratch);
    const { budgetMs } = options;
    const written = await write(file, options, beganMs + budgetMs * shares.write);
    const syncs = await sync(file, options, beganMs + budgetMs * (shares.write + shares.sync));
    const read = await readBack(file, options, { bytes: written.bytes, untilMs: beganMs + budgetMs });
    return {
      writtenBytes: BigInt(written.bytes),
      writeBytesPerSecond: rate(written),
      readBytes: BigInt(read.bytes),
      readBytesPerSecond: rate(read),
      syncCount: syncs.length,
      syncP50: duration(percentile(syncs, 0.5)),
      syncP95: duration(percentile(syncs, 0.95)),
      syncMax: duration(percentile(syncs, 1)),
      duration: duration(performance.now() - beganMs),
    };
  } finally {
    await file.close();
  }
}

interface Moved {
  readonly bytes: number;
  readonly ms: number;
}

async function write(
  file: FileHandle,
  { bytes, blockBytes, signal }: PerformanceOptions,
  untilMs: number,
): Promise<Moved> {
  // Of random bytes a file system that compresses makes nothing less.
  const block = randomBytes(blockBytes);
  const beganMs = performance.now();
  let done = 0;
  while (done < bytes && (done === 0 || performance.now() < untilMs)) {
    signal.throwIfAborted();
    const { bytesWritten } = await file.write(block, 0, Math.min(blockBytes, bytes - done), done);
    done += bytesWritten;
  }
  await file.datasync();
  return { bytes: done, ms: performance.now() - beganMs };
}

/** Milliseconds that each write took until it was on the device, the shortest first. */
async function sync(file: FileHandle, { signal }: PerformanceOptions, untilMs: number): Promise<number[]> {
  const block = randomBytes(syncedBytes);
  const times: number[] = [];
  while (times.length < mostSyncs && (times.length === 0 || performance.now() < untilMs)) {
    signal.throwIfAborted();
    const beganMs = performance.now();
    await file.write(block, 0, syncedBytes, 0);
    await file.datasync();
    times.push(performance.now() - beganMs);
  }
  return times.toSorted((one, other) => one - other);
}

async function readBack(
  file: FileHandle,
  { blockBytes, signal }: PerformanceOptions,
  { bytes, untilMs }: { readonly bytes: number; readonly untilMs: number },
): Promise<Moved> {
  const block = Buffer.alloc(blockBytes);
  const blocks = Math.ceil(bytes / blockBytes);
  const beganMs = performance.now();
  let done = 0;
  while (done < bytes && (done === 0 || performance.now() < untilMs)) {
    signal.throwIfAborted();
    const { bytesRead } = await file.read(block, 0, blockBytes, randomInt(blocks) * blockBytes);
    done += bytesRead;
  }
  return { bytes: done, ms: performance.now() - beganMs };
}

function rate({ bytes, ms }: Moved): number {
  return ms === 0 ? 0 : (bytes * 1000) / ms;
}

function percentile(sorted: readonly number[], part: number): number {
  return sorted[Math.max(0, Math.ceil(sorted.length * part) - 1)] ?? 0;
}

/** To the nanosecond, since a millisecond is long here. */
function duration(ms: number): { seconds: bigint; nanos: number } {
  const seconds = Math.trunc(ms / 1000);
  return { seconds: BigInt(seconds), nanos: Math.min(999_999_999, Math.round((ms - seconds * 1000) * 1_000_000)) };
}
