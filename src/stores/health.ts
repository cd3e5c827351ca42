import { ConnectError } from "@connectrpc/connect";
import { Cluster } from "ioredis";

import { type StoreName, storeTitles, translateStoreError } from "./errors.ts";
import type { MongodbStore } from "./mongodb.ts";
import { askPrimaries, type RedisInfo } from "./redis-info.ts";
import type { RedisStore } from "./redis.ts";
import { askProduct, type SearchStore } from "./search.ts";
import { abortable } from "./waiting.ts";

/** How well something serves; `degraded`: less well than it should. */
export type HealthStatus = "healthy" | "degraded" | "unhealthy";

/** What a check of one store found. */
export interface StoreHealth {
  readonly store: StoreName;
  readonly status: HealthStatus;
  /** What the server is, such as `Valkey`; empty while unknown. */
  readonly product: string;
  readonly version: string;
  /** From request to reply. */
  readonly latencyMs: number;
  readonly checkTime: Date;
  /** Why it is not healthy: a sentence without host names, credentials and full stop. Empty when healthy. */
  readonly problem: string;
  readonly details: Readonly<Record<string, string | number | boolean>>;
}

/** All stores at once. Without MongoDB, the data of record, the whole does not serve; without another one, less well. */
export interface Health {
  readonly status: HealthStatus;
  readonly stores: readonly StoreHealth[];
}

/** The stores that are looked after. */
export interface Stores {
  readonly mongodb: MongodbStore;
  readonly redis: RedisStore;
  readonly search: SearchStore;
  /** What makes search serve less well than it should though its server is well; empty where nothing does. */
  readonly searchConcern?: () => string;
}

/** What a check finds in a store that answers. */
type Finding = Omit<StoreHealth, "store" | "latencyMs" | "checkTime">;

/** Time in milliseconds that a store has to answer. */
const deadlineMs = 2000;

/** Checks all stores at the same time. One that is away is a finding; rejects only when `signal` aborts. */
export async function checkStores(stores: Stores, signal: AbortSignal): Promise<Health> {
  const checks = (["mongodb", "redis", "search"] as const).map((store) => checkStore(stores, store, signal));
  return overall(await Promise.all(checks));
}

/** Checks one store. Rejects only when `signal` aborts. */
export async function checkStore(stores: Stores, store: StoreName, signal: AbortSignal): Promise<StoreHealth> {
  const deadline = AbortSignal.timeout(deadlineMs);
  const ending = AbortSignal.any([signal, deadline]);
  const beganMs = performance.now();
  const finding = await abortable(askStore(stores, store, ending), ending).catch((error: unknown): Finding => {
    signal.throwIfAborted();
    const problem = deadline.aborted
      ? `${storeTitles[store]} did not answer within ${deadlineMs / 1000} s`
      : problemOf(store, error);
    return { status: "unhealthy", product: "", version: "", problem, details: {} };
  });
  return { store, ...finding, latencyMs: performance.now() - beganMs, checkTime: new Date() };
}

/** Sums up what was found in the stores. */
export function overall(stores: readonly StoreHealth[]): Health {
  const recordsServe = stores.some(({ store, status }) => store === "mongodb" && status !== "unhealthy");
  const allHealthy = stores.every(({ status }) => status === "healthy");
  if (!recordsServe) return { status: "unhealthy", stores };
  return { status: allHealthy ? "healthy" : "degraded", stores };
}

/** Says why a store could not be asked, as a caller may know it. */
export function problemOf(store: StoreName, error: unknown): string {
  const translated = translateStoreError(error);
  return translated instanceof ConnectError
    ? translated.rawMessage
    : `${storeTitles[store]} answered in a way that is not understood`;
}

async function askStore(stores: Stores, store: StoreName, signal: AbortSignal): Promise<Finding> {
  switch (store) {
    case "mongodb":
      return askMongodb(stores.mongodb, signal);
    case "redis":
      return askRedis(stores.redis);
    case "search":
      return withConcern(await askSearch(stores.search, signal), stores.searchConcern?.() ?? "");
  }
}

async function askMongodb(store: MongodbStore, signal: AbortSignal): Promise<Finding> {
  const { version, role, replicaSet, changeStreams } = await store.features(signal);
  const writable = role !== "secondary";
  return {
    status: writable ? "healthy" : "degraded",
    product: "MongoDB",
    version,
    problem: writable ? "" : "MongoDB has no primary that can be reached, so nothing can be written",
    details: { role, replica_set: replicaSet, change_streams: changeStreams },
  };
}

async function askRedis({ client }: RedisStore): Promise<Finding> {
  const asked = await askPrimaries(client);
  const infos = asked.flatMap((node) => (node.status === "fulfilled" ? [node.value] : []));
  const [first] = infos;
  if (first === undefined) throw asked.find((node) => node.status === "rejected")?.reason;
  const problem = redisProblem(first, asked.length - infos.length);
  return {
    status: problem === "" ? "healthy" : "degraded",
    product: first.product,
    version: first.version,
    problem,
    details: {
      role: first.isReplica ? "replica" : "primary",
      mode: first.text("redis_mode"),
      used_memory_bytes: infos.reduce((sum, info) => sum + info.number("used_memory"), 0),
      ...(client instanceof Cluster && { primaries: asked.length }),
    },
  };
}

function redisProblem(info: RedisInfo, silent: number): string {
  if (silent > 0) return `${silent} primaries of Redis cannot be reached`;
  if (info.number("loading") === 1) return "Redis is still loading its data";
  if (info.isReplica) return "Redis is a replica, so nothing can be written";
  return "";
}

function withConcern(finding: Finding, concern: string): Finding {
  if (concern === "" || finding.status === "unhealthy") return finding;
  const problem = finding.problem === "" ? concern : `${finding.problem}; ${concern}`;
  return { ...finding, status: "degraded", problem };
}

async function askSearch({ client }: SearchStore, signal: AbortSignal): Promise<Finding> {
  const limits = { signal, requestTimeout: deadlineMs };
  const [product, health] = await Promise.all([askProduct(client, limits), client.cluster.health({}, limits)]);
  // The client's types allow capitals that no server sends.
  const color = health.status.toLowerCase() as "green" | "yellow" | "red";
  return {
    ...searchStatus[color],
    product: product.name === "opensearch" ? "OpenSearch" : "Elasticsearch",
    version: product.version,
    details: {
      cluster_status: color,
      nodes: health.number_of_nodes,
      active_shards: health.active_shards,
      unassigned_shards: health.unassigned_shards,
    },
  };
}

const searchStatus = {
  green: { status: "healthy", problem: "" },
  yellow: { status: "degraded", problem: "Some replica shards of the search indices are not allocated" },
  red: { status: "unhealthy", problem: "Some primary shards of the search indices are not allocated" },
} as const;
