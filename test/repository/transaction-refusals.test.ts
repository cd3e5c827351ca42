import { afterAll, beforeAll, expect, test } from "vitest";

import { TransactionStatus, TransactionType } from "../../gen/lucid/repository/v1/transaction_pb.ts";
import { TransactionService } from "../../gen/lucid/repository/v1/transaction_service_pb.ts";
import { bad, long, megabyte, noToken, type Refusal, unknown, untried } from "./refusals.ts";
import { refusalOf } from "./support.ts";
import {
  at,
  creationRefusals,
  type MadeTransactions,
  nobody,
  type TransactionCall,
} from "./transaction-creation-refusals.ts";
import { hash, newBlock, newTransaction, type TransactionsApp, transactionsApp } from "./transaction-support.ts";

const missing = { code: "NotFound", reason: "TRANSACTION_NOT_FOUND", metadata: { transaction_id: nobody } };

/** What each rpc refuses. */
const refusals: readonly Refusal<TransactionCall>[] = [
  ...creationRefusals,
  ["batchCreateTransactions: nothing", (transactions) => transactions.batchCreateTransactions({}), bad("requests")],
  [
    "batchCreateTransactions: too many",
    (transactions) => transactions.batchCreateTransactions({ requests: Array.from({ length: 1001 }, () => ({})) }),
    bad("requests"),
  ],
  ["getTransaction: nothing", (transactions) => transactions.getTransaction({}), bad("transaction_id")],
  [
    "getTransaction: an operator",
    (transactions) => transactions.getTransaction({ transactionId: '{"$ne":null}' }),
    bad("transaction_id"),
  ],
  ["getTransaction: nobody", (transactions) => transactions.getTransaction({ transactionId: nobody }), missing],
  ["batchGetTransactions: nothing", (transactions) => transactions.batchGetTransactions({}), bad("transaction_ids")],
  [
    "batchGetTransactions: too many",
    (transactions) => transactions.batchGetTransactions({ transactionIds: Array.from({ length: 101 }, () => hash()) }),
    bad("transaction_ids"),
  ],
  [
    "batchGetTransactions: twice",
    (transactions) => transactions.batchGetTransactions({ transactionIds: [nobody, nobody] }),
    bad("transaction_ids"),
  ],
  [
    "batchGetTransactions: no hash",
    (transactions) => transactions.batchGetTransactions({ transactionIds: [nobody, ".*"] }),
    bad("transaction_ids[1]"),
  ],
  ...(["listTransactions", "listTransactionSummaries"] as const).flatMap((name): Refusal<TransactionCall>[] => [
    [`${name}: negative size`, (transactions) => transactions[name]({ pageSize: -1 }), bad("page_size")],
    [`${name}: made-up token`, (transactions) => transactions[name]({ pageToken: "abc" }), noToken],
    [`${name}: order without an index`, (transactions) => transactions[name]({ orderBy: "fee" }), bad("order_by")],
    [
      `${name}: order by what some have not`,
      (transactions) => transactions[name]({ orderBy: "from_address, created_at" }),
      bad("order_by"),
    ],
    [
      `${name}: unknown status`,
      (transactions) => transactions[name]({ filter: { status: unknown } }),
      bad("filter.status"),
    ],
    [
      `${name}: unknown type`,
      (transactions) => transactions[name]({ filter: { transactionType: unknown } }),
      bad("filter.transaction_type"),
    ],
    [`${name}: no block`, (transactions) => transactions[name]({ filter: { blockId: "1" } }), bad("filter.block_id")],
    [
      `${name}: long address`,
      (transactions) => transactions[name]({ filter: { address: long } }),
      bad("filter.address"),
    ],
    [
      `${name}: long sender`,
      (transactions) => transactions[name]({ filter: { fromAddress: long } }),
      bad("filter.from_address"),
    ],
    [
      `${name}: long receiver`,
      (transactions) => transactions[name]({ filter: { toAddress: megabyte } }),
      bad("filter.to_address"),
    ],
    [
      `${name}: two kinds of address`,
      (transactions) => transactions[name]({ filter: { address: "a", toAddress: "b" } }),
      bad("filter"),
    ],
    [
      `${name}: sender and receiver`,
      (transactions) => transactions[name]({ filter: { fromAddress: "a", toAddress: "b" } }),
      bad("order_by"),
    ],
    [
      `${name}: address and type`,
      (transactions) => transactions[name]({ filter: { address: "a", transactionType: TransactionType.SYSTEM } }),
      bad("order_by"),
    ],
    [
      `${name}: block and status`,
      (transactions) => transactions[name]({ filter: { blockId: nobody, status: TransactionStatus.FAILED } }),
      bad("order_by"),
    ],
    [
      `${name}: block and time`,
      (transactions) => transactions[name]({ filter: { blockId: nobody, createdFrom: at(1n) } }),
      bad("order_by"),
    ],
  ]),
  ["listTransactionsByBlock: nothing", (transactions) => transactions.listTransactionsByBlock({}), bad("block_id")],
  [
    "listTransactionsByBlock: negative size",
    (transactions) => transactions.listTransactionsByBlock({ blockId: nobody, pageSize: -1 }),
    bad("page_size"),
  ],
  [
    "listTransactionsByBlock: long token",
    (transactions) => transactions.listTransactionsByBlock({ blockId: nobody, pageToken: "x".repeat(2049) }),
    bad("page_token"),
  ],
  [
    "countTransactions: unknown type",
    (transactions) => transactions.countTransactions({ filter: { transactionType: unknown } }),
    bad("filter.transaction_type"),
  ],
  ["searchTransactions: nothing", (transactions) => transactions.searchTransactions({}), bad("query")],
  ["searchTransactions: too little", (transactions) => transactions.searchTransactions({ query: "abc" }), bad("query")],
  ["searchTransactions: a pattern", (transactions) => transactions.searchTransactions({ query: "ab.*" }), bad("query")],
  [
    "searchTransactions: wrong checksum",
    (transactions) => transactions.searchTransactions({ query: `T${"1".repeat(33)}` }),
    bad("query"),
  ],
  [
    "searchTransactions: negative size",
    (transactions) => transactions.searchTransactions({ query: "abcd", pageSize: -1 }),
    bad("page_size"),
  ],
  [
    "searchTransactions: made-up token",
    (transactions) => transactions.searchTransactions({ query: "abcd", pageToken: "abc" }),
    { reason: "PAGE_TOKEN_INVALID" },
  ],
  [
    "updateTransactionStatus: nothing",
    (transactions) => transactions.updateTransactionStatus({}),
    bad("transaction_id", "status"),
  ],
  ...(["PENDING", "UNSPECIFIED", 99] as const).map((status): Refusal<TransactionCall> => [
    `updateTransactionStatus: to ${status}`,
    (transactions, { waiting: { transactionId } }) =>
      transactions.updateTransactionStatus({
        transactionId,
        status: status === 99 ? (status as never) : TransactionStatus[status],
      }),
    bad("status"),
  ]),
  ...(["IN_MEMPOOL", "CONFIRMED", "FINALIZED", "FAILED"] as const).map((status): Refusal<TransactionCall> => [
    `updateTransactionStatus: nobody to ${status}`,
    (transactions) =>
      transactions.updateTransactionStatus({ transactionId: nobody, status: TransactionStatus[status] }),
    missing,
  ]),
  [
    "updateTransactionStatus: an error without failure",
    (transactions, { waiting: { transactionId } }) =>
      transactions.updateTransactionStatus({
        transactionId,
        status: TransactionStatus.IN_MEMPOOL,
        errorMessage: "why",
      }),
    { reason: "BAD_REQUEST" },
  ],
  [
    "updateTransactionStatus: empty error",
    (transactions, { waiting: { transactionId } }) =>
      transactions.updateTransactionStatus({ transactionId, status: TransactionStatus.FAILED, errorMessage: "" }),
    bad("error_message"),
  ],
  [
    "updateTransactionStatus: long etag",
    (transactions, { waiting: { transactionId } }) =>
      transactions.updateTransactionStatus({
        transactionId,
        status: TransactionStatus.IN_MEMPOOL,
        etag: "x".repeat(65),
      }),
    bad("etag"),
  ],
  [
    "updateTransactionStatus: two steps at once",
    (transactions, { waiting: { transactionId } }) =>
      transactions.updateTransactionStatus({ transactionId, status: TransactionStatus.CONFIRMED }),
    {
      code: "FailedPrecondition",
      reason: "ILLEGAL_TRANSITION",
      metadata: { from: "PENDING", to: "CONFIRMED" },
    },
  ],
  [
    "assignTransactionToBlock: nothing",
    (transactions) => transactions.assignTransactionToBlock({}),
    bad("transaction_id", "block_id", "transaction_index"),
  ],
  [
    "assignTransactionToBlock: negative index",
    (transactions, { waiting: { transactionId }, blockId }) =>
      transactions.assignTransactionToBlock({ transactionId, blockId, transactionIndex: -1 }),
    bad("transaction_index"),
  ],
  [
    "assignTransactionToBlock: nobody",
    (transactions, { blockId }) =>
      transactions.assignTransactionToBlock({ transactionId: nobody, blockId, transactionIndex: 1 }),
    missing,
  ],
  [
    "assignTransactionToBlock: no block",
    (transactions, { waiting: { transactionId } }) =>
      transactions.assignTransactionToBlock({ transactionId, blockId: nobody, transactionIndex: 1 }),
    { code: "NotFound", reason: "BLOCK_NOT_FOUND", metadata: { block_id: nobody } },
  ],
  [
    "assignTransactionToBlock: orphaned block",
    (transactions, { waiting: { transactionId }, orphanId }) =>
      transactions.assignTransactionToBlock({ transactionId, blockId: orphanId, transactionIndex: 1 }),
    { code: "FailedPrecondition", reason: "BLOCK_ORPHANED" },
  ],
  [
    "assignTransactionToBlock: taken index",
    (transactions, { waiting: { transactionId }, blockId }) =>
      transactions.assignTransactionToBlock({ transactionId, blockId, transactionIndex: 0 }),
    {
      code: "AlreadyExists",
      reason: "TRANSACTION_INDEX_TAKEN",
      metadata: { transaction_index: "0" },
      fields: ["transaction_index"],
    },
  ],
  [
    "assignTransactionToBlock: another index",
    (transactions, { placed: { transactionId }, blockId }) =>
      transactions.assignTransactionToBlock({ transactionId, blockId, transactionIndex: 1 }),
    { code: "FailedPrecondition", reason: "TRANSACTION_ALREADY_ASSIGNED" },
  ],
  [
    "updateTransactionConfirmations: nothing",
    (transactions) => transactions.updateTransactionConfirmations({}),
    bad("transaction_id", "block_id"),
  ],
  [
    "updateTransactionConfirmations: negative",
    (transactions, { placed: { transactionId }, blockId }) =>
      transactions.updateTransactionConfirmations({ transactionId, blockId, confirmations: -1n }),
    bad("confirmations"),
  ],
  [
    "updateTransactionConfirmations: nobody",
    (transactions, { blockId }) =>
      transactions.updateTransactionConfirmations({ transactionId: nobody, blockId, confirmations: 1n }),
    missing,
  ],
  [
    "updateTransactionConfirmations: in no block",
    (transactions, { waiting: { transactionId }, blockId }) =>
      transactions.updateTransactionConfirmations({ transactionId, blockId, confirmations: 1n }),
    { code: "FailedPrecondition", reason: "TRANSACTION_NOT_IN_BLOCK" },
  ],
  [
    "setTransactionInternals: nothing",
    (transactions) => transactions.setTransactionInternals({}),
    bad("transaction_id", "internals"),
  ],
  [
    "setTransactionInternals: nobody",
    (transactions) => transactions.setTransactionInternals({ transactionId: nobody, internals: {} }),
    missing,
  ],
  [
    "getTransactionStatistics: no time",
    (transactions) => transactions.getTransactionStatistics({ createdFrom: at(2n), createdBefore: at(2n) }),
    { reason: "BAD_REQUEST" },
  ],
  [
    "getTransactionStatistics: unknown type",
    (transactions) => transactions.getTransactionStatistics({ transactionType: unknown }),
    bad("transaction_type"),
  ],
  [
    "watchTransactions: long token",
    (transactions) => Array.fromAsync(transactions.watchTransactions({ resumeToken: "x".repeat(2049) })),
    bad("resume_token"),
  ],
  [
    "watchTransactions: made-up token",
    (transactions) => Array.fromAsync(transactions.watchTransactions({ resumeToken: "abc" })),
    { code: "InvalidArgument", reason: "WATCH_TOKEN_INVALID", fields: ["resume_token"] },
  ],
  [
    "watchTransactions: long interval",
    (transactions) => Array.fromAsync(transactions.watchTransactions({ checkpointInterval: { seconds: 301n } })),
    bad("checkpoint_interval"),
  ],
  [
    "watchTransactions: unknown type",
    (transactions) => Array.fromAsync(transactions.watchTransactions({ filter: { transactionType: unknown } })),
    bad("filter.transaction_type"),
  ],
  [
    "watchTransactions: a filter without an index",
    (transactions) => Array.fromAsync(transactions.watchTransactions({ filter: { fromAddress: "a", toAddress: "b" } })),
    bad("filter"),
  ],
];

