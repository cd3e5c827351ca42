import { create } from "@bufbuild/protobuf";
import { Code, ConnectError, type HandlerContext } from "@connectrpc/connect";

import { type Status, StatusSchema } from "../../gen/google/rpc/status_pb.ts";
import type { TransactionInternalsSchema } from "../../gen/lucid/repository/v1/transaction_internals_pb.ts";
import {
  type BatchCreateTransactionsResult,
  BatchCreateTransactionsResultSchema,
  type CreateTransactionRequest,
  CreateTransactionRequestSchema,
} from "../../gen/lucid/repository/v1/transaction_service_pb.ts";
import { fail, reasonOf, rpcStatusOf } from "../errors.ts";
import type { NewDocument } from "../schema/create-once.ts";
import type { Entity } from "../schema/entity.ts";
import { brokenRules } from "../schema/rules.ts";
import type { Secrets } from "./secrets.ts";
import { newTransaction } from "./transaction-document.ts";
import { turns } from "./turns.ts";

/** Creates many transactions in one statement, and tells of each what became of it, in the order of the requests. */
export async function createBatch(
  requests: readonly CreateTransactionRequest[],
  { transactions, internals }: { transactions: Entity; internals: Secrets<typeof TransactionInternalsSchema> },
  context: HandlerContext,
): Promise<BatchCreateTransactionsResult[]> {
  const items: (NewDocument | ConnectError)[] = [];
  const turn = turns();
  for (const request of requests) {
    items.push(itemOf(request));
    await turn();
  }
  const good = items.flatMap((item) => (item instanceof ConnectError ? [] : [item]));
  const outcomes = good.length === 0 ? [] : await transactions.insertMany(good, context);
  const refusals = new Map(good.map((item, index) => [item, outcomes[index]]));
  const refusalOf = (item: NewDocument | ConnectError) => (item instanceof ConnectError ? item : refusals.get(item));

  await internals.add(
    items.flatMap((item, index) => {
      const { transaction, internals: sent } = requests[index] ?? {};
      if (sent === undefined || transaction === undefined || refusalOf(item) !== undefined) return [];
      return [{ owner: { transaction_id: transaction.transactionId }, sent }];
    }),
    context,
  );
  /** Which item has created each transaction of this batch. */
  const creators = new Map<string, number>();
  for (const [index, item] of items.entries()) {
    if (refusalOf(item) === undefined) creators.set(idOf(requests[index]), index);
  }
  return items.map((item, index) => {
    const transactionId = idOf(requests[index]);
    const status = statusOf(refusalOf(item), creators.get(transactionId));
    return create(BatchCreateTransactionsResultSchema, { transactionId, status });
  });
}

function itemOf(request: CreateTransactionRequest): NewDocument | ConnectError {
  const broken = brokenRules(CreateTransactionRequestSchema, request);
  if (broken !== undefined) return broken;
  try {
    return newTransaction(request);
  } catch (error) {
    // What is wrong with one item is told in its place; anything else is a bug.
    if (error instanceof ConnectError && error.code === Code.InvalidArgument) return error;
    throw error;
  }
}

function idOf(request: CreateTransactionRequest | undefined): string {
  return request?.transaction?.transactionId ?? "";
}

/** What is said of an item; of one whose id another item of the batch has taken, which that is. */
function statusOf(refusal: ConnectError | undefined, creator: number | undefined): Status {
  if (refusal === undefined) return create(StatusSchema);
  const { reason, metadata } = reasonOf(refusal) ?? {};
  if (reason !== "TRANSACTION_ALREADY_EXISTS" || creator === undefined) return rpcStatusOf(refusal);
  return rpcStatusOf(
    fail("TRANSACTION_ALREADY_EXISTS", `Item ${creator} of the batch has that transaction_id`, {
      metadata: { ...metadata, item: String(creator) },
      fields: [{ field: "transaction.transaction_id", description: `is that of item ${creator}` }],
    }),
  );
}
