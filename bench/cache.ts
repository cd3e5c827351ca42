import { fork } from "node:child_process";
import { once } from "node:events";
import { setTimeout as pause } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

import { type Client, createClient } from "@connectrpc/connect";
import { Redis } from "ioredis";
import { MongoClient } from "mongodb";

import { CacheService } from "../gen/lucid/admin/v1/cache_service_pb.ts";
import { DocumentCacheService } from "../gen/lucid/repository/v1/document_cache_service_pb.ts";
import { UserService } from "../gen/lucid/repository/v1/user_service_pb.ts";
import { runCommand } from "../local/project.ts";
import { startRedis } from "../local/redis.ts";
import { namedStores, startStores } from "../local/stores.ts";
import { cpuMicros } from "./support/load.ts";
import { keepApart } from "./support/processors.ts";
import { type ServiceProcess, startService } from "./support/service-process.ts";
import { median, printTable } from "./support/table.ts";
import { throwawayDatabases } from "./support/throwaway.ts";

const batch = 10_000;
/** Reads that are under way at once. */
const inFlight = 32;
const database = "bench_cache";
const systemDatabase = "bench_cache_system";
/** How long the other client is left alone before and after, in milliseconds. */
const quietMs = 4000;

type Work = (typeof works)[number];
const works = ["scan", "flush", "naive"] as const;
const pattern = "bench:*0";

const doWork: Record<Work, (cache: Client<typeof CacheService>, redis: Redis, count: number) => Promise<void>> = {
  async scan(cache, _, count) {
    let found = 0;
    for (let pageToken = ""; ;) {
      const page = await cache.scanKeys({ pattern: "bench:*", pageSize: 1000, namesOnly: true, pageToken });
      found += page.keys.length;
      pageToken = page.nextPageToken;
      if (pageToken === "") break;
    }
    if (found < count) throw new Error(`Of ${count} keys only ${found} were found`);
  },
  async flush(cache, _, count) {
    const events = await Array.fromAsync(cache.flushKeys({ pattern, confirmPattern: pattern }));
    const deleted = Number(events.at(-1)?.deletedCount);
    if (deleted !== Math.ceil(count / 10)) throw new Error(`Of ${count / 10} keys ${deleted} were deleted`);
  },
  async naive(_, redis) {
    const keys = await redis.keys(pattern);
    await redis.del(...keys);
  },
};

/**
 * What another client of Redis notices while all keys are scanned and a tenth of them is flushed by a pattern: the 99th
 * percentile of its reads, against that of the same run while nothing is done. KEYS and one large DEL do the same beside. Then what reads of a user
 * by its copy cost, against those from MongoDB. Options: `--keys 1000000`, `--rounds 3`, `--reads 20000`.
 *
 * Redis and its other client have half of the processors, the service and its caller the rest, as Redis has a machine of its own
 * where it matters: what others compute is not the work that Redis is given. With `--together` they share all of them.
 *
 * The title names the allocator of the server. Redis as it is shipped has jemalloc: to measure with that, put the `redis-server`
 * of a distribution on the PATH.
 */
await runCommand(async () => {
  const { values } = parseArgs({
    options: {
      keys: { type: "string", default: "1000000" },
      rounds: { type: "string", default: "3" },
      reads: { type: "string", default: "20000" },
      together: { type: "boolean", default: false },
    },
  });
  const count = Number(values.keys);
  await using stores = await startStores({ named: namedStores(process.env) });
  // One of its own, since it is filled and emptied.
  await using server = await startRedis();
  await using mongodb = await MongoClient.connect(stores.mongodbUri);
  await using _ = await throwawayDatabases(mongodb, [database, systemDatabase]);
  const redis = new Redis(server.uri);
  await using service = await startService({
    LUCID_MONGODB_URI: stores.mongodbUri,
    LUCID_SEARCH_URI: stores.searchUri,
    LUCID_REDIS_URI: server.uri,
    // MongoDB has no part in a scan.
    LUCID_PAGE_TOKEN_SECRET: "bench",
    LUCID_MONGODB_DATABASE: database,
    LUCID_MONGODB_SYSTEM_DATABASE: systemDatabase,
    LUCID_SEARCH_SYNC: "off",
  });
  const cache = createClient(CacheService, service.transport);
  await using observer = observe(server.uri);
  const isApart = !values.together && keepApart([server.pid, observer.pid], [service.pid, process.pid]);
  const rows: Record<Work, Figures[]> = {
    scan: [],
    flush: [],
    naive: [],
  };
  const quiet: number[] = [];
  const allocator = /mem_allocator:(\S+)/.exec(await redis.info("memory"))?.[1];
  try {
    for (let round = 0; round < Number(values.rounds); round++) {
      for (const work of works) {
        await fill(redis, count);
        await redis.config("SET", "slowlog-log-slower-than", "1000");
        await redis.config("SET", "slowlog-max-len", "10000");
        await observer.taken();
        await pause(quietMs);
        const alone = percentile(await observer.taken(), 0.99);
        await redis.slowlog("RESET");
        const began = performance.now();
        await doWork[work](cache, redis, count);
        const ms = performance.now() - began;
        const took = await observer.taken();
        const p99 = percentile(took, 0.99);
        rows[work].push({ ms, p99, ratio: p99 / alone, command: await longestCommandMs(redis) });
        quiet.push(alone);
      }
    }
  } finally {
    redis.disconnect();
  }
  const row = (name: string, of: Work): string[] => {
    const all = rows[of];
    const middle = (field: keyof Figures) => median(all.map((one) => one[field]));
    return [
      name,
      (middle("ms") / 1000).toFixed(1),
      middle("p99").toFixed(2),
      middle("ratio").toFixed(2),
      middle("command").toFixed(1),
    ];
  };
  printTable(`${count} keys, memory by ${allocator}${isApart ? ", Redis apart" : ""}; another client's reads`, [
    ["", "s", "p99 ms", "of undisturbed", "longest command ms"],
    ["nothing", "", median(quiet).toFixed(2), "1.00", ""],
    row("ScanKeys, all pages", "scan"),
    row("FlushKeys, a tenth", "flush"),
    row("KEYS and DEL, a tenth", "naive"),
  ]);
  await compareReads(service, values);
  return 0;
});

