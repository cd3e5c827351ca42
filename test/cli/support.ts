import { type ChildProcessByStdio, spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:http2";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PassThrough, type Readable, type Writable } from "node:stream";
import { text } from "node:stream/consumers";

import type { JsonObject } from "@bufbuild/protobuf";
import type { ConnectRouter } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";

import { projectFolder } from "../../local/project.ts";
import { waitUntil } from "../../local/wait.ts";
import { endOf } from "../../src/cli/end-of.ts";
import { exitCodes } from "../../src/cli/exit-codes.ts";
import { openSession, type Terminal } from "../../src/cli/session.ts";
import { screen, type Screen } from "./screen.ts";

export const program = join(projectFolder, "src", "cli", "lucid.mjs");

/** How a run of `lucid` ended. */
export interface Ended {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** `lucid`, as it talks to one service. */
export interface Lucid {
  /** Runs it to its end, with nobody at the terminal. */
  run(...args: readonly string[]): Promise<Ended>;
  /** The same with `--json`; gives what each line of its results holds. */
  json(...args: readonly string[]): Promise<Ended & { readonly objects: readonly JsonObject[] }>;
  /** Starts it, for whoever wants to read its results as they come. */
  start(...args: readonly string[]): ChildProcessByStdio<Writable, Readable, Readable>;
  /** Starts it in a terminal of that size. */
  inTerminal(args: readonly string[], size?: { readonly rows: number; readonly columns: number }): InTerminal;
}

/** `lucid` in a pseudo-terminal. Disposing it ends it. */
export interface InTerminal extends AsyncDisposable {
  readonly screen: Screen;
  type(keys: string): void;
  /** Waits until the terminal shows it. */
  shows(what: string | RegExp): Promise<void>;
  /** Waits for its end; gives its exit code. */
  ended(): Promise<number | null>;
}

/** `lucid` as a process of its own. */
export function lucid(address: string, environment: Readonly<Record<string, string>> = {}): Lucid {
  // All else that a machine sets may say something of colours: `CI` and `NODE_DISABLE_COLORS` do.
  const { PATH = "", HOME = "", TMPDIR = tmpdir() } = process.env;
  const env = { PATH, HOME, TMPDIR, LUCID_ADDRESS: address, ...environment };
  const start = (...args: readonly string[]) =>
    spawn(process.execPath, [program, ...args], { env, stdio: ["pipe", "pipe", "pipe"] });
  const run = async (...args: readonly string[]): Promise<Ended> => {
    const child = start(...args);
    child.stdin.end();
    const [stdout, stderr, [code]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, "close")]);
    return { code: code as number | null, stdout, stderr };
  };
  return {
    start,
    run,
    json: async (...args) => withObjects(await run("--json", ...args)),
    inTerminal(args, { rows, columns } = { rows: 30, columns: 100 }) {
      const command = ["python3", join(import.meta.dirname, "terminal.py"), String(rows), String(columns)];
      const child = spawn(command[0] ?? "", [...command.slice(1), process.execPath, program, ...args], {
        env: { ...env, TERM: "xterm-256color" },
        stdio: ["pipe", "pipe", "inherit"],
      });
      return inTerminal(child);
    },
  };
}

/** The same for what a process has no part in: what is only run to its end runs in this one, without the second a start takes. */
export function lucidInside(address: string): Lucid {
  const run = async (...args: readonly string[]): Promise<Ended> => {
    const [stdin, stdout, stderr] = [new PassThrough().end(), new PassThrough(), new PassThrough()];
    // No terminals, and all that is asked of what is none.
    const terminal = { stdin, stdout, stderr, environment: {} } as unknown as Terminal;
    const said = Promise.all([text(stdout), text(stderr)]);
    await using session = openSession(terminal, new AbortController().signal);
    const { code } = exitCodes[await endOf(session, ["--address", address, ...args])];
    for (const stream of [stdout, stderr]) stream.end();
    const [results, remarks] = await said;
    return { code, stdout: results, stderr: remarks };
  };
  return { ...lucid(address), run, json: async (...args) => withObjects(await run("--json", ...args)) };
}

/** A service that is not ours, and answers as it likes. */
export async function servedBy(routes: (router: ConnectRouter) => void) {
  const server = createServer(connectNodeAdapter({ routes }));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo; // it listens
  return {
    address: `127.0.0.1:${port}`,
    async [Symbol.asyncDispose]() {
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

function withObjects(ended: Ended): Ended & { readonly objects: readonly JsonObject[] } {
  const lines = ended.stdout.split("\n").filter((line) => line !== "");
  return { ...ended, objects: lines.map((line) => JSON.parse(line) as JsonObject) };
}

function inTerminal(child: ChildProcessByStdio<Writable, Readable, null>): InTerminal {
  const shown = screen();
  child.stdout.setEncoding("utf8").on("data", (data: string) => shown.write(data));
  const closed = once(child, "close");
  return {
    screen: shown,
    type: (keys) => void child.stdin.write(keys),
    async shows(what) {
      const isShown = () =>
        shown.lines().some((line) => (typeof what === "string" ? line.includes(what) : what.test(line)));
      const found = await waitUntil(() => isShown() || child.exitCode !== null, { withinMs: 120_000 });
      if (!found || !isShown()) throw new Error(`It does not show ${what}:\n${shown.lines().join("\n")}`);
    },
    async ended() {
      const [code] = await closed;
      return code as number | null;
    },
    async [Symbol.asyncDispose]() {
      if (child.exitCode !== null || child.signalCode !== null) return;
      child.kill("SIGKILL");
      await closed;
    },
  };
}
