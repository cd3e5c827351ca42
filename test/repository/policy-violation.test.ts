import { randomUUID } from "node:crypto";

import { create } from "@bufbuild/protobuf";
import { type DurationSchema, timestampFromDate, timestampMs } from "@bufbuild/protobuf/wkt";
import fc from "fast-check";
import { afterAll, beforeAll, expect, test } from "vitest";

import {
  type PolicyViolation,
  PolicyViolationSchema,
  ViolationSeverity,
} from "../../gen/lucid/repository/v1/policy_violation_pb.ts";
import { begunIn, runs, within } from "../support/sequences.ts";
import { refusalOf } from "./support.ts";
import { newPolicy, policiesApp, type PoliciesApp, violationInit } from "./trust-policy-support.ts";

let service: PoliciesApp;
beforeAll(async () => {
  service = await policiesApp();
});
afterAll(() => service[Symbol.asyncDispose]());

const many = (count: number) => Array.from({ length: count }, (_, index) => index);

async function record(policyId: string, init: Parameters<typeof violationInit>[1] = {}): Promise<PolicyViolation> {
  const { policyViolation } = await service.policies.recordPolicyViolation({
    policyViolation: violationInit(policyId, init),
  });
  return policyViolation ?? create(PolicyViolationSchema);
}

async function policy(policyId: string) {
  return (await service.policies.getTrustPolicy({ policyId })).trustPolicy;
}

test("a violation is recorded once, as it was sent, and resolved once", async () => {
  const { policies, overHttp } = service;
  const { policyId } = await newPolicy(policies);
  const sent = violationInit(policyId, {
    violatedRuleId: "r1",
    violationData: { seen: [1, "x"] },
    actionTaken: "warn",
    occurredAt: timestampFromDate(new Date(1000)),
    detectedAt: timestampFromDate(new Date(2000)),
  });
  const request = { policyViolation: { ...sent, resolved: true }, requestId: randomUUID() };
  const first = (await policies.recordPolicyViolation(request)).policyViolation;
  expect((await overHttp.recordPolicyViolation(request)).policyViolation).toStrictEqual(first);
  expect(first).toMatchObject({ ...sent, resolved: false, policyVersion: 1n, revision: 1n });
  const violationId = first?.violationId ?? "";
  expect((await overHttp.getPolicyViolation({ violationId })).policyViolation).toStrictEqual(first);

  const calls = await Promise.allSettled(
    many(5).map((index) =>
      policies.resolvePolicyViolation({ violationId, resolutionNotes: `$by ${index}`, actionTaken: "ban" }),
    ),
  );
  const done = calls.flatMap((call) => (call.status === "fulfilled" ? [call.value.policyViolation] : []));
  expect(done).toHaveLength(1);
  expect(done[0]).toMatchObject({ resolved: true, actionTaken: "ban", revision: 2n });
  expect(done[0]?.resolutionNotes).toMatch(/^\$by \d$/);
  expect(await refusalOf(policies.resolvePolicyViolation({ violationId }))).toMatchObject({
    code: "FailedPrecondition",
    reason: "POLICY_VIOLATION_ALREADY_RESOLVED",
    metadata: { resolved_at: done[0]?.resolvedAt && new Date(timestampMs(done[0].resolvedAt)).toISOString() },
  });
});

test("a record that is repeated with its request_id returns the first violation, though its policy has gone", async () => {
  const { policies } = service;
  const { policyId } = await newPolicy(policies);
  const request = { policyViolation: violationInit(policyId), requestId: randomUUID() };
  const first = await policies.recordPolicyViolation(request);
  await policies.deleteTrustPolicy({ policyId });
  expect(await policies.recordPolicyViolation(request)).toEqual(first);
  const other = { ...request, policyViolation: violationInit(policyId, { description: "another" }) };
  expect(await refusalOf(policies.recordPolicyViolation(other))).toMatchObject({ reason: "REQUEST_ID_REUSED" });
});

