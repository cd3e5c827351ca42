import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { type Duration, DurationSchema, timestampFromDate } from "@bufbuild/protobuf/wkt";
import type { HandlerContext } from "@connectrpc/connect";
import type { Document } from "bson";
import type { Db } from "mongodb";

import { PolicyViolationSchema } from "../../gen/lucid/repository/v1/policy_violation_pb.ts";
import { TrustPolicyActivitySchema } from "../../gen/lucid/repository/v1/trust_policy_pb.ts";
import type {
  TrustPolicyStatisticsSchema,
  TrustPolicyWindowSchema,
} from "../../gen/lucid/repository/v1/trust_policy_service_pb.ts";
import { cancellable } from "../schema/call-options.ts";
import { collectionOf } from "../schema/collection.ts";
import { hourOf } from "./trust-policy-activity.ts";

/** What was counted in a window. The store's int64 are read as such. */
interface Applied {
  readonly applications: bigint | number;
  readonly evaluations: bigint | number;
  readonly total: number;
  readonly longest: number;
}

interface Broken {
  readonly _id: string;
  readonly violations: bigint | number;
  readonly resolved: bigint | number;
}

/** Hours of the windows; the last one of each is under way. */
const windows = { day: 24, week: 7 * 24 } as const;

/** Computes the statistics of one policy, or of all for an empty id, in the store. */
export async function policyStatistics(
  db: Db,
  policyId: string,
  context: HandlerContext,
): Promise<MessageInitShape<typeof TrustPolicyStatisticsSchema>> {
  const limits = { ...cancellable(context), useBigInt64: true };
  const activity = db.collection(collectionOf(TrustPolicyActivitySchema).name);
  const violations = db.collection(collectionOf(PolicyViolationSchema).name);
  const of = policyId === "" ? {} : { policy_id: policyId };
  const now = new Date();

  const windowOf = async (hours: number) => {
    const start = hourOf(now, hours - 1);
    const [[applied], broken] = await Promise.all([
      activity.aggregate<Applied>(appliedSince(start, of), limits).toArray(),
      violations.aggregate<Broken>(brokenSince(start, of), limits).toArray(),
    ]);
    return window({ start, hours }, applied, broken);
  };

  const [day, week, [totals], all, unresolved] = await Promise.all([
    windowOf(windows.day),
    windowOf(windows.week),
    activity
      .aggregate<{ total: bigint | number }>(
        [{ $match: of }, { $group: { _id: null, total: { $sum: "$applications_count" } } }],
        limits,
      )
      .toArray(),
    violations.countDocuments(of, cancellable(context)),
    violations.countDocuments({ ...of, resolved: false }, cancellable(context)),
  ]);
  return {
    day,
    week,
    applicationsCount: BigInt(totals?.total ?? 0),
    violationsCount: BigInt(all),
    unresolvedViolationsCount: BigInt(unresolved),
  };
}

function appliedSince(start: Date, of: Document): Document[] {
  return [
    // What was not applied since then has no hours that count.
    { $match: { ...of, last_applied: { $gte: start } } },
    { $unwind: "$hours" },
    { $match: { "hours.start_time": { $gte: start } } },
    {
      $group: {
        _id: null,
        applications: { $sum: "$hours.applications" },
        evaluations: { $sum: "$hours.evaluations" },
        total: { $sum: "$hours.evaluation_ms" },
        longest: { $max: "$hours.max_evaluation_ms" },
      },
    },
  ];
}

function brokenSince(start: Date, of: Document): Document[] {
  return [
    { $match: { ...of, detected_at: { $gte: start } } },
    {
      $group: {
        _id: "$severity",
        violations: { $sum: 1n },
        resolved: { $sum: { $cond: ["$resolved", 1n, 0n] } },
      },
    },
  ];
}

function window(
  { start, hours }: { readonly start: Date; readonly hours: number },
  applied: Applied | undefined,
  broken: readonly Broken[],
): MessageInitShape<typeof TrustPolicyWindowSchema> {
  const applications = Number(applied?.applications ?? 0);
  const evaluations = Number(applied?.evaluations ?? 0);
  const violations = broken.reduce((total, one) => total + Number(one.violations), 0);
  return {
    startTime: timestampFromDate(start),
    applications: BigInt(applications),
    applicationsPerHour: applications / hours,
    violations: BigInt(violations),
    resolvedViolations: BigInt(broken.reduce((total, { resolved }) => total + Number(resolved), 0)),
    violationsBySeverity: Object.fromEntries(broken.map((one) => [one._id, BigInt(one.violations)])),
    violationRate: applications === 0 ? 0 : violations / applications,
    evaluations: BigInt(evaluations),
    ...(applied !== undefined &&
      evaluations > 0 && {
        meanEvaluationTime: durationOfMs(applied.total / evaluations),
        maxEvaluationTime: durationOfMs(applied.longest),
      }),
  };
}

/** A duration of milliseconds and parts of them. */
export function durationOfMs(ms: number): Duration {
  const nanos = Math.round(ms * 1e6);
  return create(DurationSchema, { seconds: BigInt(Math.trunc(nanos / 1e9)), nanos: nanos % 1e9 });
}
