import { timestampMs } from "@bufbuild/protobuf/wkt";
import type { Document } from "bson";

import {
  EnforcementLevel,
  type TrustPolicy,
  TrustPolicySchema,
  TrustPolicyStatus,
} from "../../gen/lucid/repository/v1/trust_policy_pb.ts";
import { codecFor } from "../schema/codec.ts";
import { badRequest, tooLarge, type WrongField } from "../schema/refusals.ts";
import { ConditionProblem } from "./condition-check.ts";
import { condition } from "./condition.ts";
import { turns } from "./turns.ts";

const codec = codecFor(TrustPolicySchema);

/** What is counted elsewhere and added when a policy is read. */
export const counterFields = ["applications_count", "violations_count", "last_applied"] as const;

/** Makes a policy, a copy of what a caller sent, the one that is stored: defaults where nothing is set. */
export function prepared(policy: TrustPolicy): TrustPolicy {
  if (policy.enforcementLevel === EnforcementLevel.UNSPECIFIED) policy.enforcementLevel = EnforcementLevel.MODERATE;
  if (policy.status === TrustPolicyStatus.UNSPECIFIED) policy.status = TrustPolicyStatus.DRAFT;
  return policy;
}

/**
 * The document of a prepared policy. Fails with `BAD_REQUEST` where what is needed is missing, a condition is none that can be
 * evaluated, or a value is none that can be stored; `isStored` says which top fields are, so that an update is not held to
 * fields that it does not change.
 */
export async function documentOf(policy: TrustPolicy, isStored: (name: string) => boolean): Promise<Document> {
  const wrong: WrongField[] = [];
  const required = [
    ["policy_name", policy.policyName === ""],
    ["policy_type", policy.policyType === 0],
    ["trust_level", policy.trustLevel === 0],
    ["owner_id", policy.ownerId === ""],
  ] as const;
  for (const [name, isMissing] of required) {
    if (isMissing && isStored(name)) wrong.push({ field: `trust_policy.${name}`, description: "must be set" });
  }
  if (isStored("rules")) wrong.push(...(await wrongConditions(policy)));
  const document = codec.encode(policy, "trust_policy");
  for (const name of counterFields) delete document[name];
  for (const name of ["scope", "parameters", "metadata"]) {
    if (isStored(name)) wrong.push(...tooLarge(`trust_policy.${name}`, document[name]));
  }
  if (wrong.length > 0) throw badRequest(...wrong);
  return document;
}

async function wrongConditions({ rules }: TrustPolicy): Promise<WrongField[]> {
  const wrong: WrongField[] = [];
  const turn = turns(); // a long condition takes some milliseconds to compile
  for (const [index, rule] of rules.entries()) {
    const description = problemOf(rule.condition?.expression ?? "");
    if (description !== undefined) wrong.push({ field: `trust_policy.rules[${index}].condition`, description });
    await turn();
  }
  return wrong;
}

function problemOf(expression: string): string | undefined {
  try {
    condition(expression);
    return undefined;
  } catch (error) {
    if (!(error instanceof ConditionProblem)) throw error;
    return error.message;
  }
}

/** Fails with `BAD_REQUEST` for a policy whose time ends before it begins. */
export function checkEffectiveTime({ effectiveFrom, effectiveUntil }: TrustPolicy): void {
  if (effectiveFrom === undefined || effectiveUntil === undefined) return;
  if (timestampMs(effectiveFrom) < timestampMs(effectiveUntil)) return;
  throw badRequest({ field: "trust_policy.effective_until", description: "must be later than effective_from" });
}
