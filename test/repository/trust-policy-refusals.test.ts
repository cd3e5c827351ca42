import type { JsonObject } from "@bufbuild/protobuf";
import { afterAll, beforeAll, expect, test } from "vitest";

import { type TrustPolicy, TrustPolicyStatus, TrustPolicyType } from "../../gen/lucid/repository/v1/trust_policy_pb.ts";
import { TrustPolicyService } from "../../gen/lucid/repository/v1/trust_policy_service_pb.ts";
import { refusalOf } from "./support.ts";
import {
  newPolicy,
  type Policies,
  policiesApp,
  type PoliciesApp,
  type PolicyInit,
  policyInit,
  relationshipInit,
  type RuleInit,
  ruleInit,
  violationInit,
} from "./trust-policy-support.ts";

const nobody = "00000000-0000-7000-8000-000000000000";
const long = "x".repeat(129);
const megabyte = "x".repeat(1_000_000);
const missing = { code: "NotFound", reason: "TRUST_POLICY_NOT_FOUND" };
const stale = { code: "Aborted", reason: "ETAG_MISMATCH" };
const badToken = { code: "InvalidArgument", reason: "PAGE_TOKEN_INVALID", fields: ["page_token"] };

function bad(...fields: string[]) {
  return { code: "InvalidArgument", reason: "BAD_REQUEST", fields };
}

type Call = (policies: Policies, made: TrustPolicy) => Promise<unknown>;

/** A policy that is refused for one of its fields, when it is created and when it is updated. */
function refusedPolicy(name: string, init: PolicyInit, ...fields: string[]): [string, Call, object][] {
  const expected = bad(...fields.map((field) => `trust_policy.${field}`));
  return [
    [
      `createTrustPolicy: ${name}`,
      (policies) => policies.createTrustPolicy({ trustPolicy: policyInit(init) }),
      expected,
    ],
    [
      `updateTrustPolicy: ${name}`,
      (policies, { policyId }) => policies.updateTrustPolicy({ trustPolicy: { ...init, policyId } }),
      expected,
    ],
  ];
}

function refusedRule(name: string, init: RuleInit, field: string) {
  return refusedPolicy(name, { rules: [ruleInit("a", "true"), ruleInit("b", "true", init)] }, `rules[1].${field}`);
}

function deep(levels: number): JsonObject {
  return JSON.parse(`${'{"a":'.repeat(levels)}1${"}".repeat(levels)}`) as JsonObject;
}

const subject = { type: "user", id: "u1" };

function refusedSubject(name: string, init: object, field: string): [string, Call, object][] {
  const evaluate: Call = (policies) => policies.evaluateTrustPolicies({ subject: { ...subject, ...init } });
  return [[`evaluateTrustPolicies: ${name}`, evaluate, bad(`subject.${field}`)]];
}

function refusedViolation(
  name: string,
  init: Parameters<typeof violationInit>[1],
  field: string,
): [string, Call, object] {
  const record: Call = (policies, { policyId }) =>
    policies.recordPolicyViolation({ policyViolation: violationInit(policyId, init) });
  return [`recordPolicyViolation: ${name}`, record, bad(`policy_violation.${field}`)];
}

function refusedRelationship(
  name: string,
  init: Parameters<typeof relationshipInit>[0],
  field: string,
): [string, Call, object] {
  const establish: Call = (policies) =>
    policies.establishTrustRelationship({ trustRelationship: relationshipInit(init) });
  return [`establishTrustRelationship: ${name}`, establish, bad(`trust_relationship.${field}`)];
}

const noViolation = { code: "NotFound", reason: "POLICY_VIOLATION_NOT_FOUND" };
const noRelationship = { code: "NotFound", reason: "TRUST_RELATIONSHIP_NOT_FOUND" };
const manyRules = Array.from({ length: 101 }, (_, index) => ruleInit(`r${index}`, "true"));
const manyTags = Array.from({ length: 51 }, (_, index) => `t${index}`);

