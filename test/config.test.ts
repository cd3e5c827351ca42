import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { expect, test } from "vitest";

import { readConfig, unknownSettings } from "../src/config.ts";

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
