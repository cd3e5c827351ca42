import type { MessageInitShape } from "@bufbuild/protobuf";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import type { MongoClient } from "mongodb";

import type {
  MongodbStatsSchema,
  RedisStatsSchema,
  SearchStatsSchema,
} from "../../gen/lucid/admin/v1/monitoring_service_pb.ts";
import { serverDatabases } from "../stores/mongodb.ts";
import { askAllPrimaries, type RedisInfo } from "../stores/redis-info.ts";
import type { RedisStore } from "../stores/redis.ts";
import type { SearchStore } from "../stores/search.ts";

/** Databases whose statistics are asked for at once. */
const databasesAtOnce = 8;

/** Sizes and counters of a MongoDB deployment, over all databases but the server's own. */
export async function mongodbStats(
  client: MongoClient,
  signal: AbortSignal,
): Promise<MessageInitShape<typeof MongodbStatsSchema>> {
  const admin = client.db("admin");
  const [{ connections, opcounters }, { databases }] = await Promise.all([
    admin.command(serverStatus, { signal }),
    admin.command({ listDatabases: 1, nameOnly: true }, { signal }),
  ]);
  // What is not listed here of the two replies is not read.
  const names = (databases as { name: string }[]).map(({ name }) => name).filter((name) => !serverDatabases.has(name));
  const total = { collections: 0, objects: 0, dataSize: 0, storageSize: 0, indexSize: 0 };
  for (let first = 0; first < names.length; first += databasesAtOnce) {
    const batch = names.slice(first, first + databasesAtOnce);
    const found = await Promise.all(batch.map((name) => client.db(name).command({ dbStats: 1 }, { signal })));
    for (const stats of found) for (const field of fieldsOf(total)) total[field] += count(stats[field]);
  }
  return {
    databases: BigInt(names.length),
    collections: BigInt(total.collections),
    documents: BigInt(total.objects),
    dataBytes: BigInt(total.dataSize),
    storageBytes: BigInt(total.storageSize),
    indexBytes: BigInt(total.indexSize),
    connections: BigInt(count(connections?.current)),
    operations: Object.fromEntries(operationKinds.map((kind) => [kind, BigInt(count(opcounters?.[kind]))])),
  };
}

const operationKinds = ["insert", "query", "update", "delete", "getmore", "command"] as const;

/** Without the sections that cost the server something and are not read. */
const serverStatus = { serverStatus: 1, repl: 0, metrics: 0, locks: 0, wiredTiger: 0, tcmalloc: 0, flowControl: 0 };

function fieldsOf<T extends object>(record: T): (keyof T)[] {
  return Object.keys(record) as (keyof T)[]; // made here, with no other keys
}

/** Counters are int32, int64 or double, by their size and the server's version. */
function count(value: unknown): number {
  const number = Number(value ?? 0);
  return Number.isFinite(number) ? Math.trunc(number) : 0;
}

/** Sizes and counters of Redis, summed over the primaries of a cluster. Fails where one of them does not answer. */
export async function redisStats({ client }: RedisStore): Promise<MessageInitShape<typeof RedisStatsSchema>> {
  return redisStatsOf(await askAllPrimaries(client));
}

/** The same of what the primaries have said. */
export function redisStatsOf(infos: readonly RedisInfo[]): MessageInitShape<typeof RedisStatsSchema> {
  const sum = (field: string): number => infos.reduce((total, info) => total + count(info.number(field)), 0);
  const [hits, misses] = [sum("keyspace_hits"), sum("keyspace_misses")];
  return {
    keys: BigInt(infos.reduce((total, { keys }) => total + keys, 0)),
    hits: BigInt(hits),
    misses: BigInt(misses),
    hitRate: hits + misses === 0 ? 0 : hits / (hits + misses),
    usedMemoryBytes: BigInt(sum("used_memory")),
    peakMemoryBytes: BigInt(sum("used_memory_peak")),
    maxMemoryBytes: BigInt(sum("maxmemory")),
    operationsPerSecond: BigInt(sum("instantaneous_ops_per_sec")),
    connections: BigInt(sum("connected_clients")),
    // The youngest: counters of a node that was restarted begin there.
    uptime: durationFromMs(1000 * Math.min(...infos.map((info) => info.number("uptime_in_seconds")))),
  };
}

/** Sizes and counters of a search cluster, without hidden and system indices. */
export async function searchStats(
  { client }: SearchStore,
  signal: AbortSignal,
): Promise<MessageInitShape<typeof SearchStatsSchema>> {
  const options = { signal };
  // OpenSearch does not hide what begins with a dot.
  const index = "*,-.*";
  const [health, indices, documents, storage] = await Promise.all([
    client.cluster.health({}, options),
    client.cat.indices({ index, h: ["index"], format: "json" }, options),
    // Other counters count nested documents too.
    client.count({ index, allow_no_indices: true }, options),
    client.indices.stats({ index, metric: "store", level: "cluster" }, options),
  ]);
  return {
    indices: BigInt(indices.length),
    documents: BigInt(documents.count),
    storageBytes: BigInt(storage._all.primaries?.store?.size_in_bytes ?? 0),
    dataNodes: BigInt(health.number_of_data_nodes),
    activeShards: BigInt(health.active_shards),
  };
}
