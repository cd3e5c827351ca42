import type { JsonObject } from "@bufbuild/protobuf";
import { type Timestamp, timestampFromDate } from "@bufbuild/protobuf/wkt";
import fc from "fast-check";
import { afterAll, beforeAll, expect, test, vi } from "vitest";

import { EnforcementLevel, TrustPolicyStatus, TrustPolicyType } from "../../gen/lucid/repository/v1/trust_policy_pb.ts";
import {
  type EvaluateTrustPoliciesResponse,
  EvaluationOutcome,
  PolicyApplicability,
  RuleResult,
} from "../../gen/lucid/repository/v1/trust_policy_service_pb.ts";
import { begunIn } from "../support/sequences.ts";
import { refusalOf } from "./support.ts";
import {
  activePolicy,
  newPolicy,
  policiesApp,
  type PoliciesApp,
  type PolicyInit,
  ruleInit,
} from "./trust-policy-support.ts";

let service: PoliciesApp;
beforeAll(async () => {
  service = await policiesApp();
});
afterAll(() => service[Symbol.asyncDispose]());

const { MATCHED, NOT_MATCHED, FAILED } = RuleResult;
const { DECIDED, UNDECIDED, INDETERMINATE } = EvaluationOutcome;
const { STRICT, MODERATE, LENIENT } = EnforcementLevel;

interface Request {
  readonly subject?: { readonly type: string; readonly id: string; readonly attributes: JsonObject };
  readonly policyId?: string;
  readonly policyType?: TrustPolicyType;
  readonly asOfTime?: Timestamp;
}

function evaluate(request: Request, attributes: JsonObject = {}) {
  return service.policies.evaluateTrustPolicies({ subject: { type: "user", id: "u1", attributes }, ...request });
}

function decisionOf({ outcome, action, isEnforced, ruleId }: EvaluateTrustPoliciesResponse) {
  return { outcome, action, isEnforced, ruleId };
}

test("an evaluation tells what follows, which rules matched, and with what values", async () => {
  const { policyId } = await activePolicy(service.policies, {
    parameters: { least: 70, regions: ["eu", "us"] },
    rules: [
      ruleInit("trusted", "subject.attributes.score >= parameters.least", { priority: 10, action: "allow" }),
      ruleInit("banned", "subject.id in ['u1'] && subject.attributes['is banned']", { priority: 20, action: "deny" }),
      ruleInit("known", "has(subject.attributes.name)", { priority: 10, action: "greet" }),
      ruleInit("broken", "subject.attributes.missing > 1", { priority: 30 }),
      ruleInit("off", "true", { priority: 99, enabled: false }),
    ],
  });
  const response = await evaluate({ policyId }, { score: 71.5, "is banned": false });
  expect(response).toMatchObject({
    ...{ outcome: DECIDED, action: "allow", isEnforced: true, policyId, ruleId: "trusted" },
    policies: [{ policyId, version: 2n, enforcementLevel: MODERATE, applicability: PolicyApplicability.APPLIES }],
    rules: [
      {
        ruleId: "broken",
        result: FAILED,
        problem: "field not found: missing",
        values: [{ name: "subject.attributes.missing" }],
      },
      {
        ruleId: "banned",
        result: NOT_MATCHED,
        expression: "subject.id in ['u1'] && subject.attributes['is banned']",
        values: [
          { name: "subject.id", value: { kind: { case: "stringValue", value: "u1" } } },
          { name: 'subject.attributes["is banned"]', value: { kind: { case: "boolValue", value: false } } },
        ],
      },
      { ruleId: "known", result: NOT_MATCHED },
      {
        ruleId: "trusted",
        result: MATCHED,
        action: "allow",
        priority: 10,
        values: [
          { name: "subject.attributes.score", value: { kind: { case: "numberValue", value: 71.5 } } },
          { name: "parameters.least", value: { kind: { case: "numberValue", value: 70 } } },
        ],
      },
    ],
  });
  expect(response.rules[0]?.values[0]).not.toHaveProperty("value");
  const { evaluationTime } = response.policies[0] ?? {};
  expect(Number(evaluationTime?.nanos)).toBeGreaterThan(0);
  // The same over the other listener, but for the times.
  const subject = { type: "user", id: "u1", attributes: { score: 71.5, "is banned": false } };
  const other = await service.overHttp.evaluateTrustPolicies({ subject, policyId });
  expect(other.rules).toStrictEqual(response.rules);
});

