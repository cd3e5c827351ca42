import { existsSync } from "node:fs";
import { join } from "node:path";

import { MongoClient } from "mongodb";

import { startServer, type Server, type ServerOptions } from "./server.ts";
import { installed, runTool } from "./tool.ts";
import { need, python } from "./toolchains.ts";

const VERSION = "0.7.0b3";

/** What a test may want otherwise. */
export interface MongodbOptions extends ServerOptions {
  /** Entries of its log of changes that it keeps. */
  readonly history?: number;
  /** Whether it is of no replica set, and so has no log of changes. */
  readonly standalone?: boolean;
  /** Whether each write is on disk before it is told, as a replica set has it of what its change streams tell. */
  readonly durable?: boolean;
}

/** Starts a server that speaks MongoDB's wire protocol as the primary of a replica set of one: SecantusDB. */
export async function startMongodb(options: MongodbOptions = {}): Promise<Server> {
  // With the default of 100,000, single writes become 10 to 20 times slower once the log of changes is full.
  const { history = 100_000_000, standalone = false, durable = false } = options;
  const program = join(await installMongodb(), "bin", "python");
  return startServer(
    {
      name: "mongodb",
      command: ({ port, folder }) => ({
        file: program,
        arguments: [
          join(import.meta.dirname, "mongodb", "server.py"),
          "--host=127.0.0.1",
          `--port=${port}`,
          `--storage-path=${join(folder, "mongodb")}`,
          "--log-level=WARNING",
          // Where a fifth of it is changes that an open read still holds, whoever comes next waits for room, the one that could
          // make it among them: the server stands still. It takes only what it needs of this.
          "--cache-size=2G",
          `--oplog-max-entries=${history}`,
          ...(standalone ? ["--standalone"] : []),
          ...(durable ? ["--sync-on-commit"] : []),
        ],
      }),
      uri: (port) => `mongodb://127.0.0.1:${port}/?directConnection=true`,
      isReady: answersPing,
      readyWithinMs: 120_000,
    },
    options,
  );
}

/** Installs the server where it is not yet; gives its virtual environment. */
export async function installMongodb(): Promise<string> {
  return installed({
    name: "mongodb",
    version: VERSION,
    description: `SecantusDB ${VERSION}, which serves as MongoDB here (once; 145 MB)`,
    install: async (folder, logFile) => {
      const { python: program } = need({ python });
      await runTool(program, ["-m", "venv", folder], { logFile });
      const pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", `SecantusDB==${VERSION}`];
      await runTool(join(folder, "bin", "python"), pip, { logFile });
    },
    // A virtual environment is broken once the Python that it was made with is gone.
    isWhole: (folder) => existsSync(join(folder, "bin", "python")),
  });
}

async function answersPing(uri: string): Promise<boolean> {
  await using client = new MongoClient(uri, {
    serverSelectionTimeoutMS: 300,
    connectTimeoutMS: 1000,
    socketTimeoutMS: 3000,
  });
  await client.db("admin").command({ ping: 1 });
  return true;
}
