import type { Db } from "mongodb";

/** A lease that tests can wait out, in milliseconds. */
export const leaseMs = 5000;

/** One that does not run out, also where a machine or a store stalls. */
export const longLeaseMs = 120_000;

/** Ends the leases of processes that have died, which would run out by themselves. */
export async function endLeases(db: Db): Promise<void> {
  const past = new Date(0);
  await db.collection("jobs").updateMany({ owner: { $exists: true } }, { $set: { lease_expire_time: past } });
  await db.collection("leases").updateMany({}, { $set: { expire_time: past } });
}

export function progress(percent: number): { percent: number; detail: Uint8Array } {
  return { percent, detail: new TextEncoder().encode(String(percent)) };
}

/** Resolves when `signal` aborts, with its reason. */
export function aborted(signal: AbortSignal): Promise<unknown> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve(signal.reason);
    else signal.addEventListener("abort", () => resolve(signal.reason), { once: true });
  });
}
