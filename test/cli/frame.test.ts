import { spawn } from "node:child_process";
import { once } from "node:events";
import { text } from "node:stream/consumers";

import { afterAll, beforeAll, expect, test, vi } from "vitest";

import { freePort } from "../../local/ports.ts";
import { allCommands } from "../../src/cli/command-tree.ts";
import { buildProgram } from "../../src/cli/program.ts";
import { openSession } from "../../src/cli/session.ts";
import { type TestApp, testApp } from "../support/app.ts";
import { lucid, type Lucid, program, lucidInside } from "./support.ts";

let app: TestApp;
let command: Lucid;

beforeAll(async () => {
  app = await testApp();
  command = lucid(app.grpcAddress);
});
afterAll(() => app[Symbol.asyncDispose]());

/** How status ends: the search server, which all tests share, may have replicas that nobody takes, which makes it yellow. */
const endings = new Map([
  ["is healthy", 0],
  ["is degraded", 4],
]);

/** A store that answers late is taken for one that is away, so it is asked again. */
const soon = { timeout: 120_000, interval: 500 };

test("status shows every part, and says so by its exit code", async () => {
  const isServed = async () => {
    const [plain, json] = await Promise.all([command.run("status"), command.json("status")]);
    const [, told = ""] = /(is \w+)/.exec(plain.stdout) ?? [];
    expect([plain.code, plain.stderr]).toEqual([endings.get(told), ""]);
    expect([...endings.values()]).toContain(json.code);
    return { stdout: plain.stdout, objects: json.objects };
  };
  const { stdout, objects } = await vi.waitFor(isServed, soon);
  for (const part of ["MongoDB", "Redis", "search", "Search follows MongoDB", "Last backups"]) {
    expect(stdout).toContain(part);
  }
  expect(stdout).not.toContain("\u001b");
  expect(objects).toMatchObject([
    {
      health: {
        status: expect.stringMatching(/^HEALTH_STATUS_(HEALTHY|DEGRADED)$/) as unknown,
        stores: [{ store: "STORE_MONGODB", status: "HEALTH_STATUS_HEALTHY" }, {}, {}],
      },
      sync: { indices: expect.any(Array) as unknown },
      backups: { last: [] },
    },
  ]);
});

test("a store that is away is found, and the rest of the screen is there", async () => {
  const nowhere = `redis://127.0.0.1:${await freePort()}`;
  await using other = await testApp({ LUCID_REDIS_URI: nowhere });
  const isTold = async () => {
    const { code, stdout } = await lucid(other.grpcAddress).run("status");
    expect(code).toBe(4);
    expect(stdout).toMatch(/is degraded/);
    expect(stdout).toMatch(/Redis +unhealthy/);
    expect(stdout).toMatch(/MongoDB +healthy/);
  };
  await vi.waitFor(isTold, soon);
});

