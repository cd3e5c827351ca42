import type { Client } from "@connectrpc/connect";
import { Redis } from "ioredis";

import {
  type CacheKey,
  CacheService,
  type FlushKeysResponse,
  type GetKeyResponse,
} from "../../../gen/lucid/admin/v1/cache_service_pb.ts";
import { type TestApp, testApp } from "../../support/app.ts";
import { storeAddresses, uniqueName } from "../../support/stores.ts";

export type Cache = Client<typeof CacheService>;

/** The service, a client of Redis beside it, and a prefix whose keys are removed at the end. */
export interface CacheApp extends AsyncDisposable {
  readonly app: TestApp;
  readonly cache: Cache;
  readonly redis: Redis;
  readonly prefix: string;
}

export async function cacheApp(environment: Readonly<Record<string, string>> = {}): Promise<CacheApp> {
  await using stack = new AsyncDisposableStack();
  const redis = new Redis(environment["LUCID_REDIS_URI"] ?? storeAddresses().redisUri);
  stack.defer(() => redis.disconnect());
  const prefix = `${uniqueName("cache")}:`;
  stack.defer(async () => {
    for await (const keys of redis.scanStream({ match: `${prefix}*`, count: 1000 })) {
      // A stream of batches of names.
      if ((keys as string[]).length > 0) await redis.unlink(...(keys as string[]));
    }
  });
  const app = stack.use(await testApp(environment));
  const running = stack.move();
  return {
    app,
    cache: app.client(CacheService),
    redis,
    prefix,
    [Symbol.asyncDispose]: () => running.disposeAsync(),
  };
}

/** What a response calls a key, as bytes. */
export function keyOf({ name }: Pick<CacheKey, "name">): Buffer {
  return Buffer.from(name.value ?? "");
}

/** All keys that a pattern matches, over all pages. */
export async function scanAll(cache: Cache, request: { pattern: string; type?: string; pageSize?: number }) {
  const keys: CacheKey[] = [];
  let pages = 0;
  for (let pageToken = ""; ; pages++) {
    const page = await cache.scanKeys({ ...request, pageToken });
    keys.push(...page.keys);
    pageToken = page.nextPageToken;
    if (pageToken === "") return { keys, pages: pages + 1 };
  }
}

/** The pages of a key's value. */
export async function valuePages(
  cache: Cache,
  request: Parameters<Cache["getKey"]>[0],
): Promise<readonly GetKeyResponse[]> {
  const pages: GetKeyResponse[] = [];
  for (let pageToken = ""; ;) {
    const page = await cache.getKey({ ...request, pageToken });
    pages.push(page);
    pageToken = page.nextPageToken;
    if (pageToken === "") return pages;
  }
}

export async function eventsOfFlush(
  cache: Cache,
  request: Parameters<Cache["flushKeys"]>[0],
): Promise<FlushKeysResponse[]> {
  return Array.fromAsync(cache.flushKeys(request));
}
