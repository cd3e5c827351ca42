import { randomUUIDv7 } from "node:crypto";

import { timestampFromDate, timestampMs } from "@bufbuild/protobuf/wkt";
import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";
import type { Document } from "bson";

import { PolicyViolationSchema, ViolationSeveritySchema } from "../../gen/lucid/repository/v1/policy_violation_pb.ts";
import type { TrustPolicy } from "../../gen/lucid/repository/v1/trust_policy_pb.ts";
import * as rpc from "../../gen/lucid/repository/v1/trust_policy_service_pb.ts";
import { fail } from "../errors.ts";
import { codecFor } from "../schema/codec.ts";
import { requestMark } from "../schema/create-once.ts";
import { documentResponse } from "../schema/document-response.ts";
import { entity } from "../schema/entity.ts";
import { literal } from "../schema/expressions.ts";
import { onlyWritable } from "../schema/field-mask.ts";
import { timeRange } from "../schema/filters.ts";
import type { Restrictions } from "../schema/list-query.ts";
import { badRequest, tooLarge } from "../schema/refusals.ts";
import { storedName } from "../schema/stored-field.ts";
import type { Repositories } from "./collections.ts";

const codec = codecFor(PolicyViolationSchema);

const recorded = documentResponse(rpc.RecordPolicyViolationResponseSchema, "policy_violation");
const got = documentResponse(rpc.GetPolicyViolationResponseSchema, "policy_violation");
const listed = documentResponse(rpc.ListPolicyViolationsResponseSchema, "policy_violations");
const resolved = documentResponse(rpc.ResolvePolicyViolationResponseSchema, "policy_violation");

type Handlers = Pick<
  ServiceImpl<typeof rpc.TrustPolicyService>,
  "recordPolicyViolation" | "getPolicyViolation" | "listPolicyViolations" | "resolvePolicyViolation"
>;

/** Keeps what broke policies; `policyOf` finds a policy that is not deleted, or fails. */
export function policyViolations(
  { db, collections, pageTokens }: Repositories,
  policyOf: (policyId: string, context: HandlerContext) => Promise<TrustPolicy>,
): Handlers {
  const violations = entity({
    db,
    schema: PolicyViolationSchema,
    id: "violation_id",
    name: "policy_violation",
    reasons: { notFound: "POLICY_VIOLATION_NOT_FOUND", alreadyExists: "POLICY_VIOLATION_ALREADY_EXISTS" },
    ready: collections.ready,
    pageTokens,
  });

  return {
    async recordPolicyViolation(request, context) {
      const { policyViolation: sent } = request;
      if (sent === undefined) throw badRequest({ field: "policy_violation", description: "must be set" });
      const violation = onlyWritable(PolicyViolationSchema, sent);
      violation.violationId = randomUUIDv7();
      violation.detectedAt ??= timestampFromDate(new Date());
      violation.occurredAt ??= violation.detectedAt;
      if (timestampMs(violation.occurredAt) > timestampMs(violation.detectedAt)) {
        throw badRequest({ field: "policy_violation.detected_at", description: "must not be before occurred_at" });
      }
      const document = codec.encode(violation, "policy_violation");
      const wrong = ["violation_data", "metadata"].flatMap((name) =>
        tooLarge(`policy_violation.${name}`, document[name] as Document | undefined),
      );
      if (wrong.length > 0) throw badRequest(...wrong);
      const mark = requestMark(rpc.RecordPolicyViolationRequestSchema, request);
      // Its policy may have gone since.
      const first = await violations.createdBefore(mark, context);
      if (first !== null) return recorded([first]);
      const { version } = await policyOf(violation.policyId, context);
      document["policy_version"] = version;
      const { document: stored } = await violations.insert(document, context, mark);
      return recorded([stored]);
    },

    async getPolicyViolation({ violationId }, context) {
      return got([await violations.get(violations.live(violationId), context, { violation_id: violationId })]);
    },

    async listPolicyViolations(request, context) {
      const schema = rpc.ListPolicyViolationsRequestSchema;
      const { documents, nextPageToken } = await violations.list(
        { ...filterOf(request.filter), fallback: "occurred_at desc", schema, request },
        context,
      );
      return listed(documents, { nextPageToken });
    },

    async resolvePolicyViolation({ violationId, resolutionNotes, actionTaken }, context) {
      const now = new Date();
      const set = {
        resolved: true,
        resolved_at: now,
        ...(resolutionNotes !== "" && { resolution_notes: literal(resolutionNotes) }),
        ...(actionTaken !== undefined && { action_taken: literal(actionTaken) }),
      };
      const filter = { deleted_at: null, resolved: false };
      const found = await violations.change(violationId, { stages: [{ $set: set }], filter, now }, context);
      if (found !== null) return resolved([found]);
      const about = { violation_id: violationId };
      const { resolvedAt } = codec.decode(await violations.get(violations.live(violationId), context, about));
      throw fail("POLICY_VIOLATION_ALREADY_RESOLVED", `The policy violation ${violationId} is resolved already`, {
        metadata: { ...about, ...(resolvedAt && { resolved_at: new Date(timestampMs(resolvedAt)).toISOString() }) },
      });
    },
  };
}

function filterOf(sent: rpc.PolicyViolationFilter | undefined) {
  const { policyId = "", violator, severity = 0, resolved: isResolved, occurredFrom, occurredBefore } = sent ?? {};
  const equal: Document = {
    ...(policyId !== "" && { policy_id: policyId }),
    ...(violator !== undefined && { "violator.type": violator.type, "violator.id": violator.id }),
    ...(severity !== 0 && { severity: storedName(ViolationSeveritySchema, severity) }),
    ...(isResolved !== undefined && { resolved: isResolved }),
  };
  const occurred = timeRange(occurredFrom, occurredBefore);
  const restrictions: Restrictions = {
    equal: Object.keys(equal),
    ...(occurred !== undefined && { range: "occurred_at" }),
  };
  return { filter: { ...equal, ...(occurred && { occurred_at: occurred }), deleted_at: null }, restrictions };
}
