import { once } from "node:events";
import { existsSync } from "node:fs";
import { join } from "node:path";

import { expect, test } from "vitest";

import { identify } from "../../local/identity.ts";
import { clearStale } from "../../local/registry.ts";
import { waitUntil } from "../../local/wait.ts";
import { startProgram } from "../local/support.ts";

async function startStarter() {
  const { child, started } = await startProgram(join(import.meta.dirname, "starter.ts"));
  return { child, started: started as { service: number; folder: string } }; // as the program prints it
}

test.for([
  { how: "SIGTERM", clear: async () => {} },
  { how: "SIGKILL", clear: clearStale }, // which each start does first
] as const)("a benchmark that ends by $how leaves nothing behind", async ({ how, clear }) => {
  const { child, started } = await startStarter();
  child.kill(how);
  await once(child, "exit");
  await clear();
  expect(await waitUntil(() => identify(started.service) === undefined, { withinMs: 120_000 })).toBe(true);
  expect(existsSync(started.folder)).toBe(false);
});
