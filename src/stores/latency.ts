import { performance } from "node:perf_hooks";

/** What is measured: requests of callers, or operations of one store. */
export type LatencyScope = "requests" | "mongodb" | "redis" | "search";

/** Rate and latencies of one kind of operation over a window. Percentiles are upper bounds, at most 10 % too high. */
export interface OperationLatency {
  readonly operation: string;
  readonly count: number;
  readonly failures: number;
  readonly ratePerSecond: number;
  readonly p50Ms: number;
  readonly p90Ms: number;
  readonly p99Ms: number;
  /** Exact. */
  readonly maxMs: number;
}

/** What was measured in a window that ends now. */
export interface LatencyReport {
  /** Length of the window in milliseconds: what was asked for rounded up to whole slots, or the recorder's age. */
  readonly windowMs: number;
  /** By scope, sorted by operation; only what ran in the window. */
  readonly scopes: Readonly<Record<LatencyScope, readonly OperationLatency[]>>;
}

/** Keeps how long operations took, for the last hour. Made for the hot path: a record is two additions, no allocation. */
export interface LatencyRecorder {
  /** Counts one run. `failed`: it ended with an error that was not the caller's mistake. */
  record(scope: LatencyScope, operation: string, elapsedMs: number, failed: boolean): void;
  /** Runs `run` and counts it. `isFailure` tells which errors count as failures; all where not given. */
  time<T>(
    scope: LatencyScope,
    operation: string,
    run: () => Promise<T>,
    isFailure?: (error: unknown) => boolean,
  ): Promise<T>;
  /** Summarises the last `windowMs`, 10 s to 1 h. */
  report(windowMs: number): LatencyReport;
}

/** Histogram buckets grow by a tenth, from 1 µs to 10 min; what is longer is in the last one, and `maxMs` still exact. */
const growth = 1.1;
const bucketsPerOctave = 1 / Math.log2(growth);
const buckets = Math.ceil(Math.log2(600e6) * bucketsPerOctave) + 2;

/**
 * Recent time is kept in fine slots, the hour in coarse ones: 92 histograms for a kind of operation, 80 kB, where 10 s slots
 * for the whole hour would take 310 kB. One slot more than the window has, since the newest is not full yet.
 */
const levels = [
  { slotMs: 10_000, slots: 31 },
  { slotMs: 60_000, slots: 61 },
] as const;

/** Kinds of operations that are kept apart, in all scopes together: 20 MB at most. The rest is counted as `other`. */
const maxSeries = 256;

/** Makes a recorder. `now` is a clock in milliseconds that never goes back. */
export function latencyRecorder({ now = () => performance.now() }: { now?: () => number } = {}): LatencyRecorder {
  const startedMs = now();
  const scopes: Record<LatencyScope, Map<string, Series>> = {
    requests: new Map(),
    mongodb: new Map(),
    redis: new Map(),
    search: new Map(),
  };
  let made = 0;
  const seriesOf = (scope: LatencyScope, operation: string): Series => {
    const inScope = scopes[scope];
    let found = inScope.get(operation) ?? (made >= maxSeries ? inScope.get("other") : undefined);
    if (found === undefined) {
      found = new Series();
      made++;
      inScope.set(made > maxSeries ? "other" : operation, found);
    }
    return found;
  };
  const record: LatencyRecorder["record"] = (scope, operation, elapsedMs, failed) =>
    seriesOf(scope, operation).add(now() - startedMs, elapsedMs, failed);
  return {
    record,
    async time(scope, operation, run, isFailure = () => true) {
      const began = now();
      try {
        const result = await run();
        record(scope, operation, now() - began, false);
        return result;
      } catch (error) {
        record(scope, operation, now() - began, isFailure(error));
        throw error;
      }
    },
    report(windowMs) {
      const atMs = now() - startedMs;
      const level = windowMs <= 300_000 ? 0 : 1;
      const { slotMs, slots } = levels[level];
      const newest = Math.floor(atMs / slotMs);
      const oldest = Math.max(0, newest - slots + 1, Math.floor((atMs - windowMs) / slotMs));
      const measuredMs = Math.max(1, atMs - oldest * slotMs);
      const summaries = (scope: LatencyScope): OperationLatency[] =>
        Array.from(scopes[scope])
          .flatMap(([operation, series]) => series.summary(level, oldest, newest, measuredMs, operation) ?? [])
          .toSorted((a, b) => (a.operation < b.operation ? -1 : 1));
      return {
        windowMs: measuredMs,
        scopes: {
          requests: summaries("requests"),
          mongodb: summaries("mongodb"),
          redis: summaries("redis"),
          search: summaries("search"),
        },
      };
    },
  };
}

