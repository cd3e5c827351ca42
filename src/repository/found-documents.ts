import type { DescMessage } from "@bufbuild/protobuf";
import type { Document } from "bson";
import type { Collection } from "mongodb";

import { AuditRecordSchema } from "../../gen/lucid/repository/v1/audit_record_pb.ts";
import { SessionSchema } from "../../gen/lucid/repository/v1/session_pb.ts";
import { stringIn } from "../schema/bson-reader.ts";
import { cancellable } from "../schema/call-options.ts";
import { collectionOf } from "../schema/collection.ts";
import type { FoundDocuments } from "../schema/found-documents.ts";
import type { Repositories } from "./collections.ts";
import { sessionEntities } from "./session-entity.ts";

/** Reads documents for whoever knows their ids. The audit log is in a database of its own. */
export function foundDocuments(options: Repositories & { readonly auditRecords: Collection }): FoundDocuments {
  const { sessions, counters } = sessionEntities(options);
  const collectionFor = (schema: DescMessage) =>
    schema === AuditRecordSchema ? options.auditRecords : options.db.collection(collectionOf(schema).name);

  return {
    async read({ schema, id, ids, showDeleted }, context) {
      const isHidden = (name: string) => !showDeleted && schema.fields.some((field) => field.name === name);
      const filter: Document = {
        [id]: { $in: [...ids] },
        ...(isHidden("deleted_at") && { deleted_at: null }),
        ...(isHidden("orphaned_at") && { orphaned_at: null }),
      };
      const cursor = collectionFor(schema).find<Uint8Array>(filter, { raw: true, ...cancellable(context) });
      const found = await cursor.toArray();
      // A session whose chunks are just being written holds counters that are not to be believed.
      const documents = schema === SessionSchema ? await counters.upToDate(found, context) : found;
      return new Map(documents.map((document) => [stringIn(document, id) ?? "", document]));
    },

    async state({ schema, id, of }, context) {
      const wanted = {
        projection: { _id: 0, revision: 1, updated_at: 1 },
        useBigInt64: true,
        ...cancellable(context),
      };
      const found = await collectionFor(schema).findOne({ [id]: of }, wanted);
      if (found === null) return undefined;
      const { revision = 1n, updated_at: updateTime } = found as { revision?: bigint | number; updated_at?: Date };
      return { revision: BigInt(revision), updateTime };
    },

    async sessionsOf(userId, most, context) {
      const found = await sessions.collection
        .find({ user_id: userId }, { projection: { _id: 0, session_id: 1 }, limit: most, ...cancellable(context) })
        .toArray();
      return found.map((document) => String(document["session_id"]));
    },
  };
}
