import type { PolicyCall } from "./policy-violation-refusals.ts";
import { bad, megabyte, noToken, nothing, type Refusal, unknown } from "./refusals.ts";
import { relationshipInit } from "./trust-policy-support.ts";

const noRelationship = { code: "NotFound", reason: "TRUST_RELATIONSHIP_NOT_FOUND" };
const subject = { type: "user", id: "u1" };

function refusedRelationship(
  name: string,
  init: Parameters<typeof relationshipInit>[0],
  field: string,
): Refusal<PolicyCall> {
  const establish: PolicyCall = (policies) =>
    policies.establishTrustRelationship({ trustRelationship: relationshipInit(init) });
  return [`establishTrustRelationship: ${name}`, establish, bad(`trust_relationship.${field}`)];
}

/** What the rpcs about relationships refuse. */
export const relationshipRefusals: readonly Refusal<PolicyCall>[] = [
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
  refusedRelationship("unknown trust", { trustLevel: unknown }, "trust_level"),
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
    (policies) => policies.getTrustRelationship({ relationshipId: nothing }),
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
    noToken,
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
    (policies) => policies.verifyTrustRelationship({ relationshipId: nothing }),
    noRelationship,
  ],
  [
    "verifyTrustRelationship: negative score",
    (policies) => policies.verifyTrustRelationship({ relationshipId: nothing, trustScore: { overall: -1 } }),
    bad("trust_score.overall"),
  ],
  [
    "verifyTrustRelationship: unknown trust",
    (policies) => policies.verifyTrustRelationship({ relationshipId: nothing, trustLevel: unknown }),
    bad("trust_level"),
  ],
  [
    "verifyTrustRelationship: a time that has passed",
    (policies) => policies.verifyTrustRelationship({ relationshipId: nothing, expiresAt: { seconds: 1n } }),
    bad("expires_at"),
  ],
  [
    "verifyTrustRelationship: a time that no calendar has",
    (policies) =>
      policies.verifyTrustRelationship({ relationshipId: nothing, expiresAt: { seconds: 253_402_300_800n } }),
    bad("expires_at"),
  ],
  ["revokeTrustRelationship: no id", (policies) => policies.revokeTrustRelationship({}), bad("relationship_id")],
  [
    "revokeTrustRelationship: nobody",
    (policies) => policies.revokeTrustRelationship({ relationshipId: nothing }),
    noRelationship,
  ],
  [
    "revokeTrustRelationship: long reason",
    (policies) => policies.revokeTrustRelationship({ relationshipId: nothing, reason: "x".repeat(1001) }),
    bad("reason"),
  ],
];
