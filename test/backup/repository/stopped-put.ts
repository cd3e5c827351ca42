// A process of its own, since it changes what node:fs/promises does: `stopped-put.ts <dir>`. Replaces an object again and again
// and stops for ever before each file operation of that in turn. Says the operation and what another process finds then.
import files, { type FileHandle } from "node:fs/promises";
import { syncBuiltinESMExports } from "node:module";

import { openLocalStorage } from "../../../src/backup/repository/local-storage.ts";

const [dir = ""] = process.argv.slice(2);
const signal = new AbortController().signal;
let left = Number.POSITIVE_INFINITY;
let stopped = Promise.withResolvers<string>();

function stopping<A extends unknown[], R>(name: string, operation: (this: unknown, ...args: A) => Promise<R>) {
  return function (this: unknown, ...args: A): Promise<R> {
    if (left-- > 0) return operation.apply(this, args);
    stopped.resolve(name);
    return new Promise(() => {});
  };
}

for (const name of ["open", "mkdir", "rename", "link", "unlink"] as const) {
  Object.assign(files, { [name]: stopping(name, files[name] as (...args: unknown[]) => Promise<unknown>) });
}
const storage = await openLocalStorage(dir);
const handle = await files.open(dir);
const prototype = Object.getPrototypeOf(handle) as FileHandle;
for (const name of ["writeFile", "datasync", "sync"] as const) {
  Object.assign(prototype, { [name]: stopping(name, prototype[name] as (...args: unknown[]) => Promise<unknown>) });
}
await handle.close();
syncBuiltinESMExports();

const put = (text: string) => storage.put("config", Buffer.from(text), { ifAbsent: false, signal });
for (let count = 0, operation: string | undefined = ""; operation !== undefined; count++) {
  await put("old");
  stopped = Promise.withResolvers();
  left = count;
  operation = await Promise.race([stopped.promise, put("new").then(() => undefined)]);
  left = Number.POSITIVE_INFINITY;
  const found = await (await openLocalStorage(dir)).get("config", { signal });
  process.stdout.write(`${JSON.stringify({ operation, found: found?.toString() })}\n`);
}
