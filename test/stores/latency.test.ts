import fc from "fast-check";
import { expect, test } from "vitest";

import { latencyRecorder } from "../../src/stores/latency.ts";

const seed = 20_240;

/** A recorder whose clock the test sets. */
function timed() {
  let nowMs = 0;
  return {
    recorder: latencyRecorder({ now: () => nowMs }),
    at: (ms: number): void => {
      nowMs = ms;
    },
  };
}

/** The run that is the `share` of all when sorted. */
function exactPercentile(sorted: readonly number[], share: number): number {
  return sorted[Math.ceil(share * sorted.length) - 1] ?? Number.NaN;
}

test("percentiles are upper bounds at most 10 % too high, and the longest run is exact", () => {
  const latencyMs = fc.oneof(
    fc.double({ min: 0.001, max: 10, noNaN: true }),
    fc.double({ min: 0.001, max: 600_000, noNaN: true }),
    fc.constantFrom(0.001, 1, 1.1, 1000, 599_999.999),
  );
  fc.assert(
    fc.property(fc.array(latencyMs, { minLength: 1, maxLength: 300 }), (latencies) => {
      const { recorder } = timed();
      for (const ms of latencies) recorder.record("mongodb", "find", ms, false);
      const [found] = recorder.report(10_000).scopes.mongodb;
      const sorted = latencies.toSorted((a, b) => a - b);
      for (const [share, estimate] of [
        [0.5, found?.p50Ms],
        [0.9, found?.p90Ms],
        [0.99, found?.p99Ms],
      ] as const) {
        const exact = exactPercentile(sorted, share);
        // Floating point may put a value that lies on a bucket's bound on either side.
        expect(estimate).toBeGreaterThanOrEqual(exact * (1 - 1e-9));
        expect(estimate).toBeLessThanOrEqual(exact * 1.1 * (1 + 1e-9));
      }
      expect(found).toMatchObject({ count: latencies.length, failures: 0, maxMs: sorted.at(-1) });
    }),
    { seed },
  );
});

test.for([10, 60, 300, 301, 900, 3600])(
  "a window of %i s counts what ran in it, to the resolution it says",
  (seconds) => {
    const run = fc.record({ atMs: fc.integer({ min: 0, max: 7_200_000 }), failed: fc.boolean() });
    fc.assert(
      fc.property(
        fc.array(run, { minLength: 1, maxLength: 200 }),
        fc.integer({ min: 0, max: 7_200_000 }),
        (runs, laterMs) => {
          const { recorder, at } = timed();
          const sorted = runs.toSorted((a, b) => a.atMs - b.atMs);
          for (const { atMs, failed } of sorted) {
            at(atMs);
            recorder.record("redis", "get", 1, failed);
          }
          const nowMs = (sorted.at(-1)?.atMs ?? 0) + laterMs;
          at(nowMs);
          const report = recorder.report(seconds * 1000);
          const slotMs = seconds <= 300 ? 10_000 : 60_000;
          expect(report.windowMs).toBeLessThanOrEqual(Math.max(1, Math.min(nowMs, seconds * 1000 + slotMs)));
          expect(report.windowMs).toBeGreaterThanOrEqual(Math.min(nowMs, seconds * 1000));
          const inWindow = sorted.filter(({ atMs }) => atMs >= nowMs - report.windowMs);
          const [found] = report.scopes.redis;
          expect(found?.count ?? 0).toBe(inWindow.length);
          expect(found?.failures ?? 0).toBe(inWindow.filter(({ failed }) => failed).length);
        },
      ),
      { seed, numRuns: 50 },
    );
  },
);

test("a run that is longer than the histogram reaches is told by its exact length", () => {
  const { recorder } = timed();
  recorder.record("search", "reindex", 86_400_000, false);
  expect(recorder.report(10_000).scopes.search).toMatchObject([{ p50Ms: 86_400_000, maxMs: 86_400_000 }]);
});

test("more kinds of operations than are kept apart are counted together, and none is lost", () => {
  const { recorder } = timed();
  for (let kind = 0; kind < 1000; kind++) recorder.record("requests", `kind${kind}`, 1, false);
  recorder.record("redis", "get", 1, false);
  const { requests, redis } = recorder.report(10_000).scopes;
  expect(requests.length).toBeLessThanOrEqual(257);
  expect(requests.reduce((sum, { count }) => sum + count, 0)).toBe(1000);
  expect(redis).toMatchObject([{ operation: "other", count: 1 }]);
});

test("a timed run is counted whether it succeeds or fails, and what it throws is passed on", async () => {
  const { recorder } = timed();
  const mistake = new TypeError("not found");
  expect(await recorder.time("mongodb", "find", async () => 7)).toBe(7);
  await expect(recorder.time("mongodb", "find", () => Promise.reject(new Error("away")))).rejects.toThrow("away");
  const run = recorder.time(
    "mongodb",
    "find",
    () => Promise.reject(mistake),
    (error) => !(error instanceof TypeError),
  );
  await expect(run).rejects.toBe(mistake);
  expect(recorder.report(10_000).scopes.mongodb).toMatchObject([{ count: 3, failures: 1 }]);
});
