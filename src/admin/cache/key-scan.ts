import { createHash } from "node:crypto";

import type { Cluster, Redis } from "ioredis";

import { fail } from "../../errors.ts";
import { badRequest } from "../../schema/refusals.ts";
import { parseRedisInfo, primariesOf } from "../../stores/redis-info.ts";
import { pause } from "../../stores/waiting.ts";

/** The servers that hold the keys, in an order that stays for as long as they do. */
export interface Keyspace {
  readonly servers: readonly Redis[];
  /** Another one where a server was restarted or replaced or slots have moved: what a cursor has passed is not what it was. */
  readonly version: string;
}

export async function keyspaceOf(client: Redis | Cluster): Promise<Keyspace> {
  const { nodes, epoch } = await primariesOf(client);
  const named = await Promise.all(
    nodes.map(async (node) => ({ node, runId: parseRedisInfo(await node.info("server")).text("run_id") })),
  );
  named.sort((one, other) => (one.runId < other.runId ? -1 : 1));
  const version = createHash("sha256").update([epoch, ...named.map(({ runId }) => runId)].join(" "));
  return { servers: named.map(({ node }) => node), version: version.digest("base64url").slice(0, 16) };
}

/** Says that a position means nothing any more. */
export function positionExpired(why: string): Error {
  return fail("CACHE_POSITION_EXPIRED", `The position is lost, since ${why}; begin again`, {
    metadata: { cause: why },
  });
}

/** Where a scan goes on. */
export interface ScanPosition {
  /** Index of the server. */
  readonly server: number;
  /** The server's own cursor; `0` at the beginning. */
  readonly cursor: string;
}

/** Where a scan begins. */
export const scanStart: ScanPosition = { server: 0, cursor: "0" };

/** Which keys are wanted; empty means any. */
export interface ScanFilter {
  readonly pattern: string | Buffer;
  readonly type: string;
}

/** A step of a scan: what it found, and where it goes on, if anywhere. */
export interface ScanStep {
  readonly node: Redis;
  readonly keys: readonly Buffer[];
  /** How many keys were looked at, about. */
  readonly looked: number;
  readonly next: ScanPosition | undefined;
}

/** How to scan. */
export interface ScanOptions {
  readonly from: ScanPosition;
  readonly filter: ScanFilter;
  readonly signal: AbortSignal;
  /** How many keys the next step should look at, at most. */
  readonly wanted?: () => number;
}

/**
 * Keys that are looked at in one command, during which the server answers nobody else: a tenth of a millisecond of its time, about
 * what another client's read takes. ARCHITECTURE.md has what other numbers do to others.
 */
const stepKeys = 100;
/**
 * For how long the server is left to others after a step, in milliseconds: as long as the step took with what was done about its
 * keys, so that a scan has half of a server at most, within these. A timer of Node's knows nothing shorter than the least.
 */
const restMs = { least: 1, most: 100 };

/** Looks through keys step by step, and rests after each. Whoever runs the loop may end it at any step and go on from there later. */
export async function* scanSteps(
  keyspace: Keyspace,
  { from, filter, signal, wanted = () => stepKeys }: ScanOptions,
): AsyncGenerator<ScanStep> {
  for (let position = from; ;) {
    signal.throwIfAborted();
    const beganMs = performance.now();
    const step = await scanStep(keyspace, position, filter, Math.min(stepKeys, wanted()));
    yield step;
    if (step.next === undefined) return;
    position = step.next;
    await pause(Math.min(restMs.most, Math.max(restMs.least, performance.now() - beganMs)), signal);
  }
}

async function scanStep(
  { servers }: Keyspace,
  { server, cursor }: ScanPosition,
  { pattern, type }: ScanFilter,
  count: number,
): Promise<ScanStep> {
  const node = servers[server];
  if (node === undefined) throw positionExpired("there are fewer servers");
  const options = [
    ...(pattern.length > 0 ? ["MATCH", pattern] : []),
    ...["COUNT", count],
    ...(type !== "" ? ["TYPE", type] : []),
  ];
  const reply = await node.callBuffer("SCAN", [cursor, ...options]).catch((error: unknown) => {
    // Newer servers say so; older ones find nothing.
    if (error instanceof Error && error.name === "ReplyError" && /unknown type/i.test(error.message)) {
      throw badRequest({ field: "type", description: "must be a type of the server's" });
    }
    throw error;
  });
  // As SCAN replies.
  const [after, keys] = reply as [Buffer, Buffer[]];
  const goesOn = after.toString();
  const found = { node, keys, looked: count };
  if (goesOn !== "0") return { ...found, next: { server, cursor: goesOn } };
  return { ...found, next: server + 1 < servers.length ? { server: server + 1, cursor: "0" } : undefined };
}

/** The most time that a page takes, in milliseconds. */
const pageMs = 500;

/**
 * Finds about `size` keys, fewer where the page would take too long. A cursor of Redis cannot stop between the keys of one step,
 * so a page may hold a few more.
 */
export async function scanPage(
  keyspace: Keyspace,
  { from, filter, size, signal }: { from: ScanPosition; filter: ScanFilter; size: number; signal: AbortSignal },
): Promise<{ found: Map<Redis, Buffer[]>; next: ScanPosition | undefined }> {
  const endsMs = performance.now() + pageMs;
  const found = new Map<Redis, Buffer[]>();
  const seen = new Set<string>();
  let looked = 0;
  // As many as it takes to fill the page, if the rest is like what was looked at.
  const wanted = (): number => Math.ceil(((size - seen.size) * (looked + 1)) / (seen.size + 1));
  for await (const step of scanSteps(keyspace, { from, filter, signal, wanted })) {
    for (const key of step.keys) {
      const id = key.toString("latin1");
      if (seen.has(id)) continue;
      seen.add(id);
      const keys = found.get(step.node) ?? [];
      found.set(step.node, keys);
      keys.push(key);
    }
    looked += step.looked;
    if (seen.size >= size || performance.now() >= endsMs) return { found, next: step.next };
  }
  return { found, next: undefined };
}
