import { Gauge, type Registry } from "prom-client";

import { pause } from "../../stores/waiting.ts";
import { searchedMessages } from "../messages.ts";
import type { SyncAccess } from "./access.ts";
import type { IndexStatus } from "./status.ts";

/** Looks again and again how far the indices are behind. Disposing it stops that. */
export interface SyncMonitor extends AsyncDisposable {
  start(): void;
  /** What is wrong, as a sentence; empty where nothing is. */
  concern(): string;
}

/** What was seen of an index, when, by `performance.now()`, and whether a later look has come to nothing. */
interface Seen extends IndexStatus {
  readonly atMs: number;
  readonly isOld: boolean;
}

/** Time between two looks, and what one may take, in milliseconds. */
const everyMs = 5000;
const lookMs = 10_000;

/** `lagWarningMs` is how far an index may be behind before that is a concern. */
export function syncMonitor(options: {
  readonly access: SyncAccess;
  readonly metrics: Registry;
  readonly lagWarningMs: number;
}): SyncMonitor {
  const { access, metrics, lagWarningMs } = options;
  const closing = new AbortController();
  const seen = new Map<string, Seen>();
  let looking: Promise<void> | undefined;

  const gauge = (name: string, help: string, valueOf: (seen: Seen) => number) =>
    new Gauge({
      name,
      help,
      labelNames: ["index"],
      registers: [metrics],
      collect() {
        this.reset();
        for (const [index, status] of seen) this.set({ index }, valueOf(status));
      },
    });
  gauge("lucid_search_lag_seconds", "Age of the oldest change that is not in the index.", ({ lagMs }) => lagMs / 1000);
  gauge("lucid_search_lag_documents", "Changes and documents not in the index, up to 10,000.", (s) => s.lagDocuments);
  gauge("lucid_search_dead_letters", "Documents whose copies were refused.", (s) => s.deadLetters);
  gauge("lucid_search_history_lost", "1 where MongoDB no longer has the changes that the index lacks.", (s) =>
    Number(s.isLost),
  );
  gauge("lucid_search_resyncs", "How often the index was filled from the beginning.", (s) => s.state?.resyncs ?? 0);
  gauge(
    "lucid_search_status_age_seconds",
    "How long ago it was that the index was looked at, of which the others tell.",
    ({ atMs }) => (performance.now() - atMs) / 1000,
  );

  const look = async (): Promise<void> => {
    while (!closing.signal.aborted) {
      for (const name of searchedMessages.keys()) {
        const signal = AbortSignal.any([closing.signal, AbortSignal.timeout(lookMs)]);
        // Where MongoDB is away or slow, which it has a warning of its own for, what is known stays.
        const status = await access.status(name, signal).catch(() => undefined);
        const known = status === undefined ? seen.get(name) : { ...status, atMs: performance.now() };
        if (known !== undefined) seen.set(name, { ...known, isOld: status === undefined });
      }
      await pause(everyMs, closing.signal);
    }
  };

  return {
    start() {
      looking ??= look();
    },
    concern() {
      const of = (isOne: (status: IndexStatus) => boolean, what: string): string[] => {
        const names = [...seen.values()]
          .filter(isOne)
          .map(({ name, isOld }) => (isOld ? `${name} (as last seen)` : name));
        return names.length === 0 ? [] : [`${what}: ${names.join(", ")}`];
      };
      return [
        ...of(({ lagMs }) => lagMs > lagWarningMs, "Search indices are behind their collections"),
        // Nothing tells since when it waits.
        ...of(({ state, problem }) => state?.token === undefined && problem !== "", "Search indices cannot be filled"),
        ...of(({ isLost }) => isLost, "Changes that search indices lack are lost, so that they will be filled anew"),
      ].join(". ");
    },
    async [Symbol.asyncDispose]() {
      closing.abort();
      await looking;
    },
  };
}