test("violations are listed by policy, party, severity and whether they are resolved", async () => {
  const { policies } = service;
  const [one, two] = [await newPolicy(policies), await newPolicy(policies)];
  const party = { type: "user", id: randomUUID() };
  const made: string[] = [];
  for (const index of many(6)) {
    const { violationId } = await record(index % 2 === 0 ? one.policyId : two.policyId, {
      severity: index < 3 ? ViolationSeverity.LOW : ViolationSeverity.CRITICAL,
      violator: index % 3 === 0 ? party : { type: "node", id: party.id },
      occurredAt: timestampFromDate(new Date(Date.UTC(2020, 0, 1 + index))),
    });
    made.push(violationId);
  }
  await policies.resolvePolicyViolation({ violationId: made[3] ?? "" });
  const list = async (request: Parameters<typeof policies.listPolicyViolations>[0]) => {
    const found: number[] = [];
    let pageToken = "";
    do {
      const page = await policies.listPolicyViolations({ pageSize: 2, ...request, pageToken });
      found.push(...page.policyViolations.map(({ violationId }) => made.indexOf(violationId)));
      pageToken = page.nextPageToken;
    } while (pageToken !== "");
    return found.filter((index) => index >= 0);
  };
  const { LOW, CRITICAL } = ViolationSeverity;
  const { policyId } = two;
  expect(await list({ filter: { policyId } })).toEqual([5, 3, 1]);
  expect(await list({ filter: { policyId, severity: CRITICAL }, orderBy: "occurred_at" })).toEqual([3, 5]);
  expect(await list({ filter: { policyId, severity: CRITICAL, resolved: false } })).toEqual([5]);
  expect(await list({ filter: { policyId, resolved: true } })).toEqual([3]);
  expect(await list({ filter: { violator: party } })).toEqual([3, 0]);
  expect(await list({ filter: { violator: party, resolved: false } })).toEqual([0]);
  expect(await list({ filter: { severity: LOW }, orderBy: "occurred_at" })).toEqual([0, 1, 2]);
  const from = timestampFromDate(new Date(Date.UTC(2020, 0, 2)));
  const before = timestampFromDate(new Date(Date.UTC(2020, 0, 4)));
  expect(await list({ filter: { occurredFrom: from, occurredBefore: before } })).toEqual([2, 1]);
});

test(
  "counters are those of a model, whatever comes at once",
  async () => {
    const step = fc.constantFrom("apply" as const, "violate" as const, "change" as const);
    await fc.assert(
      fc.asyncProperty(
        fc.array(step, { minLength: 1, maxLength: 12 }),
        begunIn(6000, async (steps) => {
          const { policies, overHttp } = service;
          const { policyId } = await newPolicy(policies);
          const perform = {
            apply: async (index: number) =>
              (index % 2 === 0 ? policies : overHttp).recordPolicyApplication({ policyId }),
            violate: async () => record(policyId),
            change: async (index: number) =>
              policies.updateTrustPolicy({ trustPolicy: { policyId, description: `${index}` } }),
          };
          await Promise.all(steps.map(async (name, index) => perform[name](index)));
          const count = (name: string) => BigInt(steps.filter((one) => one === name).length);
          const expected = { applicationsCount: count("apply"), violationsCount: count("violate") };
          const found = await policy(policyId);
          // Neither is a change of the policy.
          expect(found).toMatchObject({ ...expected, version: 1n + count("change") });
          expect(found?.lastApplied === undefined).toBe(expected.applicationsCount === 0n);
          // The same of whatever version is read.
          const { trustPolicies } = await policies.listTrustPolicyVersions({ policyId });
          for (const version of trustPolicies) expect(version).toMatchObject(expected);
          const { statistics } = await policies.getTrustPolicyStatistics({ policyId });
          expect(statistics).toMatchObject({
            ...expected,
            day: { applications: expected.applicationsCount, violations: expected.violationsCount },
          });
        }),
      ),
      runs({ numRuns: 25 }),
    );
  },
  within(),
);

