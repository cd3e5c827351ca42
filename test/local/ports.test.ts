import { createServer } from "node:net";

import { expect, test } from "vitest";

import { freePort, isFree } from "../../local/ports.ts";
import { startRedis } from "../../local/redis.ts";

test("a port that someone listens on is not free", async () => {
  const port = await freePort();
  expect(await isFree(port)).toBe(true);
  const server = createServer((socket) => socket.destroy());
  await new Promise<void>((resolve) => server.listen(port, "127.0.0.1", resolve));
  try {
    expect(await isFree(port)).toBe(false);
    await expect(startRedis({ port })).rejects.toThrow(`Port ${port}, meant for redis, is taken`);
  } finally {
    await new Promise((resolve) => server.close(resolve));
  }
});

test("several servers at once do not collide", async () => {
  const servers = await Promise.all(Array.from({ length: 5 }, () => startRedis()));
  try {
    expect(new Set(servers.map(({ port }) => port)).size).toBe(5);
    expect(new Set(servers.map(({ folder }) => folder)).size).toBe(5);
  } finally {
    await Promise.all(servers.map(async (server) => server[Symbol.asyncDispose]()));
  }
});
