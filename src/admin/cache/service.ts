import type { ServiceImpl } from "@connectrpc/connect";

import type { CacheService } from "../../../gen/lucid/admin/v1/cache_service_pb.ts";
import { askAllPrimaries, type RedisInfo } from "../../stores/redis-info.ts";
import { redisStatsOf } from "../store-stats.ts";
import { coordination } from "./coordination.ts";
import { keyAdmin, type KeyAdminOptions } from "./key-admin.ts";
import { messages, type MessagesOptions } from "./messages.ts";

/** The handlers of `CacheService`. */
export function cacheService(options: KeyAdminOptions & MessagesOptions): ServiceImpl<typeof CacheService> {
  const { client } = options.redis;
  return {
    ...keyAdmin(options),
    ...coordination(options),
    ...messages(options),

    async getCacheStats() {
      const infos = await askAllPrimaries(client);
      const sum = (of: (info: RedisInfo) => number): bigint =>
        BigInt(infos.reduce((total, info) => total + of(info), 0));
      return {
        product: infos[0]?.product ?? "",
        version: infos.map(({ version }) => version).toSorted(byVersion)[0] ?? "",
        primaryCount: infos.length,
        stats: redisStatsOf(infos),
        expiringKeys: sum(({ expiringKeys }) => expiringKeys),
        expiredKeys: sum((info) => info.number("expired_keys")),
        evictedKeys: sum((info) => info.number("evicted_keys")),
      };
    },

    async getCacheMemory() {
      return { servers: (await askAllPrimaries(client)).map(memoryMessage) };
    },
  };
}

function memoryMessage(info: RedisInfo) {
  const bytes = (field: string): bigint => BigInt(Math.trunc(info.number(field)));
  return {
    runId: info.text("run_id"),
    usedBytes: bytes("used_memory"),
    peakBytes: bytes("used_memory_peak"),
    residentBytes: bytes("used_memory_rss"),
    datasetBytes: bytes("used_memory_dataset"),
    overheadBytes: bytes("used_memory_overhead"),
    maxBytes: bytes("maxmemory"),
    evictionPolicy: info.text("maxmemory_policy"),
    fragmentationRatio: info.number("mem_fragmentation_ratio"),
    keys: BigInt(info.keys),
  };
}

/** The lower version first. */
function byVersion(one: string, other: string): number {
  return one.localeCompare(other, "en", { numeric: true });
}
