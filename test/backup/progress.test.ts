import { fromBinary } from "@bufbuild/protobuf";
import { expect, test } from "vitest";

import { JobPhase, type JobProgress, JobProgressSchema } from "../../gen/lucid/admin/v1/backup_service_pb.ts";
import { Store } from "../../gen/lucid/admin/v1/common_pb.ts";
import { jobMeter } from "../../src/backup/progress.ts";
import type { JobContext } from "../../src/jobs/runner.ts";

/** What a meter tells, most of it when it is disposed. */
function listener() {
  const told: { percent: number; progress: JobProgress; milestone: boolean }[] = [];
  const context: Pick<JobContext, "report"> = {
    report({ percent, detail }, { milestone = false } = {}) {
      told.push({ percent, progress: fromBinary(JobProgressSchema, detail), milestone });
    },
  };
  return { told, context };
}

test("work is measured against what was counted, and a store that has grown is counted anew", () => {
  const { told, context } = listener();
  {
    using meter = jobMeter(context, { passes: 1, passOf: () => 0, bytesWritten: () => 5 });
    meter.plan(Store.MONGODB, "a", 10);
    meter.plan(Store.REDIS, "a", 10); // names are unique within a store only
    meter.add(Store.MONGODB, "a", 15, 150);
  }
  expect(told.at(-1)).toMatchObject({
    percent: 60,
    progress: {
      itemsDone: 15n,
      itemsTotal: 25n,
      bytesDone: 150n,
      bytesWritten: 5n,
      units: [{ store: Store.MONGODB, unit: "a", itemsDone: 15n, itemsTotal: 15n, bytesDone: 150n }],
    },
  });
});

test("each pass counts for itself, and all together for the percentage", () => {
  const { told, context } = listener();
  {
    const passOf = (phase: JobPhase) => (phase === JobPhase.COMPARING ? 1 : 0);
    using meter = jobMeter(context, { passes: 2, passOf });
    meter.plan(Store.MONGODB, "a", 10);
    meter.phase(JobPhase.RESTORING);
    meter.add(Store.MONGODB, "a", 10, 100);
    meter.phase(JobPhase.COMPARING);
    meter.add(Store.MONGODB, "a", 5, 50);
  }
  expect(told.at(-1)).toMatchObject({ percent: 75, progress: { itemsDone: 5n, itemsTotal: 10n, bytesDone: 50n } });
});

test("only the first time that a phase is entered is worth an event of its own", () => {
  const { told, context } = listener();
  {
    using meter = jobMeter(context, { passes: 1, passOf: () => 0 });
    for (const phase of [JobPhase.COPYING, JobPhase.CUTTING, JobPhase.COPYING, JobPhase.CUTTING]) meter.phase(phase);
  }
  expect(told.filter(({ milestone }) => milestone).map(({ progress }) => progress.phase)).toEqual([
    JobPhase.COPYING,
    JobPhase.CUTTING,
  ]);
});

test("of many units the thousand largest are told", () => {
  const { told, context } = listener();
  {
    using meter = jobMeter(context, { passes: 1, passOf: () => 0 });
    for (let size = 1; size <= 1200; size += 1) {
      meter.plan(Store.MONGODB, `unit-${size}`, size);
      meter.add(Store.MONGODB, `unit-${size}`, 1, 1);
    }
  }
  const units = told.at(-1)?.progress.units ?? [];
  expect(units).toHaveLength(1000);
  expect(Math.min(...units.map(({ itemsTotal }) => Number(itemsTotal)))).toBe(201);
});
