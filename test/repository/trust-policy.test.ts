import { randomUUID } from "node:crypto";

import { timestampDate, timestampFromDate, timestampMs } from "@bufbuild/protobuf/wkt";
import { afterAll, beforeAll, expect, test } from "vitest";

import {
  EnforcementLevel,
  TrustLevel,
  type TrustPolicy,
  TrustPolicyStatus,
  TrustPolicyType,
} from "../../gen/lucid/repository/v1/trust_policy_pb.ts";
import { refusalOf } from "./support.ts";
import { newPolicy, policiesApp, type PoliciesApp, policyInit, ruleInit, statusName } from "./trust-policy-support.ts";

let service: PoliciesApp;
beforeAll(async () => {
  service = await policiesApp();
});
afterAll(() => service[Symbol.asyncDispose]());

const many = (count: number) => Array.from({ length: count }, (_, index) => index);

/** A policy as of one version, without what is told of it whatever the version. */
async function version(policyId: string, number: bigint): Promise<TrustPolicy | undefined> {
  return (await service.policies.getTrustPolicy({ policyId, version: number, showDeleted: true })).trustPolicy;
}

test("a policy is stored with everything that was sent, and is a draft in its first version", async () => {
  const sent = policyInit({
    description: "Who may record",
    rules: [
      ruleInit("a", "subject.attributes.score >= 70", { priority: -5, ruleType: "threshold" }),
      ruleInit("b", "true"),
    ],
    scope: { region: ["eu", "us"], tier: 1 },
    appliesToUsers: true,
    parameters: { least: 70, names: ["x"] },
    enforcementLevel: EnforcementLevel.STRICT,
    autoRemediation: true,
    isSystemPolicy: true,
    effectiveFrom: timestampFromDate(new Date(1000)),
    effectiveUntil: timestampFromDate(new Date(2000)),
    tags: ["x", "y:z"],
    metadata: { any: [1, null, "x"] },
  });
  const made = await newPolicy(service.policies, { ...sent, version: 7n, applicationsCount: 9n, status: 3 });
  expect(made).toMatchObject({
    ...sent,
    status: TrustPolicyStatus.DRAFT,
    version: 1n,
    revision: 1n,
    applicationsCount: 0n,
    violationsCount: 0n,
  });
  for (const policies of [service.policies, service.overHttp]) {
    expect((await policies.getTrustPolicy({ policyId: made.policyId })).trustPolicy).toStrictEqual(made);
  }
  const stored = await service.db.collection("trust_policies").findOne({ policy_id: made.policyId });
  expect(stored).toMatchObject({ policy_type: "USER_TRUST", status: "DRAFT", version: 1n });
  expect(stored?.["rules"]).toMatchObject([{ condition: { expression: "subject.attributes.score >= 70" } }, {}]);
  expect(stored).not.toHaveProperty("applications_count");
});

test("a retry with the same request_id returns the first policy, and another request with it is refused", async () => {
  const request = { trustPolicy: policyInit(), requestId: randomUUID() };
  const [first, second] = [
    await service.policies.createTrustPolicy(request),
    await service.overHttp.createTrustPolicy(request),
  ];
  expect(second).toStrictEqual(first);
  const other = { ...request, trustPolicy: policyInit({ ownerId: "another" }) };
  expect(await refusalOf(service.policies.createTrustPolicy(other))).toMatchObject({ reason: "REQUEST_ID_REUSED" });
});

