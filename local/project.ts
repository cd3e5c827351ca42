import { mkdirSync } from "node:fs";
import { join } from "node:path";

/** The folder of the project. */
export const projectFolder = join(import.meta.dirname, "..");

/** What the project puts on this machine and git ignores: installed stores and tools, their data, logs and reports. */
export const localFolder = join(projectFolder, ".local");

/** Gives a folder below `.local/`, made when missing. */
export function localPath(...parts: string[]): string {
  const folder = join(localFolder, ...parts);
  mkdirSync(folder, { recursive: true });
  return folder;
}

/** Tells the person at the terminal what goes on. Standard error, so that standard output stays a command's result. */
export function say(line: string): void {
  process.stderr.write(`${line}\n`);
}

/** A failure whose message is all that the person at the terminal needs: it is printed without a stack. */
export class Complaint extends Error {
  override readonly name = "Complaint";
}

/** Runs a command's body and turns its end into an exit code. */
export async function runCommand(body: () => Promise<number | void>): Promise<void> {
  try {
    process.exitCode = (await body()) ?? 0;
  } catch (error) {
    say(
      error instanceof Complaint
        ? error.message
        : error instanceof Error
          ? (error.stack ?? error.message)
          : String(error),
    );
    process.exitCode = 1;
  }
}
