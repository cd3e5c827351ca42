import type { Redis } from "ioredis";

import { idOf, type Plan } from "./documents.ts";
import { random } from "./random.ts";

const HOUR_MS = 3_600_000;

/** One key of the cache: its name, and how to write it. Lifetimes count from the writing; everything else is the seed's. */
export interface Key {
  readonly name: string;
  readonly lifetimeMs?: number;
  /** The command that writes the value, without the key's name. */
  readonly command: readonly [verb: string, ...values: (string | Buffer)[]];
}

/** Gives the key with this number. Every type of Redis is there, most of them what the service itself would keep. */
export function keyOf(plan: Plan, index: number): Key {
  const { seed } = plan;
  const chance = random(seed, "key", index);
  const user = idOf(seed, "user", index % Math.max(1, plan.users));
  const session = idOf(seed, "session", index % Math.max(1, plan.sessions));
  const kind = index % 20;
  // The number stands in every name that would come again once there are more keys than users or sessions.
  if (kind < 7) {
    const fields = {
      user_id: user,
      status: chance.pick(["RECORDING", "PROCESSING", "COMPLETED"]),
      size: String(chance.whole(0, 1e9)),
      chunk_count: String(chance.whole(0, 900)),
      last_activity: new Date(Date.UTC(2026, 0, 1) - chance.whole(0, HOUR_MS)).toISOString(),
    };
    const name = `lucid:session:${idOf(seed, "cached session", index)}`;
    return { name, lifetimeMs: chance.whole(1, 24) * HOUR_MS, command: ["HSET", ...Object.entries(fields).flat()] };
  }
  if (kind < 10) {
    const value = JSON.stringify({ user_id: user, role: chance.pick(["USER", "ADMIN"]), cached: index });
    return { name: `lucid:user:${idOf(seed, "cached user", index)}`, command: ["SET", value] };
  }
  if (kind < 13) {
    const [endpoint, method] = [chance.pick(["users", "sessions", "search"]), chance.pick(["GET", "POST"])];
    const calls = Array.from({ length: chance.whole(1, 8) }, (_, call) => [
      String(1_767_225_600_000 + call),
      `${index}-${call}`,
    ]);
    const name = `lucid:ratelimit:${index}:${endpoint}:${method}`;
    return { name, lifetimeMs: chance.whole(1, 60) * 60_000, command: ["ZADD", ...calls.flat()] };
  }
  if (kind < 15) {
    const members = Array.from({ length: chance.whole(1, 12) }, (_, member) => idOf(seed, "session", index + member));
    return { name: `lucid:user:${user}:sessions:${index}`, command: ["SADD", ...members] };
  }
  if (kind < 17) {
    const waiting = Array.from({ length: chance.whole(1, 20) }, () =>
      JSON.stringify({ session, attempt: chance.whole(0, 3) }),
    );
    return {
      name: `lucid:queue:${chance.pick(["anchor", "encrypt", "notify"])}:${index}`,
      command: ["RPUSH", ...waiting],
    };
  }
  if (kind < 18) {
    const scores = Array.from({ length: chance.whole(5, 40) }, (_, node) => [
      chance.fraction().toFixed(6),
      `node-${node}`,
    ]);
    return { name: `lucid:poot:${index}`, command: ["ZADD", ...scores.flat()] };
  }
  if (kind < 19) {
    const event = ["state", chance.pick(["RECORDING", "ENCRYPTING"]), "chunks", String(chance.whole(0, 500))];
    return { name: `lucid:events:${session}:${index}`, command: ["XADD", `${1_767_225_600_000 + index}-0`, ...event] };
  }
  // Bits of the chunks that have arrived: bytes that are no text.
  return { name: `lucid:chunks:${session}:${index}`, command: ["SET", chance.bytes(chance.whole(8, 120))] };
}

/** Writes the keys from `first` up to `end`, all under way at once; what was there goes. */
export async function writeKeys(redis: Redis, plan: Plan, first: number, end: number): Promise<void> {
  const pipeline = redis.pipeline();
  for (let index = first; index < end; index++) {
    const { name, lifetimeMs, command } = keyOf(plan, index);
    const [verb, ...values] = command;
    pipeline.unlink(name);
    pipeline.call(verb, name, ...values);
    if (lifetimeMs !== undefined) pipeline.pexpire(name, lifetimeMs);
  }
  await run(pipeline.exec());
}

/** Deletes the keys from `first` up to `end`. */
export async function deleteKeys(redis: Redis, plan: Plan, first: number, end: number): Promise<void> {
  const pipeline = redis.pipeline();
  for (let index = first; index < end; index++) pipeline.unlink(keyOf(plan, index).name);
  await run(pipeline.exec());
}

async function run(replies: Promise<[Error | null, unknown][] | null>): Promise<void> {
  for (const [error] of (await replies) ?? []) if (error !== null) throw error;
}
