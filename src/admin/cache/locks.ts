import { hash, randomBytes } from "node:crypto";

import type { MessageInitShape } from "@bufbuild/protobuf";
import { durationFromMs, timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { Cluster, Redis } from "ioredis";

import type { LockSchema } from "../../../gen/lucid/admin/v1/cache_service_pb.ts";
import { redisScript, serverTime } from "../../stores/redis-script.ts";
import { askOfEach, ownPrefixes } from "./keys.ts";

/** A lock as its holder has it. */
export interface HeldLock {
  readonly name: string;
  readonly holder: string;
  readonly fencingNumber: number;
  readonly acquireMs: number;
  readonly ttlMs: number;
}

/** How long a lock is remembered that nobody holds, in milliseconds. */
const rememberedMs = 30 * 24 * 3_600_000;

/**
 * A lock is a hash: the hashes of its holder's `token` and of the `request` that took it, the `holder`'s name, its `fence`, when it was
 * `acquired`, when its time is over (`expires`, milliseconds; 0 when it was given back) and how long that was (`ttl`). It stays
 * for a month after that, for its fence. The fence is the server's time in microseconds, or one more than the last where that is
 * higher: so it grows while the lock is remembered, whatever the clock does, and by the clock when all is forgotten, which a
 * counter would not. A clock that went back makes nobody hold a lock for longer than its time, counted from when that is noticed.
 */
const prelude = (time: string): string => `
local time = ${time}
local now, micros = time[1] * 1000 + math.floor(time[2] / 1000), time[1] * 1000000 + time[2]
local function get(field) return redis.call('HGET', KEYS[1], field) end
local expires = tonumber(get('expires') or 0)
local ttl = tonumber(get('ttl') or 0)
if expires > now + ttl then
  expires = now + ttl
  redis.call('HSET', KEYS[1], 'expires', expires)
end
local function described(state)
  return {state, get('holder') or '', tonumber(get('fence') or 0), tonumber(get('acquired') or 0), math.max(0, expires - now)}
end
local function keep(untilMs, lasting)
  expires = untilMs
  redis.call('HSET', KEYS[1], 'expires', expires, 'ttl', lasting)
  redis.call('PEXPIRE', KEYS[1], lasting + ${rememberedMs})
end
`;

/** ARGV: hash of the token, time in ms, holder, hash of the request's id or nothing. */
const acquireScript = (time: string): string => `${prelude(time)}
if expires > now then
  if ARGV[4] == '' or get('request') ~= ARGV[4] then return described(0) end
  redis.call('HSET', KEYS[1], 'token', ARGV[1])
  return described(1)
end
local fence = math.max(micros, tonumber(get('fence') or 0) + 1)
redis.call('HSET', KEYS[1], 'token', ARGV[1], 'holder', ARGV[3], 'request', ARGV[4],
  'fence', fence, 'acquired', now)
keep(now + tonumber(ARGV[2]), tonumber(ARGV[2]))
return described(1)
`;

/** ARGV: hash of the token, time in ms. */
const extendScript = (time: string): string => `${prelude(time)}
if expires <= now or get('token') ~= ARGV[1] then return described(0) end
keep(now + tonumber(ARGV[2]), tonumber(ARGV[2]))
return described(1)
`;

/** ARGV: hash of the token. 2: it was not held any more, and nobody else has taken it. */
const releaseScript = (time: string): string => `${prelude(time)}
if get('token') ~= ARGV[1] then return described(0) end
local state = expires > now and 1 or 2
keep(0, 0)
return described(state)
`;

/** Only looks: 1 where it is held. */
const lookScript = (time: string): string => `${prelude(time)}
return described(expires > now and 1 or 0)
`;

/** Locks in Redis. `time` is the Lua expression of the clock, for tests. */
export function locks(client: Redis | Cluster, time: string = serverTime) {
  const [acquire, extend, release, look] = [acquireScript, extendScript, releaseScript, lookScript].map((lua) =>
    redisScript(lua(time)),
  ) as [Script, Script, Script, Script];
  const run = async (script: Script, name: string, args: readonly (string | number)[]) => {
    const reply = await script(client, `${ownPrefixes.lock}${name}`, args);
    const [state, holder, fencingNumber, acquireMs, ttlMs] = reply as [number, string, number, number, number]; // as above
    return { state, lock: { name, holder, fencingNumber, acquireMs, ttlMs } satisfies HeldLock };
  };
  return {
    /** Takes it; without a token where another has it. */
    async acquire(
      name: string,
      { ttlMs, holder, requestId }: { readonly ttlMs: number; readonly holder: string; readonly requestId: string },
    ): Promise<{ readonly lock: HeldLock; readonly token?: string }> {
      const token = randomBytes(24).toString("base64url");
      const request = requestId === "" ? "" : hashed(requestId);
      const { state, lock } = await run(acquire, name, [hashed(token), ttlMs, holder, request]);
      return { lock, ...(state === 1 && { token }) };
    },

    /** Undefined where the token's time is over. */
    async extend(name: string, token: string, ttlMs: number): Promise<HeldLock | undefined> {
      const { state, lock } = await run(extend, name, [hashed(token), ttlMs]);
      return state === 1 ? lock : undefined;
    },

    /** Whether it was held until now; undefined where the token is not that of the last holder. */
    async release(name: string, token: string): Promise<boolean | undefined> {
      const { state } = await run(release, name, [hashed(token)]);
      return state === 0 ? undefined : state === 1;
    },

    /** Undefined where nobody holds it. */
    async find(name: string): Promise<HeldLock | undefined> {
      const { state, lock } = await run(look, name, []);
      return state === 1 ? lock : undefined;
    },
  };
}

type Script = ReturnType<typeof redisScript>;

/** What is stored of what a lock is had by, so that who may read keys does not hold locks. */
function hashed(token: string): string {
  return hash("sha256", token);
}

export function lockMessage(lock: HeldLock): MessageInitShape<typeof LockSchema> {
  const { name, holder, fencingNumber, acquireMs, ttlMs } = lock;
  return {
    name,
    holder,
    fencingNumber: BigInt(fencingNumber),
    acquireTime: timestampFromMs(acquireMs),
    ttl: durationFromMs(ttlMs),
  };
}

/** The locks of these keys that are held. */
export async function describeLocks(node: Redis, keys: readonly Buffer[]): Promise<HeldLock[]> {
  const found = await askOfEach(node, keys, (asked, key) =>
    asked.hmget(key, "holder", "fence", "acquired", "expires", "ttl"),
  );
  const [seconds, microseconds] = await node.time();
  const nowMs = Number(seconds) * 1000 + Math.floor(Number(microseconds) / 1000);
  return keys.flatMap((key, index) => {
    const [holder, fence, acquired, expires, ttl] = found[index] as (string | null)[]; // as HMGET replies
    const ttlMs = Math.min(Number(expires) - nowMs, Number(ttl));
    if (ttlMs <= 0) return [];
    const name = key.toString().slice(ownPrefixes.lock.length);
    const numbers = { fencingNumber: Number(fence), acquireMs: Number(acquired), ttlMs };
    return [{ name, holder: holder ?? "", ...numbers }];
  });
}
