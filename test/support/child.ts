import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";

/** A program of the tests in a process of its own, which says line by line how far it is. Disposing it kills it. */
export interface Child extends AsyncDisposable {
  /** Resolves with the next line that begins with `word`; what comes before is passed over. */
  said(word: string): Promise<string>;
  kill(signal: NodeJS.Signals): void;
}

/** Starts a program, and waits until it says that it is ready. */
export async function startChild(script: string, args: readonly string[]): Promise<Child> {
  const child = spawn(process.execPath, [script, ...args], { stdio: ["ignore", "pipe", "inherit"] });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const said = async (word: string): Promise<string> => {
    for (;;) {
      const { value, done } = await lines.next();
      if (done === true) throw new Error(`${script} went away without saying ${word}`);
      if (value.startsWith(word)) return value;
    }
  };
  await said("ready");
  return {
    said,
    kill: (signal) => void child.kill(signal),
    async [Symbol.asyncDispose]() {
      if (child.exitCode !== null || child.signalCode !== null) return;
      child.kill("SIGKILL");
      await once(child, "exit");
    },
  };
}
