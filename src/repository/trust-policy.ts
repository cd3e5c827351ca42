import { randomUUIDv7 } from "node:crypto";

import { create, toBinary } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";
import type { Document } from "bson";

import {
  type TrustPolicy,
  TrustPolicyActivitySchema,
  TrustPolicySchema,
  TrustPolicyStatus,
  TrustPolicyStatusSchema,
} from "../../gen/lucid/repository/v1/trust_policy_pb.ts";
import * as rpc from "../../gen/lucid/repository/v1/trust_policy_service_pb.ts";
import { fail } from "../errors.ts";
import { stringIn } from "../schema/bson-reader.ts";
import { cancellable } from "../schema/call-options.ts";
import { codecFor } from "../schema/codec.ts";
import { requestMark } from "../schema/create-once.ts";
import { documentResponse } from "../schema/document-response.ts";
import { entity, purgeKey } from "../schema/entity.ts";
import { literal } from "../schema/expressions.ts";
import { maskedPaths, onlyWritable, valueAt } from "../schema/field-mask.ts";
import { dateAtOrBefore } from "../schema/filters.ts";
import { badRequest, tooLarge } from "../schema/refusals.ts";
import { stateMachine } from "../schema/state-machine.ts";
import type { Repositories } from "./collections.ts";
import { policyViolations } from "./policy-violation.ts";
import { policyActivity, type PolicyCounters } from "./trust-policy-activity.ts";
import { checkEffectiveTime, documentOf, prepared } from "./trust-policy-document.ts";
import { evaluation, tooMany } from "./trust-policy-evaluation.ts";
import { filterOf } from "./trust-policy-query.ts";
import { policyStatistics } from "./trust-policy-statistics.ts";
import { nextVersion, policyVersions } from "./trust-policy-versions.ts";
import { trustRelationships } from "./trust-relationship.ts";

const codec = codecFor(TrustPolicySchema);
const subjectCodec = codecFor(rpc.TrustSubjectSchema);

const created = documentResponse(rpc.CreateTrustPolicyResponseSchema, "trust_policy");
const got = documentResponse(rpc.GetTrustPolicyResponseSchema, "trust_policy");
const listed = documentResponse(rpc.ListTrustPoliciesResponseSchema, "trust_policies");

/** Most policies that are looked at in one call. */
const mostPolicies = 500;

const { DRAFT, ACTIVE, INACTIVE, SUSPENDED, EXPIRED, REVOKED } = TrustPolicyStatus;

/** The life of a policy, as its proto has it. */
const machine = stateMachine(TrustPolicyStatusSchema, {
  [DRAFT]: [ACTIVE, REVOKED],
  [ACTIVE]: [INACTIVE, SUSPENDED, EXPIRED, REVOKED],
  [INACTIVE]: [DRAFT, ACTIVE, EXPIRED, REVOKED],
  [SUSPENDED]: [ACTIVE, INACTIVE, EXPIRED, REVOKED],
  [EXPIRED]: [ACTIVE, REVOKED],
  [REVOKED]: [],
});

/** What a policy says besides its document, which has no counters. */
function tailOf(counters: PolicyCounters): Uint8Array {
  return toBinary(TrustPolicySchema, create(TrustPolicySchema, counters));
}

