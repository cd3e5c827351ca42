import { Redis } from "ioredis";

import { startRedis } from "../../local/redis.ts";
import type { Server } from "../../local/server.ts";
import { waitUntil } from "../../local/wait.ts";

/** Makes a cluster of three primaries out of three servers. */
export async function startRedisCluster(stack: AsyncDisposableStack): Promise<readonly [Server, Server, Server]> {
  const start = async () => stack.use(await startRedis({ cluster: true }));
  const servers = await Promise.all([start(), start(), start()]);
  const admins = servers.map(({ uri }) => new Redis(uri));
  try {
    const slots = 16_384;
    for (const [index, admin] of admins.entries()) {
      const first = Math.floor((index * slots) / 3);
      const last = Math.floor(((index + 1) * slots) / 3);
      // One command for the range exists since Redis 7.
      await admin.cluster("ADDSLOTS", ...Array.from({ length: last - first }, (_, slot) => first + slot));
      for (const { port } of servers) await admin.cluster("MEET", "127.0.0.1", port);
    }
    const agree = async () => {
      const states = await Promise.all(admins.map((admin) => admin.cluster("INFO")));
      const epochsOf = (which: string) =>
        new Set(states.map((state) => state.split(`${which}_epoch:`)[1]?.split("\r")[0]));
      // Servers that begin with the same epoch raise theirs one after the other until they differ.
      const isSettled = epochsOf("my").size === 3 && epochsOf("current").size === 1;
      return (
        isSettled &&
        states.every((state) => state.includes("cluster_state:ok") && state.includes("cluster_known_nodes:3"))
      );
    };
    if (!(await waitUntil(agree, { withinMs: 120_000 }))) throw new Error("The nodes do not find each other");
  } finally {
    for (const admin of admins) admin.disconnect();
  }
  return servers;
}
