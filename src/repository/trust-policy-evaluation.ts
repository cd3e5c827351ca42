import { isDeepStrictEqual } from "node:util";

import { create, fromJson, type JsonObject, type JsonValue, type MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromDate, timestampMs, ValueSchema } from "@bufbuild/protobuf/wkt";
import type { HandlerContext } from "@connectrpc/connect";

import {
  EnforcementLevel,
  type TrustPolicy,
  type TrustPolicyRule,
  TrustPolicyStatus,
} from "../../gen/lucid/repository/v1/trust_policy_pb.ts";
import {
  EvaluationOutcome,
  type EvaluateTrustPoliciesResponseSchema,
  type NamedValue,
  NamedValueSchema,
  PolicyApplicability,
  type RuleEvaluation,
  RuleEvaluationSchema,
  RuleResult,
  type TrustSubject,
} from "../../gen/lucid/repository/v1/trust_policy_service_pb.ts";
import { fail } from "../errors.ts";
import { deadlineOf } from "../schema/call-options.ts";
import { ConditionProblem } from "./condition-check.ts";
import type { Meter } from "./condition-meter.ts";
import { condition, type ConditionInput, conditionInput, type Verdict, valueOf } from "./condition.ts";
import { durationOfMs } from "./trust-policy-statistics.ts";
import { turns } from "./turns.ts";

/** Most rules that are evaluated in one call. */
const mostRules = 1000;

/** Most steps of one call: about a second, in which other calls get their turns. */
const mostStepsInAll = 1_000_000;

/** Values that are told, as JSON: each, and all of a response. */
const mostValueLength = 1024;
const mostValuesLength = 1024 * 1024;

/** A rule, and what it is evaluated with. */
interface Candidate {
  readonly policy: TrustPolicy;
  readonly rule: TrustPolicyRule;
  readonly input: ConditionInput;
}

/** What came of an evaluation, and by which rule. */
interface Decision {
  readonly outcome: EvaluationOutcome;
  readonly action?: string;
  readonly isEnforced?: boolean;
  readonly policyId?: string;
  readonly ruleId?: string;
}

/** Evaluates policies for a subject at a time, as their proto says. They are looked at as they are given. */
export async function evaluation(
  policies: readonly TrustPolicy[],
  subject: TrustSubject,
  now: Date,
  context: HandlerContext,
): Promise<MessageInitShape<typeof EvaluateTrustPoliciesResponseSchema>> {
  const { type, id, attributes = {} } = subject;
  const looked = policies
    .toSorted((left, right) => order(left.policyId, right.policyId))
    .map((policy) => ({ policy, applicability: applicabilityOf(policy, { type, attributes }, now) }));
  const applying = looked.filter(({ applicability }) => applicability === PolicyApplicability.APPLIES);
  const candidates = applying
    .flatMap(({ policy }) => {
      const input = conditionInput({ type, id, attributes }, policy.parameters ?? {}, now);
      return policy.rules.filter(({ enabled }) => enabled).map((rule): Candidate => ({ policy, rule, input }));
    })
    .toSorted(byPriority);
  if (candidates.length > mostRules) throw tooMany("rules", mostRules);

  const meter: Meter = { left: mostStepsInAll };
  const told = roomFor(mostValuesLength);
  const tookMs = new Map<string, number>();
  const verdicts: Verdict[] = [];
  const rules: RuleEvaluation[] = [];
  const turn = turns();
  for (const candidate of candidates) {
    const start = performance.now();
    const { verdict, values } = evaluated(candidate, meter, told);
    const end = performance.now();
    const { policyId } = candidate.policy;
    tookMs.set(policyId, (tookMs.get(policyId) ?? 0) + end - start);
    verdicts.push(verdict);
    rules.push(ruleOf(candidate, verdict, values));
    if (!(await turn())) continue;
    deadlineOf(context); // fails where it has passed
    context.signal.throwIfAborted();
  }
  return {
    ...decision(candidates, verdicts),
    rules,
    policies: looked.map(({ policy: { policyId, policyName, version, enforcementLevel }, applicability }) => ({
      policyId,
      policyName,
      version,
      enforcementLevel,
      applicability,
      evaluationTime: durationOfMs(tookMs.get(policyId) ?? 0),
    })),
    asOfTime: timestampFromDate(now),
  };
}

export function tooMany(what: "policies" | "rules", most: number) {
  return fail("TRUST_EVALUATION_TOO_LARGE", `More than ${most} ${what} are to be looked at`, {
    metadata: { what, most: String(most) },
  });
}

