import { once } from "node:events";
import process from "node:process";

import { start } from "./app.ts";
import { BadSettings, readConfig, unknownSettings } from "./config.ts";
import { openLog } from "./log.ts";

const stop = Promise.race([once(process, "SIGINT"), once(process, "SIGTERM")]);
try {
  await run();
} catch (error) {
  if (!(error instanceof BadSettings)) throw error;
  process.stderr.write(`${error.message}\n`);
  process.exitCode = 1;
}

async function run(): Promise<void> {
  const config = readConfig(process.env);
  const log = openLog(config.log);
  for (const name of unknownSettings(process.env)) log.warn({ name }, "This is not a setting");
  await using app = await start(config, log);
  await stop;
  log.info("Stopping");
  await app.drain(config.server.drainMs);
}
