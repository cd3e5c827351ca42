import { randomUUIDv7 } from "node:crypto";

import type { Db } from "mongodb";

const prefix = "trial_";
/** A trial takes no longer, so what is older is left of a process that died. */
const oldMs = 3_600_000;
/** What one step of tidying up may take, in milliseconds: a server may stand still for seconds, and who called has a deadline. */
const tidy = { maxTimeMS: 20_000 };
/** How often a removal is tried. */
const removals = 3;

/**
 * Runs what makes an empty collection of a name in the service's own database, and removes it again: so the server itself says
 * what it takes and what it lacks, whatever its product and version, before anything of an operator's is touched.
 */
export async function tryOut(system: Db, run: (name: string) => Promise<unknown>): Promise<void> {
  const name = `${prefix}${randomUUIDv7()}`;
  await removeOld(system);
  try {
    await run(name);
  } finally {
    await remove(system, name);
  }
}

/** Removes a collection, or leaves it to a later trial where the server refuses that again and again. */
async function remove(system: Db, name: string): Promise<void> {
  for (let tries = 1; tries <= removals; tries++) {
    // The outcome of the trial is what the caller asked for, whatever becomes of what it left.
    const isGone = await system.dropCollection(name, tidy).then(
      () => true,
      () => false,
    );
    if (isGone) return;
  }
}

async function removeOld(system: Db): Promise<void> {
  const oldest = `${prefix}${idOf(Date.now() - oldMs)}`;
  const filter = { name: { $gte: prefix, $lt: oldest } };
  for (const { name } of await system.listCollections(filter, { nameOnly: true, ...tidy }).toArray()) {
    await remove(system, name);
  }
}

/** How a UUID of version 7 that was made at a time begins. */
function idOf(ms: number): string {
  const hex = ms.toString(16).padStart(12, "0");
  return `${hex.slice(0, 8)}-${hex.slice(8)}`;
}