/** What each rpc refuses. `made` is a live policy. */
const refusals: readonly [string, Call, object][] = [
  ["createTrustPolicy: nothing", (policies) => policies.createTrustPolicy({}), bad("trust_policy")],
  [
    "createTrustPolicy: nothing in it",
    (policies) => policies.createTrustPolicy({ trustPolicy: {} }),
    bad(...["policy_name", "policy_type", "trust_level", "owner_id"].map((name) => `trust_policy.${name}`)),
  ],
  [
    "createTrustPolicy: request_id",
    (policies) => policies.createTrustPolicy({ trustPolicy: policyInit(), requestId: "1" }),
    bad("request_id"),
  ],
  ...refusedPolicy("long name", { policyName: "x".repeat(201) }, "policy_name"),
  ...refusedPolicy("a megabyte of name", { policyName: megabyte }, "policy_name"),
  ...refusedPolicy("unknown type", { policyType: 99 as never }, "policy_type"),
  ...refusedPolicy("unknown trust", { trustLevel: 99 as never }, "trust_level"),
  ...refusedPolicy("long description", { description: "x".repeat(1001) }, "description"),
  ...refusedPolicy("unknown enforcement", { enforcementLevel: 99 as never }, "enforcement_level"),
  ...refusedPolicy("long owner", { ownerId: long }, "owner_id"),
  ...refusedPolicy(
    "ends before it begins",
    { effectiveFrom: { seconds: 2n }, effectiveUntil: { seconds: 1n } },
    "effective_until",
  ),
  ...refusedPolicy("many tags", { tags: manyTags }, "tags"),
  ...refusedPolicy("a tag twice", { tags: ["a", "a"] }, "tags"),
  ...refusedPolicy("a tag with a dollar", { tags: ["$where"] }, "tags[0]"),
  ...refusedPolicy("null character in scope", { scope: { "a\0": 1 } }, "scope"),
  ...refusedPolicy("null character in parameters", { parameters: { "a\0": 1 } }, "parameters"),
  ...refusedPolicy("deep metadata", { metadata: deep(31) }, "metadata"),
  ...refusedPolicy("a megabyte of metadata", { metadata: { a: megabyte } }, "metadata"),
  ...refusedPolicy("a megabyte of scope", { scope: { a: megabyte } }, "scope"),
  ...refusedPolicy("a megabyte of parameters", { parameters: { a: megabyte } }, "parameters"),
  ...refusedPolicy("many rules", { rules: manyRules }, "rules"),
  ...refusedPolicy("a rule twice", { rules: [ruleInit("a", "true"), ruleInit("a", "false")] }, "rules"),
  ...refusedRule("a rule without id", { ruleId: "" }, "rule_id"),
  ...refusedRule("a rule with a dollar", { ruleId: "$a" }, "rule_id"),
  ...refusedRule("a rule of no type", { ruleType: "" }, "rule_type"),
  ...refusedRule("a rule without action", { action: "" }, "action"),
  ...refusedRule("an action with a line feed", { action: "deny\n" }, "action"),
  ...refusedRule("high priority", { priority: 1001 }, "priority"),
  ...refusedRule("low priority", { priority: -1001 }, "priority"),
  ...refusedRule("an empty condition", { condition: {} }, "condition.expression"),
  ...refusedRule("a long condition", { condition: { expression: `true${" ".repeat(2045)}` } }, "condition.expression"),
  ...refusedRule("a megabyte of condition", { condition: { expression: megabyte } }, "condition.expression"),
  ...refusedRule("a condition that is no CEL", { condition: { expression: "a ===" } }, "condition"),
  ...refusedRule("a condition about nothing", { condition: { expression: "score > 1" } }, "condition"),
  ...refusedRule("a condition that is no question", { condition: { expression: "1 + 1" } }, "condition"),
  ...refusedRule("a condition of wrong types", { condition: { expression: "subject.id > 1" } }, "condition"),
  ...refusedRule("a function that is none", { condition: { expression: "subject.id.eval()" } }, "condition"),
  ...refusedRule("a pattern that is none", { condition: { expression: "subject.id.matches('(')" } }, "condition"),
  ...refusedRule(
    "a deep condition",
    { condition: { expression: `${"(".repeat(1000)}true${")".repeat(1000)}` } },
    "condition",
  ),
  [
    "createTrustPolicy: two conditions",
    (policies) =>
      policies.createTrustPolicy({
        trustPolicy: policyInit({ rules: [ruleInit("a", "x"), ruleInit("b", "true"), ruleInit("c", "y")] }),
      }),
    bad("trust_policy.rules[0].condition", "trust_policy.rules[2].condition"),
  ],
  [
    "createTrustPolicy: a rule without condition",
    (policies) =>
      policies.createTrustPolicy({ trustPolicy: policyInit({ rules: [{ ruleId: "a", ruleType: "b", action: "c" }] }) }),
    bad("trust_policy.rules[0].condition"),
  ],
  ["getTrustPolicy: no id", (policies) => policies.getTrustPolicy({}), bad("policy_id")],
  ["getTrustPolicy: long id", (policies) => policies.getTrustPolicy({ policyId: long }), bad("policy_id")],
  [
    "getTrustPolicy: version 0",
    (policies, { policyId }) => policies.getTrustPolicy({ policyId, version: 0n }),
    bad("version"),
  ],
  [
    "getTrustPolicy: nobody",
    (policies) => policies.getTrustPolicy({ policyId: nobody }),
    { ...missing, metadata: { policy_id: nobody } },
  ],
  ["getTrustPolicy: an operator as id", (policies) => policies.getTrustPolicy({ policyId: '{"$ne":null}' }), missing],
  [
    "getTrustPolicy: a version that never was",
    (policies, { policyId }) => policies.getTrustPolicy({ policyId, version: 2n ** 62n }),
    { code: "NotFound", reason: "TRUST_POLICY_VERSION_NOT_FOUND" },
  ],
  ["getTrustPolicyAsOf: nothing", (policies) => policies.getTrustPolicyAsOf({}), bad("policy_id", "as_of_time")],
  [
    "getTrustPolicyAsOf: nobody",
    (policies) => policies.getTrustPolicyAsOf({ policyId: nobody, asOfTime: { seconds: 1n } }),
    missing,
  ],
  [
    "getTrustPolicyAsOf: before it was",
    (policies, { policyId }) => policies.getTrustPolicyAsOf({ policyId, asOfTime: { seconds: 1n } }),
    missing,
  ],
  ["listTrustPolicyVersions: no id", (policies) => policies.listTrustPolicyVersions({}), bad("policy_id")],
  ["listTrustPolicyVersions: nobody", (policies) => policies.listTrustPolicyVersions({ policyId: nobody }), missing],
  [
    "listTrustPolicyVersions: negative size",
    (policies, { policyId }) => policies.listTrustPolicyVersions({ policyId, pageSize: -1 }),
    bad("page_size"),
  ],
  [
    "listTrustPolicyVersions: made-up token",
    (policies, { policyId }) => policies.listTrustPolicyVersions({ policyId, pageToken: "abc" }),
    badToken,
  ],
  ["listTrustPolicies: negative size", (policies) => policies.listTrustPolicies({ pageSize: -1 }), bad("page_size")],
  ["listTrustPolicies: made-up token", (policies) => policies.listTrustPolicies({ pageToken: "abc" }), badToken],
  [
    "listTrustPolicies: another order",
    (policies) => policies.listTrustPolicies({ orderBy: "version" }),
    bad("order_by"),
  ],
  [
    "listTrustPolicies: by tags, of which a policy has many",
    (policies) => policies.listTrustPolicies({ orderBy: "tags, created_at" }),
    bad("order_by"),
  ],
  [
    "listTrustPolicies: owner and tag",
    (policies) => policies.listTrustPolicies({ filter: { ownerId: "a", tag: "b" } }),
    bad("order_by"),
  ],
  [
    "listTrustPolicies: unknown type",
    (policies) => policies.listTrustPolicies({ filter: { policyType: 99 as never } }),
    bad("filter.policy_type"),
  ],
  [
    "listTrustPolicies: unknown status",
    (policies) => policies.listTrustPolicies({ filter: { status: 99 as never } }),
    bad("filter.status"),
  ],
  [
    "listTrustPolicies: long owner",
    (policies) => policies.listTrustPolicies({ filter: { ownerId: long } }),
    bad("filter.owner_id"),
  ],
  [
    "listTrustPolicies: long tag",
    (policies) => policies.listTrustPolicies({ filter: { tag: long } }),
    bad("filter.tag"),
  ],
  ["updateTrustPolicy: nothing", (policies) => policies.updateTrustPolicy({}), bad("trust_policy")],
  [
    "updateTrustPolicy: no id",
    (policies) => policies.updateTrustPolicy({ trustPolicy: { policyName: "x" } }),
    bad("trust_policy"),
  ],
  [
    "updateTrustPolicy: nobody",
    (policies) => policies.updateTrustPolicy({ trustPolicy: { policyId: nobody, policyName: "x" } }),
    missing,
  ],
  [
    "updateTrustPolicy: cleared name",
    (policies, { policyId }) => update(policies, policyId, "policy_name"),
    bad("trust_policy.policy_name"),
  ],
  [
    "updateTrustPolicy: cleared type",
    (policies, { policyId }) => update(policies, policyId, "policy_type"),
    bad("trust_policy.policy_type"),
  ],
  [
    "updateTrustPolicy: unknown field",
    (policies, { policyId }) => update(policies, policyId, "$set"),
    bad("update_mask"),
  ],
  [
    "updateTrustPolicy: below a rule",
    (policies, { policyId }) => update(policies, policyId, "rules.action"),
    bad("update_mask"),
  ],
  [
    "updateTrustPolicy: stale etag",
    (policies, { policyId }) =>
      policies.updateTrustPolicy({ trustPolicy: { policyId, policyName: "x" }, etag: '"99"' }),
    stale,
  ],
  ["setTrustPolicyStatus: nothing", (policies) => policies.setTrustPolicyStatus({}), bad("policy_id", "status")],
  [
    "setTrustPolicyStatus: unknown status",
    (policies, { policyId }) => policies.setTrustPolicyStatus({ policyId, status: 99 as never }),
    bad("status"),
  ],
  [
    "setTrustPolicyStatus: nobody",
    (policies) => policies.setTrustPolicyStatus({ policyId: nobody, status: TrustPolicyStatus.ACTIVE }),
    missing,
  ],
  [
    "setTrustPolicyStatus: illegal step",
    (policies, { policyId }) => policies.setTrustPolicyStatus({ policyId, status: TrustPolicyStatus.SUSPENDED }),
    { code: "FailedPrecondition", reason: "ILLEGAL_TRANSITION", metadata: { from: "DRAFT", to: "SUSPENDED" } },
  ],
  [
    "setTrustPolicyStatus: stale etag",
    (policies, { policyId }) =>
      policies.setTrustPolicyStatus({ policyId, status: TrustPolicyStatus.ACTIVE, etag: '"99"' }),
    stale,
  ],
  ["deleteTrustPolicy: no id", (policies) => policies.deleteTrustPolicy({}), bad("policy_id")],
  ["deleteTrustPolicy: nobody", (policies) => policies.deleteTrustPolicy({ policyId: nobody }), missing],
  [
    "deleteTrustPolicy: stale etag",
    (policies, { policyId }) => policies.deleteTrustPolicy({ policyId, etag: '"99"' }),
    stale,
  ],
  [
    "deleteTrustPolicy: long etag",
    (policies, { policyId }) => policies.deleteTrustPolicy({ policyId, etag: long }),
    bad("etag"),
  ],
  ["undeleteTrustPolicy: no id", (policies) => policies.undeleteTrustPolicy({}), bad("policy_id")],
  ["undeleteTrustPolicy: nobody", (policies) => policies.undeleteTrustPolicy({ policyId: nobody }), missing],
  [
    "undeleteTrustPolicy: not deleted",
    (policies, { policyId }) => policies.undeleteTrustPolicy({ policyId }),
    { code: "FailedPrecondition", reason: "TRUST_POLICY_NOT_DELETED" },
  ],
  ["evaluateTrustPolicies: nothing", (policies) => policies.evaluateTrustPolicies({}), bad("subject")],
  ...refusedSubject("no type", { type: "" }, "type"),
  ...refusedSubject("a type with a dollar", { type: "$user" }, "type"),
  ...refusedSubject("no id", { id: "" }, "id"),
  ...refusedSubject("long id", { id: long }, "id"),
  ...refusedSubject("null character in its id", { id: "a\0" }, "id"),
  ...refusedSubject("null character in an attribute", { attributes: { "a\0": 1 } }, "attributes"),
  ...refusedSubject("deep attributes", { attributes: deep(31) }, "attributes"),
  ...refusedSubject("a megabyte of attributes", { attributes: { a: megabyte } }, "attributes"),
  [
    "evaluateTrustPolicies: long policy",
    (policies) => policies.evaluateTrustPolicies({ subject, policyId: long }),
    bad("policy_id"),
  ],
  [
    "evaluateTrustPolicies: unknown type of policy",
    (policies) => policies.evaluateTrustPolicies({ subject, policyType: 99 as never }),
    bad("policy_type"),
  ],
  [
    "evaluateTrustPolicies: one and all",
    (policies, { policyId }) =>
      policies.evaluateTrustPolicies({ subject, policyId, policyType: TrustPolicyType.USER_TRUST }),
    { code: "InvalidArgument", reason: "BAD_REQUEST" },
  ],
  [
    "evaluateTrustPolicies: nobody",
    (policies) => policies.evaluateTrustPolicies({ subject, policyId: nobody }),
    missing,
  ],
  [
    "evaluateTrustPolicies: nobody then",
    (policies, { policyId }) => policies.evaluateTrustPolicies({ subject, policyId, asOfTime: { seconds: 1n } }),
    missing,
  ],
  ["recordPolicyApplication: no id", (policies) => policies.recordPolicyApplication({}), bad("policy_id")],
  ["recordPolicyApplication: nobody", (policies) => policies.recordPolicyApplication({ policyId: nobody }), missing],
  [
    "recordPolicyApplication: negative time",
    (policies, { policyId }) => policies.recordPolicyApplication({ policyId, evaluationTime: { seconds: -1n } }),
    bad("evaluation_time"),
  ],
  [
    "recordPolicyApplication: more than an hour",
    (policies, { policyId }) => policies.recordPolicyApplication({ policyId, evaluationTime: { seconds: 3601n } }),
    bad("evaluation_time"),
  ],
  [
    "getTrustPolicyStatistics: long id",
    (policies) => policies.getTrustPolicyStatistics({ policyId: long }),
    bad("policy_id"),
  ],
  ["getTrustPolicyStatistics: nobody", (policies) => policies.getTrustPolicyStatistics({ policyId: nobody }), missing],
  ["recordPolicyViolation: nothing", (policies) => policies.recordPolicyViolation({}), bad("policy_violation")],
  [
    "recordPolicyViolation: request_id",
    (policies, { policyId }) =>
      policies.recordPolicyViolation({ policyViolation: violationInit(policyId), requestId: "1" }),
    bad("request_id"),
  ],
  [
    "recordPolicyViolation: nobody",
    (policies) => policies.recordPolicyViolation({ policyViolation: violationInit(nobody) }),
    missing,
  ],
  refusedViolation("no policy", { policyId: "" }, "policy_id"),
  refusedViolation("long policy", { policyId: long }, "policy_id"),
  refusedViolation("violator without type", { violator: { id: "a" } }, "violator.type"),
  refusedViolation("violator without id", { violator: { type: "user" } }, "violator.id"),
  refusedViolation("no type", { violationType: "" }, "violation_type"),
  refusedViolation("a type with a dollar", { violationType: "$type" }, "violation_type"),
  refusedViolation("no severity", { severity: 0 }, "severity"),
  refusedViolation("unknown severity", { severity: 99 as never }, "severity"),
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
  ["getPolicyViolation: nobody", (policies) => policies.getPolicyViolation({ violationId: nobody }), noViolation],
  [
    "listPolicyViolations: negative size",
    (policies) => policies.listPolicyViolations({ pageSize: -1 }),
    bad("page_size"),
  ],
  ["listPolicyViolations: made-up token", (policies) => policies.listPolicyViolations({ pageToken: "abc" }), badToken],
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
    (policies) => policies.listPolicyViolations({ filter: { severity: 99 as never } }),
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
    (policies) => policies.resolvePolicyViolation({ violationId: nobody }),
    noViolation,
  ],
  [
    "resolvePolicyViolation: long notes",
    (policies) => policies.resolvePolicyViolation({ violationId: nobody, resolutionNotes: "x".repeat(2001) }),
    bad("resolution_notes"),
  ],
  [
    "resolvePolicyViolation: no action",
    (policies) => policies.resolvePolicyViolation({ violationId: nobody, actionTaken: "" }),
    bad("action_taken"),
  ],
  [
    "establishTrustRelationship: nothing",
    (policies) => policies.establishTrustRelationship({}),
    bad("trust_relationship"),
  ],
  [
    "establishTrustRelationship: request_id",
    (policies) => policies.establishTrustRelationship({ trustRelationship: relationshipInit(), requestId: "1" }),
    bad("request_id"),
  ],
  refusedRelationship("subject without id", { subject: { type: "user" } }, "subject.id"),
  refusedRelationship("target without type", { target: { id: "b" } }, "target.type"),
  refusedRelationship("no trust", { trustLevel: 0 }, "trust_level"),
  refusedRelationship("unknown trust", { trustLevel: 99 as never }, "trust_level"),
  refusedRelationship("too high a score", { trustScore: { overall: 100.5 } }, "trust_score.overall"),
  refusedRelationship("no number as score", { trustScore: { overall: Number.NaN } }, "trust_score.overall"),
  refusedRelationship(
    "a dotted component",
    { trustScore: { components: { "a.b": 1 } } },
    'trust_score.components["a.b"]',
  ),
  refusedRelationship(
    "an endless component",
    { trustScore: { components: { a: Infinity } } },
    'trust_score.components["a"]',
  ),
  refusedRelationship(
    "long method",
    { trustScore: { calculationMethod: "x".repeat(101) } },
    "trust_score.calculation_method",
  ),
  refusedRelationship("no type", { relationshipType: "" }, "relationship_type"),
  refusedRelationship("has expired", { expiresAt: { seconds: 1n } }, "expires_at"),
  refusedRelationship("a megabyte of metadata", { metadata: { a: megabyte } }, "metadata"),
  [
    "establishTrustRelationship: with itself",
    (policies) =>
      policies.establishTrustRelationship({
        trustRelationship: relationshipInit({ subject, target: subject }),
      }),
    bad("trust_relationship"),
  ],
  ["getTrustRelationship: no id", (policies) => policies.getTrustRelationship({}), bad("relationship_id")],
  [
    "getTrustRelationship: nobody",
    (policies) => policies.getTrustRelationship({ relationshipId: nobody }),
    noRelationship,
  ],
  [
    "listTrustRelationships: negative size",
    (policies) => policies.listTrustRelationships({ pageSize: -1 }),
    bad("page_size"),
  ],
  [
    "listTrustRelationships: made-up token",
    (policies) => policies.listTrustRelationships({ pageToken: "abc" }),
    badToken,
  ],
  [
    "listTrustRelationships: another order",
    (policies) => policies.listTrustRelationships({ orderBy: "_links" }),
    bad("order_by"),
  ],
  [
    "listTrustRelationships: half a party",
    (policies) => policies.listTrustRelationships({ filter: { from: { id: "a" }, to: { type: "user" } } }),
    bad("filter.from.type", "filter.to.id"),
  ],
  [
    "listTrustRelationships: long type",
    (policies) => policies.listTrustRelationships({ filter: { relationshipType: "x".repeat(65) } }),
    bad("filter.relationship_type"),
  ],
  ["verifyTrustRelationship: no id", (policies) => policies.verifyTrustRelationship({}), bad("relationship_id")],
  [
    "verifyTrustRelationship: nobody",
    (policies) => policies.verifyTrustRelationship({ relationshipId: nobody }),
    noRelationship,
  ],
  [
    "verifyTrustRelationship: negative score",
    (policies) => policies.verifyTrustRelationship({ relationshipId: nobody, trustScore: { overall: -1 } }),
    bad("trust_score.overall"),
  ],
  [
    "verifyTrustRelationship: unknown trust",
    (policies) => policies.verifyTrustRelationship({ relationshipId: nobody, trustLevel: 99 as never }),
    bad("trust_level"),
  ],
  [
    "verifyTrustRelationship: a time that has passed",
    (policies) => policies.verifyTrustRelationship({ relationshipId: nobody, expiresAt: { seconds: 1n } }),
    bad("expires_at"),
  ],
  [
    "verifyTrustRelationship: a time that no calendar has",
    (policies) =>
      policies.verifyTrustRelationship({ relationshipId: nobody, expiresAt: { seconds: 253_402_300_800n } }),
    bad("expires_at"),
  ],
  ["revokeTrustRelationship: no id", (policies) => policies.revokeTrustRelationship({}), bad("relationship_id")],
  [
    "revokeTrustRelationship: nobody",
    (policies) => policies.revokeTrustRelationship({ relationshipId: nobody }),
    noRelationship,
  ],
  [
    "revokeTrustRelationship: long reason",
    (policies) => policies.revokeTrustRelationship({ relationshipId: nobody, reason: "x".repeat(1001) }),
    bad("reason"),
  ],
];

