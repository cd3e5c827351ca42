import fc from "fast-check";
import { Redis } from "ioredis";
import { afterAll, beforeAll, expect, test } from "vitest";

import { locks } from "../../../src/admin/cache/locks.ts";
import { keyOfLimit, rateLimits } from "../../../src/admin/cache/rate-limits.ts";
import { storeAddresses, uniqueName } from "../../support/stores.ts";

let redis: Redis;
beforeAll(() => {
  redis = new Redis(storeAddresses().redisUri);
});
afterAll(() => redis.disconnect());

/** A clock of the server's that a test moves. It is not that of expiry, which is why windows are long here. */
function testClock() {
  const key = uniqueName("clock");
  let nowMs = 1_800_000_000_000;
  return {
    lua: `(function() local ms = tonumber(redis.call('GET', '${key}')) return {math.floor(ms / 1000), ms % 1000 * 1000} end)()`,
    now: () => nowMs,
    move: async (byMs: number) => {
      nowMs += byMs;
      await redis.set(key, nowMs, "EX", 600);
    },
    [Symbol.asyncDispose]: async () => {
      await redis.unlink(key);
    },
  };
}

const windowMs = 6_400_000;
const widthMs = windowMs / 64;
const limit = 10;

const rateStep = fc.oneof(
  fc.record({ cost: fc.integer({ min: 0, max: 6 }) }),
  fc.record({ moveMs: fc.oneof(fc.integer({ min: 0, max: 2 * widthMs }), fc.integer({ min: 0, max: 2 * windowMs })) }),
);

test("a limit allows what an exact window allows, a 64th of it late at most", async () => {
  const cases = fc.asyncProperty(fc.array(rateStep, { maxLength: 25 }), async (steps) => {
    await using clock = testClock();
    await clock.move(0);
    const limits = rateLimits(redis, clock.lua);
    const limited = { name: uniqueName("model"), windowMs };
    const counted: { atMs: number; cost: number }[] = [];
    const usedSince = (sinceMs: number) =>
      counted.reduce((sum, { atMs, cost }) => sum + (atMs > sinceMs ? cost : 0), 0);
    for (const step of steps) {
      if ("moveMs" in step) {
        await clock.move(step.moveMs);
        continue;
      }
      const now = clock.now();
      const { cost } = step;
      const { allowed, remaining, retryAfterMs } = await limits.check(limited, { limit, cost });
      // Never more than the limit in a window, and nothing refused that would fit a little later.
      if (allowed) expect(usedSince(now - windowMs) + cost).toBeLessThanOrEqual(limit);
      else expect(usedSince(now - windowMs - widthMs - 1) + cost).toBeGreaterThan(limit);
      if (allowed) counted.push({ atMs: now, cost });
      expect(remaining).toBeLessThanOrEqual(limit - usedSince(now - windowMs));
      expect(remaining).toBeGreaterThanOrEqual(limit - usedSince(now - windowMs - widthMs - 1));
      expect((await limits.check(limited, { limit, cost: 0 })).remaining).toBe(remaining);
      expect(retryAfterMs === undefined).toBe(allowed);
      if (retryAfterMs === undefined) continue;
      // It is told to the millisecond.
      await clock.move(retryAfterMs - 1);
      expect((await limits.check(limited, { limit, cost })).allowed).toBe(false);
      await clock.move(1);
      expect((await limits.check(limited, { limit, cost })).allowed).toBe(true);
      counted.push({ atMs: clock.now(), cost });
    }
    await redis.unlink(keyOfLimit(limited));
  });
  await fc.assert(cases, { numRuns: 200 });
});

test("a limit forgets nothing and gets stuck nowhere where the server's clock goes back", async () => {
  const moves = fc.array(fc.integer({ min: -20 * windowMs, max: windowMs }), { minLength: 1, maxLength: 6 });
  const cases = fc.asyncProperty(moves, async (steps) => {
    await using clock = testClock();
    await clock.move(0);
    const limits = rateLimits(redis, clock.lua);
    const limited = { name: uniqueName("skew"), windowMs };
    await limits.check(limited, { limit, cost: 6 });
    for (const moveMs of steps.filter((each) => each < 0)) {
      await clock.move(moveMs);
      expect(await limits.check(limited, { limit, cost: 5 })).toMatchObject({ allowed: false, remaining: 4 });
    }
    await clock.move(windowMs + widthMs);
    expect(await limits.check(limited, { limit, cost: limit })).toMatchObject({ allowed: true, remaining: 0 });
    await redis.unlink(keyOfLimit(limited));
  });
  await fc.assert(cases, { numRuns: 100 });
});

