import type { MessageInitShape } from "@bufbuild/protobuf";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import type { Cluster, Redis } from "ioredis";

import type { RateLimitSchema } from "../../../gen/lucid/admin/v1/cache_service_pb.ts";
import { redisScript, serverTime } from "../../stores/redis-script.ts";
import { askOfEach, ownPrefixes } from "./keys.ts";

/** What is counted apart: a name and the length of a window. */
export interface Limited {
  readonly name: string;
  readonly windowMs: number;
}

/** What a check found. */
export interface RateCheck {
  readonly allowed: boolean;
  readonly remaining: number;
  /** Undefined where it is allowed. */
  readonly retryAfterMs: number | undefined;
  readonly resetAfterMs: number;
}

/** Parts of a window that are counted together: the memory of a limit does not grow with it. */
const parts = 64;

/**
 * A limit is a hash: for each part of time in which something was counted, by its number, how much; and under `limit` the limit
 * of the last check. A part leaves when its end has left the window. Where the server's clock went back, as it may when a replica
 * takes over, what was counted in a time that is still to come is counted now: it stays for a window, not until that time.
 */
const checkScript = (time: string): string => `
local time = ${time}
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local window, width, limit, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local current, first = math.floor(now / width), math.floor((now - window) / width)
local counted, numbers, used = {}, {}, 0
local fields = redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
  local number, count = tonumber(fields[i]), tonumber(fields[i + 1])
  if number and (number < first or number > current) then redis.call('HDEL', KEYS[1], fields[i]) end
  if number and number > current then
    redis.call('HINCRBY', KEYS[1], current, count)
    number = current
  end
  if number and number >= first then
    if not counted[number] then table.insert(numbers, number) end
    counted[number] = (counted[number] or 0) + count
    used = used + count
  end
end
local allowed = used + cost <= limit
if allowed and cost > 0 then
  redis.call('HINCRBY', KEYS[1], current, cost)
  if not counted[current] then table.insert(numbers, current) end
  counted[current] = (counted[current] or 0) + cost
  used = used + cost
end
if used > 0 then
  redis.call('HSET', KEYS[1], 'limit', limit)
  redis.call('PEXPIRE', KEYS[1], window + width)
end
table.sort(numbers)
local function leaves(number) return (number + 1) * width + window - now end
local retry, left = -1, used
if not allowed then
  for _, number in ipairs(numbers) do
    left = left - counted[number]
    if left + cost <= limit then retry = leaves(number) break end
  end
end
local reset = #numbers > 0 and leaves(numbers[#numbers]) or 0
return {allowed and 1 or 0, math.max(0, limit - used), retry, reset}
`;

/** Counts against limits in Redis. `time` is the Lua expression of the clock, for tests. */
export function rateLimits(client: Redis | Cluster, time: string = serverTime) {
  const script = redisScript(checkScript(time));
  return {
    async check(
      limited: Limited,
      { limit, cost }: { readonly limit: number; readonly cost: number },
    ): Promise<RateCheck> {
      const { windowMs } = limited;
      const reply = await script(client, keyOfLimit(limited), [windowMs, widthOf(windowMs), limit, cost]);
      const [allowed, remaining, retryAfterMs, resetAfterMs] = reply as [number, number, number, number]; // as above
      return {
        allowed: allowed === 1,
        remaining,
        retryAfterMs: retryAfterMs < 0 ? undefined : retryAfterMs,
        resetAfterMs,
      };
    },

    async clear(limited: Limited): Promise<boolean> {
      return (await client.unlink(keyOfLimit(limited))) > 0;
    },
  };
}

export function keyOfLimit({ name, windowMs }: Limited): string {
  return `${ownPrefixes.rateLimit}${windowMs}:${name}`;
}

function widthOf(windowMs: number): number {
  return Math.ceil(windowMs / parts);
}

/** What is said of the limits that these keys hold; nothing of those that have counted nothing in their window. */
export async function describeLimits(
  node: Redis,
  keys: readonly Buffer[],
): Promise<MessageInitShape<typeof RateLimitSchema>[]> {
  const hashes = await askOfEach(node, keys, (asked, key) => asked.hgetall(key));
  const [seconds, microseconds] = await node.time();
  const nowMs = Number(seconds) * 1000 + Number(microseconds) / 1000;
  return keys.flatMap((key, index) => {
    const [windowText = "", ...rest] = key.toString().slice(ownPrefixes.rateLimit.length).split(":");
    const windowMs = Number(windowText);
    const { limit, ...counts } = hashes[index] as Record<string, string>; // as HGETALL replies
    const width = widthOf(windowMs);
    const counted = Object.entries(counts)
      .map(([number, count]) => ({ leavesMs: (Number(number) + 1) * width + windowMs - nowMs, count: Number(count) }))
      .filter(({ leavesMs }) => leavesMs > 0);
    if (counted.length === 0) return [];
    return [
      {
        name: rest.join(":"),
        window: durationFromMs(windowMs),
        limit: BigInt(limit ?? 0),
        used: BigInt(counted.reduce((sum, { count }) => sum + count, 0)),
        resetAfter: durationFromMs(Math.ceil(Math.max(...counted.map(({ leavesMs }) => leavesMs)))),
      },
    ];
  });
}
