import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";
import type { Document } from "bson";
import type { Collection } from "mongodb";

import * as rpc from "../../../gen/lucid/repository/v1/audit_log_service_pb.ts";
import { AuditRecordSchema } from "../../../gen/lucid/repository/v1/audit_record_pb.ts";
import { fail } from "../../errors.ts";
import { cancellable, deadlineOf } from "../../schema/call-options.ts";
import { documentResponse } from "../../schema/document-response.ts";
import { timeRange } from "../../schema/filters.ts";
import { listOrder, pageSizeOf, queryOf, type Restrictions } from "../../schema/list-query.ts";
import type { PageTokens } from "../../schema/page-tokens.ts";
import { readPage } from "../../schema/page.ts";
import { badRequest } from "../../schema/refusals.ts";
import type { AuditLog } from "./log.ts";
import { auditProofs } from "./proofs.ts";
import { emptyHead } from "./record.ts";
import type { AuditRelay } from "./relay.ts";
import { verification } from "./verify.ts";

const got = documentResponse(rpc.GetAuditRecordResponseSchema, "record");
const listed = documentResponse(rpc.ListAuditRecordsResponseSchema, "records");

/** Shows the audit log. */
export function auditLogService(options: {
  readonly log: AuditLog;
  readonly relay: Pick<AuditRelay, "settled">;
  readonly pageTokens: () => Promise<PageTokens>;
}): ServiceImpl<typeof rpc.AuditLogService> {
  const { log, relay, pageTokens } = options;
  const { records } = log;

  const find = async (auditId: string, context: HandlerContext): Promise<Uint8Array> => {
    const found = await records.findOne<Uint8Array>({ audit_id: auditId }, { raw: true, ...deadlineOf(context) });
    if (found === null) throw recordNotFound({ audit_id: auditId });
    return found;
  };

  return {
    async getAuditRecord({ auditId }, context) {
      await relay.settled();
      return got([await find(auditId, context)]);
    },

    async listAuditRecords(request, context) {
      await relay.settled();
      const { filter, restrictions } = filterOf(request.filter);
      const fallback = "timestamp desc";
      const order = listOrder(AuditRecordSchema, request.orderBy, restrictions, { id: "sequence", fallback });
      const { documents, nextPageToken } = await readPage({
        collection: records,
        filter,
        order,
        size: pageSizeOf(request.pageSize),
        query: queryOf(rpc.ListAuditRecordsRequestSchema, request),
        token: request.pageToken,
        tokens: await pageTokens(),
        limits: cancellable(context),
      });
      return listed(documents, { nextPageToken });
    },

    async getAuditHead() {
      await relay.settled();
      return { head: await log.head() };
    },

    ...auditProofs({ log, relay, find }),

    async *verifyAuditLog({ afterSequence, expected }, context) {
      if (expected !== undefined && expected.sequence <= afterSequence) {
        const description = "must be greater than after_sequence, since nothing before is read";
        throw badRequest({ field: "expected.sequence", description });
      }
      await relay.settled();
      const end = await log.head();
      const from = afterSequence === 0n ? emptyHead : await recordAt(records, afterSequence, context);
      yield* verification(log, { from, end, expected }, cancellable(context));
    },
  };
}

async function recordAt(records: Collection, sequence: bigint, context: HandlerContext): Promise<Uint8Array> {
  const found = await records.findOne<Uint8Array>({ sequence }, { raw: true, ...deadlineOf(context) });
  if (found === null) throw recordNotFound({ sequence: String(sequence) });
  return found;
}

function recordNotFound(about: Record<string, string>) {
  const [[key, name] = ["audit_id", ""]] = Object.entries(about);
  return fail("AUDIT_RECORD_NOT_FOUND", `There is no audit record with ${key} ${name}`, {
    metadata: about,
    resource: { type: AuditRecordSchema.typeName, name },
  });
}

/** The records that a filter means, and what an index must serve for it. */
function filterOf(filter: rpc.AuditFilter | undefined): { filter: Document; restrictions: Restrictions } {
  const {
    actorId = "",
    resourceType = "",
    resourceName = "",
    rpc: method = "",
    outcome = "",
    from,
    before,
  } = filter ?? {};
  const text = {
    "actor.id": actorId,
    "resource.type": resourceType,
    "resource.name": resourceName,
    rpc: method,
    outcome,
  };
  const equal = Object.fromEntries(Object.entries(text).filter(([, value]) => value !== ""));
  const timestamp = timeRange(from, before);
  // One resource has few records: its index finds these, and whatever else is asked of them is looked at one by one.
  const served = resourceName === "" ? Object.keys(equal) : ["resource.type", "resource.name"];
  return {
    filter: { ...equal, ...(timestamp !== undefined && { timestamp }) },
    restrictions: { equal: served, ...(timestamp !== undefined && { range: "timestamp" }) },
  };
}
