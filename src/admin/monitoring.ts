import type { MessageInitShape } from "@bufbuild/protobuf";
import { type Duration, durationMs, type DurationSchema, timestampFromDate } from "@bufbuild/protobuf/wkt";
import type { ServiceImpl } from "@connectrpc/connect";

import { Store } from "../../gen/lucid/admin/v1/common_pb.ts";
import {
  HealthStatus,
  type MonitoringService,
  type OperationPerformanceSchema,
  type StoreHealthSchema,
  type StoreStatsSchema,
} from "../../gen/lucid/admin/v1/monitoring_service_pb.ts";
import type { Ensured } from "../schema/collection-keeper.ts";
import { type StoreName, storeTitles } from "../stores/errors.ts";
import type { HealthMonitor } from "../stores/health-monitor.ts";
import { checkStore, type Health, overall, problemOf, type StoreHealth, type Stores } from "../stores/health.ts";
import type { LatencyRecorder, OperationLatency } from "../stores/latency.ts";
import { abortable, pause } from "../stores/waiting.ts";
import { ensuredThing } from "./ensured.ts";
import { sampled } from "./sampled.ts";
import { mongodbStats, redisStats, searchStats } from "./store-stats.ts";
import { untilDrained } from "./until-drained.ts";

/** What the handlers need. */
export interface MonitoringOptions {
  readonly stores: Stores;
  readonly monitor: HealthMonitor;
  readonly latency: LatencyRecorder;
  /** Tells how the domain's collections stand. */
  readonly collections: { report(): readonly { readonly collection: string; readonly things: readonly Ensured[] }[] };
  /** Aborted when the process stops taking calls: watches end. */
  readonly draining: AbortSignal;
}

/** The stores by their numbers in the contracts. */
const storeNumbers = {
  mongodb: Store.MONGODB,
  redis: Store.REDIS,
  search: Store.SEARCH,
} as const satisfies Record<StoreName, Store>;

/** The stores in the order in which they are listed. */
const storeNames = ["mongodb", "redis", "search"] as const satisfies readonly StoreName[];

/** Time in milliseconds that a store has to tell its statistics. */
const statsDeadlineMs = 10_000;

/** Statistics of watches are no older than this, in milliseconds, and shared by all watches. */
const statsAgeMs = 900;

/** The handlers of `MonitoringService`. */
export function monitoringService({
  stores,
  monitor,
  latency,
  collections,
  draining,
}: MonitoringOptions): ServiceImpl<typeof MonitoringService> {
  // Checks have a deadline of their own, so nobody needs to end them.
  const never = new AbortController().signal;
  const healthOf = byStore((store) => sampled(() => checkStore(stores, store, never)));
  const statsOf = byStore((store) => sampled(() => takeStats(stores, store)));
  const statsOfAll = (asked: readonly Store[], options: { maxAgeMs: number; signal: AbortSignal }) =>
    Promise.all(
      storeNames
        .filter((name) => asked.length === 0 || asked.includes(storeNumbers[name]))
        .map((name) => statsOf[name](options)),
    );

  return {
    async getHealth(_, { signal }) {
      const now = { maxAgeMs: 0, signal };
      return healthMessage(overall(await Promise.all(storeNames.map((name) => healthOf[name](now)))));
    },

    async getStoreHealth({ store }, { signal }) {
      const name = storeNames.find((candidate) => storeNumbers[candidate] === store);
      // The contract's rules let no other number through.
      if (name === undefined) throw new Error(`No store has the number ${store}`);
      return { health: storeHealthMessage(await healthOf[name]({ maxAgeMs: 0, signal })) };
    },

    watchHealth({ heartbeatInterval }, { signal }) {
      const heartbeatMs = millisecondsOf(heartbeatInterval, 30_000);
      return untilDrained({ signal, draining }, async function* (ending) {
        for await (const { health, heartbeat } of monitor.changes({ signal: ending, heartbeatMs })) {
          yield { ...healthMessage(health), heartbeat };
        }
      });
    },

    async getStats({ stores: asked }, { signal }) {
      return { stores: await statsOfAll(asked, { maxAgeMs: 0, signal }) };
    },

    watchStats({ stores: asked, interval }, { signal }) {
      const intervalMs = millisecondsOf(interval, 5000);
      return untilDrained({ signal, draining }, async function* (ending) {
        for (let nextMs = performance.now(); ; nextMs += intervalMs) {
          yield { stores: await statsOfAll(asked, { maxAgeMs: statsAgeMs, signal: ending }) };
          // Whoever is slow gets fewer events, not those that were missed.
          nextMs = Math.max(nextMs, performance.now() - intervalMs);
          await pause(nextMs + intervalMs - performance.now(), ending);
        }
      });
    },

    getPerformance({ window }) {
      const report = latency.report(millisecondsOf(window, 300_000));
      return {
        window: durationOf(report.windowMs),
        requests: report.scopes.requests.map(performanceMessage),
        stores: storeNames.map((name) => ({
          store: storeNumbers[name],
          operations: report.scopes[name].map(performanceMessage),
        })),
      };
    },

    getCollections({ states }) {
      const found = collections.report().map(({ collection, things }) => ({
        collection,
        things: things.map(ensuredThing).filter(({ state }) => states.length === 0 || states.includes(state)),
      }));
      return { collections: found.filter(({ things }) => things.length > 0) };
    },
  };
}

