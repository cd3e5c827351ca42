import fc from "fast-check";
import { afterAll, beforeAll, expect, test } from "vitest";

import { type TrustPolicy, TrustPolicyStatus } from "../../gen/lucid/repository/v1/trust_policy_pb.ts";
import { begunIn, runs, within } from "../support/sequences.ts";
import { refusalOf } from "./support.ts";
import { newPolicy, policiesApp, type PoliciesApp, statusName } from "./trust-policy-support.ts";

let service: PoliciesApp;
beforeAll(async () => {
  service = await policiesApp();
});
afterAll(() => service[Symbol.asyncDispose]());

/** The steps as the proto's table has them. */
const steps: Readonly<Record<string, readonly string[]>> = {
  DRAFT: ["ACTIVE", "REVOKED"],
  ACTIVE: ["INACTIVE", "SUSPENDED", "EXPIRED", "REVOKED"],
  INACTIVE: ["DRAFT", "ACTIVE", "EXPIRED", "REVOKED"],
  SUSPENDED: ["ACTIVE", "INACTIVE", "EXPIRED", "REVOKED"],
  EXPIRED: ["ACTIVE", "REVOKED"],
  REVOKED: [],
};

type Operation =
  | { readonly kind: "status"; readonly to: string }
  | { readonly kind: "rename"; readonly to: string; readonly stale: boolean }
  | { readonly kind: "delete" | "undelete" };

const operations = fc.array(
  fc.oneof(
    {
      weight: 5,
      arbitrary: fc.record({ kind: fc.constant("status" as const), to: fc.constantFrom(...Object.keys(steps)) }),
    },
    {
      weight: 3,
      arbitrary: fc.record({
        kind: fc.constant("rename" as const),
        to: fc.string({ minLength: 1, maxLength: 5 }),
        stale: fc.boolean(),
      }),
    },
    { weight: 2, arbitrary: fc.record({ kind: fc.constantFrom("delete" as const, "undelete" as const) }) },
  ),
  { minLength: 1, maxLength: 5 },
);

/** What there is to know of a policy. */
interface State {
  readonly status: string;
  readonly name: string;
  readonly isDeleted: boolean;
}

/** What an operation does to a state, or why it is refused. */
function next(state: State, operation: Operation): State | string {
  if (operation.kind === "undelete")
    return state.isDeleted ? { ...state, isDeleted: false } : "TRUST_POLICY_NOT_DELETED";
  if (state.isDeleted) return "TRUST_POLICY_NOT_FOUND";
  switch (operation.kind) {
    case "status":
      return steps[state.status]?.includes(operation.to) === true
        ? { ...state, status: operation.to }
        : "ILLEGAL_TRANSITION";
    case "rename":
      return operation.stale ? "ETAG_MISMATCH" : { ...state, name: operation.to };
    case "delete":
      return { ...state, isDeleted: true };
  }
}

function perform(policyId: string, operation: Operation): Promise<{ readonly trustPolicy?: TrustPolicy | undefined }> {
  const { policies } = service;
  switch (operation.kind) {
    case "status":
      return policies.setTrustPolicyStatus({
        policyId,
        status: TrustPolicyStatus[operation.to as keyof typeof TrustPolicyStatus],
      });
    case "rename":
      return policies.updateTrustPolicy({
        trustPolicy: { policyId, policyName: operation.to },
        etag: operation.stale ? '"999"' : "",
      });
    case "delete":
      return policies.deleteTrustPolicy({ policyId });
    case "undelete":
      return policies.undeleteTrustPolicy({ policyId });
  }
}

function stateOf({ status, policyName, deletedAt }: TrustPolicy): State {
  return { status: statusName(status), name: policyName, isDeleted: deletedAt !== undefined };
}

async function follow(sequence: readonly Operation[]): Promise<void> {
  const made = await newPolicy(service.policies);
  const { policyId } = made;
  const history: State[] = [stateOf(made)];
  for (const operation of sequence) {
    const state = history.at(-1);
    if (state === undefined) throw new Error("There is no state");
    const expected = next(state, operation);
    const done = perform(policyId, operation);
    if (typeof expected === "string") {
      const refusal = await refusalOf(done);
      expect(refusal.reason).toBe(expected);
      if (operation.kind === "status" && expected === "ILLEGAL_TRANSITION") {
        expect(refusal.metadata).toMatchObject({ from: state.status, to: operation.to });
      }
    } else {
      const { trustPolicy } = await done;
      history.push(expected);
      expect(trustPolicy && stateOf(trustPolicy)).toEqual(expected);
      expect(trustPolicy?.version).toBe(BigInt(history.length));
    }
  }
  const { trustPolicies } = await service.policies.listTrustPolicyVersions({ policyId });
  expect(trustPolicies.map(stateOf)).toEqual(history.toReversed());
  expect(trustPolicies.map(({ version }) => version)).toEqual(
    history.map((_, index) => BigInt(history.length - index)),
  );
}

test(
  "a policy goes from status to status and from version to version as the model does",
  async () => {
    // Ten at once: what takes the time is to wait for the store.
    const batches = fc.array(operations, { minLength: 10, maxLength: 10 });
    await fc.assert(
      fc.asyncProperty(
        batches,
        begunIn(12_000, async (sequences) => {
          await Promise.all(sequences.map(follow));
        }),
      ),
      runs({ numRuns: 60 }, 10),
    );
  },
  within(),
);

test(
  "of two steps at once only those that follow one another are taken",
  async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.constantFrom(...Object.keys(steps)), { minLength: 2, maxLength: 6 }),
        begunIn(6000, async (wanted) => {
          const { policyId } = await newPolicy(service.policies);
          await Promise.allSettled(wanted.map((to) => perform(policyId, { kind: "status", to })));
          const { trustPolicies } = await service.policies.listTrustPolicyVersions({ policyId });
          const taken = trustPolicies.toReversed().map(({ status }) => statusName(status));
          expect(taken[0]).toBe("DRAFT");
          for (const [index, to] of taken.slice(1).entries()) expect(steps[taken[index] ?? ""]).toContain(to);
        }),
      ),
      runs({ numRuns: 25 }),
    );
  },
  within(),
);