test.for([
  [STRICT, { outcome: INDETERMINATE, action: "", isEnforced: true, ruleId: "broken" }],
  [MODERATE, { outcome: DECIDED, action: "do-low", isEnforced: true, ruleId: "low" }],
  [LENIENT, { outcome: DECIDED, action: "do-low", isEnforced: false, ruleId: "low" }],
] as const)("what follows where a rule of level %i cannot be evaluated", async ([enforcementLevel, expected]) => {
  const { policyId } = await activePolicy(service.policies, {
    enforcementLevel,
    rules: [
      ruleInit("broken", "subject.attributes.missing == 1", { priority: 1 }),
      ruleInit("low", "true", { priority: 0 }),
      ruleInit("high", "subject.attributes.high", { priority: 2 }),
    ],
  });
  expect(decisionOf(await evaluate({ policyId }, { high: false }))).toEqual(expected);
  // What comes before it decides as ever.
  expect(decisionOf(await evaluate({ policyId }, { high: true }))).toMatchObject({ outcome: DECIDED, ruleId: "high" });
});

test("a policy that does not apply says why, and decides nothing", async () => {
  const rules = [ruleInit("a", "true")];
  const cases: [PolicyInit & { $typeName?: never }, JsonObject, string, PolicyApplicability][] = [
    [{}, {}, "user", PolicyApplicability.APPLIES],
    [{ appliesToNodes: true }, {}, "user", PolicyApplicability.OTHER_SUBJECT],
    [{ appliesToNodes: true, appliesToUsers: true }, {}, "user", PolicyApplicability.APPLIES],
    [{ appliesToSessions: true }, {}, "content", PolicyApplicability.OTHER_SUBJECT],
    [{}, {}, "content", PolicyApplicability.APPLIES],
    [{ scope: { region: "eu" } }, { region: "us" }, "user", PolicyApplicability.OUT_OF_SCOPE],
    [{ scope: { region: "eu" } }, {}, "user", PolicyApplicability.OUT_OF_SCOPE],
    [{ scope: { region: ["eu", "us"] } }, { region: "us" }, "user", PolicyApplicability.APPLIES],
    [
      { scope: { region: "eu", tier: { a: 1 } } },
      { region: "eu", tier: { a: 1 } },
      "user",
      PolicyApplicability.APPLIES,
    ],
    [{ scope: { toString: 1 } }, {}, "user", PolicyApplicability.OUT_OF_SCOPE],
    [
      { effectiveFrom: timestampFromDate(new Date(Date.now() + 60_000)) },
      {},
      "user",
      PolicyApplicability.NOT_EFFECTIVE,
    ],
    [{ effectiveUntil: timestampFromDate(new Date(Date.now() - 1)) }, {}, "user", PolicyApplicability.NOT_EFFECTIVE],
  ];
  await Promise.all(
    cases.map(async ([init, attributes, type, expected]) => {
      const { policyId } = await activePolicy(service.policies, { rules, ...init });
      const response = await evaluate({ policyId, subject: { type, id: "x", attributes } });
      expect([init, response.policies[0]?.applicability]).toEqual([init, expected]);
      const applies = expected === PolicyApplicability.APPLIES;
      expect(decisionOf(response)).toMatchObject({
        outcome: applies ? DECIDED : UNDECIDED,
        ruleId: applies ? "a" : "",
      });
      expect(response.rules).toHaveLength(applies ? 1 : 0);
    }),
  );
  const draft = await newPolicy(service.policies, { rules });
  const response = await evaluate({ policyId: draft.policyId });
  expect(response.policies[0]?.applicability).toBe(PolicyApplicability.NOT_ACTIVE);
});

