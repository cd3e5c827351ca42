import type { Document } from "bson";

import { TransactionStatusSchema, TransactionTypeSchema } from "../../gen/lucid/repository/v1/transaction_pb.ts";
import type { TransactionFilter } from "../../gen/lucid/repository/v1/transaction_service_pb.ts";
import { textPart, timeRange } from "../schema/filters.ts";
import type { Restrictions } from "../schema/list-query.ts";
import { storedName } from "../schema/stored-field.ts";

/** What a list is to read. */
interface TransactionQuery {
  readonly filter: Document;
  readonly restrictions: Restrictions;
  /** The order where the caller names none. */
  readonly fallback: string;
}

/** The documents that a filter means, and what an index must serve for it. */
export function queryFor(filter: TransactionFilter | undefined): TransactionQuery {
  const { transactionType = 0, status = 0, blockId = "", address = "" } = filter ?? {};
  const { fromAddress = "", toAddress = "" } = filter ?? {};
  const equal: Document = {
    ...(transactionType !== 0 && { transaction_type: storedName(TransactionTypeSchema, transactionType) }),
    ...(status !== 0 && { status: storedName(TransactionStatusSchema, status) }),
    ...(blockId !== "" && { block_id: blockId }),
    ...(fromAddress !== "" && { from_address: fromAddress }),
    ...(toAddress !== "" && { to_address: toAddress }),
  };
  const created = timeRange(filter?.createdFrom, filter?.createdBefore);
  return {
    filter: {
      ...(address !== "" && either(address)),
      ...equal,
      ...(created !== undefined && { created_at: created }),
      deleted_at: null,
    },
    restrictions: {
      // Every index by the sender has its like by the receiver: the server merges what both give, which is in order already.
      equal: [...Object.keys(equal), ...(address === "" ? [] : ["from_address"])],
      ...(created !== undefined && { range: "created_at" }),
    },
    fallback: blockId === "" ? "created_at desc" : "transaction_index",
  };
}

/** What a search reads: by the beginning of a hash, or by a whole address, which no hash looks like. */
export function searchFor(query: string): TransactionQuery {
  if (query.startsWith("T")) {
    return {
      filter: { ...either(query), deleted_at: null },
      restrictions: { equal: ["from_address"] },
      fallback: "created_at desc",
    };
  }
  return {
    filter: { transaction_id: textPart(query.toLowerCase(), "start"), deleted_at: null },
    restrictions: { equal: [] },
    fallback: "transaction_id",
  };
}

function either(address: string): Document {
  return { $or: [{ from_address: address }, { to_address: address }] };
}
