import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";

import { identify } from "../../local/identity.ts";
import { projectFolder } from "../../local/project.ts";
import { clearStale, forgetServer, noteServer } from "../../local/registry.ts";

/** A program in a process of its own, which is measured from outside. Disposing it stops it. */
export interface Child<T> extends AsyncDisposable {
  readonly pid: number;
  /** What it said once it served. */
  readonly said: T;
}

export interface ChildOptions<T> {
  /** For messages: one lower-case word. */
  readonly name: string;
  /** What Node is started with. */
  readonly arguments: readonly string[];
  readonly environment?: Readonly<Record<string, string>>;
  /** Gets every line of its output. The first that it reads something in tells that the program serves. */
  readonly read: (line: string) => T | undefined;
}

/**
 * Starts a program and waits until it serves. It ends with the benchmark, however that is ended; what one leaves behind that is
 * killed, the next start clears.
 */
export async function startChild<T>({ name, arguments: args, environment, read }: ChildOptions<T>): Promise<Child<T>> {
  await clearStale();
  const child = spawn(process.execPath, args, {
    cwd: projectFolder,
    env: { ...process.env, ...environment },
    stdio: ["ignore", "pipe", "inherit"],
    // A process group of its own, by which the registry ends it: Ctrl-C reaches the benchmark alone.
    detached: true,
  });
  const ended = once(child, "exit");
  const { pid = 0 } = child;
  const identity = identify(pid);
  if (identity !== undefined) noteServer(name, identity, { throwaway: true });
  void ended.finally(() => forgetServer(pid)).catch(() => undefined); // whoever waits for `ended` is told
  const serves = Promise.withResolvers<T>();
  createInterface({ input: child.stdout }).on("line", (line) => {
    const found = read(line);
    if (found !== undefined) serves.resolve(found);
  });
  const early = ended.then(() => Promise.reject(new Error(`The ${name} ended at once`)));
  const said = await Promise.race([serves.promise, early]);
  return {
    pid,
    said,
    async [Symbol.asyncDispose]() {
      child.kill();
      await ended;
    },
  };
}

/** Starts a program of a benchmark's own that prints its port. */
export async function startPeer(
  name: string,
  options: Omit<ChildOptions<string>, "name" | "read">,
): Promise<Child<string>> {
  return startChild({ name, ...options, read: (port) => port });
}
