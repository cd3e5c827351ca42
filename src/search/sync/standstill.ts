import type { HeldRight, Leases } from "../../jobs/leases.ts";
import { pause } from "../../stores/waiting.ts";
import type { SyncStates } from "./state.ts";

/** How long whoever keeps an index may take to stop, and wait between two tries to have its right, in milliseconds. */
const yieldMs = 20_000;
const leaseWaitMs = 50;

/** Does something while nobody writes to the index behind an alias: asks whoever keeps it to stop, and takes its right. */
export async function whileStopped(
  alias: string,
  { states, leases, signal }: { readonly states: SyncStates; readonly leases: Leases; readonly signal: AbortSignal },
  run: (right: HeldRight) => Promise<void>,
): Promise<void> {
  const asking = new AbortController();
  const ask = async (): Promise<void> => {
    while (!asking.signal.aborted) {
      await states.askToYield(alias, yieldMs);
      await pause(yieldMs / 4, asking.signal);
    }
  };
  const limit = AbortSignal.any([signal, asking.signal]);
  const asked = ask().catch((error: unknown) => asking.abort(error));
  try {
    await using right = await untilHeld(leases, `search_sync/${alias}`, limit);
    await run(right);
  } finally {
    asking.abort(new Error("It is done"));
    await asked;
    // It ends by itself where that cannot be told.
    await states.askToYield(alias, 0).catch(() => undefined);
  }
}

/** Waits for a right. */
export async function untilHeld(leases: Leases, name: string, signal: AbortSignal): Promise<HeldRight> {
  for (;;) {
    const right = await leases.hold(name);
    if (right !== undefined) return right;
    await pause(leaseWaitMs, signal);
    signal.throwIfAborted();
  }
}
