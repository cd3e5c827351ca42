import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, writeFileSync } from "node:fs";
import { type AddressInfo, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { text } from "node:stream/consumers";

import { expect, test } from "vitest";

import { BadSettings, readConfig, unknownSettings } from "../src/config.ts";

test("every setting has a default that is allowed", () => {
  const config = readConfig({});
  expect(config.grpc).toEqual({ host: "127.0.0.1", port: 50_051 });
  expect(config.server.exposure).toBe("loopback");
});

test("one start shows every mistake", () => {
  const env = { LUCID_GRPC_PORT: "70000", LUCID_LOG_LEVEL: "loud", LUCID_JOB_LEASE_MS: "1e4" };
  const read = () => readConfig(env);
  for (const name of Object.keys(env)) expect(read).toThrow(name);
});

test.for([
  ["LUCID_MONGODB_URI", "localhost:27017"],
  ["LUCID_MONGODB_URI", "mongodb:///secret"],
  ["LUCID_MONGODB_DATABASE", "two words"],
  ["LUCID_MONGODB_DATABASE", "admin"],
  ["LUCID_MONGODB_SYSTEM_DATABASE", "LUCID"], // which the server takes for the domain's
  ["LUCID_REDIS_URI", "secret@localhost:6379"],
  ["LUCID_REDIS_URI", "http://localhost:6379"],
  ["LUCID_SEARCH_URI", "localhost:9200"],
  ["LUCID_SEARCH_URI", "http://user:secret@[::1"],
] as const)("%s is not %s", ([name, value]) => {
  const read = () => readConfig({ [name]: value });
  expect(read).toThrow(BadSettings);
  expect(read).toThrow(name);
  expect(read).not.toThrow("secret");
});

test("the process says in one line what keeps it from starting", async () => {
  const taken = createServer().listen(0, "127.0.0.1");
  await once(taken, "listening");
  const { port } = taken.address() as AddressInfo; // of TCP
  const wrong = [
    { LUCID_GRPC_PORT: "x" },
    { LUCID_MONGODB_URI: "mongodb://user:p@ss@host/" },
    { LUCID_GRPC_PORT: String(port) },
    { LUCID_HTTP_PORT: String(port) },
  ];
  const ends = wrong.map((settings) => endOf({ LUCID_GRPC_PORT: "0", LUCID_HTTP_PORT: "0", ...settings }));
  const names = ["LUCID_GRPC_PORT", "LUCID_MONGODB_URI", "LUCID_GRPC_PORT", "LUCID_HTTP_PORT"];
  for (const [index, end] of (await Promise.all(ends)).entries()) {
    expect(end.code).toBe(1);
    expect(end.said).toContain(names[index]);
    expect(end.said).not.toMatch(/^ +at |ss@host/m);
  }
  taken.close();
});

async function endOf(settings: Readonly<Record<string, string>>) {
  const main = join(import.meta.dirname, "..", "src", "main.ts");
  const child = spawn(process.execPath, [main], { env: settings, stdio: ["ignore", "ignore", "pipe"] });
  const [said, [code]] = await Promise.all([text(child.stderr), once(child, "exit")]);
  return { said, code: code as unknown };
}

test("a misspelt setting is noticed", () => {
  const env = {
    LUCID_GRCP_HOST: "::1",
    LUCID_GRPC_HOST: "::1",
    LUCID_REDIS_URI_FILE: "redis",
    LUCID_ADDRESS: "::1",
    PATH: "/bin",
  };
  expect(unknownSettings(env)).toEqual(["LUCID_GRCP_HOST"]);
});

test("a setting comes from a file where NAME_FILE names one", () => {
  const file = join(mkdtempSync(join(tmpdir(), "lucid-config-")), "uri");
  writeFileSync(file, "mongodb://user:secret@localhost\n");
  expect(readConfig({ LUCID_MONGODB_URI_FILE: file }).mongodb.uri).toBe("mongodb://user:secret@localhost");
  expect(() => readConfig({ LUCID_MONGODB_URI_FILE: `${file}.gone` })).toThrow("LUCID_MONGODB_URI");
});

test.for(["0.0.0.0", "::", "192.0.2.1", "example.com", "127.example.com"])(
  "binding to %s needs the plain switch",
  (host) => {
    expect(() => readConfig({ LUCID_GRPC_HOST: host })).toThrow("LUCID_EXPOSURE");
    expect(readConfig({ LUCID_GRPC_HOST: host, LUCID_EXPOSURE: "open" }).grpc.host).toBe(host);
  },
);

test("an old key file needs a new one that takes its place", () => {
  const read = () => readConfig({ LUCID_BACKUP_OLD_KEY_FILE: "/old" });
  expect(read).toThrow("LUCID_BACKUP_OLD_KEY_FILE needs LUCID_BACKUP_KEY_FILE");
});
