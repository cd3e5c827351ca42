import type { Duration } from "@bufbuild/protobuf/wkt";
import type { HandlerContext } from "@connectrpc/connect";
import type { Document } from "bson";
import type { Db } from "mongodb";

import { PolicyViolationSchema } from "../../gen/lucid/repository/v1/policy_violation_pb.ts";
import {
  type TrustPolicy,
  type TrustPolicyActivity,
  TrustPolicyActivitySchema,
  TrustPolicySchema,
} from "../../gen/lucid/repository/v1/trust_policy_pb.ts";
import { auditRecord, auditStage } from "../schema/audited-call.ts";
import { cancellable, deadlineOf } from "../schema/call-options.ts";
import { codecFor } from "../schema/codec.ts";
import { collectionOf } from "../schema/collection.ts";
import { duplicateKey } from "../schema/create-once.ts";
import { sum } from "../schema/expressions.ts";

const codec = codecFor(TrustPolicyActivitySchema);

const hourMs = 3_600_000;
/** Hours that are kept: seven days, and the hour that is under way. */
const keptHours = 7 * 24 + 1;

/** The beginning of an hour: of the one that a time is in, or of one so many before it. */
export function hourOf(time: Date, hoursBefore = 0): Date {
  return new Date((Math.floor(time.getTime() / hourMs) - hoursBefore) * hourMs);
}

/** What is counted of a policy. */
export type PolicyCounters = Pick<TrustPolicy, "applicationsCount" | "violationsCount" | "lastApplied">;

/** What is counted of policies, in documents beside them: an application is no change of a policy, and no version of it. */
export interface PolicyActivity {
  /** Counts an application, in one statement. */
  record(policyId: string, evaluationTime: Duration | undefined, context: HandlerContext): Promise<TrustPolicyActivity>;
  /** Reads the counters of policies, whatever their version; what it gives tells those of one. */
  counters(policyIds: readonly string[], context: HandlerContext): Promise<(policyId: string) => PolicyCounters>;
}

export function policyActivity(db: Db): PolicyActivity {
  const activity = db.collection(collectionOf(TrustPolicyActivitySchema).name);
  const violations = db.collection(collectionOf(PolicyViolationSchema).name);

  return {
    async record(policyId, evaluationTime, context) {
      const key = { policy_id: policyId };
      const record = auditRecord(context, {
        collection: activity.collectionName,
        key,
        resource: { type: TrustPolicySchema.name, name: policyId },
      });
      const stages = [
        applied(new Date(), evaluationTime && msOf(evaluationTime)),
        ...(record === undefined ? [] : [auditStage(record)]),
      ];
      for (;;) {
        const options = { returnDocument: "after", useBigInt64: true, ...deadlineOf(context) } as const;
        const found = await activity.findOneAndUpdate(key, stages, options);
        if (found !== null) return codec.decode(found);
        // Made by itself, and not by an upsert that counts: of two of those at once, a server may carry one out twice.
        await activity.insertOne({ ...key, ...none }, deadlineOf(context)).catch(unlessDuplicate);
      }
    },

    async counters(policyIds, context) {
      if (policyIds.length === 0) return () => ({ applicationsCount: 0n, violationsCount: 0n });
      const limits = cancellable(context);
      const filter = { policy_id: { $in: [...policyIds] } };
      const [applications, broken] = await Promise.all([
        activity
          .find<Uint8Array>(filter, {
            raw: true,
            projection: { _id: 0, policy_id: 1, applications_count: 1, last_applied: 1 },
            ...limits,
          })
          .toArray(),
        violations
          .aggregate<{ _id: string; count: bigint | number }>(
            [{ $match: filter }, { $group: { _id: "$policy_id", count: { $sum: 1n } } }],
            { ...limits, useBigInt64: true },
          )
          .toArray(),
      ]);
      const activities = new Map(
        applications.map((document) => codec.decode(document)).map((one) => [one.policyId, one]),
      );
      const counts = new Map(broken.map(({ _id, count }) => [_id, BigInt(count)]));
      return (policyId) => {
        const { applicationsCount = 0n, lastApplied } = activities.get(policyId) ?? {};
        const violationsCount = counts.get(policyId) ?? 0n;
        return { applicationsCount, violationsCount, ...(lastApplied && { lastApplied }) };
      };
    },
  };
}

/** What is counted of a policy that was never applied. */
const none = { applications_count: 0n, hours: [], revision: 0n };

/** Somebody else was first. */
function unlessDuplicate(error: unknown): void {
  if (duplicateKey(error) === undefined) throw error;
}

/** Counts an application: in all, and in its hour. Hours that no window sees any longer are let go. */
function applied(now: Date, evaluationMs: number | undefined): Document {
  const hour = hourOf(now);
  const isHour = { $eq: ["$$hour.start_time", hour] };
  const hours = { $ifNull: ["$hours", []] };
  const only = (cond: object) => ({ $filter: { input: hours, as: "hour", cond } });
  const before = (name: string) => `$$before.${name}`;
  const counted = {
    start_time: hour,
    applications: sum(before("applications"), 1n),
    evaluations: sum(before("evaluations"), evaluationMs === undefined ? 0n : 1n),
    evaluation_ms: sum(before("evaluation_ms"), evaluationMs ?? 0),
    max_evaluation_ms: { $max: [before("max_evaluation_ms"), evaluationMs ?? 0] },
  };
  const isKept = { $gt: ["$$hour.start_time", hourOf(now, keptHours)] };
  return {
    $set: {
      applications_count: sum("$applications_count", 1n),
      last_applied: { $max: ["$last_applied", now] },
      hours: {
        $let: {
          vars: { before: { $first: only(isHour) } },
          in: { $concatArrays: [only({ $and: [isKept, { $not: [isHour] }] }), [counted]] },
        },
      },
      revision: sum("$revision", 1n),
    },
  };
}

/** A duration in milliseconds and parts of them: most evaluations take less than one. */
function msOf({ seconds, nanos }: Duration): number {
  return Number(seconds) * 1000 + nanos / 1e6;
}
