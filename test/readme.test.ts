import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { parseEnv, promisify } from "node:util";

import { expect, test } from "vitest";

import { goTool } from "../local/go-tools.ts";
import { localFolder, projectFolder } from "../local/project.ts";

const run = promisify(execFile);

/** The commands of the README after those that start and test, in order. */
const commands = [...readFileSync(join(projectFolder, "README.md"), "utf8").matchAll(/^```sh\n([^]*?)^```$/gm)]
  .map(([, block = ""]) => block)
  .filter((block) => !["npm start\n", "npm test\n"].includes(block));

const grpcurl = await goTool("grpcurl").catch(() => undefined);

/** Starts as `npm start` does, on stores and in a folder of its own. */
async function quickStart(folder: string) {
  const { LUCID_MONGODB_URI: _mongodb, LUCID_REDIS_URI: _redis, LUCID_SEARCH_URI: _search, ...env } = process.env;
  // A busy machine ends no call and no lease.
  const patience = { LUCID_DEFAULT_DEADLINE_MS: "180000", LUCID_JOB_LEASE_MS: "60000" };
  const child = spawn(process.execPath, ["local/start.ts", "--folder", folder], {
    cwd: projectFolder,
    env: { ...env, ...patience },
  });
  let output = "";
  const ready = Promise.withResolvers<void>();
  for (const stream of [child.stdout, child.stderr]) {
    stream.on("data", (text: Buffer) => {
      output += text.toString();
      if (output.includes("The service is ready")) ready.resolve();
    });
  }
  child.once("exit", () => ready.reject(new Error(`It ended early:\n${output}`)));
  await ready.promise;
  return child;
}

test.skipIf(grpcurl === undefined)(
  "the commands of the README work as they are written, and Ctrl-C stops everything",
  async () => {
    const folder = mkdtempSync(join(tmpdir(), "lucid-readme-"));
    const service = await quickStart(folder);
    try {
      const addresses = parseEnv(readFileSync(join(folder, "env"), "utf8"));
      const http = (addresses["LUCID_HTTP_URL"] ?? "").replace("http://", "");
      const script = commands
        .join("")
        // Other ports where the usual ones are taken, as the README says.
        .replaceAll("localhost:50051", addresses["LUCID_GRPC_ADDRESS"] ?? "")
        .replaceAll("localhost:8080", http);
      const path = [join(localFolder, "bin"), process.env["PATH"]].join(delimiter);
      const { LUCID_GRPC_ADDRESS: _grpc, LUCID_HTTP_URL: _http, ...stores } = addresses;
      const env = { ...process.env, ...stores, PATH: path };
      const { stdout } = await run("bash", ["-euxc", script], { cwd: projectFolder, env, maxBuffer: 64 * 1024 * 1024 });
      expect(stdout).toContain("lucid.admin.v1.BackupService");
      expect(stdout).toContain("Takes, watches, verifies and restores backups");
      expect(stdout.match(/"state": "JOB_STATE_SUCCEEDED"/g)?.length).toBeGreaterThanOrEqual(4);
      for (const target of ["lucid_restored.users", "restored-sample-users"])
        expect(stdout).toContain(`"target": "${target}`);
      expect(stdout).toContain("ada@example.com");
      expect(stdout).toContain('"done": true');
      expect(stdout).not.toContain("brokenLink");
      expect(stdout).toContain('"whole": true');
      expect(stdout).toContain('"matched": true');
      expect(stdout).toContain('"name":"states"');
      expect(stdout).toContain('"type": "WATCH_EVENT_TYPE_EXISTING"');
      expect(stdout).toContain("MANIFEST_VALIDATION_STATUS_VALID");
      expect(stdout).toContain('{"valid":true}');
      expect(stdout.match(/^The proof holds/gm)?.length).toBe(3);
      expect(stdout.match(/"rootHash": "[0-9a-f]{64}"/g)?.length).toBe(4);
      expect(stdout).not.toContain("JOB_STATE_FAILED");
      expect(stdout).toMatch(/succeeded .* from the command line/);
    } finally {
      const ended = once(service, "exit");
      service.kill("SIGINT");
      expect((await ended)[0]).toBe(0);
    }
    expect(existsSync(join(folder, "env"))).toBe(false);
    rmSync(folder, { recursive: true, force: true });
  },
);
