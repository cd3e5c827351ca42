import { randomUUID } from "node:crypto";

import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Client } from "@connectrpc/connect";
import type { Db } from "mongodb";

import { type PolicyViolationSchema, ViolationSeverity } from "../../gen/lucid/repository/v1/policy_violation_pb.ts";
import {
  TrustLevel,
  type TrustPolicy,
  type TrustPolicySchema,
  TrustPolicyStatus,
  TrustPolicyStatusSchema,
  TrustPolicyType,
} from "../../gen/lucid/repository/v1/trust_policy_pb.ts";
import { TrustPolicyService } from "../../gen/lucid/repository/v1/trust_policy_service_pb.ts";
import type { TrustRelationshipSchema } from "../../gen/lucid/repository/v1/trust_relationship_pb.ts";
import { storedName } from "../../src/schema/stored-field.ts";
import { type TestApp, testApp } from "../support/app.ts";
import { uniqueName } from "../support/stores.ts";

export type Policies = Client<typeof TrustPolicyService>;

/** The service with a domain database that tests can look into. */
export interface PoliciesApp extends AsyncDisposable {
  readonly app: TestApp;
  /** Clients of both listeners. */
  readonly policies: Policies;
  readonly overHttp: Policies;
  readonly db: Db;
}

export async function policiesApp(): Promise<PoliciesApp> {
  const name = uniqueName("policies");
  const app = await testApp({ LUCID_MONGODB_DATABASE: name });
  const db = app.mongodb.db(name, { useBigInt64: true });
  return {
    app,
    policies: app.client(TrustPolicyService),
    overHttp: app.http(TrustPolicyService),
    db,
    async [Symbol.asyncDispose]() {
      await db.dropDatabase();
      await app[Symbol.asyncDispose]();
    },
  };
}

export type PolicyInit = MessageInitShape<typeof TrustPolicySchema>;

/** What differs in a rule. */
export interface RuleInit {
  readonly ruleId?: string;
  readonly ruleType?: string;
  readonly condition?: { readonly expression?: string };
  readonly action?: string;
  readonly priority?: number;
  readonly enabled?: boolean;
}

/** What a new policy needs. */
export function policyInit(init: PolicyInit = {}): PolicyInit {
  return {
    policyName: "A policy",
    policyType: TrustPolicyType.USER_TRUST,
    trustLevel: TrustLevel.HIGH,
    ownerId: "owner",
    ...init,
  };
}

/** A rule that is evaluated. */
export function ruleInit(ruleId: string, expression: string, init: RuleInit = {}) {
  return { ruleId, ruleType: "test", condition: { expression }, action: `do-${ruleId}`, enabled: true, ...init };
}

export async function newPolicy(policies: Policies, init: PolicyInit = {}): Promise<TrustPolicy> {
  const { trustPolicy } = await policies.createTrustPolicy({ trustPolicy: policyInit(init) });
  if (trustPolicy === undefined) throw new Error("No policy was returned");
  return trustPolicy;
}

/** The name of a status, as it is stored. */
export function statusName(status: TrustPolicyStatus): string {
  return String(storedName(TrustPolicyStatusSchema, status));
}
/** A policy that decides. */
export async function activePolicy(policies: Policies, init: PolicyInit = {}): Promise<TrustPolicy> {
  const { policyId } = await newPolicy(policies, init);
  const { trustPolicy } = await policies.setTrustPolicyStatus({ policyId, status: TrustPolicyStatus.ACTIVE });
  if (trustPolicy === undefined) throw new Error("No policy was returned");
  return trustPolicy;
}

/** What a new violation needs. */
export function violationInit(policyId: string, init: ViolationInit = {}): ViolationInit {
  return {
    policyId,
    violator: { type: "user", id: "u1" },
    violationType: "limit",
    severity: ViolationSeverity.MEDIUM,
    description: "Too much",
    ...init,
  };
}

type ViolationInit = MessageInitShape<typeof PolicyViolationSchema> & { $typeName?: never };

/** What a new relationship needs, between two that no other test has. */
export function relationshipInit(init: RelationshipInit = {}): RelationshipInit {
  return {
    subject: { type: "user", id: randomUUID() },
    target: { type: "user", id: randomUUID() },
    trustLevel: TrustLevel.MEDIUM,
    relationshipType: "peer",
    ...init,
  };
}

type RelationshipInit = MessageInitShape<typeof TrustRelationshipSchema> & { $typeName?: never };
