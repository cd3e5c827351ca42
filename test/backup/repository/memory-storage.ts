import type { ObjectStorage } from "../../../src/backup/repository/storage.ts";

/** Objects in memory: for tests of thousands of runs, in which every call is a step of its own. */
export function memoryStorage(): ObjectStorage & { readonly objects: ReadonlyMap<string, Buffer> } {
  const objects = new Map<string, Buffer>();
  return {
    objects,
    put(name, bytes, { ifAbsent }) {
      const isFree = !ifAbsent || !objects.has(name);
      if (isFree) objects.set(name, Buffer.from(bytes));
      return Promise.resolve(isFree);
    },
    get(name, { range }) {
      const bytes = objects.get(name);
      if (bytes === undefined || range === undefined) return Promise.resolve(bytes && Buffer.from(bytes));
      const start = "last" in range ? Math.max(0, bytes.byteLength - range.last) : range.offset;
      const end = "last" in range ? bytes.byteLength : start + range.length;
      return Promise.resolve(Buffer.from(bytes.subarray(start, end)));
    },
    async *list(prefix) {
      // What is there when the listing begins.
      const found = [...objects].filter(([name]) => name.startsWith(prefix));
      for (const [name, bytes] of found) yield { name, size: bytes.byteLength };
    },
    delete(name) {
      objects.delete(name);
      return Promise.resolve();
    },
  };
}
