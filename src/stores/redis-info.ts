import { Cluster, type Redis } from "ioredis";

/** What a node says of itself in `INFO`. */
export interface RedisInfo {
  readonly product: "Redis" | "Valkey";
  readonly version: string;
  readonly isReplica: boolean;
  /** Number of keys in all of its databases. */
  readonly keys: number;
  /** How many of them go by themselves. */
  readonly expiringKeys: number;
  /** A field; empty where the server has none of that name. */
  text(field: string): string;
  /** A field that is a number; 0 where the server has none of that name. */
  number(field: string): number;
}

/** Nodes that are asked at once. */
const maxPrimaries = 1000;

/** The servers that hold the keys. */
export interface Primaries {
  /** The server, or all primaries of a cluster. */
  readonly nodes: readonly Redis[];
  /** A number that a cluster raises when slots move or a replica takes over; empty where there is no cluster. */
  readonly epoch: string;
}

/** Rejects where a cluster as a whole does not serve. */
export async function primariesOf(client: Redis | Cluster): Promise<Primaries> {
  if (!(client instanceof Cluster)) return { nodes: [client], epoch: "" };
  const state = await client.cluster("INFO");
  // As a command to it would fail.
  if (!state.includes("cluster_state:ok")) throw new Error("Failed to refresh slots cache.");
  const [, epoch = ""] = /cluster_current_epoch:(\d+)/.exec(state) ?? [];
  return { nodes: client.nodes("master").slice(0, maxPrimaries), epoch };
}

/**
 * Asks the server, or all primaries of a cluster, for their `INFO`; in a cluster, some may fail. Rejects where the cluster as a
 * whole does not serve.
 */
export async function askPrimaries(client: Redis | Cluster): Promise<PromiseSettledResult<RedisInfo>[]> {
  const { nodes } = await primariesOf(client);
  return Promise.allSettled(nodes.map(async (node) => parseRedisInfo(await node.info())));
}

/** The same, for what is only true of all of them together: rejects where one fails. */
export async function askAllPrimaries(client: Redis | Cluster): Promise<RedisInfo[]> {
  return (await askPrimaries(client)).map((asked) => {
    if (asked.status === "rejected") throw asked.reason;
    return asked.value;
  });
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
  let [keys, expiringKeys] = [0, 0];
  for (const [field, value] of fields) {
    if (!/^db\d+$/.test(field)) continue;
    keys += Number(/\bkeys=(\d+)/.exec(value)?.[1] ?? 0);
    expiringKeys += Number(/\bexpires=(\d+)/.exec(value)?.[1] ?? 0);
  }
  return {
    product: valkey === "" ? "Redis" : "Valkey",
    version: valkey === "" ? text("redis_version") : valkey,
    isReplica: text("role") === "slave",
    keys,
    expiringKeys,
    text,
    number: (field) => Number(fields.get(field) ?? 0),
  };
}
