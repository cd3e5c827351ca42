import { randomUUID } from "node:crypto";

import type { MessageInitShape } from "@bufbuild/protobuf";
import { NullValue, timestampDate, timestampFromDate } from "@bufbuild/protobuf/wkt";
import { afterAll, beforeAll, expect, test } from "vitest";

import { TransactionSchema, TransactionStatus, TransactionType } from "../../gen/lucid/repository/v1/transaction_pb.ts";
import { refusalOf, tronAddress } from "./support.ts";
import {
  hash,
  newBlock,
  newTransaction,
  setBlockStatus,
  transactionInit,
  type TransactionsApp,
  transactionsApp,
} from "./transaction-support.ts";

let service: TransactionsApp;
beforeAll(async () => {
  service = await transactionsApp();
});
afterAll(() => service[Symbol.asyncDispose]());

const sessionAnchor = {
  sessionId: "session-1",
  userId: "user-1",
  merkleRoot: hash("root"),
  chunkCount: 2n ** 62n,
  totalSizeBytes: 107_374_182_400n,
  sessionCreatedAt: timestampFromDate(new Date(Date.UTC(2026, 0, 1))),
  manifestHash: hash("manifest"),
};

/** A payload of each kind, with all that it can hold. */
type Payload = NonNullable<MessageInitShape<typeof TransactionSchema>["payload"]>;
const payloads: readonly [keyof typeof TransactionType, Payload][] = [
  ["SESSION_ANCHOR", { case: "sessionAnchor", value: sessionAnchor }],
  [
    "STATE_UPDATE",
    {
      case: "stateUpdate",
      value: {
        stateType: "registry",
        stateKey: "nodes.17",
        oldValue: { kind: { case: "nullValue", value: NullValue.NULL_VALUE } },
        newValue: { kind: { case: "numberValue", value: 3 } },
        reason: "A node moved",
      },
    },
  ],
  [
    "GOVERNANCE",
    {
      case: "governance",
      value: { proposalId: "p-1", action: "vote", parameters: { weight: 2 }, voterId: "node-1", vote: "yes" },
    },
  ],
  ["SYSTEM", { case: "json", value: { "any.$thing": [1, { deep: null }] } }],
  ["NODE_REGISTRATION", { case: "json", value: { node: "node-1" } }],
  ["CONSENSUS_VOTE", { case: "json", value: {} }],
  ["TRUST_POLICY", { case: "json", value: { policy: "p" } }],
];

test.for(payloads)(
  "a transaction of type %s comes back as it was sent, from both listeners",
  async ([type, payload]) => {
    const { transactions, overHttp, db } = service;
    const init = transactionInit({
      transactionType: TransactionType[type],
      payload,
      fromAddress: tronAddress(),
      toAddress: "lucid-anchors",
      sizeBytes: 300n,
      fee: 7n,
      submittedAt: timestampFromDate(new Date(Date.UTC(2026, 0, 2))),
      signature: "ab".repeat(64),
      publicKey: "04ff",
      metadata: { source: "test" },
    });
    const created = await newTransaction(transactions, init);
    expect(created).toMatchObject({
      ...init,
      payload: { case: payload.case },
      status: TransactionStatus.PENDING,
      confirmations: 0n,
      revision: 1n,
      etag: '"1"',
    });
    const { transactionId } = created;
    for (const client of [transactions, overHttp]) {
      expect((await client.getTransaction({ transactionId })).transaction).toStrictEqual(created);
    }
    // The payload is stored as the member that it is, and no other.
    const stored = await db.collection("transactions").findOne({ transaction_id: transactionId });
    const members = TransactionSchema.oneofs.flatMap(({ fields }) => fields);
    expect(members.filter(({ name }) => name in (stored ?? {})).map(({ localName }) => localName)).toEqual([
      payload.case,
    ]);
    expect(stored).toMatchObject({ transaction_type: type, status: "PENDING" });
  },
);

test("what only the service sets is not taken from a caller, and what is not set gets its default", async () => {
  const before = Date.now();
  const { transactions } = service;
  const sent = transactionInit({
    status: TransactionStatus.FINALIZED,
    blockId: hash(),
    confirmations: 9n,
    revision: 7n,
  });
  const { transaction } = await transactions.createTransaction({
    transaction: sent,
    internals: { rawTransaction: Buffer.from("raw bytes") },
  });
  expect(transaction).toMatchObject({
    status: TransactionStatus.PENDING,
    confirmations: 0n,
    revision: 1n,
    sizeBytes: 9n,
  });
  expect(transaction?.blockId).toBeUndefined();
  const submitted = transaction?.submittedAt;
  if (submitted === undefined) throw new Error("The transaction says no time");
  expect(timestampDate(submitted).getTime()).toBeGreaterThanOrEqual(before);
});

