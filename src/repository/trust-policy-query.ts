import type { Document } from "bson";

import { TrustPolicyStatusSchema, TrustPolicyTypeSchema } from "../../gen/lucid/repository/v1/trust_policy_pb.ts";
import type { TrustPolicyFilter } from "../../gen/lucid/repository/v1/trust_policy_service_pb.ts";
import { filteredBy } from "../schema/list-query.ts";
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
  return filteredBy(equal, { createdFrom, createdBefore, showDeleted });
}
