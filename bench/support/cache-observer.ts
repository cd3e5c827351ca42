import { setTimeout as pause } from "node:timers/promises";

import { Redis } from "ioredis";

/**
 * Another client of Redis, a process of its own: reads a key about every millisecond, also while earlier reads wait, and tells
 * how long each read took, in ms, whenever it is sent a message.
 */
const redis = new Redis(process.argv[2] ?? "");
let took: number[] = [];

process.on("message", () => {
  process.send?.(took);
  took = [];
});
process.on("disconnect", () => process.exit());

await redis.set("observer", "x".repeat(100));
for (;;) {
  const began = performance.now();
  void redis.get("observer").then(() => took.push(performance.now() - began));
  await pause(1);
}
