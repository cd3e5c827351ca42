import { Worker } from "node:worker_threads";

import type { Directory, Name } from "./directory.ts";
import { partBytes } from "./file-reader.ts";
import type { FileReport, FileTask } from "./file-work.ts";
import { allOf } from "./groups.ts";

/**
 * Works on many small files in threads of their own. A task is about names of directories that are open here, which have to stay so
 * until it is done. Disposing it waits for what is under way.
 */
export interface FileWorkers extends AsyncDisposable {
  run(work: {
    readonly what: FileTask["what"];
    readonly from: Directory;
    readonly to: Directory;
    readonly names: readonly Name[];
  }): Promise<FileReport>;
}

/** Threads at most: another one has something to do while the first waits for the network. Each takes 20 MiB. */
const mostThreads = 2;
/** A task that takes longer waits for the network, or for a processor. */
const slowTaskMs = 250;
/** Names of a task. */
const taskNames = 32;
/** What the heap of a thread may take, in MiB: a task leaves next to nothing in it. */
const heap = { maxYoungGenerationSizeMb: 2, maxOldGenerationSizeMb: 32 };

/** The threads start when there is something to do, and end with this. */
export function openFileWorkers(): FileWorkers {
  const threads: Thread[] = [];
  let next = 0;
  const threadFor = (): Thread => {
    const idle = threads.find((thread) => thread.isIdle());
    if (idle !== undefined) return idle;
    if (threads.length < mostThreads && threads.every((thread) => thread.lastMs() > slowTaskMs)) {
      threads.push(startThread());
    }
    // In turn: what waits in each is about as much.
    const thread = threads[next++ % threads.length];
    if (thread === undefined) throw new Error("There is a thread by now");
    return thread;
  };

  return {
    async run({ what, from, to, names }) {
      const pieces: Promise<FileReport>[] = [];
      for (let at = 0; at < names.length; at += taskNames) {
        const some = names.slice(at, at + taskNames);
        pieces.push(threadFor().do({ what, from: from.place, to: to.place, names: some }));
      }
      const reports = await allOf(pieces);
      return {
        outcomes: reports.flatMap(({ outcomes }) => outcomes),
        bytes: reports.reduce((sum, { bytes }) => sum + bytes, 0),
      };
    },

    async [Symbol.asyncDispose]() {
      await Promise.all(threads.map((thread) => thread.end()));
    },
  };
}

interface Thread {
  isIdle(): boolean;
  /** What its last task took; 0 before the first has ended. */
  lastMs(): number;
  do(task: FileTask): Promise<FileReport>;
  end(): Promise<void>;
}

type Answer = { readonly report: FileReport } | { readonly failure: Failure };
interface Failure {
  readonly message: string;
  readonly code?: string;
  readonly syscall?: string;
  readonly path: string;
}

function startThread(): Thread {
  const worker = new Worker(new URL("./file-worker.ts", import.meta.url), {
    execArgv: [],
    resourceLimits: heap,
    workerData: { mostBytes: partBytes },
  });
  const waiting: PromiseWithResolvers<FileReport>[] = [];
  let broken: Error | undefined;
  let [begunMs, lastMs] = [0, 0];
  worker.on("message", (answer: Answer) => {
    const asked = waiting.shift();
    const nowMs = performance.now();
    [begunMs, lastMs] = [nowMs, nowMs - begunMs];
    if ("report" in answer) asked?.resolve(answer.report);
    else asked?.reject(Object.assign(new Error(answer.failure.message), answer.failure));
  });
  const end = (error: Error): void => {
    broken ??= error;
    for (const asked of waiting.splice(0)) asked.reject(broken);
  };
  worker.on("error", end);
  worker.on("exit", () => end(new Error("A thread that works on files has ended")));
  return {
    isIdle: () => waiting.length === 0,
    lastMs: () => lastMs,
    async do(task) {
      if (broken !== undefined) throw broken;
      const asked = Promise.withResolvers<FileReport>();
      if (waiting.length === 0) begunMs = performance.now();
      waiting.push(asked);
      worker.postMessage(task);
      return await asked.promise;
    },
    async end() {
      await Promise.allSettled(waiting.map(({ promise }) => promise));
      await worker.terminate();
    },
  };
}