test("every change makes a version, and each stays readable as it was", async () => {
  const made = await newPolicy(service.policies, { rules: [ruleInit("a", "true")], metadata: { kept: 1.5 } });
  const { policyId } = made;
  const history = [made];
  const changes = [
    () => service.policies.updateTrustPolicy({ trustPolicy: { policyId, policyName: "Renamed" } }),
    () => service.policies.setTrustPolicyStatus({ policyId, status: TrustPolicyStatus.ACTIVE }),
    () =>
      service.policies.updateTrustPolicy({
        trustPolicy: { policyId, tags: ["new"] },
        updateMask: { paths: ["rules", "tags"] },
      }),
    () => service.policies.deleteTrustPolicy({ policyId }),
    () => service.policies.undeleteTrustPolicy({ policyId }),
  ];
  for (const change of changes) {
    const { trustPolicy } = await change();
    if (trustPolicy === undefined) throw new Error("No policy was returned");
    history.push(trustPolicy);
  }
  expect(history.map((policy) => policy.version)).toEqual([1n, 2n, 3n, 4n, 5n, 6n]);
  expect(
    history.map(({ policyName, status, tags, rules, deletedAt }) => [
      policyName,
      statusName(status),
      tags.length,
      rules.length,
      deletedAt !== undefined,
    ]),
  ).toEqual([
    ["A policy", "DRAFT", 0, 1, false],
    ["Renamed", "DRAFT", 0, 1, false],
    ["Renamed", "ACTIVE", 0, 1, false],
    ["Renamed", "ACTIVE", 1, 0, false],
    ["Renamed", "ACTIVE", 1, 0, true],
    ["Renamed", "ACTIVE", 1, 0, false],
  ]);
  for (const policy of history) expect(await version(policyId, policy.version)).toStrictEqual(policy);
  // The list has them from the newest on, whatever the size of its pages.
  for (const pageSize of [0, 1, 2, 4, 6]) {
    const listed: TrustPolicy[] = [];
    let pageToken = "";
    do {
      const page = await service.overHttp.listTrustPolicyVersions({ policyId, pageSize, pageToken });
      expect(page.trustPolicies.length).toBeLessThanOrEqual(pageSize || 50);
      listed.push(...page.trustPolicies);
      pageToken = page.nextPageToken;
    } while (pageToken !== "");
    expect(listed).toStrictEqual(history.toReversed());
  }
  expect(await refusalOf(version(policyId, 7n))).toMatchObject({
    code: "NotFound",
    reason: "TRUST_POLICY_VERSION_NOT_FOUND",
    metadata: { policy_id: policyId, version: "7" },
  });
});

test("a policy is read as it was at a time, deleted or not", async () => {
  const { policies, db } = service;
  const { policyId } = await newPolicy(policies);
  for (const policyName of ["Two", "Three"])
    await policies.updateTrustPolicy({ trustPolicy: { policyId, policyName } });
  await policies.deleteTrustPolicy({ policyId });
  await policies.undeleteTrustPolicy({ policyId });
  // Puts the versions a minute apart.
  const timeOf = (number: bigint) => new Date(Date.UTC(2026, 0, 1, 0, Number(number)));
  for (const number of [1n, 2n, 3n, 4n, 5n]) {
    const time = timeOf(number);
    const one = { policy_id: policyId, version: number };
    await db.collection("trust_policies").updateOne(one, { $set: { version_time: time } });
    await db.collection("trust_policy_versions").updateOne(one, { $set: { version_time: time } });
  }
  const asOf = async (time: Date) =>
    policies.getTrustPolicyAsOf({ policyId, asOfTime: timestampFromDate(time) }).then(
      ({ trustPolicy }) => `${trustPolicy?.version} ${trustPolicy?.policyName}`,
      async (error: unknown) => (await refusalOf(Promise.reject(error as Error))).reason,
    );
  const gone = "TRUST_POLICY_NOT_FOUND";
  for (const [number, expected] of [
    [1n, "1 A policy"],
    [2n, "2 Two"],
    [3n, "3 Three"],
    [4n, gone],
    [5n, "5 Three"],
  ] as const) {
    expect(await asOf(timeOf(number))).toBe(expected);
    expect(await asOf(new Date(timeOf(number).getTime() + 59_999))).toBe(expected);
  }
  expect(await asOf(new Date(timeOf(1n).getTime() - 1))).toBe(gone);
  expect(await asOf(new Date("2999-01-01"))).toBe("5 Three");
  const { nanos, seconds } = timestampFromDate(timeOf(2n));
  const shortly = { seconds: seconds - 1n, nanos: nanos + 999_999_999 };
  expect((await policies.getTrustPolicyAsOf({ policyId, asOfTime: shortly })).trustPolicy?.version).toBe(1n);
});

test("versions made within one millisecond, or by a clock that is behind, keep their order", async () => {
  const { policies, db } = service;
  const { policyId } = await newPolicy(policies);
  const ahead = new Date(Date.now() + 60_000);
  await db.collection("trust_policies").updateOne({ policy_id: policyId }, { $set: { version_time: ahead } });
  for (const policyName of ["Two", "Three"])
    await policies.updateTrustPolicy({ trustPolicy: { policyId, policyName } });
  const { trustPolicy } = await policies.getTrustPolicyAsOf({ policyId, asOfTime: timestampFromDate(ahead) });
  expect(trustPolicy).toMatchObject({ version: 3n, policyName: "Three" });
  const { trustPolicies } = await policies.listTrustPolicyVersions({ policyId });
  expect(new Set(trustPolicies.map(({ versionTime }) => versionTime && timestampMs(versionTime)))).toEqual(
    new Set([ahead.getTime()]),
  );
});