test("a retry with the same request_id returns the first transaction, and stores internals that were left out", async () => {
  const { transactions, db } = service;
  const request = {
    transaction: transactionInit(),
    internals: { rawTransaction: Buffer.from("raw"), validated: true },
    requestId: randomUUID(),
  };
  const { transactionId } = request.transaction;
  const first = await transactions.createTransaction(request);
  const stored = db.collection("transaction_internals");
  expect(await stored.findOne({ transaction_id: transactionId })).toMatchObject({ validated: true, revision: 1n });
  await stored.deleteOne({ transaction_id: transactionId }); // as where the process died between the two writes
  expect(await transactions.createTransaction(request)).toStrictEqual(first);
  expect(await stored.findOne({ transaction_id: transactionId })).toMatchObject({ validated: true });
  // What was set since stays.
  await transactions.setTransactionInternals({
    transactionId: transactionId ?? "",
    internals: { validationError: "bad" },
  });
  expect(await transactions.createTransaction(request)).toStrictEqual(first);
  const kept = await stored.findOne({ transaction_id: transactionId });
  expect(kept).toMatchObject({ validated: false, validation_error: "bad", revision: 2n });
  expect(kept).not.toHaveProperty("raw_transaction");
  expect(
    await refusalOf(transactions.createTransaction({ ...request, transaction: { ...request.transaction, fee: 1n } })),
  ).toMatchObject({ code: "InvalidArgument", reason: "REQUEST_ID_REUSED" });
});

test("internals are stored, and no rpc returns them", async () => {
  const { transactions, overHttp, db } = service;
  const canary = `canary-${hash()}`;
  const internals = {
    rawTransaction: Buffer.from(canary),
    validationError: canary,
    propagatedToNodes: [canary],
    processingTimeMs: 5n,
  };
  const { transactionId } = await newTransaction(transactions, { transactionId: hash() });
  await transactions.setTransactionInternals({ transactionId, internals });
  const other = transactionInit();
  const answers = [
    await transactions.createTransaction({ transaction: other, internals }),
    await overHttp.batchCreateTransactions({ requests: [{ transaction: transactionInit(), internals }] }),
    await transactions.batchGetTransactions({ transactionIds: [transactionId, other.transactionId ?? ""] }),
    await transactions.listTransactions({ pageSize: 1000 }),
    await transactions.listTransactionSummaries({ pageSize: 1000 }),
    await transactions.searchTransactions({ query: transactionId.slice(0, 8) }),
    await transactions.setTransactionInternals({ transactionId, internals }),
  ];
  const said = JSON.stringify(answers, (_, value: unknown) => (typeof value === "bigint" ? String(value) : value));
  expect(said).toContain(transactionId);
  for (const form of [canary, Buffer.from(canary).toString("base64")]) expect(said).not.toContain(form);
  expect(await db.collection("transaction_internals").countDocuments({ validation_error: canary })).toBe(3);
  expect(await db.collection("transactions").countDocuments({ validation_error: canary })).toBe(0);
});
test("a transaction goes through its life in blocks", async () => {
  const { transactions, db } = service;
  const { transactionId } = await newTransaction(transactions);
  const { blockId, height } = await newBlock(db);
  await transactions.updateTransactionStatus({ transactionId, status: TransactionStatus.IN_MEMPOOL });
  const request = { transactionId, blockId, transactionIndex: 3 };
  const { transaction: assigned } = await transactions.assignTransactionToBlock(request);
  expect(assigned).toMatchObject({
    status: TransactionStatus.CONFIRMED,
    blockId,
    blockHeight: height,
    transactionIndex: 3,
    revision: 3n,
  });
  expect(assigned?.includedAt).toStrictEqual(assigned?.confirmedAt);
  expect((await transactions.assignTransactionToBlock(request)).transaction).toStrictEqual(assigned);

  for (const [sent, stored] of [
    [5n, 5n],
    [3n, 5n],
    [6n, 6n],
  ] as const) {
    const confirmed = await transactions.updateTransactionConfirmations({
      transactionId,
      blockId,
      confirmations: sent,
    });
    expect(confirmed.transaction?.confirmations).toBe(stored);
  }
  const finalize = () => transactions.updateTransactionStatus({ transactionId, status: TransactionStatus.FINALIZED });
  expect(await refusalOf(finalize())).toMatchObject({
    code: "FailedPrecondition",
    reason: "BLOCK_NOT_FINALIZED",
    metadata: { block_id: blockId },
  });
  await setBlockStatus(db, blockId, "FINALIZED");
  const { transaction: final } = await finalize();
  expect(final).toMatchObject({ status: TransactionStatus.FINALIZED, blockId, confirmations: 6n });
  expect(final?.finalizedAt).toStrictEqual(final?.updatedAt);
  expect(await refusalOf(finalize())).toMatchObject({
    reason: "ILLEGAL_TRANSITION",
    metadata: { from: "FINALIZED", to: "FINALIZED" },
  });
});