const ttl = fc.integer({ min: 10, max: 1000 });
const by = fc.nat({ max: 2 });
const lockStep = fc.oneof(
  fc.record({ step: fc.constant("acquire" as const), by, ttl }),
  fc.record({ step: fc.constant("extend" as const), by, ttl }),
  fc.record({ step: fc.constant("release" as const), by }),
  fc.record({ step: fc.constant("wait" as const), ms: fc.integer({ min: 0, max: 1200 }) }),
  fc.record({ step: fc.constant("clock back" as const), ms: fc.integer({ min: 0, max: 100_000 }) }),
  fc.record({ step: fc.constant("lost" as const) }),
);

test("a lock does what a plain one does, whatever the clock does and Redis loses", async () => {
  const cases = fc.asyncProperty(fc.array(lockStep, { maxLength: 30 }), async (steps) => {
    await using clock = testClock();
    await clock.move(0);
    const held = locks(redis, clock.lua);
    const name = uniqueName("model");
    /** The last token of each caller. */
    const tokens = ["none", "none", "none"];
    let holder: { token: string; untilMs: number; ttlMs: number } | undefined;
    let fence = 0;
    /** The latest time that the clock has shown. A number can only grow if a lock is not lost while the clock is back. */
    let latestMs = clock.now();
    let isLost = false;
    const isHeld = () => holder !== undefined && holder.untilMs > clock.now();
    for (const each of steps) {
      if (holder !== undefined) holder.untilMs = Math.min(holder.untilMs, clock.now() + holder.ttlMs);
      switch (each.step) {
        case "acquire": {
          const wasHeld = isHeld();
          const asked = { ttlMs: each.ttl, holder: String(each.by), requestId: "" };
          const { lock, token } = await held.acquire(name, asked);
          expect(token === undefined).toBe(wasHeld);
          if (token === undefined) break;
          expect(lock.fencingNumber).toBeGreaterThan(fence);
          fence = lock.fencingNumber;
          isLost = false;
          tokens[each.by] = token;
          holder = { token, untilMs: clock.now() + each.ttl, ttlMs: each.ttl };
          break;
        }
        case "extend": {
          const token = tokens[each.by] ?? "";
          const may = isHeld() && holder?.token === token;
          const lock = await held.extend(name, token, each.ttl);
          expect(lock === undefined).toBe(!may);
          if (lock === undefined) break;
          expect(lock).toMatchObject({ fencingNumber: fence, ttlMs: each.ttl });
          holder = { token, untilMs: clock.now() + each.ttl, ttlMs: each.ttl };
          break;
        }
        case "release": {
          const token = tokens[each.by] ?? "";
          const expected = holder?.token === token ? isHeld() : undefined;
          expect(await held.release(name, token)).toBe(expected);
          if (expected !== undefined) holder = { token, untilMs: 0, ttlMs: 0 };
          break;
        }
        case "wait":
          await clock.move(each.ms);
          break;
        case "clock back":
          if (isLost) break;
          await clock.move(-each.ms);
          // As whoever looks next does.
          await held.find(name);
          break;
        case "lost":
          await redis.del(`lucid:lock:${name}`);
          holder = undefined;
          isLost = true;
          await clock.move(latestMs + 1 - clock.now());
          break;
      }
      latestMs = Math.max(latestMs, clock.now());
      if (holder !== undefined) holder.untilMs = Math.min(holder.untilMs, clock.now() + holder.ttlMs);
      expect((await held.find(name)) !== undefined).toBe(isHeld());
    }
    await redis.unlink(`lucid:lock:${name}`);
  });
  await fc.assert(cases, { numRuns: 200 });
});