test("what is left by a crash between the copy of a version and the change is told by nothing", async () => {
  const { policies, db } = service;
  const made = await newPolicy(policies);
  const { policyId } = made;
  // A change that gets no further than its copy.
  await policies.updateTrustPolicy({ trustPolicy: { policyId, policyName: "Two" } });
  const before = (await policies.getTrustPolicy({ policyId })).trustPolicy;
  await policies.setTrustPolicyStatus({ policyId, status: TrustPolicyStatus.EXPIRED }).catch(() => undefined);
  const versions = db.collection("trust_policy_versions");
  expect(await versions.countDocuments({ policy_id: policyId })).toBe(2);
  const read = async () => ({
    now: (await policies.getTrustPolicy({ policyId })).trustPolicy,
    second: await version(policyId, 2n),
    all: (await policies.listTrustPolicyVersions({ policyId })).trustPolicies,
    asOf: (await policies.getTrustPolicyAsOf({ policyId, asOfTime: timestampFromDate(new Date()) })).trustPolicy,
  });
  const left = await read();
  expect(left).toStrictEqual({ now: before, second: before, all: [before, made], asOf: before });
  await versions.deleteOne({ policy_id: policyId, version: 2n });
  expect(await read()).toStrictEqual(left);
  // The next change finds the copy there, or makes it.
  await policies.updateTrustPolicy({ trustPolicy: { policyId, policyName: "Three" } });
  expect(await version(policyId, 2n)).toStrictEqual(before);
});

test("of many changes at once none is lost and each makes one version", async () => {
  const { policies, overHttp } = service;
  const { policyId } = await newPolicy(policies);
  await Promise.all(
    many(8).map((index) =>
      (index % 2 === 0 ? policies : overHttp).updateTrustPolicy({
        trustPolicy: { policyId, metadata: { index } },
        updateMask: { paths: ["metadata"] },
      }),
    ),
  );
  const { trustPolicies } = await policies.listTrustPolicyVersions({ policyId });
  expect(trustPolicies.map((policy) => policy.version)).toEqual(many(9).map((index) => BigInt(9 - index)));
  const written = trustPolicies.flatMap(({ metadata }) => (metadata === undefined ? [] : [Number(metadata["index"])]));
  expect(written.toSorted((left, right) => left - right)).toEqual(many(8));
});

test("of many changes with one etag exactly one succeeds", async () => {
  const { policies } = service;
  const { policyId, etag } = await newPolicy(policies);
  const calls = await Promise.all(
    many(10).map((index) =>
      policies.updateTrustPolicy({ trustPolicy: { policyId, description: `${index}` }, etag }).then(
        () => "changed",
        async (error: unknown) => (await refusalOf(Promise.reject(error as Error))).reason,
      ),
    ),
  );
  expect(calls.filter((call) => call === "changed")).toHaveLength(1);
  expect(calls.filter((call) => call === "ETAG_MISMATCH")).toHaveLength(9);
  expect((await policies.getTrustPolicy({ policyId })).trustPolicy?.version).toBe(2n);
});

test("an update changes what its mask names and nothing else", async () => {
  const { policies } = service;
  const made = await newPolicy(policies, {
    description: "x",
    tags: ["x"],
    isSystemPolicy: true,
    effectiveUntil: { seconds: 100n },
  });
  const { policyId } = made;
  const update = async (trustPolicy: object, ...paths: string[]) =>
    (await policies.updateTrustPolicy({ trustPolicy: { policyId, ...trustPolicy }, updateMask: { paths } }))
      .trustPolicy;
  expect(await update({ policyName: "No" }, "tags")).toMatchObject({
    policyName: "A policy",
    tags: [],
    description: "x",
  });
  // What the service sets, and what is set once, is left as it is.
  expect(
    await update({ status: TrustPolicyStatus.ACTIVE, version: 99n }, "status", "version", "is_system_policy"),
  ).toMatchObject({ status: TrustPolicyStatus.DRAFT, version: 2n, isSystemPolicy: true });
  const all = { policyName: "New", policyType: TrustPolicyType.NODE_TRUST, trustLevel: TrustLevel.LOW, ownerId: "you" };
  const replaced = await update(all, "*");
  expect(replaced).toMatchObject({
    ...all,
    version: 3n,
    isSystemPolicy: true,
    enforcementLevel: EnforcementLevel.MODERATE,
  });
  expect(replaced?.description).toBeUndefined();
  expect(replaced?.effectiveUntil).toBeUndefined();
  // A window is checked as it will be stored.
  await update({ effectiveFrom: { seconds: 50n } }, "effective_from");
  const wrong = { code: "InvalidArgument", fields: ["trust_policy.effective_until"] };
  expect(await refusalOf(update({ effectiveUntil: { seconds: 50n } }, "effective_until"))).toMatchObject(wrong);
});

