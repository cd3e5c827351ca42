import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { existsSync, readFileSync, statSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { parseEnv } from "node:util";

import { MongoClient } from "mongodb";
import { expect, test } from "vitest";

import { projectFolder } from "../../local/project.ts";
import { serviceEnvironment, serviceNodeOptions } from "../../local/service.ts";
import { storeEnvironment } from "../../local/stores.ts";
import { waitUntil } from "../../local/wait.ts";
import { storeAddresses, uniqueName } from "../support/stores.ts";
import { ownFolder } from "./support.ts";

const program = join(import.meta.dirname, "../../local/start.ts");

/** Runs the quick start with the stores of the tests; what it says is collected. */
function quickStart(folder: string, systemDatabase: string): { child: ChildProcess; said: Promise<string> } {
  const { LUCID_BACKUP_DIR: _, ...environment } = process.env;
  const child = spawn(process.execPath, [program, "--folder", folder], {
    stdio: ["ignore", "pipe", "pipe"],
    env: {
      ...environment,
      ...storeEnvironment(storeAddresses()),
      LUCID_MONGODB_SYSTEM_DATABASE: systemDatabase,
      // Their search server is not for indices under the usual names.
      LUCID_SEARCH_SYNC: "off",
    },
  });
  const said = Promise.all([text(child.stdout), text(child.stderr)]).then((parts) => parts.join("\n"));
  return { child, said };
}

test("the quick start takes other ports where its own are taken, and Ctrl-C stops everything", async () => {
  using folder = ownFolder();
  const systemDatabase = uniqueName("start");
  const busy = createServer((socket) => socket.destroy());
  const isBusy = new Promise((resolve) => {
    busy.once("error", resolve); // somebody else listens there already, which will do
    busy.listen(8080, "127.0.0.1", () => resolve(undefined));
  });
  await isBusy;
  try {
    const { child, said } = quickStart(folder.path, systemDatabase);
    const file = join(folder.path, "env");
    const started = await waitUntil(() => existsSync(file) || child.exitCode !== null, { withinMs: 120_000 });
    expect([started, child.exitCode]).toEqual([true, null]);
    const { LUCID_HTTP_URL: url = "", LUCID_MONGODB_URI: mongodbUri } = parseEnv(readFileSync(file, "utf8"));
    expect(url).not.toContain(":8080");
    expect(mongodbUri).toBe(storeAddresses().mongodbUri);
    expect((await fetch(`${url}/readyz`)).status).toBe(200);
    for (const secret of ["backup.key", "env"]) expect(statSync(join(folder.path, secret)).mode & 0o777).toBe(0o600);

    const second = quickStart(folder.path, systemDatabase);
    expect(await once(second.child, "exit")).toEqual([1, null]);
    expect(await second.said).toContain(`Process ${child.pid} runs a quick start in`);

    // As a terminal and npm do it: twice.
    child.kill("SIGINT");
    child.kill("SIGINT");
    expect(await once(child, "exit")).toEqual([0, null]);
    expect(await said).toMatch(/Port 8080 is taken; HTTP listens on \d+ instead/);
    expect(existsSync(file)).toBe(false);
    await expect(fetch(`${url}/livez`)).rejects.toThrow("fetch failed");
  } finally {
    busy.close();
    await using client = new MongoClient(storeAddresses().mongodbUri);
    await client.db(systemDatabase).dropDatabase();
  }
});

test("quick starts that look for ports at the same time all come up", async () => {
  using folders = new DisposableStack();
  const systemDatabase = uniqueName("start");
  const starts = [1, 2, 3].map(() => {
    const { path } = folders.use(ownFolder());
    return { file: join(path, "env"), ...quickStart(path, systemDatabase) };
  });
  try {
    for (const { child, file } of starts) {
      await waitUntil(() => existsSync(file) || child.exitCode !== null, { withinMs: 120_000 });
      expect(child.exitCode).toBe(null);
    }
    const addresses = starts.map(({ file }) => parseEnv(readFileSync(file, "utf8")));
    expect(new Set(addresses.map((address) => address["LUCID_HTTP_URL"])).size).toBe(starts.length);
    for (const { LUCID_HTTP_URL: url } of addresses) expect((await fetch(`${url}/readyz`)).status).toBe(200);
  } finally {
    const ends = starts.map(async ({ child }) => child.exitCode ?? once(child, "exit"));
    for (const { child } of starts) child.kill("SIGINT");
    await Promise.all(ends);
    await using client = new MongoClient(storeAddresses().mongodbUri);
    await client.db(systemDatabase).dropDatabase();
  }
});

test("the image runs the service with the options that it is run with here", () => {
  const dockerfile = readFileSync(join(projectFolder, "Dockerfile"), "utf8");
  const command = /^CMD (.*)$/m.exec(dockerfile)?.[1] ?? "";
  expect(JSON.parse(command)).toEqual(["node", ...serviceNodeOptions, "src/main.ts"]);
  for (const [name, value] of Object.entries(serviceEnvironment))
    expect(dockerfile).toContain(`ENV ${name}=${value}\n`);
});
