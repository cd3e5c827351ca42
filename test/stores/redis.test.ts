import { Redis } from "ioredis";
import { expect, test } from "vitest";

import { startRedis } from "../../local/redis.ts";
import { reasonOf } from "../../src/errors.ts";
import { translateStoreError } from "../../src/stores/errors.ts";
import { latencyRecorder } from "../../src/stores/latency.ts";
import { openRedis } from "../../src/stores/redis.ts";
import { storeAddresses, uniqueName } from "../support/stores.ts";

async function reasonOfFailure(operation: Promise<unknown>): Promise<string | undefined> {
  const [outcome] = await Promise.allSettled([operation]);
  return outcome.status === "fulfilled" ? "did not fail" : reasonOf(translateStoreError(outcome.reason))?.reason;
}

/** Resolves with the next event of that name; unlike `once` of Node, an error before it is no failure. */
function next(client: { once(name: string, listener: () => void): unknown }, name: string): Promise<void> {
  return new Promise((resolve) => client.once(name, resolve));
}

test("commands before the first connection wait for it, and each is measured once", async () => {
  const latency = latencyRecorder();
  await using store = openRedis({ uri: storeAddresses().redisUri, mode: "single" }, { latency });
  const key = uniqueName();
  try {
    expect(store.client.status).not.toBe("ready");
    expect(await Promise.all([store.client.incr(key), store.client.incr(key)])).toEqual([1, 2]);
    await store.client.pipeline().incr(key).get(key).exec();
    await expect(store.client.hget(key, "field")).rejects.toThrow("WRONGTYPE");
    await expect(store.client.call("NOSUCHCOMMAND")).rejects.toThrow("unknown command");
    // Waits for what does not come; neither its length nor its end says something of the server.
    await store.client.blpop(uniqueName(), 0.01);
    const { redis } = latency.report(10_000).scopes;
    expect(Object.fromEntries(redis.map(({ operation, count, failures }) => [operation, [count, failures]]))).toEqual({
      get: [1, 0],
      hget: [1, 0],
      incr: [3, 0],
      nosuchcommand: [1, 1],
    });
  } finally {
    await store.client.del(key);
  }
});

test("while the server is away, commands fail at once and are not kept; afterwards they succeed", async () => {
  await using server = await startRedis();
  const warnings: unknown[] = [];
  const log = { warn: (facts: object) => warnings.push(facts) };
  await using store = openRedis({ uri: server.uri, mode: "single" }, { log });
  await store.client.ping();
  const closed = next(store.client, "close");
  await server.kill();
  await closed;
  // Commands that wait for the server end otherwise, with DEADLINE_EXCEEDED.
  const reasons = await Promise.all(Array.from({ length: 5000 }, () => reasonOfFailure(store.client.incr("counter"))));
  expect(new Set(reasons)).toEqual(new Set(["STORE_UNAVAILABLE"]));
  // Whatever the attempts, a single line.
  if (warnings.length === 0) await next(store.client, "error");
  expect(warnings).toHaveLength(1);
  expect(JSON.stringify(warnings)).not.toContain("127.0.0.1");

  const ready = next(store.client, "ready");
  await server.start();
  await ready;
  // Nothing that had failed was sent after all.
  expect(await store.client.get("counter")).toBeNull();
});

test("a command whose connection breaks is not sent a second time", async () => {
  await using server = await startRedis();
  await using store = openRedis({ uri: server.uri, mode: "single" });
  const other = new Redis(server.uri);
  try {
    await store.client.ping();
    // The server takes it in and gives no answer.
    const id = await store.client.client("ID");
    await other.client("PAUSE", 60_000, "WRITE");
    const reason = reasonOfFailure(store.client.incr("counter"));
    const closed = next(store.client, "close");
    await other.client("KILL", "ID", id);
    await closed;
    expect(await reason).toBe("STORE_UNAVAILABLE");
    await next(store.client, "ready");
    await other.client("UNPAUSE");
    expect(await store.client.get("counter")).toBeNull();
  } finally {
    other.disconnect();
  }
});

test("a server that answers nothing is given up in time", async () => {
  await using server = await startRedis();
  await using store = openRedis({ uri: server.uri, mode: "single" });
  await store.client.ping();
  process.kill(server.pid, "SIGSTOP");
  try {
    expect(await reasonOfFailure(store.client.ping())).toBe("DEADLINE_EXCEEDED");
    // The connection itself is given up too, so that a host that vanished is not waited for.
    await next(store.client, "close");
    expect(await reasonOfFailure(store.client.ping())).toBe("STORE_UNAVAILABLE");
  } finally {
    process.kill(server.pid, "SIGCONT");
  }
  await next(store.client, "ready");
  expect(await store.client.ping()).toBe("PONG");
});

test("no more than a thousand commands wait for the first connection", async () => {
  await using store = openRedis({ uri: "redis://127.0.0.1:1", mode: "single" });
  const reasons = await Promise.all(Array.from({ length: 3000 }, () => reasonOfFailure(store.client.ping())));
  expect(new Set(reasons)).toEqual(new Set(["STORE_UNAVAILABLE"]));
});

test("a wrong password is told as refused", async () => {
  await using server = await startRedis();
  const admin = new Redis(server.uri);
  await admin.config("SET", "requirepass", "right:pass@word");
  admin.disconnect();
  const uri = (password: string) => server.uri.replace("redis://", `redis://default:${encodeURIComponent(password)}@`);
  await using wrong = openRedis({ uri: uri("wrong"), mode: "single" });
  expect(await reasonOfFailure(wrong.client.ping())).toBe("STORE_REFUSED");
  await using right = openRedis({ uri: uri("right:pass@word"), mode: "single" });
  expect(await right.client.ping()).toBe("PONG");
});
