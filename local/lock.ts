import { randomUUID } from "node:crypto";
import { linkSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

import { identify, isRunning, type ProcessIdentity } from "./identity.ts";
import { Complaint, say } from "./project.ts";

/** Holds a lock file until disposed. A lock whose holder has ended counts as free. */
export interface Lock extends Disposable {
  readonly path: string;
}

/** Takes the lock, or gives the process that holds it. */
export function tryLock(path: string): Lock | ProcessIdentity {
  const own = identify(process.pid);
  if (own === undefined) throw new Error("This process cannot find itself");
  const mine = `${path}.${process.pid}.${randomUUID()}`;
  writeFileSync(mine, JSON.stringify(own));
  try {
    // A link appears whole or not at all, so nobody ever reads a lock that is half written.
    for (let attempt = 0; attempt < 3; attempt++) {
      try {
        linkSync(mine, path);
        return { path, [Symbol.dispose]: () => rmSync(path, { force: true }) };
      } catch (error) {
        if (!hasCode(error, "EEXIST")) throw error;
      }
      const holder = readHolder(path);
      if (holder !== undefined && isRunning(holder)) return holder;
      if (holder !== undefined) removeDead(path, holder);
    }
  } finally {
    rmSync(mine, { force: true });
  }
  throw new Complaint(`The lock ${path} cannot be taken; delete the file if nothing of this project runs`);
}

/** Runs `body` while holding the lock, after waiting for whoever holds it. */
export async function withLock<T>(path: string, what: string, body: () => Promise<T>): Promise<T> {
  const deadline = Date.now() + 15 * 60_000;
  let told = false;
  for (;;) {
    const taken = tryLock(path);
    if ("path" in taken) {
      using _ = taken;
      return await body();
    }
    if (Date.now() > deadline)
      throw new Complaint(`Process ${taken.pid} has been ${what} for too long; stop it and try again`);
    if (!told) say(`Waiting for process ${taken.pid}, which is ${what}`);
    told = true;
    await sleep(200);
  }
}

function readHolder(path: string): ProcessIdentity | undefined {
  try {
    // Written by tryLock, whole.
    return JSON.parse(readFileSync(path, "utf8")) as ProcessIdentity;
  } catch (error) {
    if (hasCode(error, "ENOENT")) return undefined;
    throw error;
  }
}

/** Two waiters may see the same dead holder: the slower one must not remove the lock that the faster one has taken by then. */
function removeDead(path: string, dead: ProcessIdentity): void {
  const aside = `${path}.${randomUUID()}`;
  try {
    renameSync(path, aside);
  } catch (error) {
    if (hasCode(error, "ENOENT")) return;
    throw error;
  }
  const moved = readHolder(aside);
  if (moved !== undefined && moved.began !== dead.began) linkSync(aside, path);
  rmSync(aside, { force: true });
}

/** Says whether an error of Node's carries this code. */
export function hasCode(error: unknown, code: string): boolean {
  return error instanceof Error && "code" in error && error.code === code;
}