let service: TransactionsApp;
let made: MadeTransactions;
beforeAll(async () => {
  service = await transactionsApp();
  const { transactions, db } = service;
  const { blockId } = await newBlock(db);
  const { blockId: orphanId } = await newBlock(db, "ORPHANED");
  const waiting = await newTransaction(transactions);
  const { transactionId } = await newTransaction(transactions);
  const { transaction: placed } = await transactions.assignTransactionToBlock({
    transactionId,
    blockId,
    transactionIndex: 0,
  });
  if (placed === undefined) throw new Error("No transaction was returned");
  made = { waiting, placed, blockId, orphanId };
});
afterAll(() => service[Symbol.asyncDispose]());

test("every rpc is refused something here", () => {
  expect(untried(TransactionService, refusals)).toEqual([]);
});

test.for(refusals)("%s", async ([, call, expected]) => {
  const { transactions, overHttp } = service;
  expect(await refusalOf(call(transactions, made))).toMatchObject(expected);
  expect(await refusalOf(call(overHttp, made))).toMatchObject(expected);
  // What was refused has changed nothing.
  const { transactions: found } = await transactions.batchGetTransactions({
    transactionIds: [made.waiting.transactionId, made.placed.transactionId],
  });
  expect(found).toStrictEqual([made.waiting, made.placed]);
  expect(await transactions.countTransactions({})).toMatchObject({ count: 2n });
});
