import { Cluster, type Redis } from "ioredis";

/** What a node says of itself in `INFO`. */
export interface RedisInfo {
  readonly product: "Redis" | "Valkey";
  readonly version: string;
  readonly isReplica: boolean;
  /** Number of keys in all of its databases. */
  readonly keys: number;
  /** A field; empty where the server has none of that name. */
  text(field: string): string;
  /** A field that is a number; 0 where the server has none of that name. */
  number(field: string): number;
}

/** Nodes that are asked at once. */
const maxPrimaries = 1000;

/**
 * Asks the server, or all primaries of a cluster, for their `INFO`; in a cluster, some may fail. Rejects where the cluster as a
 * whole does not serve.
 */
export async function askPrimaries(client: Redis | Cluster): Promise<PromiseSettledResult<RedisInfo>[]> {
  if (!(client instanceof Cluster)) return Promise.allSettled([redisInfo(client)]);
  const state = await client.cluster("INFO");
  // As a command to it would fail.
  if (!state.includes("cluster_state:ok")) throw new Error("Failed to refresh slots cache.");
  return Promise.allSettled(client.nodes("master").slice(0, maxPrimaries).map(redisInfo));
}

async function redisInfo(node: Redis): Promise<RedisInfo> {
  return parseRedisInfo(await node.info());
}

/** Reads the reply of `INFO`. */
export function parseRedisInfo(reply: string): RedisInfo {
  const fields = new Map<string, string>();
  for (const line of reply.split("\r\n")) {
    const colon = line.indexOf(":");
    if (colon > 0) fields.set(line.slice(0, colon), line.slice(colon + 1));
  }
  const text = (field: string): string => fields.get(field) ?? "";
  // Valkey also says which Redis it is compatible with.
  const valkey = text("valkey_version");
  let keys = 0;
  for (const [field, value] of fields) if (/^db\d+$/.test(field)) keys += Number(/\bkeys=(\d+)/.exec(value)?.[1] ?? 0);
  return {
    product: valkey === "" ? "Redis" : "Valkey",
    version: valkey === "" ? text("redis_version") : valkey,
    isReplica: text("role") === "slave",
    keys,
    text,
    number: (field) => Number(fields.get(field) ?? 0),
  };
}
