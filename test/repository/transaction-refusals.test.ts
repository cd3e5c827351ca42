import { randomUUID } from "node:crypto";

import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Client } from "@connectrpc/connect";
import { afterAll, beforeAll, expect, test } from "vitest";

import type { TransactionInternalsSchema } from "../../gen/lucid/repository/v1/transaction_internals_pb.ts";
import {
  type Transaction,
  type TransactionSchema,
  TransactionStatus,
  TransactionType,
} from "../../gen/lucid/repository/v1/transaction_pb.ts";
import { TransactionService } from "../../gen/lucid/repository/v1/transaction_service_pb.ts";
import { refusalOf, tronAddress } from "./support.ts";
import {
  hash,
  newBlock,
  newTransaction,
  transactionInit,
  type TransactionsApp,
  transactionsApp,
} from "./transaction-support.ts";

type Transactions = Client<typeof TransactionService>;

/** What the calls are about: a transaction that waits, one that is in a block, that block and an orphaned one. */
interface Made {
  readonly waiting: Transaction;
  readonly placed: Transaction;
  readonly blockId: string;
  readonly orphanId: string;
}

const nobody = "0".repeat(64);
const missing = { code: "NotFound", reason: "TRANSACTION_NOT_FOUND", metadata: { transaction_id: nobody } };
const at = (seconds: bigint) => ({ seconds, nanos: 0 });

function bad(...fields: string[]) {
  return { code: "InvalidArgument", reason: "BAD_REQUEST", fields };
}

function create(init: MessageInitShape<typeof TransactionSchema>) {
  return (transactions: Transactions) => transactions.createTransaction({ transaction: transactionInit(init) });
}

function keep(internals: MessageInitShape<typeof TransactionInternalsSchema>) {
  return (transactions: Transactions) => transactions.createTransaction({ transaction: transactionInit(), internals });
}

const anchor = {
  sessionId: "s",
  userId: "u",
  merkleRoot: hash("root"),
  chunkCount: 1n,
  sessionCreatedAt: at(1n),
  manifestHash: hash("manifest"),
};

function anchored(wrong: Partial<typeof anchor & { totalSizeBytes: bigint }>) {
  const transactionType = TransactionType.SESSION_ANCHOR;
  return create({ transactionType, payload: { case: "sessionAnchor", value: { ...anchor, ...wrong } } });
}

const update = { stateType: "t", stateKey: "k", newValue: { kind: { case: "boolValue", value: true } } } as const;

function updated(wrong: object) {
  const transactionType = TransactionType.STATE_UPDATE;
  return create({ transactionType, payload: { case: "stateUpdate", value: { ...update, ...wrong } } });
}

function governed(wrong: object) {
  const transactionType = TransactionType.GOVERNANCE;
  return create({ transactionType, payload: { case: "governance", value: { action: "vote", ...wrong } } });
}

function deep(levels: number): Record<string, never> {
  return JSON.parse(`${'{"a":'.repeat(levels)}1${"}".repeat(levels)}`) as Record<string, never>;
}

const json = (value: Record<string, never> | object) => ({ payload: { case: "json", value: value as never } }) as const;

type Call = (transactions: Transactions, made: Made) => Promise<unknown>;

