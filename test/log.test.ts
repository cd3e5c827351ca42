import { execFile } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";

import { expect, test } from "vitest";

const program = `
const { openLog } = await import(${JSON.stringify(join(import.meta.dirname, "../src/log.ts"))});
const cause = new Error("the socket broke");
const error = Object.assign(new Error("no answer", { cause }), { code: "ECONNRESET" });
error.meta = { request: { headers: { authorization: "Basic canary" } }, connection: { url: "http://user:canary@host/" } };
openLog({ level: "info" }).error({ err: error }, "It failed");
`;

test("the log says what went wrong and why, and nothing else that drivers hang on their errors", async () => {
  const { stdout } = await promisify(execFile)(process.execPath, ["--input-type=module", "--eval", program]);
  expect(stdout).not.toContain("canary");
  const { msg, err } = JSON.parse(stdout) as { msg: string; err: Record<string, string> };
  expect(msg).toBe("It failed");
  expect(Object.keys(err).toSorted()).toEqual(["code", "message", "stack", "type"]);
  expect(err).toMatchObject({ type: "Error", code: "ECONNRESET" });
  expect(err["message"]).toContain("no answer");
  expect(err["stack"]).toContain("the socket broke");
});
