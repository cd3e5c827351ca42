import { hash } from "node:crypto";

import type { Cluster, Redis } from "ioredis";

/** The server's clock, in Lua: seconds and microseconds, as TIME tells them. */
export const serverTime = "redis.call('TIME')";

/**
 * A script that works on one key, so that a cluster takes it too. The server does it in one step and knows it by its hash; where it
 * does not know it yet, nothing has been done, and the whole text is sent.
 */
export function redisScript(lua: string) {
  const sha = hash("sha1", lua);
  return async (client: Redis | Cluster, key: string, args: readonly (string | number)[]): Promise<unknown> => {
    try {
      return await client.evalsha(sha, 1, key, ...args);
    } catch (error) {
      if (!(error instanceof Error && error.message.startsWith("NOSCRIPT "))) throw error;
      return client.eval(lua, 1, key, ...args);
    }
  };
}