/** What each rpc refuses. */
const refusals: readonly [string, Call, object][] = [
  ["createTransaction: nothing", (transactions) => transactions.createTransaction({}), bad("transaction")],
  ["createTransaction: no hash", create({ transactionId: "" }), bad("transaction.transaction_id")],
  ["createTransaction: upper case", create({ transactionId: "A".repeat(64) }), bad("transaction.transaction_id")],
  [
    "createTransaction: line after the hash",
    create({ transactionId: `${nobody}\n` }),
    bad("transaction.transaction_id"),
  ],
  ["createTransaction: no type", create({ transactionType: 0 }), bad("transaction.transaction_type")],
  ["createTransaction: unknown type", create({ transactionType: 99 as never }), bad("transaction.transaction_type")],
  ["createTransaction: no payload", create({ payload: { case: undefined } }), bad("transaction.payload")],
  ...(["SESSION_ANCHOR", "STATE_UPDATE", "GOVERNANCE"] as const).map(
    (name) =>
      [
        `createTransaction: json as ${name}`,
        create({ transactionType: TransactionType[name] }),
        bad("transaction"),
      ] as [string, Call, object],
  ),
  [
    "createTransaction: a vote as SYSTEM",
    create({ payload: { case: "governance", value: { action: "vote" } } }),
    bad("transaction"),
  ],
  ["createTransaction: no address", create({ fromAddress: "$where" }), bad("transaction.from_address")],
  ["createTransaction: empty address", create({ toAddress: "" }), bad("transaction.to_address")],
  ["createTransaction: null in an address", create({ toAddress: "a\0b" }), bad("transaction.to_address")],
  [
    "createTransaction: a megabyte of address",
    create({ toAddress: "x".repeat(1_000_000) }),
    bad("transaction.to_address"),
  ],
  [
    "createTransaction: addresses with wrong checksums",
    create({
      fromAddress: `T${"1".repeat(33)}`,
      toAddress: tronAddress().toLowerCase().replace("t", "T").replaceAll(/[l0]/g, "2"),
    }),
    bad("transaction.from_address", "transaction.to_address"),
  ],
  ["createTransaction: negative size", create({ sizeBytes: -1n }), bad("transaction.size_bytes")],
  ["createTransaction: negative fee", create({ fee: -1n }), bad("transaction.fee")],
  ["createTransaction: no time", create({ submittedAt: at(2n ** 62n) }), bad("transaction.submitted_at")],
  ["createTransaction: no signature", create({ signature: "xyz" }), bad("transaction.signature")],
  ["createTransaction: no key", create({ publicKey: "" }), bad("transaction.public_key")],
  ["createTransaction: null character in json", create(json({ "a\0": 1 })), bad("transaction.json")],
  ["createTransaction: deep json", create(json(deep(31))), bad("transaction.json")],
  ["createTransaction: a megabyte of json", create(json({ a: "x".repeat(1_000_000) })), bad("transaction.json")],
  [
    "createTransaction: a megabyte of metadata",
    create({ metadata: { a: "x".repeat(1_000_000) } }),
    bad("transaction.metadata"),
  ],
  [
    "createTransaction: anchor of no session",
    anchored({ sessionId: "" }),
    bad("transaction.session_anchor.session_id"),
  ],
  ["createTransaction: anchor of no user", anchored({ userId: "" }), bad("transaction.session_anchor.user_id")],
  [
    "createTransaction: anchor without root",
    anchored({ merkleRoot: "" }),
    bad("transaction.session_anchor.merkle_root"),
  ],
  [
    "createTransaction: anchor of no chunk",
    anchored({ chunkCount: 0n }),
    bad("transaction.session_anchor.chunk_count"),
  ],
  [
    "createTransaction: anchor of negative size",
    anchored({ totalSizeBytes: -1n }),
    bad("transaction.session_anchor.total_size_bytes"),
  ],
  [
    "createTransaction: anchor without time",
    create({
      transactionType: TransactionType.SESSION_ANCHOR,
      payload: { case: "sessionAnchor", value: { ...anchor, sessionCreatedAt: undefined as never } },
    }),
    bad("transaction.session_anchor.session_created_at"),
  ],
  [
    "createTransaction: anchor without manifest",
    anchored({ manifestHash: "0x" }),
    bad("transaction.session_anchor.manifest_hash"),
  ],
  ["createTransaction: no kind of state", updated({ stateType: "" }), bad("transaction.state_update.state_type")],
  ["createTransaction: no key of state", updated({ stateKey: "" }), bad("transaction.state_update.state_key")],
  ["createTransaction: no new value", updated({ newValue: undefined }), bad("transaction.state_update.new_value")],
  ["createTransaction: long reason", updated({ reason: "x".repeat(1001) }), bad("transaction.state_update.reason")],
  [
    "createTransaction: a megabyte of state",
    updated({ newValue: { kind: { case: "stringValue", value: "x".repeat(1_000_000) } } }),
    bad("transaction.state_update"),
  ],
  ["createTransaction: no action", governed({ action: "" }), bad("transaction.governance.action")],
  ["createTransaction: empty proposal", governed({ proposalId: "" }), bad("transaction.governance.proposal_id")],
  ["createTransaction: empty voter", governed({ voterId: "" }), bad("transaction.governance.voter_id")],
  ["createTransaction: long vote", governed({ vote: "x".repeat(51) }), bad("transaction.governance.vote")],
  ["createTransaction: deep parameters", governed({ parameters: deep(31) }), bad("transaction.governance.parameters")],
  [
    "createTransaction: raw bytes",
    keep({ rawTransaction: new Uint8Array(2 ** 20 + 1) }),
    bad("internals.raw_transaction"),
  ],
  ["createTransaction: long error", keep({ validationError: "x".repeat(1001) }), bad("internals.validation_error")],
  ["createTransaction: processed in no time", keep({ processingTimeMs: -1n }), bad("internals.processing_time_ms")],
  ["createTransaction: verified in no time", keep({ verificationTimeMs: -1n }), bad("internals.verification_time_ms")],
  ["createTransaction: sent in no time", keep({ propagationTimeMs: -1n }), bad("internals.propagation_time_ms")],
  ["createTransaction: sent twice", keep({ propagatedToNodes: ["a", "a"] }), bad("internals.propagated_to_nodes")],
  ["createTransaction: sent to nobody", keep({ propagatedToNodes: [""] }), bad("internals.propagated_to_nodes[0]")],
  [
    "createTransaction: request_id",
    (transactions) => transactions.createTransaction({ transaction: transactionInit(), requestId: "1" }),
    bad("request_id"),
  ],
  [
    "createTransaction: taken hash",
    (transactions, { waiting: { transactionId } }) =>
      transactions.createTransaction({ transaction: transactionInit({ transactionId }), requestId: randomUUID() }),
    {
      code: "AlreadyExists",
      reason: "TRANSACTION_ALREADY_EXISTS",
      metadata: { field: "transaction_id" },
      fields: ["transaction.transaction_id"],
    },
  ],
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
  ...(["listTransactions", "listTransactionSummaries"] as const).flatMap((name): [string, Call, object][] => [
    [`${name}: negative size`, (transactions) => transactions[name]({ pageSize: -1 }), bad("page_size")],
    [
      `${name}: made-up token`,
      (transactions) => transactions[name]({ pageToken: "abc" }),
      { code: "InvalidArgument", reason: "PAGE_TOKEN_INVALID", fields: ["page_token"] },
    ],
    [`${name}: order without an index`, (transactions) => transactions[name]({ orderBy: "fee" }), bad("order_by")],
    [
      `${name}: order by what some have not`,
      (transactions) => transactions[name]({ orderBy: "from_address, created_at" }),
      bad("order_by"),
    ],
    [
      `${name}: unknown status`,
      (transactions) => transactions[name]({ filter: { status: 99 as never } }),
      bad("filter.status"),
    ],
    [
      `${name}: unknown type`,
      (transactions) => transactions[name]({ filter: { transactionType: 99 as never } }),
      bad("filter.transaction_type"),
    ],
    [`${name}: no block`, (transactions) => transactions[name]({ filter: { blockId: "1" } }), bad("filter.block_id")],
    [
      `${name}: long address`,
      (transactions) => transactions[name]({ filter: { address: "x".repeat(129) } }),
      bad("filter.address"),
    ],
    [
      `${name}: long sender`,
      (transactions) => transactions[name]({ filter: { fromAddress: "x".repeat(129) } }),
      bad("filter.from_address"),
    ],
    [
      `${name}: long receiver`,
      (transactions) => transactions[name]({ filter: { toAddress: "x".repeat(1_000_000) } }),
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
    (transactions) => transactions.countTransactions({ filter: { transactionType: 99 as never } }),
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
  ...(["PENDING", "UNSPECIFIED", 99] as const).map((status): [string, Call, object] => [
    `updateTransactionStatus: to ${status}`,
    (transactions, { waiting: { transactionId } }) =>
      transactions.updateTransactionStatus({
        transactionId,
        status: status === 99 ? (status as never) : TransactionStatus[status],
      }),
    bad("status"),
  ]),
  ...(["IN_MEMPOOL", "CONFIRMED", "FINALIZED", "FAILED"] as const).map((status): [string, Call, object] => [
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
    (transactions) => transactions.getTransactionStatistics({ transactionType: 99 as never }),
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
    (transactions) => Array.fromAsync(transactions.watchTransactions({ filter: { transactionType: 99 as never } })),
    bad("filter.transaction_type"),
  ],
  [
    "watchTransactions: a filter without an index",
    (transactions) => Array.fromAsync(transactions.watchTransactions({ filter: { fromAddress: "a", toAddress: "b" } })),
    bad("filter"),
  ],
];

let service: TransactionsApp;
let made: Made;
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
  const tried = new Set(refusals.map(([name]) => name.split(":", 1)[0]));
  expect(TransactionService.methods.map(({ localName }) => localName).filter((name) => !tried.has(name))).toEqual([]);
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