/** The histograms of one kind of operation. */
class Series {
  readonly #levels = levels.map(({ slotMs, slots }) => new Level(slotMs, slots));

  add(atMs: number, elapsedMs: number, failed: boolean): void {
    const bucket = bucketOf(elapsedMs);
    for (const level of this.#levels) level.add(atMs, bucket, elapsedMs, failed);
  }

  summary(
    level: 0 | 1,
    oldest: number,
    newest: number,
    measuredMs: number,
    operation: string,
  ): OperationLatency | undefined {
    const found = this.#levels[level]?.sum(oldest, newest);
    if (found === undefined || found.count === 0) return undefined;
    const { counts, count, failures, maxMs } = found;
    const percentileMs = (share: number) =>
      Math.min(maxMs, upperBoundMs(rankedBucket(counts, Math.ceil(share * count))));
    return {
      operation,
      count,
      failures,
      ratePerSecond: (count * 1000) / measuredMs,
      p50Ms: percentileMs(0.5),
      p90Ms: percentileMs(0.9),
      p99Ms: percentileMs(0.99),
      maxMs,
    };
  }
}

/** A ring of histograms, one for each slot of time. A slot is cleared when its place is taken again. */
class Level {
  readonly #slotMs: number;
  readonly #slots: number;
  readonly #counts: Uint32Array;
  readonly #failures: Uint32Array;
  readonly #maxMs: Float64Array;
  /** Number of the slot of time that each place holds. */
  readonly #held: Float64Array;

  constructor(slotMs: number, slots: number) {
    this.#slotMs = slotMs;
    this.#slots = slots;
    this.#counts = new Uint32Array(slots * buckets);
    this.#failures = new Uint32Array(slots);
    this.#maxMs = new Float64Array(slots);
    this.#held = new Float64Array(slots).fill(-1);
  }

  add(atMs: number, bucket: number, elapsedMs: number, failed: boolean): void {
    const slot = Math.floor(atMs / this.#slotMs);
    const place = slot % this.#slots;
    if (this.#held[place] !== slot) this.#clear(place, slot);
    const index = place * buckets + bucket;
    // Typed arrays of this size hold these places.
    this.#counts[index] = (this.#counts[index] ?? 0) + 1;
    if (failed) this.#failures[place] = (this.#failures[place] ?? 0) + 1;
    if (elapsedMs > (this.#maxMs[place] ?? 0)) this.#maxMs[place] = elapsedMs;
  }

  #clear(place: number, slot: number): void {
    this.#held[place] = slot;
    this.#counts.fill(0, place * buckets, (place + 1) * buckets);
    this.#failures[place] = 0;
    this.#maxMs[place] = 0;
  }

  sum(oldest: number, newest: number): { counts: Float64Array; count: number; failures: number; maxMs: number } {
    const counts = new Float64Array(buckets);
    let [count, failures, maxMs] = [0, 0, 0];
    for (let slot = oldest; slot <= newest; slot++) {
      const place = slot % this.#slots;
      if (this.#held[place] !== slot) continue;
      for (let bucket = 0; bucket < buckets; bucket++) {
        const here = this.#counts[place * buckets + bucket] ?? 0;
        counts[bucket] = (counts[bucket] ?? 0) + here;
        count += here;
      }
      failures += this.#failures[place] ?? 0;
      maxMs = Math.max(maxMs, this.#maxMs[place] ?? 0);
    }
    return { counts, count, failures, maxMs };
  }
}

/** Bucket 0 holds up to 1 µs, bucket n up to 1.1ⁿ µs. */
function bucketOf(elapsedMs: number): number {
  const exponent = Math.ceil(Math.log2(elapsedMs * 1000) * bucketsPerOctave);
  // Also what is no number goes into the first one.
  return exponent > 0 ? Math.min(exponent, buckets - 1) : 0;
}

function upperBoundMs(bucket: number): number {
  return bucket === buckets - 1 ? Infinity : growth ** bucket / 1000;
}

/** The bucket of the run that is the `rank`-th when sorted by time. */
function rankedBucket(counts: Float64Array, rank: number): number {
  let seen = 0;
  for (let bucket = 0; bucket < buckets; bucket++) {
    seen += counts[bucket] ?? 0;
    if (seen >= rank) return bucket;
  }
  return buckets - 1;
}
