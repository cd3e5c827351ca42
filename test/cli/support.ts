import { type ChildProcessByStdio, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import type { Readable, Writable } from "node:stream";
import { text } from "node:stream/consumers";

import type { JsonObject } from "@bufbuild/protobuf";

import { projectFolder } from "../../local/project.ts";
import { waitUntil } from "../../local/wait.ts";
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

export function lucid(address: string, environment: Readonly<Record<string, string>> = {}): Lucid {
  const { NO_COLOR: _no, FORCE_COLOR: _force, ...others } = process.env;
  const env = { ...others, LUCID_ADDRESS: address, ...environment };
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
    async json(...args) {
      const ended = await run("--json", ...args);
      const objects = ended.stdout
        .split("\n")
        .filter((line) => line !== "")
        .map((line) => JSON.parse(line) as JsonObject);
      return { ...ended, objects };
    },
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
      const found = await waitUntil(() => isShown() || child.exitCode !== null, { withinMs: 30_000 });
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
