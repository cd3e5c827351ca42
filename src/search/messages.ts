import type { DescMessage } from "@bufbuild/protobuf";

import { AuditRecordSchema } from "../../gen/lucid/repository/v1/audit_record_pb.ts";
import { BlockSchema } from "../../gen/lucid/repository/v1/block_pb.ts";
import { ManifestSchema } from "../../gen/lucid/repository/v1/manifest_pb.ts";
import { SessionSchema } from "../../gen/lucid/repository/v1/session_pb.ts";
import { TransactionSchema } from "../../gen/lucid/repository/v1/transaction_pb.ts";
import { UserSchema } from "../../gen/lucid/repository/v1/user_pb.ts";
import { searchedMessage, type SearchedMessage } from "../schema/search-mapping.ts";

/** The messages that are searched, by the logical names of their indices. */
export const searchedMessages: ReadonlyMap<string, SearchedMessage> = new Map(
  [UserSchema, SessionSchema, BlockSchema, TransactionSchema, ManifestSchema, AuditRecordSchema].map((schema) => {
    const message = described(schema);
    return [message.name, message];
  }),
);

function described(schema: DescMessage): SearchedMessage {
  const message = searchedMessage(schema);
  if (message === undefined) throw new Error(`${schema.typeName} has no search index`);
  return message;
}
