import { randomUUID } from "node:crypto";

import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import fc from "fast-check";
import { afterAll, beforeAll, expect, test, vi } from "vitest";

import { TrustLevel } from "../../gen/lucid/repository/v1/trust_policy_pb.ts";
import { type TrustRelationship } from "../../gen/lucid/repository/v1/trust_relationship_pb.ts";
import { begunIn, runs, within } from "../support/sequences.ts";
import { refusalOf } from "./support.ts";
import { policiesApp, type PoliciesApp, relationshipInit } from "./trust-policy-support.ts";

let service: PoliciesApp;
beforeAll(async () => {
  service = await policiesApp();
});
afterAll(() => service[Symbol.asyncDispose]());

type Init = Parameters<typeof relationshipInit>[0] & object;

const party = (id: string, type = "user") => ({ type, id });
const soon = (ms = 60_000) => timestampFromDate(new Date(Date.now() + ms));

function init(from: string, to: string, more: Init = {}): Init {
  return relationshipInit({ subject: party(from), target: party(to), ...more });
}

async function establish(from: string, to: string, more: Init = {}): Promise<TrustRelationship> {
  const request = { trustRelationship: init(from, to, more) };
  const { trustRelationship } = await service.policies.establishTrustRelationship(request);
  if (trustRelationship === undefined) throw new Error("No relationship was returned");
  return trustRelationship;
}

/** Puts the end of a relationship into the past. */
async function expire(relationshipId: string): Promise<void> {
  await service.db
    .collection("trust_relationships")
    .updateOne({ relationship_id: relationshipId }, { $set: { expires_at: new Date(Date.now() - 1000) } });
}

const taken = { code: "AlreadyExists", reason: "TRUST_RELATIONSHIP_ALREADY_EXISTS" };

test("what is repeated with its request_id returns the first relationship, though it has expired", async () => {
  const { policies } = service;
  const request = {
    trustRelationship: init(randomUUID(), randomUUID(), { expiresAt: soon() }),
    requestId: randomUUID(),
  };
  const first = await policies.establishTrustRelationship(request);
  const now = Date.now.bind(Date);
  using _later = vi.spyOn(Date, "now").mockImplementation(() => now() + 3_600_000);
  expect(await policies.establishTrustRelationship(request)).toEqual(first);
});

test("a relationship is established once, verified and revoked for good", async () => {
  const { policies, overHttp } = service;
  const [a, b] = [randomUUID(), randomUUID()];
  const sent = init(a, b, {
    trustScore: { overall: 55.5, components: { uptime: 1.5 }, calculationMethod: "mean" },
    expiresAt: soon(),
    metadata: { why: ["x"] },
  });
  const request = { trustRelationship: { ...sent, revocationReason: "no" }, requestId: randomUUID() };
  const made = (await policies.establishTrustRelationship(request)).trustRelationship;
  expect((await overHttp.establishTrustRelationship(request)).trustRelationship).toStrictEqual(made);
  expect(made).toMatchObject({ ...sent, revision: 1n });
  expect(made?.revocationReason).toBeUndefined();
  const { relationshipId = "", etag = "" } = made ?? {};
  expect((await overHttp.getTrustRelationship({ relationshipId })).trustRelationship).toStrictEqual(made);
  expect(await refusalOf(establish(a, b))).toMatchObject(taken);

  const expiresAt = soon(120_000);
  const trustScore = { overall: 80, components: { uptime: 2 }, calculationMethod: "$mean" };
  const verified = (
    await policies.verifyTrustRelationship({
      relationshipId,
      trustLevel: TrustLevel.VERIFIED,
      trustScore,
      expiresAt,
      etag,
    })
  ).trustRelationship;
  expect(verified).toMatchObject({
    trustLevel: TrustLevel.VERIFIED,
    trustScore,
    expiresAt,
    revision: 2n,
    metadata: { why: ["x"] },
  });
  expect(verified?.lastVerified).toStrictEqual(verified?.updatedAt);
  const stale = {
    code: "Aborted",
    reason: "ETAG_MISMATCH",
    metadata: { relationship_id: relationshipId, etag: verified?.etag },
  };
  expect(await refusalOf(policies.verifyTrustRelationship({ relationshipId, etag }))).toMatchObject(stale);
  expect(await refusalOf(policies.revokeTrustRelationship({ relationshipId, etag }))).toMatchObject(stale);
  expect((await policies.verifyTrustRelationship({ relationshipId })).trustRelationship).toMatchObject({
    trustScore,
    expiresAt,
  });

  const revoked = (await policies.revokeTrustRelationship({ relationshipId, reason: "$gone" })).trustRelationship;
  expect(revoked).toMatchObject({ revocationReason: "$gone" });
  const missing = { code: "NotFound", reason: "TRUST_RELATIONSHIP_NOT_FOUND" };
  for (const call of [
    () => policies.getTrustRelationship({ relationshipId }),
    () => policies.verifyTrustRelationship({ relationshipId }),
    () => policies.revokeTrustRelationship({ relationshipId }),
  ]) {
    expect(await refusalOf(call())).toMatchObject(missing);
  }
  expect((await policies.getTrustRelationship({ relationshipId, showRevoked: true })).trustRelationship).toStrictEqual(
    revoked,
  );
  expect((await establish(a, b)).relationshipId).not.toBe(relationshipId);
});