test.for([
  [["bogus"], 2, /Unknown command 'bogus'/],
  [["bo\u001b[2Jgus"], 2, /Unknown command 'bo\\x1b\[2Jgus'/],
  [["backup"], 2, /Usage: lucid backup/],
  [["backup", "show"], 2, /Missing required argument 'backup'/],
  [["backup", "ls", "--limit", "-1"], 2, /It must be a whole number/],
  [["backup", "ls", "--bogus"], 2, /Unknown option '--bogus'/],
  [["search", "users", "ada"], 2, /Unknown command 'users'\n`lucid search --help` shows how it is used\./],
  [["collection", "create", "x", "--max-documents", "9"], 2, /--max-documents: it is for a capped collection/],
  [["collection", "index", "create", "x", "y", "--expire-after", "400ms"], 2, /It is told in whole seconds/],
  [["cache", "set", "x", "y", "--ttl", "1s", "--keep-ttl"], 2, /breaks a rule \(BAD_REQUEST\)\.\n {2}ttl must not/],
  [["status", "--timeout", "soon"], 2, /A time is a number and a unit/],
  [["--address", "ftp://x", "status"], 2, /ftp:\/\/x is no address/],
  [["backup", "create", "--namespace", "x\u0001y", "--store", "mongodb"], 2, /mongodb_namespaces/],
  [["backup", "show", "\u001b[2Jnobody"], 3, /There is no backup \\x1b\[2Jnobody \(BACKUP_NOT_FOUND\)/],
] as const)("%j ends with %i and says why", async ([args, exitCode, says]) => {
  const { code, stdout, stderr } = await lucidInside(app.grpcAddress).run(...args);
  expect([code, stdout]).toEqual([exitCode, ""]);
  expect(stderr).toMatch(says);
  expect(stderr).not.toContain("\u001b");
});

test("where nobody answers, it says what to do", async () => {
  const address = `127.0.0.1:${await freePort()}`;
  const [people, script] = await Promise.all([
    command.run("--address", address, "backup", "ls"),
    command.run("--address", address, "backup", "watch", "any", "--json"),
  ]);
  expect([people.code, script.code]).toEqual([1, 1]);
  expect(people.stderr).toContain(`lucid: No service answers at ${address}.\nStart the service`);
  expect(JSON.parse(script.stderr)).toMatchObject({ error: { code: "UNAVAILABLE", reason: "" }, exitCode: 1 });
});

test("what is wrong with a command line is JSON too, where that is asked for", async () => {
  const { code, stderr } = await command.json("backup", "ls", "--bogus\u001b[2J");
  expect(code).toBe(2);
  expect(JSON.parse(stderr)).toMatchObject({ error: { message: "unknown option '--bogus\u001b[2J'" }, exitCode: 2 });
  expect(stderr).not.toContain("\u001b");
});

test("an error is one object of JSON, with what the service said", async () => {
  const { code, objects, stderr } = await command.json("backup", "show", "nobody");
  expect([code, objects]).toEqual([3, []]);
  expect(JSON.parse(stderr)).toMatchObject({
    error: { code: "NOT_FOUND", reason: "BACKUP_NOT_FOUND", metadata: { backup_id: "nobody" }, fields: [] },
    exitCode: 3,
  });
});

test("a reader that goes away ends it without a word", async () => {
  const child = command.start("backup", "create", "--help");
  child.stdout.destroy();
  const [stderr, [code]] = await Promise.all([text(child.stderr), once(child, "close")]);
  expect([stderr, code]).toEqual(["", 141]);
});

test("output that cannot be written is told of in a sentence", async () => {
  const shell = ["-c", '"$0" "$1" --help > /dev/full', process.execPath, program];
  const child = spawn("sh", shell, { stdio: ["ignore", "ignore", "pipe"] });
  const [stderr, [code]] = await Promise.all([text(child.stderr), once(child, "close")]);
  expect([stderr, code]).toEqual(["lucid: The output cannot be written (ENOSPC).\n", 1]);
});

test("Ctrl-C ends what waits for its input", async () => {
  const child = command.start("call", "UserService/GetUser", "--data", "-");
  // What does not fit into the pipe has been read.
  await new Promise((resolve) => child.stdin.write(" ".repeat(2 ** 20), resolve));
  child.kill("SIGINT");
  const [stdout, [code]] = await Promise.all([text(child.stdout), once(child, "close")]);
  expect([stdout, code]).toEqual(["", 130]);
});

test.for([
  ["cache", "stats"],
  ["call", "CacheService/GetCacheStats"],
])("%j may be given longer than a timer, or the wire, can say", async (args) => {
  const { code, stderr } = await command.run(...args, "--timeout", "30d");
  expect([code, stderr]).toEqual([0, ""]);
});

test("colours are only for terminals, and only where they are wanted", async () => {
  const painted = async (lucidThere: Lucid, ...args: string[]) => {
    await using terminal = lucidThere.inTerminal(["status", ...args]);
    await terminal.ended();
    await terminal.shows("MongoDB");
    return terminal.screen.isPainted;
  };
  const unpainted = lucid(app.grpcAddress, { NO_COLOR: "1" });
  expect(await Promise.all([painted(command), painted(command, "--no-color"), painted(unpainted)])).toEqual([
    true,
    false,
    false,
  ]);
});

test("help is quick, has examples, and names the exit codes", async () => {
  const [all, one] = await Promise.all([command.run("--help"), command.run("backup", "restore", "--help")]);
  expect([all.code, one.code]).toEqual([0, 0]);
  for (const part of ["backup", "`lucid backup restore`", "status", "Exit codes:", "130"])
    expect(all.stdout).toContain(part);
  expect(one.stdout).toContain("Examples:\n  lucid backup restore");
  expect(one.stdout).toContain("--address");
});

test("bash completes commands, options and their values", async () => {
  const { stdout } = await command.run("completion", "bash");
  const lines = [
    ["lucid", "ba"],
    ["lucid", "--json", "backup", "c"],
    ["lucid", "backup", "ls", "--store", ""],
    ["lucid", "completion", "z"],
    ["lucid", "--address", "backup", "res"],
    ["lucid", "backup", "create", "--descr"],
  ];
  const tries = lines.map(
    (words) =>
      `COMP_WORDS=(${words.map((word) => `'${word}'`).join(" ")}); COMP_CWORD=${words.length - 1}; _lucid; echo "\${COMPREPLY[*]}"`,
  );
  const bash = spawn("bash", ["-euc", `${stdout}\n${tries.join("\n")}`], { stdio: ["ignore", "pipe", "inherit"] });
  expect((await text(bash.stdout)).trimEnd().split("\n")).toEqual([
    "backup",
    "create cancel",
    "mongodb redis search volumes",
    "zsh",
    "restore",
    "--description",
  ]);
});

test("an option takes a value wherever it is, or nowhere: completion relies on it", async () => {
  const { stdin, stdout, stderr } = process;
  const session = openSession({ stdin, stdout, stderr, environment: {} }, new AbortController().signal);
  const options = allCommands(await buildProgram(session, "all")).flatMap((each) => each.options);
  const valued = new Set(options.filter(({ required }) => required).map(({ long }) => long));
  expect(options.filter(({ long, required }) => !required && valued.has(long)).map(({ flags }) => flags)).toEqual([]);
});

test.for(["zsh", "fish"])("%s is given every command", async (shell) => {
  const { code, stdout } = await command.run("completion", shell);
  expect(code).toBe(0);
  for (const word of ["status", "backup create", "restore watch", "dry-run"]) expect(stdout).toContain(word);
  // The file is what zsh runs for the first completion; without this, that would find nothing.
  if (shell === "zsh") expect(stdout).toMatch(/\nif \[\[ \$funcstack\[1\] == _lucid \]\]; then _lucid; /);
});
