import { performance } from "node:perf_hooks";

import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { durationFromMs } from "@bufbuild/protobuf/wkt";

import { JobPhase, JobProgressSchema, type UnitProgressSchema } from "../../gen/lucid/admin/v1/backup_service_pb.ts";
import type { Store } from "../../gen/lucid/admin/v1/common_pb.ts";
import type { JobContext } from "../jobs/runner.ts";
import type { Meter } from "./contracts.ts";

/** Most units that progress names; the largest are. */
const mostUnits = 1000;

/** How far back the rate looks, in milliseconds, and how often it is measured. */
const rateWindowMs = 10_000;
const sampleMs = 500;

/** An estimate of the time left rests on at least this much. */
const basisMs = 2000;

interface UnitWork {
  readonly store: Store;
  readonly unit: string;
  itemsTotal: number;
  /** What each pass has done. */
  readonly itemsDone: number[];
  readonly bytesDone: number[];
}

interface Sample {
  readonly ms: number;
  readonly bytes: number;
  readonly work: number;
}

/** Counts a job's work and tells its progress from it. Disposing it ends the reports. */
export interface JobMeter extends Meter, Disposable {
  /** Items of a unit that its first pass has done. */
  itemsDone(store: Store, unit: string): number;
}

/**
 * A meter that reports to `context` twice in a second. `passOf` says how often all that was counted is gone through and which
 * of these passes a phase belongs to: a restore reads each record to check it, writes it and compares it.
 */
export function jobMeter(
  context: Pick<JobContext, "report">,
  options: {
    readonly passes: number;
    readonly passOf: (phase: JobPhase) => number;
    /** Bytes that were written to the repository. */
    readonly bytesWritten?: () => number;
  },
): JobMeter {
  const units = new Map<string, UnitWork>();
  const samples: Sample[] = [];
  let phase: JobPhase = JobPhase.PREPARING;
  const phases = new Set<JobPhase>([phase]);
  let changed = true;

  function unitOf(store: Store, unit: string): UnitWork {
    const key = `${store}/${unit}`;
    let found = units.get(key);
    if (found === undefined) {
      found = { store, unit, itemsTotal: 0, itemsDone: zeros(options.passes), bytesDone: zeros(options.passes) };
      units.set(key, found);
    }
    return found;
  }

  function report(milestone: boolean): void {
    const pass = options.passOf(phase);
    const total = totalOf([...units.values()], pass);
    const now = { ms: performance.now(), bytes: total.bytesOfAll, work: total.workDone };
    samples.push(now);
    while ((samples[0]?.ms ?? now.ms) < now.ms - rateWindowMs) samples.shift();
    if (!changed && !milestone) return;
    changed = false;
    const timeLeftMs = timeLeft(samples, total.workTotal);
    const progress = create(JobProgressSchema, {
      phase,
      itemsDone: BigInt(total.itemsDone),
      itemsTotal: BigInt(total.itemsTotal),
      bytesDone: BigInt(total.bytesDone),
      bytesWritten: BigInt(options.bytesWritten?.() ?? 0),
      bytesPerSecond: rateOf(samples),
      ...(timeLeftMs !== undefined && { timeLeft: durationFromMs(timeLeftMs) }),
      units: largest([...units.values()], pass),
    });
    const percent = total.workTotal === 0 ? 0 : (100 * total.workDone) / total.workTotal;
    context.report({ percent, detail: toBinary(JobProgressSchema, progress) }, { milestone });
  }

  const timer = setInterval(() => report(false), sampleMs);
  timer.unref();

  return {
    plan(store, unit, itemsTotal) {
      unitOf(store, unit).itemsTotal = itemsTotal;
      changed = true;
    },
    add(store, unit, items, bytes) {
      const work = unitOf(store, unit);
      const pass = options.passOf(phase);
      work.itemsDone[pass] = (work.itemsDone[pass] ?? 0) + items;
      work.bytesDone[pass] = (work.bytesDone[pass] ?? 0) + bytes;
      changed = true;
    },
    phase(next) {
      if (next === phase) return;
      phase = next;
      changed = true;
      // Stores at work side by side may go to and fro between phases; only the first time is worth an event of its own.
      if (!phases.has(next)) report(true);
      phases.add(next);
    },
    itemsDone: (store, unit) => units.get(`${store}/${unit}`)?.itemsDone[0] ?? 0,
    [Symbol.dispose]() {
      clearInterval(timer);
      changed = true; // what the repository has written by now
      report(false);
    },
  };
}

/** The store may have grown since it was counted. */
function itemsTotalOf({ itemsTotal, itemsDone }: UnitWork): number {
  return Math.max(itemsTotal, ...itemsDone);
}

function totalOf(units: readonly UnitWork[], pass: number) {
  const total = { itemsDone: 0, itemsTotal: 0, bytesDone: 0, bytesOfAll: 0, workDone: 0, workTotal: 0 };
  for (const unit of units) {
    const itemsTotal = itemsTotalOf(unit);
    total.itemsDone += unit.itemsDone[pass] ?? 0;
    total.itemsTotal += itemsTotal;
    total.bytesDone += unit.bytesDone[pass] ?? 0;
    total.workTotal += itemsTotal * unit.itemsDone.length;
    for (const items of unit.itemsDone) total.workDone += items;
    for (const bytes of unit.bytesDone) total.bytesOfAll += bytes;
  }
  return total;
}

function zeros(length: number): number[] {
  return Array.from({ length }, () => 0);
}

function rateOf(samples: readonly Sample[]): number {
  const [first, last] = [samples[0], samples.at(-1)];
  if (first === undefined || last === undefined || last.ms === first.ms) return 0;
  return ((last.bytes - first.bytes) * 1000) / (last.ms - first.ms);
}

function timeLeft(samples: readonly Sample[], workTotal: number): number | undefined {
  const [first, last] = [samples[0], samples.at(-1)];
  if (first === undefined || last === undefined || last.ms - first.ms < basisMs || last.work === first.work)
    return undefined;
  return Math.round(((workTotal - last.work) * (last.ms - first.ms)) / (last.work - first.work));
}

function largest(units: readonly UnitWork[], pass: number): MessageInitShape<typeof UnitProgressSchema>[] {
  const begun = units.filter((unit) => itemsTotalOf(unit) === 0 || unit.itemsDone.some((items) => items > 0));
  const shown =
    begun.length <= mostUnits ? begun : begun.toSorted((one, other) => itemsTotalOf(other) - itemsTotalOf(one));
  return shown.slice(0, mostUnits).map((unit) => ({
    store: unit.store,
    unit: unit.unit,
    itemsDone: BigInt(unit.itemsDone[pass] ?? 0),
    itemsTotal: BigInt(itemsTotalOf(unit)),
    bytesDone: BigInt(unit.bytesDone[pass] ?? 0),
  }));
}