test("one that is bidirectional is found from both sides, and is in the way of both", async () => {
  const { policies } = service;
  const [a, b, c] = [randomUUID(), randomUUID(), randomUUID()];
  const both = await establish(a, b, { bidirectional: true });
  const onlyTo = await establish(c, a);
  const other = await establish(a, b, { relationshipType: "operator" });
  const list = async (filter: object, more: object = {}) => {
    const found: string[] = [];
    let pageToken = "";
    do {
      const page = await policies.listTrustRelationships({ filter, ...more, pageSize: 1, pageToken });
      found.push(...page.trustRelationships.map(({ relationshipId }) => relationshipId));
      pageToken = page.nextPageToken;
    } while (pageToken !== "");
    return found;
  };
  expect(await list({ from: party(a) }, { orderBy: "created_at" })).toEqual([
    both.relationshipId,
    other.relationshipId,
  ]);
  expect(await list({ from: party(b) })).toEqual([both.relationshipId]);
  expect(await list({ to: party(a) })).toEqual([onlyTo.relationshipId, both.relationshipId]);
  expect(await list({ to: party(b), relationshipType: "peer" })).toEqual([both.relationshipId]);
  expect(await list({ from: party(b), to: party(a) })).toEqual([both.relationshipId]);
  expect(await list({ from: party(a), to: party(b), relationshipType: "operator" })).toEqual([other.relationshipId]);
  expect(await list({ from: party(a), to: party(c) })).toEqual([]);
  expect(await list({ from: party(a, "node") })).toEqual([]);
  expect(await list({ relationshipType: "operator" })).toContain(other.relationshipId);
  // Neither the same the other way round, nor one that would be both ways beside one that is.
  expect(await refusalOf(establish(b, a))).toMatchObject(taken);
  expect(await refusalOf(establish(b, a, { bidirectional: true }))).toMatchObject(taken);
  expect(await refusalOf(establish(a, c, { bidirectional: true }))).toMatchObject(taken);
  await establish(a, c);
  // One that has expired is listed only where that is asked for, as one that was revoked is.
  await expire(both.relationshipId);
  expect(await list({ from: party(b) })).toEqual([]);
  expect(await list({ from: party(b) }, { showExpired: true })).toEqual([both.relationshipId]);
  await policies.revokeTrustRelationship({ relationshipId: both.relationshipId });
  expect(await list({ from: party(b) }, { showExpired: true })).toEqual([]);
  expect(await list({ from: party(b) }, { showExpired: true, showRevoked: true })).toEqual([both.relationshipId]);
});

