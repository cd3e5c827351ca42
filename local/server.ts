import { spawn, type ChildProcess } from "node:child_process";
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, renameSync, rmSync } from "node:fs";
import { mkdtemp } from "node:fs/promises";
import { join } from "node:path";

import { identify, type ProcessIdentity } from "./identity.ts";
import { freePort, isFree } from "./ports.ts";
import { Complaint, localPath } from "./project.ts";
import { clearStale, forgetFolder, forgetServer, noteFolder, noteServer, signalGroup } from "./registry.ts";
import { waitUntil } from "./wait.ts";

/** Where a server keeps its data and listens. */
export interface ServerOptions {
  /** Keeps data and log here, for the caller to reuse or delete; without it, in a folder that is deleted on disposal. */
  readonly folder?: string;
  /** Listens here; without it, on a free port. */
  readonly port?: number;
}

/** A server of another project, run as a process of this machine. Disposing it stops it. */
export interface Server extends AsyncDisposable {
  readonly uri: string;
  readonly port: number;
  readonly folder: string;
  readonly pid: number;
  /** Settles when the process that runs now has ended, however that came. */
  ended(): Promise<void>;
  /** Stops it in its own good order; the data stays, and so do `port` and `folder`. */
  stop(): Promise<void>;
  /** Ends it as a power cut would. */
  kill(): Promise<void>;
  /** Starts it again on the same port and data after `stop` or `kill`. */
  start(): Promise<void>;
}

/** What differs between servers. */
export interface Recipe {
  /** For messages and the log's file name: one lower-case word. */
  readonly name: string;
  readonly command: (at: { port: number; folder: string }) => {
    readonly file: string;
    readonly arguments: readonly string[];
    readonly environment?: Readonly<Record<string, string>>;
    /** Runs as this user, where the starter is root and the server must not be. */
    readonly user?: { readonly uid: number; readonly gid: number };
  };
  readonly uri: (port: number) => string;
  /** Says whether the server does its work, not only listens. May throw while it does not. */
  readonly isReady: (uri: string) => Promise<boolean>;
  readonly readyWithinMs: number;
  /** How long it may take to stop in good order before it is killed; 15 s where nothing is said. */
  readonly stopWithinMs?: number;
}

/** Starts a server and waits until it does its work. */
export async function startServer(recipe: Recipe, options: ServerOptions = {}): Promise<Server> {
  await clearStale();
  const throwaway = options.folder === undefined;
  const folder = options.folder ?? (await mkdtemp(join(localPath("throwaway"), `${recipe.name}-`)));
  mkdirSync(folder, { recursive: true });
  if (throwaway) noteFolder(folder);
  try {
    let port = options.port ?? (await freePort());
    let running: Running | undefined;
    for (let attempt = 1; running === undefined; attempt++) {
      try {
        running = await run(recipe, port, folder, throwaway);
      } catch (error) {
        const mayRetry = options.port === undefined && attempt < 3 && error instanceof PortTaken;
        if (!mayRetry) throw error;
        port = await freePort();
      }
    }
    return handle(recipe, port, folder, throwaway, running);
  } catch (error) {
    if (throwaway) deleteFolder(folder);
    throw error;
  }
}

function handle(recipe: Recipe, port: number, folder: string, throwaway: boolean, first: Running): Server {
  let running: Running | undefined = first;
  const stop = async (signal: NodeJS.Signals) => {
    await running?.end(signal);
    running = undefined;
  };
  return {
    uri: recipe.uri(port),
    port,
    folder,
    get pid() {
      if (running === undefined) throw new Error(`${recipe.name} is stopped`);
      return running.pid;
    },
    ended: async () => running?.ended(),
    stop: () => stop("SIGTERM"),
    kill: () => stop("SIGKILL"),
    start: async () => {
      running ??= await run(recipe, port, folder, throwaway);
    },
    [Symbol.asyncDispose]: async () => {
      // Data that is deleted anyway needs no orderly end.
      await stop(throwaway ? "SIGKILL" : "SIGTERM");
      if (throwaway) deleteFolder(folder);
    },
  };
}

class PortTaken extends Complaint {}

interface Running {
  readonly pid: number;
  ended(): Promise<void>;
  end(signal: NodeJS.Signals): Promise<void>;
}

async function run(recipe: Recipe, port: number, folder: string, throwaway: boolean): Promise<Running> {
  // Whoever holds the port would answer in place of a server that could not take it.
  if (!(await isFree(port))) throw new PortTaken(`Port ${port}, meant for ${recipe.name}, is taken`);
  const logFile = join(folder, `${recipe.name}.log`);
  const { child, identity } = await spawnLogged(recipe, { port, folder, logFile, throwaway });
  let ended = false;
  const exit = new Promise<void>((resolve) =>
    child.once("exit", () => {
      ended = true;
      forgetServer(identity.pid);
      resolve();
    }),
  );
  const running: Running = {
    pid: identity.pid,
    ended: () => {
      child.ref(); // whoever waits for the end wants to live until then
      return exit;
    },
    end: async (signal) => {
      child.ref();
      signalGroup(identity, signal);
      const inTime = await Promise.race([
        exit.then(() => true),
        waitUntil(() => ended, { withinMs: recipe.stopWithinMs ?? 15_000 }),
      ]);
      if (!inTime) signalGroup(identity, "SIGKILL");
      await exit;
    },
  };
  const uri = recipe.uri(port);
  const ready = await waitUntil(async () => ended || (await recipe.isReady(uri).catch(() => false)), {
    withinMs: recipe.readyWithinMs,
  });
  if (ready && !ended) return running;

  const lines = lastLines(logFile);
  const how = ended
    ? `ended at once (${child.signalCode ?? `exit code ${child.exitCode}`})`
    : `was not ready after ${recipe.readyWithinMs / 1000} s`;
  await running.end("SIGKILL");
  const message = `${recipe.name} ${how}. The end of ${logFile}:\n${lines}`;
  throw /address already in use|bind.*failed|could not bind|EADDRINUSE/i.test(lines)
    ? new PortTaken(message)
    : new Complaint(message);
}

async function spawnLogged(
  recipe: Recipe,
  { port, folder, logFile, throwaway }: { port: number; folder: string; logFile: string; throwaway: boolean },
): Promise<{ child: ChildProcess; identity: ProcessIdentity }> {
  if (existsSync(logFile)) renameSync(logFile, join(folder, `${recipe.name}.previous.log`));
  const log = openSync(logFile, "a");
  try {
    const command = recipe.command({ port, folder });
    const child = spawn(command.file, command.arguments, {
      cwd: folder,
      // A process group of its own: Ctrl-C reaches the starter alone, which stops what it started in the right order.
      detached: true,
      stdio: ["ignore", log, log],
      env: { ...process.env, ...command.environment },
      ...command.user,
    });
    await new Promise<void>((resolve, reject) => {
      child.once("spawn", resolve);
      child.once("error", (error) => reject(new Complaint(`${recipe.name} cannot be started: ${error.message}`)));
    });
    // A program that has nothing else to do may end; "exit" then takes the server along.
    child.unref();
    const pid = child.pid ?? 0; // there is one: it was spawned
    const identity = identify(pid) ?? { pid, began: "already ended" };
    noteServer(recipe.name, identity, { throwaway });
    return { child, identity };
  } finally {
    closeSync(log);
  }
}

function lastLines(file: string): string {
  return readFileSync(file, "utf8").trimEnd().split("\n").slice(-15).join("\n");
}

function deleteFolder(folder: string): void {
  rmSync(folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
  forgetFolder(folder);
}
