import { randomUUID } from "node:crypto";

import { anyUnpack } from "@bufbuild/protobuf/wkt";
import { afterAll, beforeAll, expect, test } from "vitest";

import { BadRequestSchema, ErrorInfoSchema } from "../../gen/google/rpc/error_details_pb.ts";
import { AuditLogService } from "../../gen/lucid/repository/v1/audit_log_service_pb.ts";
import { TransactionType } from "../../gen/lucid/repository/v1/transaction_pb.ts";
import type { BatchCreateTransactionsResult } from "../../gen/lucid/repository/v1/transaction_service_pb.ts";
import { hash, newTransaction, transactionInit, type TransactionsApp, transactionsApp } from "./transaction-support.ts";

let service: TransactionsApp;
beforeAll(async () => {
  service = await transactionsApp();
});
afterAll(() => service[Symbol.asyncDispose]());

/** What an item of a batch was told. */
function told({ status }: BatchCreateTransactionsResult) {
  const details = status?.details ?? [];
  const info = details.map((detail) => anyUnpack(detail, ErrorInfoSchema)).find((found) => found !== undefined);
  const bad = details.map((detail) => anyUnpack(detail, BadRequestSchema)).find((found) => found !== undefined);
  return {
    code: status?.code,
    ...(info !== undefined && { reason: info.reason, item: info.metadata["item"] }),
    ...(bad !== undefined && { fields: bad.fieldViolations.map(({ field }) => field) }),
  };
}

test.for(["transactions", "overHttp"] as const)(
  "a batch tells of each item what became of it (%s)",
  async (listener) => {
    const client = service[listener];
    const taken = await newTransaction(client);
    const good = { transaction: transactionInit() };
    const retried = { transaction: transactionInit(), requestId: randomUUID() };
    await client.createTransaction(retried);
    const requests = [
      good,
      { transaction: transactionInit({ transactionId: taken.transactionId }) },
      { transaction: transactionInit({ transactionId: "no hash" }) },
      retried,
      { transaction: transactionInit({ transactionId: good.transaction.transactionId ?? "" }) },
      { transaction: transactionInit(), requestId: retried.requestId },
      { transaction: transactionInit({ fromAddress: `T${"1".repeat(33)}` }) },
      {},
      { transaction: transactionInit({ transactionType: TransactionType.GOVERNANCE }) },
      { transaction: transactionInit(), internals: { validated: true } },
    ];
    const { results } = await client.batchCreateTransactions({ requests });
    expect(results.map(({ transactionId }) => transactionId)).toEqual(
      requests.map(({ transaction }) => transaction?.transactionId ?? ""),
    );
    const exists = { code: 6, reason: "TRANSACTION_ALREADY_EXISTS", fields: ["transaction.transaction_id"] };
    const bad = (field: string) => ({ code: 3, reason: "BAD_REQUEST", fields: [field] });
    expect(results.map(told)).toEqual([
      { code: 0 },
      exists,
      bad("transaction.transaction_id"),
      { code: 0 },
      { ...exists, item: "0" },
      { code: 3, reason: "REQUEST_ID_REUSED", fields: ["request_id"] },
      bad("transaction.from_address"),
      bad("transaction"),
      bad("transaction"),
      { code: 0 },
    ]);
    const ids = results.map(({ transactionId }) => transactionId).filter((id) => /^[0-9a-f]{64}$/.test(id));
    const { transactions: found } = await client.batchGetTransactions({ transactionIds: [...new Set(ids)] });
    expect(found.map(({ transactionId }) => transactionId)).toEqual(
      [0, 1, 3, 9].map((index) => requests[index]?.transaction?.transactionId),
    );
  },
);

test("a batch tells its refusals in JSON too", async () => {
  const url = `http://${service.app.httpAddress}/lucid.repository.v1.TransactionService/BatchCreateTransactions`;
  const transaction = { transactionId: hash(), transactionType: "TRANSACTION_TYPE_SYSTEM", json: { a: 1 } };
  const body = JSON.stringify({ requests: [{ transaction }, { transaction: { ...transaction, json: undefined } }] });
  const answer = await fetch(url, { method: "POST", headers: { "content-type": "application/json" }, body });
  expect(await answer.json()).toMatchObject({
    results: [
      { transactionId: transaction.transactionId, status: {} },
      {
        status: {
          code: 3,
          details: [
            { "@type": "type.googleapis.com/google.rpc.ErrorInfo", reason: "BAD_REQUEST" },
            {
              "@type": "type.googleapis.com/google.rpc.BadRequest",
              fieldViolations: [{ field: "transaction.payload" }],
            },
          ],
        },
      },
    ],
  });
});

test("each item of a batch that changes something has a record of its own in the audit log", async () => {
  const { transactions, app } = service;
  const audit = app.client(AuditLogService);
  const taken = await newTransaction(transactions);
  const ids = [hash(), hash(), taken.transactionId];
  await transactions.batchCreateTransactions({
    requests: ids.map((transactionId) => ({ transaction: transactionInit({ transactionId }) })),
  });
  const names = await Promise.all(
    ids.map(async (resourceName) => {
      const { records } = await audit.listAuditRecords({ filter: { resourceType: "Transaction", resourceName } });
      return records.map(({ rpc }) => rpc.split("/")[1]);
    }),
  );
  expect(names).toEqual([["BatchCreateTransactions"], ["BatchCreateTransactions"], ["CreateTransaction"]]);
});

test("no item of a batch fails all for what is ignored in it", async () => {
  const sent = transactionInit({ includedAt: { seconds: 2n ** 63n - 1n } });
  const { results } = await service.transactions.batchCreateTransactions({
    requests: [{ transaction: sent, requestId: randomUUID() }, { transaction: transactionInit() }],
  });
  expect(results.map(({ status }) => status?.code)).toEqual([0, 0]);
});

test("a batch may be sent again: what it has created says so", async () => {
  const { transactions, db } = service;
  const requests = Array.from({ length: 100 }, () => ({ transaction: transactionInit(), requestId: randomUUID() }));
  // As where the answer to a first try was lost after a part of it.
  await transactions.batchCreateTransactions({ requests: requests.slice(20, 70) });
  for (const _ of [1, 2]) {
    const { results } = await transactions.batchCreateTransactions({ requests });
    expect(results.filter(({ status }) => status?.code === 0)).toHaveLength(100);
  }
  const ids = requests.map(({ transaction }) => transaction.transactionId);
  expect(await db.collection("transactions").countDocuments({ transaction_id: { $in: ids }, revision: 1n })).toBe(100);
});