test("a transaction of an orphaned block is assigned anew, returned or failed, and until then stays", async () => {
  const { transactions, db } = service;
  const [orphan, next] = [await newBlock(db), await newBlock(db)];
  const ids: string[] = [];
  for (const transactionIndex of [0, 1, 2]) {
    const { transactionId } = await newTransaction(transactions);
    await transactions.assignTransactionToBlock({ transactionId, blockId: orphan.blockId, transactionIndex });
    ids.push(transactionId);
  }
  const [moved = "", returned = "", failed = ""] = ids;
  await transactions.updateTransactionConfirmations({
    transactionId: moved,
    blockId: orphan.blockId,
    confirmations: 2n,
  });
  const move = { transactionId: moved, blockId: next.blockId, transactionIndex: 0 };
  expect(await refusalOf(transactions.assignTransactionToBlock(move))).toMatchObject({
    code: "FailedPrecondition",
    reason: "TRANSACTION_ALREADY_ASSIGNED",
    metadata: { transaction_id: moved, block_id: orphan.blockId, transaction_index: "0" },
  });
  const back = { transactionId: returned, status: TransactionStatus.IN_MEMPOOL };
  expect(await refusalOf(transactions.updateTransactionStatus(back))).toMatchObject({
    reason: "ILLEGAL_TRANSITION",
    metadata: { from: "CONFIRMED", to: "IN_MEMPOOL" },
  });

  await setBlockStatus(db, orphan.blockId, "ORPHANED");
  const listed = await transactions.listTransactionsByBlock({ blockId: orphan.blockId });
  expect(listed.transactions.map(({ transactionId }) => transactionId)).toEqual(ids);
  expect(
    await refusalOf(
      transactions.updateTransactionStatus({ transactionId: moved, status: TransactionStatus.FINALIZED }),
    ),
  ).toMatchObject({ reason: "BLOCK_NOT_FINALIZED" });

  const { transaction: again } = await transactions.assignTransactionToBlock(move);
  expect(again).toMatchObject({
    blockId: next.blockId,
    blockHeight: next.height,
    transactionIndex: 0,
    confirmations: 0n,
  });
  expect(
    await refusalOf(
      transactions.updateTransactionConfirmations({ transactionId: moved, blockId: orphan.blockId, confirmations: 9n }),
    ),
  ).toMatchObject({ reason: "TRANSACTION_NOT_IN_BLOCK", metadata: { block_id: orphan.blockId } });
  const { transaction: waiting } = await transactions.updateTransactionStatus(back);
  expect(waiting).toMatchObject({ status: TransactionStatus.IN_MEMPOOL, confirmations: 0n });
  for (const name of ["blockId", "blockHeight", "transactionIndex", "includedAt", "confirmedAt"] as const) {
    expect(waiting?.[name]).toBeUndefined();
  }
  const { transaction: over } = await transactions.updateTransactionStatus({
    transactionId: failed,
    status: TransactionStatus.FAILED,
    errorMessage: "Its block is gone",
  });
  expect(over).toMatchObject({
    status: TransactionStatus.FAILED,
    errorMessage: "Its block is gone",
    transactionIndex: 2,
  });
  const left = await transactions.listTransactionsByBlock({ blockId: orphan.blockId });
  expect(left.transactions.map(({ transactionId }) => transactionId)).toEqual([failed]);
});

test("what was confirmed before its block was known may still be assigned, but not finalized without a block", async () => {
  const { transactions, db } = service;
  const { transactionId } = await newTransaction(transactions);
  const to = (status: TransactionStatus) => transactions.updateTransactionStatus({ transactionId, status });
  await to(TransactionStatus.IN_MEMPOOL);
  const { transaction: confirmed } = await to(TransactionStatus.CONFIRMED);
  expect(await refusalOf(to(TransactionStatus.FINALIZED))).toMatchObject({ reason: "TRANSACTION_NOT_IN_BLOCK" });
  const { blockId } = await newBlock(db, "FINALIZED");
  const { transaction: assigned } = await transactions.assignTransactionToBlock({
    transactionId,
    blockId,
    transactionIndex: 0,
  });
  expect(assigned?.confirmedAt).toStrictEqual(confirmed?.confirmedAt);
  expect(assigned?.includedAt).toStrictEqual(assigned?.updatedAt);
  expect((await to(TransactionStatus.FINALIZED)).transaction?.status).toBe(TransactionStatus.FINALIZED);
});

test("a step is taken only from the revision that its etag names", async () => {
  const { transactions } = service;
  const { transactionId, etag } = await newTransaction(transactions);
  const step = { transactionId, status: TransactionStatus.IN_MEMPOOL };
  expect(await refusalOf(transactions.updateTransactionStatus({ ...step, etag: '"9"' }))).toMatchObject({
    code: "Aborted",
    reason: "ETAG_MISMATCH",
    metadata: { etag },
  });
  expect((await transactions.updateTransactionStatus({ ...step, etag })).transaction?.revision).toBe(2n);
});
