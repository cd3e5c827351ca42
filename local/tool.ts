import { spawn } from "node:child_process";
import { once } from "node:events";
import { createWriteStream, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";

import { withLock } from "./lock.ts";
import { Complaint, localPath, say } from "./project.ts";

export interface ToolOptions {
  readonly folder?: string;
  readonly environment?: Readonly<Record<string, string>>;
  readonly logFile: string;
  readonly withinMs?: number;
}

/** Runs a program to its end, its output in a log; complains with the end of that log where it fails. */
export async function runTool(file: string, args: readonly string[], options: ToolOptions): Promise<void> {
  const log = createWriteStream(options.logFile, { flags: "a" });
  await once(log, "open");
  const child = spawn(file, args, {
    cwd: options.folder,
    env: { ...process.env, ...options.environment },
    stdio: ["ignore", log, log],
    timeout: options.withinMs ?? 15 * 60_000,
  });
  const stop = () => child.kill();
  process.once("exit", stop);
  const began = Date.now();
  const signOfLife = setInterval(() => say(`  … ${basename(file)} still works (${seconds(began)} s)`), 15_000);
  try {
    const [code, signal] = await new Promise<[number | null, string | null]>((resolve, reject) => {
      child.once("exit", (...how) => resolve(how));
      child.once("error", (error) => reject(new Complaint(`${basename(file)} cannot be run: ${error.message}`)));
    });
    if (code === 0) return;
    const lines = readFileSync(options.logFile, "utf8").trimEnd().split("\n").slice(-15).join("\n");
    const how = signal === null ? `exit code ${code}` : signal;
    throw new Complaint(`${basename(file)} failed (${how}). The end of ${options.logFile}:\n${lines}`);
  } finally {
    clearInterval(signOfLife);
    process.off("exit", stop);
    log.end();
  }
}

/** One thing that is installed below `.local/`. */
export interface Installation {
  /** The folder's path below `.local/`. */
  readonly name: string;
  /** Exactly what is installed; a change of it installs anew. */
  readonly version: string;
  /** For "Installing …", with what it costs. */
  readonly description: string;
  readonly install: (folder: string, logFile: string) => Promise<void>;
  /** Says whether an installation still works, where something outside may have gone. */
  readonly isWhole?: (folder: string) => boolean;
}

/** Gives the folder of an installation, which is made where it is missing, once however many ask at the same time. */
export async function installed(installation: Installation): Promise<string> {
  const { name, version, description, install } = installation;
  const folder = join(localPath(), name);
  // The marker is written last: without it, whatever is there is not whole.
  const marker = join(folder, "installed");
  const isThere = () =>
    existsSync(marker) && readFileSync(marker, "utf8") === version && (installation.isWhole?.(folder) ?? true);
  if (isThere()) return folder;
  const plainName = name.replaceAll(/[./]+/g, "-").replace(/^-/, "");
  return withLock(join(localPath(), `${plainName}.lock`), `installing ${name}`, async () => {
    if (isThere()) return folder;
    const began = Date.now();
    say(`Installing ${description} …`);
    rmSync(folder, { recursive: true, force: true });
    mkdirSync(folder, { recursive: true });
    const logFile = join(localPath("logs"), `install-${plainName}.log`);
    rmSync(logFile, { force: true });
    await install(folder, logFile);
    writeFileSync(marker, version);
    say(`  ${plainName} is installed after ${seconds(began)} s`);
    return folder;
  });
}

function seconds(began: number): number {
  return Math.round((Date.now() - began) / 1000);
}