function applicabilityOf(
  policy: TrustPolicy,
  { type, attributes }: { readonly type: string; readonly attributes: JsonObject },
  now: Date,
): PolicyApplicability {
  const { status, effectiveFrom, effectiveUntil, scope = {} } = policy;
  const time = now.getTime();
  if (status !== TrustPolicyStatus.ACTIVE) return PolicyApplicability.NOT_ACTIVE;
  if (effectiveFrom !== undefined && time < timestampMs(effectiveFrom)) return PolicyApplicability.NOT_EFFECTIVE;
  if (effectiveUntil !== undefined && time >= timestampMs(effectiveUntil)) return PolicyApplicability.NOT_EFFECTIVE;
  if (!isAbout(policy, type)) return PolicyApplicability.OTHER_SUBJECT;
  const isInScope = Object.entries(scope).every(([name, wanted]) => {
    const value = Object.hasOwn(attributes, name) ? attributes[name] : undefined;
    return (
      value !== undefined && (Array.isArray(wanted) ? wanted : [wanted]).some((one) => isDeepStrictEqual(one, value))
    );
  });
  return isInScope ? PolicyApplicability.APPLIES : PolicyApplicability.OUT_OF_SCOPE;
}

function isAbout({ appliesToUsers, appliesToNodes, appliesToSessions }: TrustPolicy, type: string): boolean {
  const named = { user: appliesToUsers, node: appliesToNodes, session: appliesToSessions };
  const types = Object.entries(named).flatMap(([name, applies]) => (applies ? [name] : []));
  return types.length === 0 || types.includes(type);
}

function byPriority(left: Candidate, right: Candidate): number {
  return (
    right.rule.priority - left.rule.priority ||
    order(left.policy.policyId, right.policy.policyId) ||
    order(left.rule.ruleId, right.rule.ruleId)
  );
}

/** The order of two texts by their code units, whatever the language of the machine. */
function order(left: string, right: string): number {
  return left < right ? -1 : Number(left > right);
}

function evaluated({ rule, input }: Candidate, meter: Meter, told: Told) {
  try {
    const compiled = condition(rule.condition?.expression ?? "");
    const values = compiled.paths.map(({ text, names }) => namedValue(text, valueOf(input, names), told));
    return { verdict: compiled.evaluate(input, meter), values };
  } catch (error) {
    // It was stored by somebody else, or by a version of this service that knew more.
    if (!(error instanceof ConditionProblem)) throw error;
    return { verdict: { problem: error.message }, values: [] };
  }
}

function namedValue(name: string, value: JsonValue | undefined, told: Told): NamedValue {
  if (value === undefined) return create(NamedValueSchema, { name });
  const length = told.lengthOf(value);
  if (length > mostValueLength || length > told.left) return create(NamedValueSchema, { name, isOmitted: true });
  told.left -= length;
  return create(NamedValueSchema, { name, value: fromJson(ValueSchema, value) });
}

/** What a response has room for. */
interface Told {
  left: number;
  lengthOf(value: JsonValue): number;
}

function roomFor(left: number): Told {
  // Many rules name the same large values.
  const lengths = new WeakMap<object, number>();
  return {
    left,
    lengthOf(value) {
      if (typeof value === "string" && value.length > mostValueLength) return value.length;
      if (typeof value !== "object" || value === null) return JSON.stringify(value).length;
      const length = lengths.get(value) ?? JSON.stringify(value).length;
      lengths.set(value, length);
      return length;
    },
  };
}

function ruleOf({ policy, rule }: Candidate, verdict: Verdict, values: NamedValue[]): RuleEvaluation {
  const { ruleId, ruleType, priority, action } = rule;
  const { policyId } = policy;
  const expression = rule.condition?.expression ?? "";
  return create(RuleEvaluationSchema, {
    ...{ policyId, ruleId, ruleType, priority, action, expression, values },
    ...("problem" in verdict
      ? { result: RuleResult.FAILED, problem: verdict.problem }
      : { result: verdict.isTrue ? RuleResult.MATCHED : RuleResult.NOT_MATCHED }),
  });
}

/** The first rule that matches decides, unless a strict one before it cannot be evaluated. */
function decision(candidates: readonly Candidate[], verdicts: readonly Verdict[]): Decision {
  for (const [index, { policy, rule }] of candidates.entries()) {
    const verdict = verdicts[index];
    if (verdict === undefined) continue;
    const { policyId, enforcementLevel } = policy;
    const by = { policyId, ruleId: rule.ruleId };
    if ("problem" in verdict) {
      if (enforcementLevel !== EnforcementLevel.STRICT) continue;
      return { ...by, outcome: EvaluationOutcome.INDETERMINATE, isEnforced: true };
    }
    if (!verdict.isTrue) continue;
    const isEnforced = enforcementLevel !== EnforcementLevel.LENIENT;
    return { ...by, outcome: EvaluationOutcome.DECIDED, action: rule.action, isEnforced };
  }
  return { outcome: EvaluationOutcome.UNDECIDED };
}
