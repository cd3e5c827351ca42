import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import { Redis } from "ioredis";
import { expect, test } from "vitest";

import { identify, isRunning } from "../../local/identity.ts";
import { tryLock, withLock } from "../../local/lock.ts";
import { localPath } from "../../local/project.ts";
import { startRedis } from "../../local/redis.ts";
import { clearStale } from "../../local/registry.ts";
import { startServer } from "../../local/server.ts";
import { waitUntil } from "../../local/wait.ts";
import { ownFolder, startStarter } from "./support.ts";

const isGone = (pid: number) => waitUntil(() => identify(pid) === undefined, { withinMs: 120_000 });

test.for(["SIGINT", "SIGTERM", "SIGHUP"] as const)("%s ends a starter with its servers", async (signal) => {
  using folder = ownFolder();
  const { child, started } = await startStarter(folder.path);
  child.kill(signal);
  const [code] = (await once(child, "exit")) as [number];
  expect(code).toBe(128 + { SIGINT: 2, SIGTERM: 15, SIGHUP: 1 }[signal]);
  expect(await isGone(started.kept)).toBe(true);
  expect(await isGone(started.throwaway)).toBe(true);
  expect(existsSync(started.folder)).toBe(false);
});

test("what a killed starter left is cleared by the next, and nothing else", async () => {
  using folder = ownFolder();
  const { child, started } = await startStarter(folder.path);
  await using other = await startRedis();
  child.kill("SIGKILL");
  await once(child, "exit");
  expect(identify(started.kept)).toBeDefined();

  await clearStale();
  expect(await isGone(started.kept)).toBe(true);
  expect(await isGone(started.throwaway)).toBe(true);
  expect(existsSync(started.folder)).toBe(false);
  expect(existsSync(join(folder.path, "redis.log"))).toBe(true);
  expect(identify(other.pid)).toBeDefined();
});

test("a process that got the number of a server that ended is left alone", async () => {
  const bystander = spawn("sleep", ["60"]);
  const pid = bystander.pid ?? 0;
  const record = join(localPath("run"), `test-${pid}.json`);
  const ended = { pid: 2 ** 22 + 1, began: "long ago" };
  const servers = [{ name: "redis", process: { pid, began: "long ago" }, throwaway: true }];
  writeFileSync(record, JSON.stringify({ starter: ended, servers, folders: [] }));
  try {
    await clearStale();
    expect(identify(pid)).toBeDefined();
    expect(existsSync(record)).toBe(false);
  } finally {
    bystander.kill();
  }
});

test("a server starts again on the same port with the same data", async () => {
  using folder = ownFolder();
  await using server = await startRedis({ folder: folder.path });
  const redis = new Redis(server.uri);
  redis.on("error", () => {});
  try {
    await redis.set("key", "value");
    const first = server.uri;
    await server.stop();
    await expect(() => fetch(`http://127.0.0.1:${server.port}`)).rejects.toThrow("fetch failed");
    await server.start();
    expect(server.uri).toBe(first);
    expect(await redis.get("key")).toBe("value");
  } finally {
    redis.disconnect();
  }
});

test("a server that dies at the start is reported with the end of its log", async () => {
  const start = startServer({
    name: "broken",
    command: () => ({ file: "/bin/sh", arguments: ["-c", "echo the disk is gone >&2; exit 3"] }),
    uri: (port) => `http://127.0.0.1:${port}`,
    isReady: async () => false,
    readyWithinMs: 120_000,
  });
  await expect(start).rejects.toThrow(/^broken ended at once \(exit code 3\)[^]*the disk is gone$/);
});

test("a server that never answers is given up", async () => {
  const start = startServer({
    name: "mute",
    command: () => ({ file: "/bin/sleep", arguments: ["60"] }),
    uri: (port) => `http://127.0.0.1:${port}`,
    isReady: async () => false,
    readyWithinMs: 300,
  });
  await expect(start).rejects.toThrow("mute was not ready after 0.3 s");
});

test("a lock is held by one at a time, and is free once its holder has ended", async () => {
  using folder = ownFolder();
  const path = join(folder.path, "lock");
  let inside = 0;
  let most = 0;
  const work = () =>
    withLock(path, "testing", async () => {
      most = Math.max(most, ++inside);
      await new Promise((resolve) => setTimeout(resolve, 20));
      inside--;
    });
  await Promise.all([work(), work(), work()]);
  expect(most).toBe(1);

  const own = identify(process.pid);
  if (own === undefined) throw new Error("This process cannot find itself");
  writeFileSync(path, JSON.stringify({ ...own, began: "long ago" }));
  using taken = tryLock(path) as Disposable & { path: string };
  expect(taken.path).toBe(path);
  expect(tryLock(path)).toEqual(own);
  expect(isRunning(own)).toBe(true);
});
