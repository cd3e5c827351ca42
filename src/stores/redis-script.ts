import { hash } from "node:crypto";

import type { Cluster, Redis } from "ioredis";

/** The server's clock, in Lua: seconds and microseconds, as TIME tells them. */
export const serverTime = "redis.call('TIME')";

/**
 * A script that works on one key, so that a cluster takes it too. The server does it in one step and knows it by its hash; where it
 * does not know it yet, nothing has been done, and the whole text is sent.
 */
export function redisScript(lua: string) {
  return scriptWith(lua, {
    known: (client, sha, key, args) => client.evalsha(sha, 1, key, ...args),
    whole: (client, key, args) => client.eval(lua, 1, key, ...args),
  });
}

/** The same, whose reply has bytes in the place of text. */
export function redisBytesScript(lua: string) {
  return scriptWith(lua, {
    known: (client, sha, key, args) => client.callBuffer("EVALSHA", sha, 1, key, ...args),
    whole: (client, key, args) => client.callBuffer("EVAL", lua, 1, key, ...args),
  });
}

type Arguments = readonly (string | number | Buffer)[];

function scriptWith(
  lua: string,
  send: {
    readonly known: (client: Redis | Cluster, sha: string, key: string, args: Arguments) => Promise<unknown>;
    readonly whole: (client: Redis | Cluster, key: string, args: Arguments) => Promise<unknown>;
  },
) {
  const sha = hash("sha1", lua);
  return async (client: Redis | Cluster, key: string, args: Arguments): Promise<unknown> => {
    try {
      return await send.known(client, sha, key, args);
    } catch (error) {
      if (!(error instanceof Error && error.message.startsWith("NOSCRIPT "))) throw error;
      return send.whole(client, key, args);
    }
  };
}
