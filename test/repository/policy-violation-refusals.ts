import type { TrustPolicy } from "../../gen/lucid/repository/v1/trust_policy_pb.ts";
import { bad, deep, long, megabyte, noToken, nothing, type Refusal, unknown } from "./refusals.ts";
import { type Policies, violationInit } from "./trust-policy-support.ts";

/** `made` is a live policy. */
export type PolicyCall = (policies: Policies, made: TrustPolicy) => Promise<unknown>;

export const missing = { code: "NotFound", reason: "TRUST_POLICY_NOT_FOUND" };
const noViolation = { code: "NotFound", reason: "POLICY_VIOLATION_NOT_FOUND" };

function refusedViolation(name: string, init: Parameters<typeof violationInit>[1], field: string): Refusal<PolicyCall> {
  const record: PolicyCall = (policies, { policyId }) =>
    policies.recordPolicyViolation({ policyViolation: violationInit(policyId, init) });
  return [`recordPolicyViolation: ${name}`, record, bad(`policy_violation.${field}`)];
}

/** What the rpcs about violations refuse. */
export const violationRefusals: readonly Refusal<PolicyCall>[] = [
  ["recordPolicyViolation: nothing", (policies) => policies.recordPolicyViolation({}), bad("policy_violation")],
  [
    "recordPolicyViolation: request_id",
    (policies, { policyId }) =>
      policies.recordPolicyViolation({ policyViolation: violationInit(policyId), requestId: "1" }),
    bad("request_id"),
  ],
  [
    "recordPolicyViolation: nobody",
    (policies) => policies.recordPolicyViolation({ policyViolation: violationInit(nothing) }),
    missing,
  ],
  refusedViolation("no policy", { policyId: "" }, "policy_id"),
  refusedViolation("long policy", { policyId: long }, "policy_id"),
  refusedViolation("violator without type", { violator: { id: "a" } }, "violator.type"),
  refusedViolation("violator without id", { violator: { type: "user" } }, "violator.id"),
  refusedViolation("no type", { violationType: "" }, "violation_type"),
  refusedViolation("a type with a dollar", { violationType: "$type" }, "violation_type"),
  refusedViolation("no severity", { severity: 0 }, "severity"),
  refusedViolation("unknown severity", { severity: unknown }, "severity"),
  refusedViolation("no description", { description: "" }, "description"),
  refusedViolation("long description", { description: "x".repeat(1001) }, "description"),
  refusedViolation("no rule", { violatedRuleId: "" }, "violated_rule_id"),
  refusedViolation("no action", { actionTaken: " " }, "action_taken"),
  refusedViolation("a megabyte of data", { violationData: { a: megabyte } }, "violation_data"),
  refusedViolation("deep metadata", { metadata: deep(31) }, "metadata"),
  refusedViolation(
    "seen before it happened",
    { occurredAt: { seconds: 2n }, detectedAt: { seconds: 1n } },
    "detected_at",
  ),
  ["getPolicyViolation: no id", (policies) => policies.getPolicyViolation({}), bad("violation_id")],
  ["getPolicyViolation: nobody", (policies) => policies.getPolicyViolation({ violationId: nothing }), noViolation],
  [
    "listPolicyViolations: negative size",
    (policies) => policies.listPolicyViolations({ pageSize: -1 }),
    bad("page_size"),
  ],
  ["listPolicyViolations: made-up token", (policies) => policies.listPolicyViolations({ pageToken: "abc" }), noToken],
  [
    "listPolicyViolations: another order",
    (policies) => policies.listPolicyViolations({ orderBy: "severity" }),
    bad("order_by"),
  ],
  [
    "listPolicyViolations: party and severity",
    (policies) => policies.listPolicyViolations({ filter: { violator: { type: "user", id: "a" }, severity: 1 } }),
    bad("order_by"),
  ],
  [
    "listPolicyViolations: unknown severity",
    (policies) => policies.listPolicyViolations({ filter: { severity: unknown } }),
    bad("filter.severity"),
  ],
  [
    "listPolicyViolations: half a party",
    (policies) => policies.listPolicyViolations({ filter: { violator: { type: "user" } } }),
    bad("filter.violator.id"),
  ],
  [
    "listPolicyViolations: long policy",
    (policies) => policies.listPolicyViolations({ filter: { policyId: long } }),
    bad("filter.policy_id"),
  ],
  ["resolvePolicyViolation: no id", (policies) => policies.resolvePolicyViolation({}), bad("violation_id")],
  [
    "resolvePolicyViolation: nobody",
    (policies) => policies.resolvePolicyViolation({ violationId: nothing }),
    noViolation,
  ],
  [
    "resolvePolicyViolation: long notes",
    (policies) => policies.resolvePolicyViolation({ violationId: nothing, resolutionNotes: "x".repeat(2001) }),
    bad("resolution_notes"),
  ],
  [
    "resolvePolicyViolation: no action",
    (policies) => policies.resolvePolicyViolation({ violationId: nothing, actionTaken: "" }),
    bad("action_taken"),
  ],
];
