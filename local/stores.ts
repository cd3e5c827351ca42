import { existsSync } from "node:fs";
import { join } from "node:path";

import { installMongodb, startMongodb } from "./mongodb.ts";
import { localFolder } from "./project.ts";
import { installRedis, startRedis } from "./redis.ts";
import { installSearch, startSearch } from "./search.ts";
import type { Server } from "./server.ts";
import { findProgram, jdk, maven, need, python, type Toolchain } from "./toolchains.ts";

/** Where the three stores answer. */
export interface StoreAddresses {
  readonly mongodbUri: string;
  readonly redisUri: string;
  readonly searchUri: string;
}

/** Three stores that answer, and those of them that run here. Disposing it stops those. */
export interface Stores extends StoreAddresses, AsyncDisposable {
  readonly mongodb?: Server;
  readonly redis?: Server;
  readonly search?: Server;
}

export interface StoresOptions {
  /** Keeps the data here from one start to the next; without it, the data goes when the stores stop. */
  readonly folder?: string;
  /** Stores of the user's own, which are not started. */
  readonly named?: Partial<StoreAddresses>;
}

/** Starts every store that is not named, all at the same time, and waits until each does its work. */
export async function startStores({ folder, named = {} }: StoresOptions = {}): Promise<Stores> {
  await installStores(named);
  await using started = new AsyncDisposableStack();
  const start = async (address: string | undefined, starter: (options: { folder?: string }) => Promise<Server>) => {
    if (address !== undefined) return { uri: address };
    const server = started.use(await starter(folder === undefined ? {} : { folder }));
    return { uri: server.uri, server };
  };
  const [mongodb, redis, search] = await allOrNone([
    start(named.mongodbUri, startMongodb),
    start(named.redisUri, startRedis),
    start(named.searchUri, startSearch),
  ]);
  const running = started.move();
  return {
    mongodbUri: mongodb.uri,
    redisUri: redis.uri,
    searchUri: search.uri,
    ...(mongodb.server && { mongodb: mongodb.server }),
    ...(redis.server && { redis: redis.server }),
    ...(search.server && { search: search.server }),
    [Symbol.asyncDispose]: async () => {
      // At the same time: each has its own data, and the slowest takes seconds.
      const servers = [mongodb.server, redis.server, search.server];
      await Promise.all(servers.map(async (server) => server?.[Symbol.asyncDispose]()));
      await running.disposeAsync();
    },
  };
}

/** Reads which stores the environment names. */
export function namedStores(environment: NodeJS.ProcessEnv): Partial<StoreAddresses> {
  const { LUCID_MONGODB_URI: mongodbUri, LUCID_REDIS_URI: redisUri, LUCID_SEARCH_URI: searchUri } = environment;
  return {
    ...(mongodbUri && { mongodbUri }),
    ...(redisUri && { redisUri }),
    ...(searchUri && { searchUri }),
  };
}

/** The settings that tell the service where the stores are. */
export function storeEnvironment({ mongodbUri, redisUri, searchUri }: StoreAddresses): Record<string, string> {
  return { LUCID_MONGODB_URI: mongodbUri, LUCID_REDIS_URI: redisUri, LUCID_SEARCH_URI: searchUri };
}

/** Installs what is missing; complains about every missing tool of the machine before anything is downloaded. */
async function installStores(named: Partial<StoreAddresses>): Promise<void> {
  const missing = (name: string) => !existsSync(join(localFolder, name, "installed"));
  const tools: Record<string, Toolchain> = {};
  const needsPython =
    (named.mongodbUri === undefined && missing("mongodb")) ||
    (named.redisUri === undefined && findProgram("redis-server") === undefined && missing("redis"));
  if (needsPython) tools["python"] = python;
  if (named.searchUri === undefined) tools["jdk"] = jdk;
  if (named.searchUri === undefined && missing("search")) tools["maven"] = maven;
  need(tools);
  await allOrNone([
    named.mongodbUri === undefined ? installMongodb() : undefined,
    named.redisUri === undefined ? installRedis() : undefined,
    named.searchUri === undefined ? installSearch() : undefined,
  ]);
}

/** Waits for all even where one fails, so that what the others start is known and can be stopped. */
async function allOrNone<T extends readonly unknown[]>(promises: { [K in keyof T]: T[K] | Promise<T[K]> }): Promise<T> {
  const ends = await Promise.allSettled(promises);
  const failed = ends.find((end) => end.status === "rejected");
  if (failed !== undefined) throw failed.reason;
  return ends.map((end) => (end.status === "fulfilled" ? end.value : undefined)) as unknown as T; // none failed
}
