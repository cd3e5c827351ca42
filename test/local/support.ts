import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

/** A folder of the test's own. */
export function ownFolder(): Disposable & { readonly path: string } {
  const path = mkdtempSync(join(tmpdir(), "lucid-test-"));
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }) };
}

/** What `starter.ts` says it started. */
export interface Started {
  readonly kept: number;
  readonly throwaway: number;
  readonly folder: string;
}

/** Runs `starter.ts` as a process of its own, up to where its servers run. */
export async function startStarter(folder: string): Promise<{ child: ChildProcess; started: Started }> {
  const { child, started } = await startProgram(join(import.meta.dirname, "starter.ts"), folder);
  return { child, started: started as Started }; // as the program prints it
}

/** Runs a program as a process of its own, up to where it prints, in a line of JSON, what it started. */
export async function startProgram(
  program: string,
  ...args: readonly string[]
): Promise<{ child: ChildProcess; started: unknown }> {
  const child = spawn(process.execPath, [program, ...args], { stdio: ["ignore", "pipe", "inherit"] });
  const [line] = (await once(createInterface({ input: child.stdout }), "line")) as [string];
  return { child, started: JSON.parse(line) };
}