const hour = 3_600_000;
const thisHour = () => Math.floor(Date.now() / hour) * hour;

test("statistics tell what is in their windows, with rates and times", async () => {
  expect.hasAssertions();
  for (;;) {
    const start = thisHour();
    try {
      return await expectStatistics(start);
    } catch (error) {
      // Where the hour has turned meanwhile, the windows have moved.
      if (start === thisHour()) throw error;
    }
  }
});

async function expectStatistics(start: number): Promise<void> {
  const { policies, db } = service;
  const { policyId } = await newPolicy(policies);
  const durations: (Parameters<typeof create<typeof DurationSchema>>[1] | undefined)[] = [
    undefined,
    { nanos: 500_000 },
    { seconds: 2n, nanos: 500_000 },
  ];
  for (const evaluationTime of durations) {
    await policies.recordPolicyApplication({ policyId, ...(evaluationTime && { evaluationTime }) });
  }
  // Moves the hour of these back, one after the other, and applies once more.
  const activity = db.collection("trust_policy_activity");
  const hours = async () =>
    (await activity.findOne({ policy_id: policyId }))?.["hours"] as { start_time: Date; applications: bigint }[];
  expect(await hours()).toMatchObject([{ start_time: new Date(start), applications: 3n }]);
  const moved = [24, 167, 168, 169].map((back) => ({
    ...nothing,
    start_time: new Date(start - back * hour),
    applications: 10n,
  }));
  await activity.updateOne({ policy_id: policyId }, { $push: { hours: { $each: moved } } as never });
  await policies.recordPolicyApplication({ policyId });
  // What no window sees any longer is let go.
  expect((await hours()).map(({ start_time }) => (start - start_time.getTime()) / hour)).toEqual([24, 167, 168, 0]);

  for (const back of [0, 23, 24, 167, 168]) {
    const detectedAt = timestampFromDate(new Date(start - back * hour));
    const { violationId } = await record(policyId, {
      detectedAt,
      severity: back === 0 ? ViolationSeverity.HIGH : ViolationSeverity.LOW,
    });
    if (back === 23) await policies.resolvePolicyViolation({ violationId });
  }
  const { statistics } = await policies.getTrustPolicyStatistics({ policyId });
  expect(statistics).toMatchObject({
    applicationsCount: 4n,
    violationsCount: 5n,
    unresolvedViolationsCount: 4n,
    day: {
      startTime: timestampFromDate(new Date(start - 23 * hour)),
      ...{ applications: 4n, applicationsPerHour: 4 / 24, violations: 2n, resolvedViolations: 1n, violationRate: 0.5 },
      violationsBySeverity: { HIGH: 1n, LOW: 1n },
      ...{
        evaluations: 2n,
        meanEvaluationTime: { seconds: 1n, nanos: 500_000 },
        maxEvaluationTime: { seconds: 2n, nanos: 500_000 },
      },
    },
    week: { applications: 24n, violations: 4n, violationsBySeverity: { HIGH: 1n, LOW: 3n }, evaluations: 2n },
  });
  const all = (await service.overHttp.getTrustPolicyStatistics({})).statistics;
  expect(all?.week?.applications).toBeGreaterThanOrEqual(24n);
  expect(all?.violationsCount).toBe(BigInt(await db.collection("policy_violations").countDocuments()));
  const other = await newPolicy(policies);
  const none = (await policies.getTrustPolicyStatistics({ policyId: other.policyId })).statistics;
  expect(none).toMatchObject({ applicationsCount: 0n, day: { applications: 0n, violationRate: 0, evaluations: 0n } });
  expect(none?.day?.meanEvaluationTime).toBeUndefined();
}

const nothing = { evaluations: 0n, evaluation_ms: 0, max_evaluation_ms: 0 };