test("without a policy all active ones of a type are evaluated together, as they were at a time", async () => {
  const { policies, db } = service;
  const policyType = TrustPolicyType.NETWORK_POLICY;
  const make = async (name: string, priority: number) =>
    activePolicy(policies, {
      policyType,
      rules: [ruleInit(name, "now < timestamp('2999-01-01T00:00:00Z')", { priority })],
    });
  const [one, two, three] = [await make("one", 1), await make("two", 2), await make("three", 3)];
  await newPolicy(policies, { policyType, rules: [ruleInit("draft", "true", { priority: 9 })] });
  const rulesAt = async (asOfTime?: Timestamp) => {
    const response = await evaluate({ policyType, ...(asOfTime && { asOfTime }) });
    expect(response.ruleId).toBe(response.rules[0]?.ruleId ?? "");
    return response.rules.map(({ ruleId }) => ruleId);
  };
  expect(await rulesAt()).toEqual(["three", "two", "one"]);
  // Puts all that was until now an hour back.
  const earlier = new Date(Date.now() - 3_600_000);
  for (const name of ["trust_policies", "trust_policy_versions"]) {
    await db.collection(name).updateMany({}, { $set: { version_time: earlier, created_at: earlier } });
  }
  const then = timestampFromDate(new Date(earlier.getTime() + 1000));
  await policies.updateTrustPolicy({
    trustPolicy: { policyId: one.policyId, rules: [ruleInit("changed", "true", { priority: 7 })] },
  });
  await policies.deleteTrustPolicy({ policyId: two.policyId });
  await policies.setTrustPolicyStatus({ policyId: three.policyId, status: TrustPolicyStatus.SUSPENDED });
  expect(await rulesAt()).toEqual(["changed"]);
  expect(await rulesAt(timestampFromDate(new Date()))).toEqual(["changed"]);
  expect(await rulesAt(then)).toEqual(["three", "two", "one"]);
  expect(await rulesAt(timestampFromDate(new Date(earlier.getTime() - 1)))).toEqual([]);
  // One of them by itself, also where it is gone by now.
  const gone = await evaluate({ policyId: two.policyId, asOfTime: then });
  expect(gone).toMatchObject({ ruleId: "two", asOfTime: then });
  expect(await refusalOf(evaluate({ policyId: two.policyId }))).toMatchObject({ reason: "TRUST_POLICY_NOT_FOUND" });
});

test("hostile attributes break nothing, and large values are not told", async () => {
  const { policyId } = await activePolicy(service.policies, {
    rules: [
      ruleInit("text", "subject.attributes.text.matches('^(a+)+$')"),
      ruleInit("names", "subject.attributes.__proto__ == 'x' && subject.attributes.constructor == 'y'"),
      ruleInit("list", "subject.attributes.list.all(x, subject.attributes.list.all(y, x + y >= 0.0))"),
      ruleInit("sum", "subject.attributes.list.map(x, x + subject.attributes.text).size() > 0"),
    ],
  });
  // As JSON has it, `__proto__` is a name as any other.
  const attributes = JSON.parse(
    JSON.stringify({ text: `${"a".repeat(100_000)}!`, list: Array.from({ length: 900 }, (_, index) => index) }).replace(
      "{",
      '{"__proto__":"x","constructor":"y",',
    ),
  ) as JsonObject;
  const response = await evaluate({ policyId }, attributes);
  expect(Object.fromEntries(response.rules.map(({ ruleId, result, problem }) => [ruleId, [result, problem]]))).toEqual({
    text: [NOT_MATCHED, ""],
    names: [MATCHED, ""],
    list: [FAILED, "takes too many steps"],
    sum: [FAILED, expect.any(String)],
  });
  const [list] = response.rules.find(({ ruleId }) => ruleId === "list")?.values ?? [];
  expect(list).toMatchObject({ name: "subject.attributes.list", isOmitted: true });
});

