import { setTimeout as pause } from "node:timers/promises";
import { parentPort, workerData } from "node:worker_threads";

import { Redis } from "ioredis";

/**
 * Another client of Redis, in a thread of its own: reads a key about every millisecond, also while earlier reads wait, and tells
 * how long each read took, in ms.
 */
const { uri } = workerData as { uri: string };
const redis = new Redis(uri);
let took: number[] = [];

parentPort?.on("message", () => {
  // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread has no origin
  parentPort?.postMessage(took);
  took = [];
});

await redis.set("observer", "x".repeat(100));
for (;;) {
  const began = performance.now();
  void redis.get("observer").then(() => took.push(performance.now() - began));
  await pause(1);
}
