import { Cluster } from "ioredis";
import { expect, test } from "vitest";

import { waitUntil } from "../../local/wait.ts";
import { reasonOf } from "../../src/errors.ts";
import { translateStoreError } from "../../src/stores/errors.ts";
import { latencyRecorder } from "../../src/stores/latency.ts";
import { askPrimaries } from "../../src/stores/redis-info.ts";
import { openRedis } from "../../src/stores/redis.ts";
import { startRedisCluster } from "../support/redis-cluster.ts";

async function reasonOfFailure(operation: Promise<unknown>): Promise<string | undefined> {
  const [outcome] = await Promise.allSettled([operation]);
  return outcome.status === "fulfilled" ? "did not fail" : reasonOf(translateStoreError(outcome.reason))?.reason;
}

test("a cluster serves, is measured, ends and comes back", async () => {
  await using stack = new AsyncDisposableStack();
  const servers = await startRedisCluster(stack);
  const latency = latencyRecorder();
  const store = stack.use(openRedis({ uri: servers[0].uri, mode: "cluster" }, { latency }));
  expect(store.client).toBeInstanceOf(Cluster);
  const keys = Array.from({ length: 60 }, (_, number) => `key${number}`);
  // Without waiting for the first connection.
  await Promise.all(keys.map((key) => store.client.set(key, key)));
  expect(await Promise.all(keys.map((key) => store.client.get(key)))).toEqual(keys);
  const counted = latency.report(60_000).scopes.redis.map(({ operation, count }) => [operation, count]);
  expect(counted).toEqual(
    expect.arrayContaining([
      ["set", 60],
      ["get", 60],
    ]),
  );
  const infos = await askPrimaries(store.client);
  const found = infos.map((info) => (info.status === "fulfilled" ? info.value.keys : 0));
  expect(found.reduce((sum, each) => sum + each, 0)).toBe(60);
  expect(found).toHaveLength(3);

  for (const server of servers) await server.kill();
  const isAway = async () => (await reasonOfFailure(store.client.get("key1"))) === "STORE_UNAVAILABLE";
  expect(await waitUntil(isAway, { withinMs: 120_000 })).toBe(true);
  // Commands that wait for a server end otherwise, with DEADLINE_EXCEEDED.
  const reasons = await Promise.all(keys.map((key) => reasonOfFailure(store.client.get(key))));
  expect(new Set(reasons)).toEqual(new Set(["STORE_UNAVAILABLE"]));

  for (const server of servers) await server.start();
  const isBack = async () => (await store.client.set("key1", "again")) === "OK";
  expect(await waitUntil(() => isBack().catch(() => false), { withinMs: 120_000 })).toBe(true);
});