test("a system policy cannot be deleted, and any other can be brought back", async () => {
  const { policies } = service;
  const system = await newPolicy(policies, { isSystemPolicy: true });
  for (const validateOnly of [true, false]) {
    expect(await refusalOf(policies.deleteTrustPolicy({ policyId: system.policyId, validateOnly }))).toMatchObject({
      code: "FailedPrecondition",
      reason: "TRUST_POLICY_PROTECTED",
      metadata: { policy_id: system.policyId },
    });
  }
  expect((await policies.getTrustPolicy({ policyId: system.policyId })).trustPolicy).toStrictEqual(system);

  const { policyId, etag } = await newPolicy(policies);
  const checked = await policies.deleteTrustPolicy({ policyId, etag, validateOnly: true });
  expect(checked.trustPolicy).toMatchObject({ version: 1n });
  const deleted = (await policies.deleteTrustPolicy({ policyId, etag })).trustPolicy;
  expect(deleted?.deletedAt).toStrictEqual(deleted?.versionTime);
  expect(await refusalOf(policies.getTrustPolicy({ policyId }))).toMatchObject({ reason: "TRUST_POLICY_NOT_FOUND" });
  expect((await policies.getTrustPolicy({ policyId, showDeleted: true })).trustPolicy).toStrictEqual(deleted);
  expect(await refusalOf(policies.undeleteTrustPolicy({ policyId, etag }))).toMatchObject({
    code: "Aborted",
    reason: "ETAG_MISMATCH",
    metadata: { policy_id: policyId, etag: deleted?.etag },
  });
  const back = (await policies.undeleteTrustPolicy({ policyId, etag: deleted?.etag ?? "" })).trustPolicy;
  expect(back).toMatchObject({ version: 3n, status: TrustPolicyStatus.DRAFT });
  expect(back?.deletedAt).toBeUndefined();
  expect(await refusalOf(policies.undeleteTrustPolicy({ policyId }))).toMatchObject({
    reason: "TRUST_POLICY_NOT_DELETED",
  });
});

test("policies are listed by what they are, and in the order that is asked for", async () => {
  const { policies } = service;
  const ownerId = randomUUID();
  const made: TrustPolicy[] = [];
  for (const index of many(6)) {
    const policyType = index % 2 === 0 ? TrustPolicyType.NETWORK_POLICY : TrustPolicyType.CONTENT_POLICY;
    made.push(
      await newPolicy(policies, {
        policyName: `P${9 - index}`,
        policyType,
        ownerId,
        tags: [`${ownerId}:${index % 3}`],
      }),
    );
  }
  const ids = made.map(({ policyId }) => policyId);
  const list = async (request: Parameters<typeof policies.listTrustPolicies>[0]) => {
    const found: string[] = [];
    let pageToken = "";
    do {
      const page = await policies.listTrustPolicies({ pageSize: 2, ...request, pageToken });
      found.push(...page.trustPolicies.map(({ policyId }) => policyId).filter((id) => ids.includes(id)));
      pageToken = page.nextPageToken;
    } while (pageToken !== "");
    return found.map((id) => ids.indexOf(id));
  };
  expect(await list({ filter: { ownerId } })).toEqual([5, 4, 3, 2, 1, 0]);
  expect(await list({ filter: { tag: `${ownerId}:1` }, orderBy: "created_at" })).toEqual([1, 4]);
  expect(await list({ filter: { policyType: TrustPolicyType.NETWORK_POLICY }, orderBy: "policy_name" })).toEqual([
    4, 2, 0,
  ]);
  await policies.setTrustPolicyStatus({ policyId: ids[4] ?? "", status: TrustPolicyStatus.ACTIVE });
  const active = { status: TrustPolicyStatus.ACTIVE, policyType: TrustPolicyType.NETWORK_POLICY };
  expect(await list({ filter: active })).toEqual([4]);
  await policies.deleteTrustPolicy({ policyId: ids[5] ?? "" });
  expect(await list({ filter: { ownerId } })).toEqual([4, 3, 2, 1, 0]);
  expect(await list({ filter: { ownerId }, showDeleted: true })).toEqual([5, 4, 3, 2, 1, 0]);
  const from = made[3]?.createdAt;
  if (from === undefined) throw new Error("It has no time");
  expect(await list({ filter: { ownerId, createdFrom: from }, orderBy: "created_at" })).toEqual(
    many(5).filter((index) => timestampDate(made[index]?.createdAt ?? from) >= timestampDate(from)),
  );
});
