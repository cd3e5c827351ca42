import { spawn } from "node:child_process";
import { constants } from "node:os";

import { projectFolder, say } from "./project.ts";

/** Runs a program at the terminal in place of this one; signals go to it. Gives its exit code. */
export async function runInForeground(
  file: string,
  args: readonly string[],
  environment: NodeJS.ProcessEnv = process.env,
): Promise<number> {
  const child = spawn(file, args, { cwd: projectFolder, env: environment, stdio: "inherit" });
  const pass = (signal: NodeJS.Signals) => child.kill(signal);
  const signals = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
  for (const signal of signals) process.on(signal, pass);
  try {
    return await new Promise((resolve) => {
      child.once("exit", (code, signal) => resolve(signal === null ? (code ?? 1) : 128 + constants.signals[signal]));
      child.once("error", (error) => {
        say(`${file} cannot be run: ${error.message}`);
        resolve(1);
      });
    });
  } finally {
    for (const signal of signals) process.off(signal, pass);
  }
}