function update(policies: Policies, policyId: string, ...paths: string[]) {
  return policies.updateTrustPolicy({ trustPolicy: { policyId }, updateMask: { paths } });
}

let service: PoliciesApp;
let made: TrustPolicy;
beforeAll(async () => {
  service = await policiesApp();
  made = await newPolicy(service.policies, { rules: [ruleInit("a", "true")] });
});
afterAll(() => service[Symbol.asyncDispose]());

test("every rpc is refused something here", () => {
  const tried = new Set(refusals.map(([name]) => name.split(":", 1)[0]));
  expect(TrustPolicyService.methods.map(({ localName }) => localName).filter((name) => !tried.has(name))).toEqual([]);
});

test.for(refusals)("%s", async ([, call, expected]) => {
  expect(await refusalOf(call(service.policies, made))).toMatchObject(expected);
  expect(await refusalOf(call(service.overHttp, made))).toMatchObject(expected);
});

test("what was refused has changed nothing", async () => {
  expect((await service.policies.getTrustPolicy({ policyId: made.policyId })).trustPolicy).toStrictEqual(made);
  expect((await service.policies.listTrustPolicies({})).trustPolicies).toHaveLength(1);
  expect((await service.policies.listPolicyViolations({})).policyViolations).toEqual([]);
  expect((await service.policies.listTrustRelationships({})).trustRelationships).toEqual([]);
});
