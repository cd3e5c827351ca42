import { createClient, createRouterTransport } from "@connectrpc/connect";
import { afterAll, beforeAll, expect, test } from "vitest";

import { TransactionStatus, TransactionType } from "../../gen/lucid/repository/v1/transaction_pb.ts";
import { TransactionService } from "../../gen/lucid/repository/v1/transaction_service_pb.ts";
import { domainCollections } from "../../src/repository/collections.ts";
import { transactionService } from "../../src/repository/transaction.ts";
import { pageTokens } from "../../src/schema/page-tokens.ts";
import { expectIndexed, usesIndexBesideFilter, type WatchedDb, watchedDb } from "./plans.ts";
import { tronAddress, noWatches } from "./support.ts";
import { hash, newBlock, newTransaction } from "./transaction-support.ts";

let plans: WatchedDb;
beforeAll(async () => {
  plans = await watchedDb();
});
afterAll(() => plans[Symbol.asyncDispose]());

/** The handlers on a real store, which is asked through collections that write down the filters. */
function service() {
  const { watched, db } = plans;
  const tokens = pageTokens("");
  const handlers = transactionService({
    db: watched,
    collections: domainCollections(db, ({ name }) => expect.unreachable(name)),
    pageTokens: async () => tokens,
    watches: noWatches,
  });
  return createClient(
    TransactionService,
    createRouterTransport(({ service: serve }) => {
      serve(TransactionService, handlers);
    }),
  );
}

test("no read of transactions scans the collection, on any page of any order and filter", async ({ skip }) => {
  const { db, asked } = plans;
  if (!(await usesIndexBesideFilter(db))) skip("this server scans where a filter names a field outside the index");
  const transactions = service();
  const address = tronAddress();
  const { blockId } = await newBlock(db);
  const ids: string[] = [];
  for (const transactionIndex of [0, 1, 2, 3]) {
    const init = { transactionId: `abcd${hash().slice(4)}`, fromAddress: address, toAddress: address };
    const { transactionId } = await newTransaction(transactions, init);
    await transactions.assignTransactionToBlock({ transactionId, blockId, transactionIndex });
    ids.push(transactionId);
  }
  await transactions.getTransaction({ transactionId: ids[0] ?? "" });
  await transactions.batchGetTransactions({ transactionIds: ids });
  const [transactionType, status] = [TransactionType.SYSTEM, TransactionStatus.CONFIRMED];
  const byAddress = [{ address }, { fromAddress: address }, { toAddress: address }];
  const filters = [
    ...[{}, { transactionType }, { status }, { transactionType, status }],
    ...byAddress.flatMap((filter) => [filter, { ...filter, status }]),
  ];
  const requests = [
    ...filters.flatMap((filter) => [filter, { ...filter, createdFrom: { seconds: 1_700_000_000n } }]),
    { blockId },
  ];
  for (const filter of requests) {
    for (const orderBy of ["", "blockId" in filter ? "transaction_index desc" : "created_at"]) {
      const request = { filter, orderBy, pageSize: 2 };
      const { nextPageToken: pageToken } = await transactions.listTransactions(request);
      expect(pageToken).not.toBe("");
      await transactions.listTransactions({ ...request, pageToken });
    }
  }
  for (const query of ["abcd", address]) {
    const { nextPageToken: pageToken } = await transactions.searchTransactions({ query, pageSize: 2 });
    await transactions.searchTransactions({ query, pageSize: 2, pageToken });
  }
  // A large collection, so that the server has a reason to choose.
  const fillers = Array.from({ length: 2000 }, (_, index) => ({
    transaction_id: hash(),
    transaction_type: "GOVERNANCE",
    status: "PENDING",
    from_address: `node-${index % 7}`,
    to_address: `node-${index % 5}`,
    created_at: new Date(index),
  }));
  await db.collection("transactions").insertMany(fillers);
  const ofTransactions = asked.filter(({ collection }) => collection === "transactions");
  expect(ofTransactions.length).toBeGreaterThanOrEqual(90);
  for (const each of ofTransactions) await expectIndexed(db, each);
});
