import { type Db, MongoClient, type MongoClientOptions, MongoServerError } from "mongodb";

import { BadSettings, type Config, settings } from "../config.ts";
import type { LatencyRecorder } from "./latency.ts";
import { measured } from "./measured-db.ts";
import { pause } from "./waiting.ts";

/** Databases of the server's own. */
export const serverDatabases: ReadonlySet<string> = new Set(["admin", "config", "local"]);

/** What the server can do. It may change while the process runs: a standalone becomes a replica set. */
export interface MongodbFeatures {
  readonly version: string;
  /** What the member that answers is. Only where no primary can be reached, one that cannot write answers. */
  readonly role: "primary" | "secondary" | "mongos" | "standalone";
  readonly sharded: boolean;
  /** Empty where there is none, and behind a mongos. */
  readonly replicaSet: string;
  /** Both need a replica set or a sharded cluster. */
  readonly changeStreams: boolean;
  readonly transactions: boolean;
}

/** The shared client of MongoDB. Opening it does not wait: the store may be away, and comes back by itself. */
export interface MongodbStore extends AsyncDisposable {
  readonly client: MongoClient;
  /** The domain's collections. int64 is read as `bigint`, exact; latencies are recorded. */
  readonly domain: Db;
  /** What the service keeps for itself. */
  readonly system: Db;
  /** Asks the server; fails with `STORE_UNAVAILABLE` after translation where it is away. */
  features(signal: AbortSignal): Promise<MongodbFeatures>;
}

/** The driver's own limits are made for scripts: half a minute until it says that a server is away, and no end of waiting. */
const limits = {
  serverSelectionTimeoutMS: 2000,
  connectTimeoutMS: 2000,
  // A server that went silent is noticed, and the calls that wait for it fail, after this and the time to connect.
  heartbeatFrequencyMS: 5000,
  maxPoolSize: 100,
  waitQueueTimeoutMS: 5000,
  // Firewalls forget connections that say nothing for long, without telling either side.
  maxIdleTimeMS: 600_000,
} satisfies MongoClientOptions;

/** Between two tries of a first connection, in milliseconds; each has the time to find a server besides. */
const reconnectMs = 500;

/**
 * Opens the client. What the connection string names wins over the limits here. The driver retries a read or a write once
 * when a primary changes, which it can do safely (writes carry a number); nothing above it retries.
 * Commands are not monitored: the driver would deserialise every reply once more for that, raw ones too.
 */
export function openMongodb(config: Config["mongodb"], options: { latency?: LatencyRecorder } = {}): MongodbStore {
  const named = optionsNamedBy(config.uri);
  const unnamed = Object.entries(limits).filter(([name]) => !named.has(name.toLowerCase()));
  const client = clientOf(config.uri, { appName: "lucid-data", ...Object.fromEntries(unnamed) });
  // Whatever the connection string prefers: what is read decides what is written next, and callers read what they have written.
  const domain = client.db(config.database, { useBigInt64: true, readPreference: "primary" });
  const closing = new AbortController();
  const connected = connect(client, closing.signal);
  return {
    client,
    domain: options.latency === undefined ? domain : measured(domain, options.latency),
    system: client.db(config.systemDatabase),
    features: (signal) => featuresOf(client, signal),
    async [Symbol.asyncDispose]() {
      closing.abort();
      await client.close();
      await connected;
    },
  };
}

function clientOf(uri: string, options: MongoClientOptions): MongoClient {
  try {
    return new MongoClient(uri, options);
  } catch (error) {
    // What is said of it names options, and repeats no part that may be secret.
    const why = error instanceof Error ? error.message : String(error);
    throw new BadSettings(`Bad settings: ${settings.mongodb.uri.name} cannot be used: ${why}`);
  }
}

/**
 * Makes the first connection, however long that takes. Once there was one the driver connects anew by itself; but where the first
 * cannot be made in time, all that the client is asked fails with "Topology is closed" from then on, also when the server is
 * there (seen with 7.9.0): a service that starts before its store would never find it.
 */
async function connect(client: MongoClient, signal: AbortSignal): Promise<void> {
  // Whoever asks the client for something is told why it is not connected.
  let isConnected = await client
    .db("admin")
    .command({ ping: 1 })
    .then(
      () => true,
      (error: unknown) => error instanceof MongoServerError, // a refusal comes over a connection
    );
  while (!isConnected) {
    await pause(reconnectMs, signal);
    if (signal.aborted) return;
    isConnected = await client.connect().then(
      () => true,
      () => false,
    );
  }
}

/** A connection string with several hosts is no URL. */
function optionsNamedBy(uri: string): ReadonlySet<string> {
  const query = uri.split("?").slice(1).join("?");
  return new Set(Array.from(new URLSearchParams(query).keys(), (name) => name.toLowerCase()));
}

async function featuresOf(client: MongoClient, signal: AbortSignal): Promise<MongodbFeatures> {
  const admin = client.db("admin");
  const options = { signal, readPreference: "primaryPreferred" } as const;
  const [hello, build] = await Promise.all([
    admin.command({ hello: 1 }, options),
    admin.command({ buildInfo: 1 }, options),
  ]);
  const sharded = hello["msg"] === "isdbgrid";
  const replicaSet = String(hello["setName"] ?? "");
  const replicated = sharded || replicaSet !== "";
  const member = hello["isWritablePrimary"] === true ? "primary" : "secondary";
  return {
    version: String(build["version"]),
    role: sharded ? "mongos" : replicated ? member : "standalone",
    sharded,
    replicaSet,
    changeStreams: replicated,
    transactions: replicated,
  };
}
