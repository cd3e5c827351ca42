import { type Duration, durationFromMs, durationMs } from "@bufbuild/protobuf/wkt";
import type { ServiceImpl } from "@connectrpc/connect";

import {
  type CacheService,
  ListLocksRequestSchema,
  ListRateLimitsRequestSchema,
  LockSchema,
  RateLimitSchema,
} from "../../../gen/lucid/admin/v1/cache_service_pb.ts";
import { fail } from "../../errors.ts";
import { startingWith } from "../../stores/redis-pattern.ts";
import type { KeyAdminOptions } from "./key-admin.ts";
import { keyPages } from "./key-pages.ts";
import { ownPrefixes } from "./keys.ts";
import { describeLocks, lockMessage, locks } from "./locks.ts";
import { describeLimits, type Limited, rateLimits } from "./rate-limits.ts";

/** The handlers by which callers keep out of each other's way: rate limits and locks. */
export function coordination({
  redis,
  pageTokens,
  carryOut,
}: Pick<KeyAdminOptions, "redis" | "pageTokens" | "carryOut">): Pick<
  ServiceImpl<typeof CacheService>,
  | "checkRateLimit"
  | "listRateLimits"
  | "clearRateLimit"
  | "acquireLock"
  | "extendLock"
  | "releaseLock"
  | "getLock"
  | "listLocks"
> {
  const { client } = redis;
  const limits = rateLimits(client);
  const held = locks(client);
  const pageOf = keyPages({ client, pageTokens });

  return {
    async checkRateLimit({ name, window, limit, cost = 1n }) {
      // The rules of the contract keep both far below what a number holds.
      const counted = { limit: Number(limit), cost: Number(cost) };
      const check = await limits.check({ name, windowMs: millisecondsOf(window) }, counted);
      const { allowed, remaining, retryAfterMs, resetAfterMs } = check;
      return {
        allowed,
        remaining: BigInt(remaining),
        ...(retryAfterMs !== undefined && { retryAfter: durationFromMs(retryAfterMs) }),
        resetAfter: durationFromMs(resetAfterMs),
      };
    },

    async listRateLimits(request, { signal }) {
      // The length of the window comes before the name.
      const pattern = `${ownPrefixes.rateLimit}[0-9]*:${startingWith(request.namePrefix)}`;
      const page = await pageOf(ListRateLimitsRequestSchema, request, { filter: { pattern, type: "hash" }, signal });
      const found = [];
      for (const [node, keys] of page.found) found.push(...(await describeLimits(node, keys)));
      return {
        // The pattern takes a `:` within a name for the one before it.
        rateLimits: found.filter(({ name }) => name?.startsWith(request.namePrefix)),
        nextPageToken: page.nextPageToken,
      };
    },

    async clearRateLimit({ name, window }, context) {
      const limited: Limited = { name, windowMs: millisecondsOf(window) };
      const found = await carryOut(context, { type: RateLimitSchema.name, name }, () => limits.clear(limited));
      return { found };
    },

    async acquireLock({ name, ttl, holder, requestId }) {
      const { lock, token } = await held.acquire(name, { ttlMs: millisecondsOf(ttl), holder, requestId });
      return { acquired: token !== undefined, lock: lockMessage(lock), token: token ?? "" };
    },

    async extendLock({ name, token, ttl }) {
      const lock = await held.extend(name, token, millisecondsOf(ttl));
      if (lock === undefined) throw notHeld(name);
      return { lock: lockMessage(lock) };
    },

    async releaseLock({ name, token }) {
      const released = await held.release(name, token);
      if (released === undefined) throw notHeld(name);
      return { released };
    },

    async getLock({ name }) {
      const lock = await held.find(name);
      if (lock === undefined) {
        throw fail("LOCK_NOT_FOUND", `Nobody holds the lock ${name}`, {
          metadata: { name },
          resource: { type: LockSchema.typeName, name },
        });
      }
      return { lock: lockMessage(lock) };
    },

    async listLocks(request, { signal }) {
      const pattern = startingWith(`${ownPrefixes.lock}${request.namePrefix}`);
      const page = await pageOf(ListLocksRequestSchema, request, { filter: { pattern, type: "hash" }, signal });
      const found = [];
      for (const [node, keys] of page.found) found.push(...(await describeLocks(node, keys)).map(lockMessage));
      return { locks: found, nextPageToken: page.nextPageToken };
    },
  };
}

/** The rules of the contract let no request without one through. */
function millisecondsOf(duration: Duration | undefined): number {
  if (duration === undefined) throw new Error("A request lacks a duration");
  return Math.floor(durationMs(duration));
}

function notHeld(name: string): Error {
  return fail("LOCK_NOT_HELD", `The token does not hold the lock ${name}`, { metadata: { name } });
}