test("an evaluation that is too large is refused, and one that is long lets others have their turns", async () => {
  const costly = "subject.attributes.list.all(x, subject.attributes.list.all(y, y >= 0))";
  const hundred = Array.from({ length: 100 }, (_, index) => ruleInit(`r${index}`, costly));
  const { policyId } = await activePolicy(service.policies, {
    rules: hundred,
    policyType: TrustPolicyType.SESSION_POLICY,
  });
  const list = Array.from({ length: 1000 }, (_, index) => index);
  const othersAreAnswered = async () => {
    const evaluating = evaluate({ policyId }, { list }).then((response) => ({ response, ended: performance.now() }));
    const answered: number[] = [];
    for (let call = 0; call < 20; call++) {
      await service.policies.getTrustPolicy({ policyId });
      answered.push(performance.now());
    }
    const { response, ended } = await evaluating;
    expect(response.rules.filter(({ problem }) => problem === "takes too many steps")).toHaveLength(100);
    expect(answered.filter((time) => time < ended).length).toBeGreaterThan(0);
  };
  // The others ask MongoDB, which may stall.
  await vi.waitFor(othersAreAnswered, { timeout: 120_000 });

  const policyType = TrustPolicyType.SESSION_POLICY;
  const others = Array.from({ length: 10 }, () => activePolicy(service.policies, { policyType, rules: hundred }));
  await Promise.all(others);
  expect(await refusalOf(evaluate({ policyType }))).toMatchObject({
    code: "FailedPrecondition",
    reason: "TRUST_EVALUATION_TOO_LARGE",
    metadata: { what: "rules", most: "1000" },
  });
});

test("a stored condition that this service would refuse is an error of its rule", async () => {
  const { policyId } = await activePolicy(service.policies, { rules: [ruleInit("a", "true"), ruleInit("b", "true")] });
  await service.db
    .collection("trust_policies")
    .updateOne({ policy_id: policyId }, { $set: { "rules.0.condition": { expression: "later(1)" } } });
  expect(await evaluate({ policyId })).toMatchObject({
    ruleId: "b",
    rules: [
      { ruleId: "a", result: FAILED, problem: "uses later, which there is not, at character 1" },
      { ruleId: "b" },
    ],
  });
});

test("the rules of several policies decide in the order of a naive oracle", async () => {
  // Each value of `kind` makes a rule match, not match, or fail.
  const rule = fc.record({
    kind: fc.constantFrom("yes", "no", "fail"),
    priority: fc.integer({ min: -2, max: 2 }),
    enabled: fc.boolean(),
  });
  const policy = fc.record({
    level: fc.constantFrom(STRICT, MODERATE, LENIENT),
    rules: fc.array(rule, { maxLength: 5 }),
  });
  const expressions = { yes: "subject.attributes.t", no: "!subject.attributes.t", fail: "subject.attributes.none" };
  let round = 0;
  await fc.assert(
    fc.asyncProperty(
      fc.array(policy, { maxLength: 4 }),
      begunIn(12_000, async (wanted) => {
        // Each round sees its own policies only.
        const scope = { round: ++round };
        const made = await Promise.all(
          wanted.map(({ level, rules }) =>
            activePolicy(service.policies, {
              ...{ policyType: TrustPolicyType.CONTENT_POLICY, enforcementLevel: level, scope },
              rules: rules.map(({ kind, priority, enabled }, index) =>
                // Ids that are not in the order of the list.
                ruleInit(`${9 - index}`, expressions[kind], { priority, enabled }),
              ),
            }),
          ),
        );
        const oracle = wanted
          .flatMap(({ level, rules }, index) =>
            rules.map((one, place) => ({
              ...one,
              level,
              policyId: made[index]?.policyId ?? "",
              ruleId: `${9 - place}`,
            })),
          )
          .filter(({ enabled }) => enabled)
          .toSorted(
            (a, b) => b.priority - a.priority || (`${a.policyId} ${a.ruleId}` < `${b.policyId} ${b.ruleId}` ? -1 : 1),
          );
        const decider = oracle.find(({ kind, level }) => kind === "yes" || (kind === "fail" && level === STRICT));
        const response = await evaluate({ policyType: TrustPolicyType.CONTENT_POLICY }, { t: true, ...scope });
        expect(response.rules.map(({ policyId, ruleId, result }) => [policyId, ruleId, result])).toEqual(
          oracle.map(({ policyId, ruleId, kind }) => [
            policyId,
            ruleId,
            { yes: MATCHED, no: NOT_MATCHED, fail: FAILED }[kind],
          ]),
        );
        expect(decisionOf(response)).toEqual({
          outcome: decider === undefined ? UNDECIDED : decider.kind === "yes" ? DECIDED : INDETERMINATE,
          action: decider?.kind === "yes" ? `do-${decider.ruleId}` : "",
          isEnforced: decider !== undefined && decider.level !== LENIENT,
          ruleId: decider?.ruleId ?? "",
        });
      }),
    ),
    { numRuns: 60 },
  );
});
