/** A lease that tests can wait out, in milliseconds. Where none is to run out, a busy machine needs more room. */
export const leaseMs = 5000;

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
