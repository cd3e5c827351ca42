import { type Health, overall, type StoreHealth } from "./health.ts";
import { pause } from "./waiting.ts";

/** What a watcher of health gets. */
export interface HealthEvent {
  readonly health: Health;
  /** Whether it only says that the watch is alive: nothing changed since the last event. */
  readonly heartbeat: boolean;
}

/** Looks at the stores again and again; one loop, however many watch. */
export interface HealthMonitor extends AsyncDisposable {
  /** What is held to be true now; undefined until the first check has ended, which takes seconds at most. */
  current(): Health | undefined;
  /** The same, once it is known. Throws the signal's reason when that aborts, or when the monitor is disposed. */
  known(signal: AbortSignal): Promise<Health>;
  /**
   * Yields the health at once, or as soon as it is known, then whenever it changed, and at least every `heartbeatMs`. Whoever
   * is slow gets the newest state and misses what was between. Ends when the monitor is disposed; throws the signal's reason.
   */
  changes(options: WatchOptions): AsyncGenerator<HealthEvent>;
}

/** How a watcher watches. */
export interface WatchOptions {
  readonly signal: AbortSignal;
  /** Longest time without an event; endless where not given. */
  readonly heartbeatMs?: number;
}

/** How a monitor looks. */
export interface HealthMonitorOptions {
  /** Looks once; must have an end of its own. */
  readonly check: (signal: AbortSignal) => Promise<Health>;
  /** Milliseconds between two looks. */
  readonly intervalMs?: number;
  /** Milliseconds until what is new is looked at again. */
  readonly confirmMs?: number;
}

/** Starts looking. A store's state changes once two looks in a row agree, so that a single slow reply changes nothing. */
export function healthMonitor({ check, intervalMs = 3000, confirmMs = 500 }: HealthMonitorOptions): HealthMonitor {
  const closing = new AbortController();
  const wakers = new Set<() => void>();
  let state: { readonly health: Health; readonly number: number } | undefined;

  const look = async (): Promise<void> => {
    const seen = new Map<string, StoreHealth>();
    while (!closing.signal.aborted) {
      const found = (await check(closing.signal)).stores;
      let [changed, unsure] = [state === undefined, false];
      const stores = found.map((now) => {
        const shown = state?.health.stores.find(({ store }) => store === now.store);
        const before = seen.get(now.store);
        seen.set(now.store, now);
        if (shown === undefined || isSame(shown, now)) return now;
        const confirmed = before !== undefined && isSame(before, now);
        if (confirmed) changed = true;
        else unsure = true;
        return confirmed ? now : shown;
      });
      state = { health: overall(stores), number: (state?.number ?? 0) + (changed ? 1 : 0) };
      if (changed) for (const wake of wakers) wake();
      await pause(unsure ? confirmMs : intervalMs, closing.signal);
    }
  };
  const looking = look().catch((error: unknown) => {
    // Closing cuts a look short.
    if (!closing.signal.aborted) throw error;
  });

  async function* changes({ signal, heartbeatMs = Infinity }: WatchOptions): AsyncGenerator<HealthEvent> {
    const ending = AbortSignal.any([signal, closing.signal]);
    let [seen, sentMs] = [0, performance.now()];
    for (;;) {
      signal.throwIfAborted();
      if (closing.signal.aborted) return;
      const late = performance.now() - sentMs >= heartbeatMs;
      if (state !== undefined && (state.number !== seen || late)) {
        const heartbeat = state.number === seen;
        seen = state.number;
        sentMs = performance.now();
        yield { health: state.health, heartbeat };
        continue;
      }
      await pause(sentMs + heartbeatMs - performance.now(), ending, wakers);
    }
  }

  return {
    current: () => state?.health,
    async known(signal) {
      if (state !== undefined) return state.health;
      const first = await changes({ signal }).next();
      if (first.done === true) throw new Error("The monitor is closed");
      return first.value.health;
    },
    changes,
    async [Symbol.asyncDispose]() {
      closing.abort();
      await looking;
    },
  };
}

/** Whether a watcher would see no difference; times and loads always differ. */
function isSame(one: StoreHealth, other: StoreHealth): boolean {
  return (["status", "problem", "product", "version"] as const).every((field) => one[field] === other[field]);
}
