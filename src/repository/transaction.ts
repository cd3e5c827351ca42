import type { ServiceImpl } from "@connectrpc/connect";

import { TransactionInternalsSchema } from "../../gen/lucid/repository/v1/transaction_internals_pb.ts";
import {
  TransactionSchema,
  TransactionStatusSchema,
  TransactionSummarySchema,
} from "../../gen/lucid/repository/v1/transaction_pb.ts";
import * as rpc from "../../gen/lucid/repository/v1/transaction_service_pb.ts";
import { cancellable } from "../schema/call-options.ts";
import { documentResponse } from "../schema/document-response.ts";
import { entity } from "../schema/entity.ts";
import { badRequest } from "../schema/refusals.ts";
import type { Repositories } from "./collections.ts";
import { secretsOf } from "./secrets.ts";
import { createBatch } from "./transaction-batch.ts";
import { notInBlock, transactionSteps } from "./transaction-block.ts";
import { newTransaction, wrongAddress } from "./transaction-document.ts";
import { queryFor, searchFor } from "./transaction-query.ts";
import { statisticsOf } from "./transaction-statistics.ts";
import { existingOrder, storedNumber, type Watches } from "./watch/watches.ts";

const created = documentResponse(rpc.CreateTransactionResponseSchema, "transaction");
const got = documentResponse(rpc.GetTransactionResponseSchema, "transaction");
const batch = documentResponse(rpc.BatchGetTransactionsResponseSchema, "transactions");
const listed = documentResponse(rpc.ListTransactionsResponseSchema, "transactions");
const summarized = documentResponse(rpc.ListTransactionSummariesResponseSchema, "summaries");
const listedByBlock = documentResponse(rpc.ListTransactionsByBlockResponseSchema, "transactions");
const searched = documentResponse(rpc.SearchTransactionsResponseSchema, "transactions");
const stepped = documentResponse(rpc.UpdateTransactionStatusResponseSchema, "transaction");
const assigned = documentResponse(rpc.AssignTransactionToBlockResponseSchema, "transaction");
const told = documentResponse(rpc.WatchTransactionsResponseSchema, "transaction");
const confirmed = documentResponse(rpc.UpdateTransactionConfirmationsResponseSchema, "transaction");

/** Keeps transactions. Each change is one statement that the store carries out on one document. */
export function transactionService({
  db,
  collections,
  pageTokens,
  watches,
}: Repositories & { readonly watches: Pick<Watches, "of"> }): ServiceImpl<typeof rpc.TransactionService> {
  const transactions = entity({
    db,
    schema: TransactionSchema,
    id: "transaction_id",
    name: "transaction",
    reasons: { notFound: "TRANSACTION_NOT_FOUND", alreadyExists: "TRANSACTION_ALREADY_EXISTS" },
    ready: collections.ready,
    pageTokens,
  });
  const internals = secretsOf(db, {
    schema: TransactionInternalsSchema,
    name: "internals",
    resource: "Transaction",
    refusals: ["TRANSACTION_ALREADY_EXISTS"],
  });
  const steps = transactionSteps(transactions, db);
  const watched = watches.of({
    schema: TransactionSchema,
    id: "transaction_id",
    steps: { field: "status", only: false },
  });

  return {
    async createTransaction(request, context) {
      const { document, mark } = newTransaction(request);
      const { internals: sent, transaction } = request;
      if (sent !== undefined) await collections.ready(TransactionInternalsSchema);
      const { document: stored } = await transactions.insert(document, context, mark);
      if (sent !== undefined && transaction !== undefined) {
        await internals.add([{ owner: { transaction_id: transaction.transactionId }, sent }], context);
      }
      return created([stored]);
    },

    async batchCreateTransactions({ requests }, context) {
      await collections.ready(TransactionInternalsSchema);
      return { results: await createBatch(requests, { transactions, internals }, context) };
    },

    async getTransaction({ transactionId }, context) {
      return got([
        await transactions.get(transactions.live(transactionId), context, { transaction_id: transactionId }),
      ]);
    },

    async batchGetTransactions({ transactionIds }, context) {
      const { documents, missing } = await transactions.batch(transactionIds, context);
      return batch(documents, { missingTransactionIds: missing });
    },

    async listTransactions(request, context) {
      const schema = rpc.ListTransactionsRequestSchema;
      const page = await transactions.list({ ...queryFor(request.filter), schema, request }, context);
      return listed(page.documents, { nextPageToken: page.nextPageToken });
    },

    async listTransactionSummaries(request, context) {
      const schema = rpc.ListTransactionSummariesRequestSchema;
      const part = TransactionSummarySchema;
      const page = await transactions.list({ ...queryFor(request.filter), schema, request, part }, context);
      return summarized(page.documents, { nextPageToken: page.nextPageToken });
    },

    async listTransactionsByBlock(request, context) {
      const page = await transactions.list(
        {
          filter: { block_id: request.blockId, deleted_at: null },
          restrictions: { equal: ["block_id"] },
          fallback: "transaction_index",
          schema: rpc.ListTransactionsByBlockRequestSchema,
          request,
        },
        context,
      );
      return listedByBlock(page.documents, { nextPageToken: page.nextPageToken });
    },

    async countTransactions({ filter }, context) {
      return { count: await transactions.count(queryFor(filter).filter, context) };
    },

    async searchTransactions(request, context) {
      const wrong = wrongAddress("query", request.query);
      if (wrong.length > 0) throw badRequest(...wrong);
      const schema = rpc.SearchTransactionsRequestSchema;
      const page = await transactions.list({ ...searchFor(request.query), schema, request }, context);
      return searched(page.documents, { nextPageToken: page.nextPageToken });
    },

    async updateTransactionStatus(request, context) {
      return stepped([await steps.update(request, context)]);
    },

    async assignTransactionToBlock(request, context) {
      return assigned([await steps.assign(request, context)]);
    },

    async updateTransactionConfirmations({ transactionId, blockId, confirmations }, context) {
      const more = { $max: [{ $ifNull: ["$confirmations", 0n] }, confirmations] };
      const change = { stages: [{ $set: { confirmations: more } }], filter: { deleted_at: null, block_id: blockId } };
      const found = await transactions.change(transactionId, change, context);
      if (found !== null) return confirmed([found]);
      await transactions.get(transactions.live(transactionId), context, { transaction_id: transactionId });
      throw notInBlock(transactionId, blockId);
    },

    async setTransactionInternals({ transactionId, internals: sent }, context) {
      await collections.ready(TransactionInternalsSchema);
      await transactions.get(transactions.live(transactionId), context, { transaction_id: transactionId });
      await internals.replace({ transaction_id: transactionId }, sent, context);
      return {};
    },

    async getTransactionStatistics(request, context) {
      return { statistics: await statisticsOf(transactions.collection, request, cancellable(context)) };
    },

    async *watchTransactions(request, context) {
      const { filter, restrictions } = queryFor(request.filter);
      // Neither changes once it is set.
      const order = request.filter?.blockId ? "transaction_index" : "created_at";
      const existing = request.changesOnly
        ? undefined
        : { filter, order: existingOrder(TransactionSchema, restrictions, { id: "transaction_id", order }) };
      const call = { schema: rpc.WatchTransactionsRequestSchema, request, filter, existing };
      for await (const { type, id: transactionId, revision, document, known, resumeToken } of watched.watch(
        call,
        context,
      )) {
        const status = storedNumber(TransactionStatusSchema, known["status"]);
        yield told(document === undefined ? [] : [document], { type, transactionId, revision, status, resumeToken });
      }
    },
  };
}
