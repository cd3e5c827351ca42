import { type Db, MongoClient } from "mongodb";

import type { Config } from "../config.ts";

/** The shared client of MongoDB. Opening it does not wait: the store may be away, and comes back by itself. */
export interface MongodbStore extends AsyncDisposable {
  readonly client: MongoClient;
  /** The domain's collections. */
  readonly domain: Db;
  /** What the service keeps for itself. */
  readonly system: Db;
}

/** Opens the client. int64 values are read as `Long` by readers that ask for it; nothing is promoted twice. */
export function openMongodb(config: Config["mongodb"]): MongodbStore {
  const client = new MongoClient(config.uri, {
    appName: "lucid-data",
    // A call that finds MongoDB away says so in seconds; the driver's default is half a minute.
    serverSelectionTimeoutMS: 2000,
    connectTimeoutMS: 2000,
    maxPoolSize: 100,
    waitQueueTimeoutMS: 10_000,
  });
  return {
    client,
    domain: client.db(config.database),
    system: client.db(config.systemDatabase),
    [Symbol.asyncDispose]: () => client.close(),
  };
}
