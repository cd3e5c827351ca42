import { Cluster, Redis } from "ioredis";

import type { Config } from "../config.ts";

/** The shared client of Redis. Opening it does not wait; while the store is away, calls fail at once. */
export interface RedisStore extends AsyncDisposable {
  readonly client: Redis | Cluster;
}

/** Opens the client. `log` is told when the connection breaks, once for each state. */
export function openRedis(config: Config["redis"], log: { warn(facts: object, message: string): void }): RedisStore {
  const options = {
    commandTimeout: 10_000,
    connectTimeout: 2000,
    // One failed attempt answers the calls that wait, so that they do not queue up while Redis is away.
    maxRetriesPerRequest: 1,
    retryStrategy: (attempt: number) => Math.min(attempt * 100, 2000),
  };
  const client =
    config.mode === "cluster" ? new Cluster([config.uri], { redisOptions: options }) : new Redis(config.uri, options);
  let told = false;
  client.on("ready", () => (told = false));
  client.on("error", (error: Error & { code?: string }) => {
    if (!told) log.warn({ code: error.code ?? error.name }, "The connection to Redis broke");
    told = true;
  });
  return {
    client,
    async [Symbol.asyncDispose]() {
      client.disconnect();
    },
  };
}
