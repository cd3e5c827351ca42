import type { MessageInitShape } from "@bufbuild/protobuf";
import { durationFromMs, durationMs } from "@bufbuild/protobuf/wkt";
import type { estypes } from "@elastic/elasticsearch";

import type { IndexSettings, IndexSettingsSchema } from "../../gen/lucid/search/v1/search_index_pb.ts";

const defaults = { shards: 1, refreshMs: 1000 };

/** Settings as the server is told them. */
export function serverSettings(settings: IndexSettings | undefined): estypes.IndicesIndexSettings {
  const { shardCount = 0, replicaCount, refreshInterval } = settings ?? {};
  return {
    number_of_shards: shardCount || defaults.shards,
    // As many as there are nodes for, so that an index on one node is healthy too.
    ...(replicaCount === undefined ? { auto_expand_replicas: "0-1" } : { number_of_replicas: replicaCount }),
    ...(refreshInterval && { refresh_interval: `${durationMs(refreshInterval)}ms` }),
  };
}

/** What a server says of its settings. */
export function toldSettings(settings: estypes.IndicesIndexSettings): MessageInitShape<typeof IndexSettingsSchema> {
  return {
    shardCount: Number(settings.number_of_shards ?? defaults.shards),
    replicaCount: Number(settings.number_of_replicas ?? 0),
    refreshInterval: durationFromMs(msOf(settings.refresh_interval)),
  };
}

const units: ReadonlyMap<string, number> = new Map([
  ["ms", 1],
  ["s", 1000],
  ["m", 60_000],
  ["h", 3_600_000],
]);

/** A time as servers write it; 0 where it is none, such as -1 for never. */
function msOf(time: estypes.Duration | undefined): number {
  const [, number, unit = ""] = /^(\d+)(ms|s|m|h)$/.exec(String(time ?? `${defaults.refreshMs}ms`)) ?? [];
  return Number(number ?? 0) * (units.get(unit) ?? 0);
}