function byStore<T>(make: (store: StoreName) => T): Readonly<Record<StoreName, T>> {
  return { mongodb: make("mongodb"), redis: make("redis"), search: make("search") };
}

type StoreStats = MessageInitShape<typeof StoreStatsSchema>;

/** Never rejects: that a store tells nothing is told. */
async function takeStats(stores: Stores, name: StoreName): Promise<StoreStats> {
  const signal = AbortSignal.timeout(statsDeadlineMs);
  const store = storeNumbers[name];
  try {
    const stats = await abortable(askStats(stores, name, signal), signal);
    return { store, sampleTime: timestampFromDate(new Date()), stats };
  } catch (error) {
    const problem = signal.aborted
      ? `${storeTitles[name]} did not tell its statistics within ${statsDeadlineMs / 1000} s`
      : problemOf(name, error);
    return { store, sampleTime: timestampFromDate(new Date()), error: problem };
  }
}

async function askStats(
  stores: Stores,
  name: StoreName,
  signal: AbortSignal,
): Promise<NonNullable<StoreStats["stats"]>> {
  switch (name) {
    case "mongodb":
      return { case: name, value: await mongodbStats(stores.mongodb.client, signal) };
    case "redis":
      return { case: name, value: await redisStats(stores.redis) };
    case "search":
      return { case: name, value: await searchStats(stores.search, signal) };
  }
}

const statuses = {
  healthy: HealthStatus.HEALTHY,
  degraded: HealthStatus.DEGRADED,
  unhealthy: HealthStatus.UNHEALTHY,
} as const;

function healthMessage({ status, stores }: Health) {
  return { status: statuses[status], stores: stores.map(storeHealthMessage) };
}

function storeHealthMessage(health: StoreHealth): MessageInitShape<typeof StoreHealthSchema> {
  const { store, status, product, version, latencyMs, checkTime, problem, details } = health;
  return {
    store: storeNumbers[store],
    status: statuses[status],
    product,
    version,
    latency: durationOf(latencyMs),
    checkTime: timestampFromDate(checkTime),
    problem,
    details: { ...details },
  };
}

function performanceMessage(found: OperationLatency): MessageInitShape<typeof OperationPerformanceSchema> {
  const { operation, count, failures, ratePerSecond, p50Ms, p90Ms, p99Ms, maxMs } = found;
  return {
    operation,
    count: BigInt(count),
    errors: BigInt(failures),
    ratePerSecond,
    p50: durationOf(p50Ms),
    p90: durationOf(p90Ms),
    p99: durationOf(p99Ms),
    max: durationOf(maxMs),
  };
}

function millisecondsOf(duration: Duration | undefined, fallbackMs: number): number {
  return duration === undefined ? fallbackMs : durationMs(duration);
}

/** The library's own conversion gives fractions of nanoseconds, which cannot be sent. */
function durationOf(ms: number): MessageInitShape<typeof DurationSchema> {
  return { seconds: BigInt(Math.floor(ms / 1000)), nanos: Math.floor((ms % 1000) * 1_000_000) };
}
