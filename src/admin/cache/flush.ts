import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Redis } from "ioredis";

import type { FlushKeysResponseSchema } from "../../../gen/lucid/admin/v1/cache_service_pb.ts";
import { type Keyspace, scanStart, scanSteps } from "./key-scan.ts";
import { askOfEach, isProtected } from "./keys.ts";

/** How far a flush is. */
export interface FlushProgress {
  readonly keys: number;
  readonly matched: number;
  readonly deleted: number;
  readonly protectedKeys: number;
  readonly percent: number;
}

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
  let server = 0;
  for await (const step of scanSteps(keyspace, { from: scanStart, filter: { pattern, type: "" }, signal })) {
    const mayGo = step.keys.filter((key) => !isProtected(key));
    matched += step.keys.length;
    protectedKeys += step.keys.length - mayGo.length;
    deleted += isDry ? mayGo.length : await unlinked(step.node, mayGo);
    const size = sizes[server] ?? 0;
    looked = Math.min(looked + step.looked, size);
    if (step.next?.server !== server) {
      [passed, looked] = [passed + size, 0];
      server++;
    }
    yield progress(keys === 0 ? 100 : Math.min(100, (100 * (passed + looked)) / keys));
  }
  yield progress(100);
}

/** Removes keys; their memory is freed in the background. Tells how many were there. */
async function unlinked(node: Redis, keys: readonly Buffer[]): Promise<number> {
  // One command each: a cluster takes no keys of different slots in one.
  const replies = await askOfEach(node, keys, (asked, key) => asked.unlink(key));
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
