import type { ObjectStorage } from "../../../src/backup/repository/storage.ts";
import { intercepted } from "./support.ts";

/** A storage whose process dies at its call number `calls`: that one is made or not, and nothing happens after it. */
export function dying(
  storage: ObjectStorage,
  calls: number,
  lastIsMade: boolean,
): ObjectStorage & { readonly dead: () => boolean } {
  let left = calls;
  let dead = false;
  const count = (call: string) => {
    if (dead) throw new Error("The process is dead");
    if (call === "put" || call === "delete") dead = left-- === 0;
    if (dead && !lastIsMade) throw new Error("The process died before the call");
  };
  const wrapped = intercepted(storage, count);
  const after = <T>(value: T): T => {
    if (dead) throw new Error("The process died after the call");
    return value;
  };
  return {
    ...wrapped,
    put: async (name, bytes, options) => after(await wrapped.put(name, bytes, options)),
    delete: async (name, signal) => after(await wrapped.delete(name, signal)),
    dead: () => dead,
  };
}