test("one that has expired cannot be verified, and makes room for others", async () => {
  const { policies } = service;
  const [a, b] = [randomUUID(), randomUUID()];
  const [there, back] = [await establish(a, b), await establish(b, a)];
  await expire(there.relationshipId);
  await expire(back.relationshipId);
  expect(await refusalOf(policies.verifyTrustRelationship({ relationshipId: there.relationshipId }))).toMatchObject({
    code: "FailedPrecondition",
    reason: "TRUST_RELATIONSHIP_EXPIRED",
    metadata: { relationship_id: there.relationshipId, expired_at: expect.any(String) as string },
  });
  // Both are in the way of one that goes both ways; of many that come, one is established.
  const calls = await Promise.allSettled(Array.from({ length: 5 }, () => establish(a, b, { bidirectional: true })));
  expect(calls.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
  for (const { relationshipId } of [there, back]) {
    const { trustRelationship } = await policies.getTrustRelationship({ relationshipId, showRevoked: true });
    expect(trustRelationship?.deletedAt).toBeDefined();
    expect(trustRelationship?.revocationReason).toContain("expired");
  }
});

test(
  "relationships come and go as in a model",
  async () => {
    const name = fc.constantFrom("a", "b", "c");
    const step = fc.oneof(
      fc.record({ kind: fc.constant("establish" as const), from: name, to: name, both: fc.boolean() }),
      fc.record({
        kind: fc.constantFrom("revoke" as const, "expire" as const, "verify" as const),
        at: fc.nat({ max: 5 }),
      }),
    );
    interface Known {
      readonly id: string;
      readonly links: readonly string[];
      state: "live" | "expired" | "revoked";
    }
    await fc.assert(
      fc.asyncProperty(
        fc.array(step, { minLength: 1, maxLength: 8 }),
        begunIn(12_000, async (steps) => {
          const { policies } = service;
          const own = randomUUID();
          const known: Known[] = [];
          for (const one of steps) {
            if (one.kind === "establish") {
              const links = [`${one.from}${one.to}`, ...(one.both ? [`${one.to}${one.from}`] : [])];
              const inTheWay = known.filter(
                ({ links: others, state }) => state !== "revoked" && others.some((link) => links.includes(link)),
              );
              const call = establish(own + one.from, own + one.to, { bidirectional: one.both });
              if (one.from === one.to) expect(await refusalOf(call)).toMatchObject({ reason: "BAD_REQUEST" });
              else if (inTheWay.some(({ state }) => state === "live")) {
                expect(await refusalOf(call)).toMatchObject(taken);
                // What had expired may have been revoked before the one that is in the way was met.
                for (const other of inTheWay.filter(({ state }) => state === "expired")) {
                  const { trustRelationship } = await policies.getTrustRelationship({
                    relationshipId: other.id,
                    showRevoked: true,
                  });
                  if (trustRelationship?.deletedAt !== undefined) other.state = "revoked";
                }
              } else {
                for (const other of inTheWay) other.state = "revoked";
                known.push({ id: (await call).relationshipId, links, state: "live" });
              }
              continue;
            }
            const chosen = known[one.at];
            if (chosen === undefined) continue;
            const relationshipId = chosen.id;
            if (one.kind === "expire") {
              if (chosen.state !== "live") continue;
              await expire(relationshipId);
              chosen.state = "expired";
            } else if (one.kind === "revoke") {
              const call = policies.revokeTrustRelationship({ relationshipId });
              if (chosen.state === "revoked")
                expect(await refusalOf(call)).toMatchObject({ reason: "TRUST_RELATIONSHIP_NOT_FOUND" });
              else await call;
              chosen.state = "revoked";
            } else {
              const call = policies.verifyTrustRelationship({ relationshipId });
              const reasons = { revoked: "TRUST_RELATIONSHIP_NOT_FOUND", expired: "TRUST_RELATIONSHIP_EXPIRED" };
              if (chosen.state === "live") await call;
              else expect(await refusalOf(call)).toMatchObject({ reason: reasons[chosen.state] });
            }
          }
          const live = known.filter(({ state }) => state === "live");
          for (const from of ["a", "b", "c"]) {
            const { trustRelationships } = await policies.listTrustRelationships({
              filter: { from: party(own + from) },
            });
            expect(trustRelationships.map(({ relationshipId }) => relationshipId).toReversed()).toEqual(
              live.filter(({ links }) => links.some((link) => link.startsWith(from))).map(({ id }) => id),
            );
          }
        }),
      ),
      runs({ numRuns: 40 }),
    );
  },
  within(),
);
