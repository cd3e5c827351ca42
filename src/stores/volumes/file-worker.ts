import { parentPort, workerData } from "node:worker_threads";

import { type FileTask, fileWork } from "./file-work.ts";

// A thread that does tasks, one after the other, and answers each with its report or with why it failed.
const doTask = fileWork(workerData as { mostBytes: number }); // whoever starts it says so
parentPort?.on("message", (task: FileTask) => {
  try {
    parentPort?.postMessage({ report: doTask(task) });
  } catch (error) {
    // Of an error that is sent as such only the text arrives.
    const { message, code, syscall, path } = error as NodeJS.ErrnoException; // nothing else is called there
    parentPort?.postMessage({ failure: { message, code, syscall, path: String(path) } });
  }
});
