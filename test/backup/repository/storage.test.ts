import { execFile } from "node:child_process";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";

import { describe, expect, test } from "vitest";

import { openLocalStorage } from "../../../src/backup/repository/local-storage.ts";
import type { ObjectStorage } from "../../../src/backup/repository/storage.ts";
import { memoryStorage } from "./memory-storage.ts";
import { failureOf, never, newFolder, objectsIn } from "./support.ts";

const implementations = {
  local: async () => {
    const folder = await newFolder();
    return { storage: await openLocalStorage(folder.dir), [Symbol.asyncDispose]: () => folder[Symbol.asyncDispose]() };
  },
  memory: () => Promise.resolve({ storage: memoryStorage(), [Symbol.asyncDispose]: () => Promise.resolve() }),
} satisfies Record<string, () => Promise<{ storage: ObjectStorage } & AsyncDisposable>>;

describe.for(Object.entries(implementations))("storage: %s", ([, make]) => {
  test("gives back what was put, whole and in parts", async () => {
    await using place = await make();
    const { storage } = place;
    expect(await storage.put("packs/a/1", Buffer.from("0123456789"), { ifAbsent: true, signal: never })).toBe(true);
    const read = async (range?: { offset: number; length: number } | { last: number }) =>
      (await storage.get("packs/a/1", { ...(range === undefined ? {} : { range }), signal: never }))?.toString();
    expect(await read()).toBe("0123456789");
    expect(await read({ offset: 2, length: 3 })).toBe("234");
    expect(await read({ offset: 8, length: 10 })).toBe("89");
    expect(await read({ offset: 20, length: 1 })).toBe("");
    expect(await read({ last: 4 })).toBe("6789");
    expect(await read({ last: 100 })).toBe("0123456789");
    expect(await storage.get("packs/a/2", { signal: never })).toBeUndefined();
    expect(await storage.get("packs/a/1/2", { signal: never })).toBeUndefined();
  });

  test("replaces, or leaves what is there", async () => {
    await using place = await make();
    const { storage } = place;
    const put = (text: string, ifAbsent: boolean) =>
      storage.put("manifests/b", Buffer.from(text), { ifAbsent, signal: never });
    expect(await put("first", true)).toBe(true);
    expect(await put("second", true)).toBe(false);
    expect((await storage.get("manifests/b", { signal: never }))?.toString()).toBe("first");
    expect(await put("third", false)).toBe(true);
    expect((await storage.get("manifests/b", { signal: never }))?.toString()).toBe("third");
  });

  test("of many puts at once one finds the name free", async () => {
    await using place = await make();
    const { storage } = place;
    const puts = Array.from({ length: 20 }, (_, i) =>
      storage.put("config", Buffer.from([i]), { ifAbsent: true, signal: never }),
    );
    const results = await Promise.all(puts);
    expect(results.filter(Boolean)).toHaveLength(1);
    expect(await storage.get("config", { signal: never })).toEqual(Buffer.from([results.indexOf(true)]));
  });

  test("lists what is below a prefix, with sizes, and removes", async () => {
    await using place = await make();
    const { storage } = place;
    for (const name of ["packs/a/1", "packs/a/2", "packs/b/1", "indexes/a/1"]) {
      await storage.put(name, Buffer.alloc(name.length), { ifAbsent: true, signal: never });
    }
    const list = async (prefix: string) => {
      const infos = await Array.fromAsync(storage.list(prefix, never));
      return infos.map(({ name, size }) => `${name}:${size}`).toSorted();
    };
    expect(await list("packs/")).toEqual(["packs/a/1:9", "packs/a/2:9", "packs/b/1:9"]);
    expect(await list("packs/a/")).toEqual(["packs/a/1:9", "packs/a/2:9"]);
    expect(await list("manifests/")).toEqual([]);
    await storage.delete("packs/a/1", never);
    await storage.delete("packs/a/1", never);
    await storage.delete("packs/b/1", never);
    expect(await list("packs/")).toEqual(["packs/a/2:9"]);
    await storage.put("packs/b/1", Buffer.alloc(1), { ifAbsent: true, signal: never });
    expect(await list("packs/b/")).toEqual(["packs/b/1:1"]);
  });
});

test("a listing shows what is there all the time, while folders beside it come and go", async () => {
  await using folder = await newFolder();
  const storage = await openLocalStorage(folder.dir);
  const steady = Array.from({ length: 20 }, (_, i) => `packs/steady-${i}/1`);
  for (const name of steady) await storage.put(name, Buffer.alloc(1), { ifAbsent: true, signal: never });
  const writers = { stopped: false };
  const coming = Promise.all(
    Array.from({ length: 4 }, async (_, i) => {
      while (!writers.stopped) {
        await storage.put(`packs/a-${i}/1`, Buffer.alloc(1), { ifAbsent: true, signal: never });
        await storage.delete(`packs/a-${i}/1`, never);
      }
    }),
  );
  const missing: string[] = [];
  for (let round = 0; round < 60; round++) {
    const names = new Set((await Array.fromAsync(storage.list("packs/", never))).map(({ name }) => name));
    missing.push(...steady.filter((name) => !names.has(name)));
  }
  writers.stopped = true;
  await coming;
  expect(missing).toEqual([]);
});

test("puts and deletes in one folder at once lose nothing", async () => {
  await using folder = await newFolder();
  const storage = await openLocalStorage(folder.dir);
  await Promise.all(
    Array.from({ length: 8 }, async (_, i) => {
      for (let round = 0; round < 20; round++) {
        expect(await storage.put(`packs/a/${i}`, Buffer.from([round]), { ifAbsent: true, signal: never })).toBe(true);
        await storage.delete(`packs/a/${i}`, never);
      }
    }),
  );
  expect(await Array.fromAsync(storage.list("packs/", never))).toEqual([]);
});

test("a replacement that stops before any of its file operations leaves the old object or the new one, whole", async () => {
  await using folder = await newFolder();
  const script = join(import.meta.dirname, "stopped-put.ts");
  const { stdout } = await promisify(execFile)(process.execPath, [script, folder.dir]);
  const found = stdout
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as { operation?: string; found: string });
  const written = ["open", "writeFile", "datasync", "mkdir", "rename"];
  const renamed = ["open", "sync", "unlink"];
  expect(found).toEqual([
    ...written.map((operation) => ({ operation, found: "old" })),
    ...renamed.map((operation) => ({ operation, found: "new" })),
    { found: "new" },
  ]);
  expect(await objectsIn(folder.dir)).toEqual([join(folder.dir, "config")]);
});

test("an aborted signal and a folder that cannot be used are told apart", async () => {
  await using folder = await newFolder();
  const storage = await openLocalStorage(folder.dir);
  const reason = new Error("stop");
  const put = storage.put("config", Buffer.alloc(1), { ifAbsent: true, signal: AbortSignal.abort(reason) });
  await expect(put).rejects.toBe(reason);
  await rm(join(folder.dir, "tmp"), { recursive: true });
  const { reason: told } = await failureOf(() =>
    storage.put("config", Buffer.alloc(1), { ifAbsent: true, signal: never }),
  );
  expect(told).toBe("BACKUP_REPOSITORY_UNAVAILABLE");
  await expect(storage.get("../outside", { signal: never })).rejects.toThrow("Bad object name");
});
