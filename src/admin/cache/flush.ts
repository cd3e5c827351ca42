import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Redis } from "ioredis";

import type { FlushKeysResponseSchema } from "../../../gen/lucid/admin/v1/cache_service_pb.ts";
import { pause } from "../../stores/waiting.ts";
import { type Keyspace, type ScanPosition, scanStart, scanStep } from "./key-scan.ts";
import { isProtected, repliesOf } from "./keys.ts";

/** How far a flush is. */
export interface FlushProgress {
  readonly keys: number;
  readonly matched: number;
  readonly deleted: number;
  readonly protectedKeys: number;
  readonly percent: number;
}

/** Keys that are looked at in one command, and removed before the next: some tenths of a millisecond of the server's time. */
const stepKeys = 250;
/** For how long the server is left to others after a step, in milliseconds: as long as the step took, within these. */
const restMs = { least: 1, most: 100 };

/**
 * Removes what a pattern matches, or only counts it; yields after each step. What the service keeps in Redis and would miss is
 * passed over, so not even all of a database is given to FLUSHALL.
 */
export async function* flushed(
  keyspace: Keyspace,
  { pattern, isDry, signal }: { readonly pattern: string; readonly isDry: boolean; readonly signal: AbortSignal },
): AsyncGenerator<FlushProgress> {
  const sizes = await Promise.all(keyspace.servers.map((node) => node.dbsize()));
  const keys = sizes.reduce((sum, size) => sum + size, 0);
  let [matched, deleted, protectedKeys] = [0, 0, 0];
  let [passed, looked] = [0, 0];
  const progress = (percent: number): FlushProgress => ({ keys, matched, deleted, protectedKeys, percent });
  yield progress(0);
  for (let position: ScanPosition | undefined = scanStart; position !== undefined;) {
    signal.throwIfAborted();
    const beganMs = performance.now();
    const step = await scanStep(keyspace, position, { pattern, type: "" }, stepKeys);
    const mayGo = step.keys.filter((key) => !isProtected(key));
    matched += step.keys.length;
    protectedKeys += step.keys.length - mayGo.length;
    deleted += isDry ? mayGo.length : await unlinked(step.node, mayGo);
    const tookMs = performance.now() - beganMs;
    const size = sizes[position.server] ?? 0;
    looked = step.next?.server === position.server ? Math.min(looked + stepKeys, size) : 0;
    if (step.next?.server !== position.server) passed += size;
    position = step.next;
    yield progress(keys === 0 ? 100 : Math.min(100, (100 * (passed + looked)) / keys));
    if (position !== undefined) await pause(Math.min(restMs.most, Math.max(restMs.least, tookMs)), signal);
  }
  yield progress(100);
}

/** Removes keys; their memory is freed in the background. Tells how many were there. */
async function unlinked(node: Redis, keys: readonly Buffer[]): Promise<number> {
  if (keys.length === 0) return 0;
  const asked = node.pipeline();
  // One command each: a cluster takes no keys of different slots in one.
  for (const key of keys) asked.unlink(key);
  const replies = await repliesOf(asked);
  return replies.filter((removed) => removed === 1).length;
}

/** What is said of it. */
export function flushMessage(
  { keys, matched, deleted, protectedKeys, percent }: FlushProgress,
  done: boolean,
): MessageInitShape<typeof FlushKeysResponseSchema> {
  return {
    keyCount: BigInt(keys),
    matchedCount: BigInt(matched),
    deletedCount: BigInt(deleted),
    protectedCount: BigInt(protectedKeys),
    percent,
    done,
  };
}
