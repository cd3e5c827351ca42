import type { Document } from "bson";

import { TrustPolicyStatusSchema, TrustPolicyTypeSchema } from "../../gen/lucid/repository/v1/trust_policy_pb.ts";
import type { TrustPolicyFilter } from "../../gen/lucid/repository/v1/trust_policy_service_pb.ts";
import { timeRange } from "../schema/filters.ts";
import type { Restrictions } from "../schema/list-query.ts";
import { storedName } from "../schema/stored-field.ts";

/** The documents that a filter means, and what an index must serve for it. */
export function filterOf(filter: TrustPolicyFilter | undefined, showDeleted: boolean) {
  const { policyType = 0, status = 0, ownerId = "", tag = "", createdFrom, createdBefore } = filter ?? {};
  const equal: Document = {
    ...(policyType !== 0 && { policy_type: storedName(TrustPolicyTypeSchema, policyType) }),
    ...(status !== 0 && { status: storedName(TrustPolicyStatusSchema, status) }),
    ...(ownerId !== "" && { owner_id: ownerId }),
    ...(tag !== "" && { tags: tag }),
  };
  const created = timeRange(createdFrom, createdBefore);
  const restrictions: Restrictions = {
    equal: Object.keys(equal),
    ...(created !== undefined && { range: "created_at" }),
  };
  return {
    filter: {
      ...equal,
      ...(created !== undefined && { created_at: created }),
      ...(!showDeleted && { deleted_at: null }),
    },
    restrictions,
  };
}