/** Keeps trust policies. Whatever changes one makes a new version of it, after the one before was put aside. */
export function trustPolicyService(options: Repositories): ServiceImpl<typeof rpc.TrustPolicyService> {
  const policies = entity({
    db: options.db,
    schema: TrustPolicySchema,
    id: "policy_id",
    name: "trust_policy",
    reasons: {
      notFound: "TRUST_POLICY_NOT_FOUND",
      alreadyExists: "TRUST_POLICY_ALREADY_EXISTS",
      notDeleted: "TRUST_POLICY_NOT_DELETED",
    },
    ready: options.collections.ready,
    pageTokens: options.pageTokens,
  });
  const versions = policyVersions(options, policies);
  const activity = policyActivity(options.db);

  const live = async (policyId: string, context: HandlerContext) =>
    policies.get(policies.live(policyId), context, { policy_id: policyId });
  const liveOrDeleted = async (policyId: string, context: HandlerContext) =>
    policies.get({ policy_id: policyId }, context, { policy_id: policyId });

  const livePolicy = async (policyId: string, context: HandlerContext) => codec.decode(await live(policyId, context));

  /** A policy with its counters. */
  const counted = async (policy: TrustPolicy, context: HandlerContext) => {
    const countersOf = await activity.counters([policy.policyId], context);
    return { trustPolicy: { ...policy, ...countersOf(policy.policyId) } };
  };

  /** The policies to evaluate, in any order. */
  const evaluated = async (request: rpc.EvaluateTrustPoliciesRequest, now: Date, context: HandlerContext) => {
    const { policyId, policyType, asOfTime } = request;
    if (policyId !== "") {
      if (asOfTime === undefined) return [await livePolicy(policyId, context)];
      return [await asOf(policyId, now, context)];
    }
    const { filter } = filterOf(
      create(rpc.TrustPolicyFilterSchema, { policyType, status: TrustPolicyStatus.ACTIVE }),
      false,
    );
    if (asOfTime !== undefined) return versions.allAsOf(filter, now, mostPolicies, context);
    const found = await policies.collection
      .find<Uint8Array>(filter, { raw: true, limit: mostPolicies + 1, ...cancellable(context) })
      .toArray();
    if (found.length > mostPolicies) throw tooMany("policies", mostPolicies);
    return found.map((document) => codec.decode(document));
  };

  const asOf = async (policyId: string, time: Date, context: HandlerContext) => {
    const policy = codec.decode(await liveOrDeleted(policyId, context));
    const found = await versions.asOf(policy, time, context);
    if (found === undefined || found.deletedAt !== undefined) throw policies.notFound({ policy_id: policyId });
    return found;
  };

  const protect = ({ policyId, isSystemPolicy }: TrustPolicy) => {
    if (!isSystemPolicy) return;
    throw fail("TRUST_POLICY_PROTECTED", `The trust policy ${policyId} is a system policy, which cannot be deleted`, {
      metadata: { policy_id: policyId },
    });
  };

  return {
    async createTrustPolicy(request, context) {
      const policy = prepared(onlyWritable(TrustPolicySchema, request.trustPolicy ?? codec.decode({})));
      policy.policyId = randomUUIDv7();
      policy.version = 1n;
      policy.versionTime = timestampFromDate(new Date());
      checkEffectiveTime(policy);
      const document = await documentOf(policy, () => true);
      const mark = requestMark(rpc.CreateTrustPolicyRequestSchema, request);
      const { document: stored, isNew } = await policies.insert(document, context, mark);
      return isNew ? created([stored]) : counted(codec.decode(stored), context);
    },

    async getTrustPolicy({ policyId, version, showDeleted }, context) {
      const find = showDeleted ? liveOrDeleted : live;
      const [found, countersOf] = await Promise.all([find(policyId, context), activity.counters([policyId], context)]);
      const counters = countersOf(policyId);
      if (version === undefined) return got([found], undefined, [tailOf(counters)]);
      const policy = await versions.get(codec.decode(found), version, context);
      return { trustPolicy: { ...policy, ...counters } };
    },

    async getTrustPolicyAsOf({ policyId, asOfTime }, context) {
      const time = asOfTime === undefined ? new Date() : dateAtOrBefore(asOfTime);
      return counted(await asOf(policyId, time, context), context);
    },

    async listTrustPolicyVersions(request, context) {
      const policy = codec.decode(await liveOrDeleted(request.policyId, context));
      const { policies: found, nextPageToken } = await versions.list(policy, request, context);
      const countersOf = await activity.counters([policy.policyId], context);
      const counters = countersOf(policy.policyId);
      return { trustPolicies: found.map((each) => ({ ...each, ...counters })), nextPageToken };
    },

    async listTrustPolicies(request, context) {
      const query = filterOf(request.filter, request.showDeleted);
      const schema = rpc.ListTrustPoliciesRequestSchema;
      const { documents, nextPageToken } = await policies.list(
        { ...query, fallback: "created_at desc", schema, request },
        context,
      );
      const ids = documents.map((document) => stringIn(document, "policy_id") ?? "");
      const countersOf = await activity.counters(ids, context);
      return listed(
        documents,
        { nextPageToken },
        ids.map((id) => tailOf(countersOf(id))),
      );
    },

    async updateTrustPolicy({ trustPolicy: sent, updateMask, etag }, context) {
      if (sent === undefined) throw badRequest({ field: "trust_policy", description: "must be set" });
      const { policyId } = sent;
      const fields = maskedPaths(TrustPolicySchema, sent, updateMask);
      const isChanged = (name: string) => fields.some((path) => path.split(".", 1)[0] === name);
      const document = await documentOf(prepared(onlyWritable(TrustPolicySchema, sent)), isChanged);
      const set: Document = Object.fromEntries(fields.map((path) => [path, literal(valueAt(document, path))]));
      const changed = await versions.change(
        {
          policyId,
          etag,
          read: () => live(policyId, context),
          async write(policy, filter) {
            if (fields.length === 0) return policies.find({ ...policies.live(policyId), ...filter }, context);
            const { effectiveFrom, effectiveUntil } = sent;
            checkEffectiveTime({
              ...policy,
              ...(isChanged("effective_from") && { effectiveFrom }),
              ...(isChanged("effective_until") && { effectiveUntil }),
            });
            const now = new Date();
            const stages = [{ $set: { ...set, ...nextVersion(now) } }];
            return policies.change(policyId, { stages, filter: { deleted_at: null, ...filter }, fields, now }, context);
          },
        },
        context,
      );
      return counted(changed, context);
    },

    async setTrustPolicyStatus({ policyId, status, etag }, context) {
      const changed = await versions.change(
        {
          policyId,
          etag,
          read: () => live(policyId, context),
          async write(_policy, filter) {
            const now = new Date();
            return policies.step(policyId, { machine, to: status, set: nextVersion(now), filter, now }, context);
          },
        },
        context,
      );
      return counted(changed, context);
    },

    async deleteTrustPolicy({ policyId, etag, validateOnly }, context) {
      if (validateOnly) {
        const policy = codec.decode(await policies.delete(policyId, { etag, validateOnly }, context));
        protect(policy);
        return counted(policy, context);
      }
      const deleted = await versions.change(
        {
          policyId,
          etag,
          read: () => live(policyId, context),
          async write(policy, filter) {
            // Nothing changes whether it is one.
            protect(policy);
            const now = new Date();
            const stages = [{ $set: { deleted_at: now, ...nextVersion(now) } }];
            return policies.change(policyId, { stages, filter: { deleted_at: null, ...filter }, now }, context);
          },
        },
        context,
      );
      return counted(deleted, context);
    },

    async undeleteTrustPolicy({ policyId, etag }, context) {
      const undeleted = await versions.change(
        {
          policyId,
          etag,
          // One that is being removed for good is not found.
          read: () => policies.get({ policy_id: policyId, [purgeKey]: null }, context, { policy_id: policyId }),
          async write({ deletedAt }, filter) {
            if (deletedAt === undefined) {
              throw fail("TRUST_POLICY_NOT_DELETED", `The trust policy ${policyId} is not deleted`, {
                metadata: { policy_id: policyId },
              });
            }
            const now = new Date();
            const stages = [{ $unset: "deleted_at" }, { $set: nextVersion(now) }];
            return policies.change(
              policyId,
              { stages, filter: { deleted_at: { $ne: null }, [purgeKey]: null, ...filter }, now },
              context,
            );
          },
        },
        context,
      );
      return counted(undeleted, context);
    },

    async evaluateTrustPolicies(request, context) {
      const { subject, asOfTime } = request;
      if (subject === undefined) throw badRequest({ field: "subject", description: "must be set" });
      const { attributes } = subjectCodec.encode(subject, "subject");
      const wrong = tooLarge("subject.attributes", attributes as Document | undefined);
      if (wrong.length > 0) throw badRequest(...wrong);
      const now = asOfTime === undefined ? new Date() : dateAtOrBefore(asOfTime);
      return evaluation(await evaluated(request, now, context), subject, now, context);
    },

    async recordPolicyApplication({ policyId, evaluationTime }, context) {
      await options.collections.ready(TrustPolicyActivitySchema);
      await live(policyId, context);
      const { applicationsCount, lastApplied } = await activity.record(policyId, evaluationTime, context);
      return { applicationsCount, ...(lastApplied && { lastApplied }) };
    },

    async getTrustPolicyStatistics({ policyId }, context) {
      if (policyId !== "") await live(policyId, context);
      return { statistics: await policyStatistics(options.db, policyId, context) };
    },

    ...policyViolations(options, livePolicy),
    ...trustRelationships(options),
  };
}
