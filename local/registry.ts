import { readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { threadId } from "node:worker_threads";

import { identify, isRunning, type ProcessIdentity } from "./identity.ts";
import { localPath, say } from "./project.ts";
import { waitUntil } from "./wait.ts";

/** What one process started and would leave behind if it were killed: servers, and folders of data that nobody needs. */
interface Belongings {
  readonly starter: ProcessIdentity;
  servers: { readonly name: string; readonly process: ProcessIdentity; readonly throwaway: boolean }[];
  folders: string[];
}

const runFolder = localPath("run");
const file = join(runFolder, `${process.pid}-${threadId}.json`);
let own: Belongings | undefined;

/** Notes a running server, so that a later start can end it if this process cannot. */
export function noteServer(name: string, server: ProcessIdentity, { throwaway }: { throwaway: boolean }): void {
  belongings().servers.push({ name, process: server, throwaway });
  save();
}

export function forgetServer(pid: number): void {
  belongings().servers = belongings().servers.filter((server) => server.process.pid !== pid);
  save();
}

/** Notes a folder that is to be deleted when this process has ended. */
export function noteFolder(folder: string): void {
  belongings().folders.push(folder);
  save();
}

export function forgetFolder(folder: string): void {
  belongings().folders = belongings().folders.filter((noted) => noted !== folder);
  save();
}

/** Ends at once what this process still has. For the last moment of a process, where nothing can be awaited. */
export function abandonAll(): void {
  if (own === undefined) return;
  // Servers with data to keep get the chance to write it; should one hang, the next start finds it in the file.
  for (const { process: server, throwaway } of own.servers) signalGroup(server, throwaway ? "SIGKILL" : "SIGTERM");
  for (const folder of own.folders) rmSync(folder, { recursive: true, force: true, maxRetries: 3 });
  own.folders = [];
  own.servers = own.servers.filter(({ throwaway }) => !throwaway);
  save();
}

/** Ends the servers and deletes the throwaway data of starters that were killed. Leaves alone what it cannot identify for certain. */
export async function clearStale(): Promise<void> {
  for (const name of readdirSync(runFolder)) {
    if (!name.endsWith(".json")) continue;
    const left = read(join(runFolder, name));
    if (left === undefined || isRunning(left.starter)) continue;
    await Promise.all(left.servers.map((server) => end(server)));
    for (const folder of left.folders) rmSync(folder, { recursive: true, force: true });
    rmSync(join(runFolder, name), { force: true });
  }
}

async function end({ name, process: server }: Belongings["servers"][number]): Promise<void> {
  if (!isRunning(server)) return;
  say(`Ending ${name} (process ${server.pid}), left behind by an earlier run`);
  signalGroup(server, "SIGTERM");
  const ended = await waitUntil(() => !isRunning(server), { withinMs: 10_000 });
  if (ended) return;
  signalGroup(server, "SIGKILL");
  await waitUntil(() => !isRunning(server), { withinMs: 5_000 });
}

/** Signals a server and what it spawned: each server leads a process group of its own. */
export function signalGroup(server: ProcessIdentity, signal: NodeJS.Signals): void {
  if (!isRunning(server)) return;
  try {
    process.kill(-server.pid, signal);
  } catch {
    // It ended in between.
  }
}

function belongings(): Belongings {
  if (own !== undefined) return own;
  const starter = identify(process.pid);
  if (starter === undefined) throw new Error("This process cannot find itself");
  own = { starter, servers: [], folders: [] };
  endWithThisProcess();
  return own;
}

function save(): void {
  if (own === undefined) return;
  if (own.servers.length === 0 && own.folders.length === 0) return rmSync(file, { force: true });
  writeFileSync(`${file}.new`, JSON.stringify(own));
  renameSync(`${file}.new`, file);
}

function read(path: string): Belongings | undefined {
  try {
    // Written by save, whole.
    return JSON.parse(readFileSync(path, "utf8")) as Belongings;
  } catch {
    return undefined; // another process cleared it in between
  }
}

function endWithThisProcess(): void {
  process.on("exit", abandonAll);
  if (threadId !== 0) return; // signals reach the main thread only
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.on(signal, () => {
      // Whoever listens too ends the process in its own order, and "exit" follows; alone, this is the end.
      if (process.listenerCount(signal) === 1) process.exit(128 + { SIGINT: 2, SIGTERM: 15, SIGHUP: 1 }[signal]);
    });
  }
}
