import { afterAll, beforeAll, expect, test } from "vitest";

import { type TrustPolicy, TrustPolicyStatus, TrustPolicyType } from "../../gen/lucid/repository/v1/trust_policy_pb.ts";
import { TrustPolicyService } from "../../gen/lucid/repository/v1/trust_policy_service_pb.ts";
import { missing, type PolicyCall, violationRefusals } from "./policy-violation-refusals.ts";
import { bad, deep, long, megabyte, noToken, nothing, type Refusal, stale, unknown, untried } from "./refusals.ts";
import { refusalOf } from "./support.ts";
import {
  newPolicy,
  type Policies,
  policiesApp,
  type PoliciesApp,
  type PolicyInit,
  policyInit,
  type RuleInit,
  ruleInit,
} from "./trust-policy-support.ts";
import { relationshipRefusals } from "./trust-relationship-refusals.ts";

/** A policy that is refused for one of its fields, when it is created and when it is updated. */
function refusedPolicy(name: string, init: PolicyInit, ...fields: string[]): Refusal<PolicyCall>[] {
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

const subject = { type: "user", id: "u1" };

function refusedSubject(name: string, init: object, field: string): Refusal<PolicyCall>[] {
  const evaluate: PolicyCall = (policies) => policies.evaluateTrustPolicies({ subject: { ...subject, ...init } });
  return [[`evaluateTrustPolicies: ${name}`, evaluate, bad(`subject.${field}`)]];
}

const manyRules = Array.from({ length: 101 }, (_, index) => ruleInit(`r${index}`, "true"));
const manyTags = Array.from({ length: 51 }, (_, index) => `t${index}`);

/** What each rpc refuses. `made` is a live policy. */
const refusals: readonly Refusal<PolicyCall>[] = [
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
  ...refusedPolicy("unknown type", { policyType: unknown }, "policy_type"),
  ...refusedPolicy("unknown trust", { trustLevel: unknown }, "trust_level"),
  ...refusedPolicy("long description", { description: "x".repeat(1001) }, "description"),
  ...refusedPolicy("unknown enforcement", { enforcementLevel: unknown }, "enforcement_level"),
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
    (policies) => policies.getTrustPolicy({ policyId: nothing }),
    { ...missing, metadata: { policy_id: nothing } },
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
    (policies) => policies.getTrustPolicyAsOf({ policyId: nothing, asOfTime: { seconds: 1n } }),
    missing,
  ],
  [
    "getTrustPolicyAsOf: before it was",
    (policies, { policyId }) => policies.getTrustPolicyAsOf({ policyId, asOfTime: { seconds: 1n } }),
    missing,
  ],
  ["listTrustPolicyVersions: no id", (policies) => policies.listTrustPolicyVersions({}), bad("policy_id")],
  ["listTrustPolicyVersions: nobody", (policies) => policies.listTrustPolicyVersions({ policyId: nothing }), missing],
  [
    "listTrustPolicyVersions: negative size",
    (policies, { policyId }) => policies.listTrustPolicyVersions({ policyId, pageSize: -1 }),
    bad("page_size"),
  ],
  [
    "listTrustPolicyVersions: made-up token",
    (policies, { policyId }) => policies.listTrustPolicyVersions({ policyId, pageToken: "abc" }),
    noToken,
  ],
  ["listTrustPolicies: negative size", (policies) => policies.listTrustPolicies({ pageSize: -1 }), bad("page_size")],
  ["listTrustPolicies: made-up token", (policies) => policies.listTrustPolicies({ pageToken: "abc" }), noToken],
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
    (policies) => policies.listTrustPolicies({ filter: { policyType: unknown } }),
    bad("filter.policy_type"),
  ],
  [
    "listTrustPolicies: unknown status",
    (policies) => policies.listTrustPolicies({ filter: { status: unknown } }),
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
    (policies) => policies.updateTrustPolicy({ trustPolicy: { policyId: nothing, policyName: "x" } }),
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
    (policies, { policyId }) => policies.setTrustPolicyStatus({ policyId, status: unknown }),
    bad("status"),
  ],
  [
    "setTrustPolicyStatus: nobody",
    (policies) => policies.setTrustPolicyStatus({ policyId: nothing, status: TrustPolicyStatus.ACTIVE }),
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
  ["deleteTrustPolicy: nobody", (policies) => policies.deleteTrustPolicy({ policyId: nothing }), missing],
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
  ["undeleteTrustPolicy: nobody", (policies) => policies.undeleteTrustPolicy({ policyId: nothing }), missing],
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
    (policies) => policies.evaluateTrustPolicies({ subject, policyType: unknown }),
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
    (policies) => policies.evaluateTrustPolicies({ subject, policyId: nothing }),
    missing,
  ],
  [
    "evaluateTrustPolicies: nobody then",
    (policies, { policyId }) => policies.evaluateTrustPolicies({ subject, policyId, asOfTime: { seconds: 1n } }),
    missing,
  ],
  ["recordPolicyApplication: no id", (policies) => policies.recordPolicyApplication({}), bad("policy_id")],
  ["recordPolicyApplication: nobody", (policies) => policies.recordPolicyApplication({ policyId: nothing }), missing],
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
  ["getTrustPolicyStatistics: nobody", (policies) => policies.getTrustPolicyStatistics({ policyId: nothing }), missing],
  ...violationRefusals,
  ...relationshipRefusals,
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
  expect(untried(TrustPolicyService, refusals)).toEqual([]);
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