/** What a kind of work took, and what others noticed of it. */
interface Figures {
  readonly ms: number;
  readonly p99: number;
  /** The percentile, of that while nothing was done. */
  readonly ratio: number;
  readonly command: number;
}

interface Observer extends AsyncDisposable {
  readonly pid: number | undefined;
  /** How long its reads have taken since it was last asked, in ms. */
  taken(): Promise<number[]>;
}

/** Starts another client of Redis. */
function observe(uri: string): Observer {
  const child = fork(fileURLToPath(new URL("support/cache-observer.ts", import.meta.url)), [uri]);
  return {
    pid: child.pid,
    async taken() {
      const answered = once(child, "message");
      child.send("take");
      const [took] = (await answered) as [number[]]; // as it answers
      return took;
    },
    async [Symbol.asyncDispose]() {
      const ended = once(child, "exit");
      child.disconnect();
      await ended;
    },
  };
}

/** The longest time that one command has kept the server from all others, as the server itself says; 0 where none took a millisecond. */
async function longestCommandMs(redis: Redis): Promise<number> {
  const entries = (await redis.slowlog("GET", "10000")) as [id: number, time: number, micros: number, ...unknown[]][];
  return Math.max(0, ...entries.map(([, , micros]) => micros)) / 1000;
}

/** Reads one user again and again, by its copy and from MongoDB. */
async function compareReads(
  service: ServiceProcess,
  { reads, rounds }: { reads: string; rounds: string },
): Promise<void> {
  const [cache, users] = [
    createClient(DocumentCacheService, service.transport),
    createClient(UserService, service.transport),
  ];
  const { user } = await users.createUser({
    user: { email: "ada@example.com", username: "ada", tronAddress: "TJRabPrwbZy45sbavfcjinPJC18kjpRTv8" },
  });
  const userId = user?.userId ?? "";
  while (!(await cache.getCachedUser({ userId })).fromCache) await pause(50);
  const kinds = { store: () => users.getUser({ userId }), copy: () => cache.getCachedUser({ userId }) };
  const figures: { readonly kind: keyof typeof kinds; readonly p50: number; readonly cpu: number }[] = [];
  for (let round = 0; round < Number(rounds); round++) {
    for (const kind of ["store", "copy"] as const) {
      const took: number[] = [];
      let left = Number(reads);
      const before = cpuMicros(service.pid);
      const worker = async (): Promise<void> => {
        while (left-- > 0) {
          const began = performance.now();
          await kinds[kind]();
          took.push(performance.now() - began);
        }
      };
      await Promise.all(Array.from({ length: inFlight }, worker));
      figures.push({ kind, p50: percentile(took, 0.5), cpu: (cpuMicros(service.pid) - before) / took.length });
    }
  }
  const middle = (kind: keyof typeof kinds, field: "p50" | "cpu") =>
    median(figures.filter((figure) => figure.kind === kind).map((figure) => figure[field]));
  const row = (name: string, kind: keyof typeof kinds): string[] => [
    name,
    middle(kind, "p50").toFixed(2),
    (middle(kind, "p50") / middle("store", "p50")).toFixed(2),
    middle(kind, "cpu").toFixed(0),
    (middle(kind, "cpu") / middle("store", "cpu")).toFixed(2),
  ];
  printTable(`Reads of a user, ${inFlight} at once`, [
    ["", "p50 ms", "of GetUser", "CPU µs", "of GetUser"],
    row("GetUser, from MongoDB", "store"),
    row("GetCachedUser, by its copy", "copy"),
  ]);
}

async function fill(redis: Redis, count: number): Promise<void> {
  for (let first = 0; first < count; first += batch) {
    const last = Math.min(count, first + batch);
    await redis.mset(Array.from({ length: last - first }, (_, at) => [`bench:${first + at}`, "x".repeat(50)]).flat());
  }
}

function percentile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((one, other) => one - other);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;
}
