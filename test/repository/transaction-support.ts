import { createHash, randomBytes } from "node:crypto";

import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Client } from "@connectrpc/connect";
import type { Db } from "mongodb";

import {
  type Transaction,
  type TransactionSchema,
  TransactionType,
} from "../../gen/lucid/repository/v1/transaction_pb.ts";
import { TransactionService } from "../../gen/lucid/repository/v1/transaction_service_pb.ts";
import { type TestApp, testApp } from "../support/app.ts";
import { uniqueName } from "../support/stores.ts";

type Transactions = Client<typeof TransactionService>;

/** The service with a domain database that tests can look into. */
export interface TransactionsApp extends AsyncDisposable {
  readonly app: TestApp;
  /** Clients of both listeners. */
  readonly transactions: Transactions;
  readonly overHttp: Transactions;
  readonly db: Db;
}

export async function transactionsApp(): Promise<TransactionsApp> {
  const name = uniqueName("transactions");
  const app = await testApp({ LUCID_MONGODB_DATABASE: name });
  const db = app.mongodb.db(name, { useBigInt64: true });
  return {
    app,
    transactions: app.client(TransactionService),
    overHttp: app.http(TransactionService),
    db,
    async [Symbol.asyncDispose]() {
      await db.dropDatabase();
      await app[Symbol.asyncDispose]();
    },
  };
}

/** A hash that no other test has, or that of a name. */
export function hash(name?: string): string {
  return name === undefined ? randomBytes(32).toString("hex") : createHash("sha256").update(name).digest("hex");
}

type TransactionInit = MessageInitShape<typeof TransactionSchema>;

/** What a new transaction needs, with a hash that no other test has. */
export function transactionInit(init: TransactionInit = {}): TransactionInit {
  const payload = { case: "json", value: { note: "a test" } } as const;
  return { transactionId: hash(), transactionType: TransactionType.SYSTEM, payload, ...init };
}

export async function newTransaction(transactions: Transactions, init: TransactionInit = {}): Promise<Transaction> {
  const { transaction } = await transactions.createTransaction({ transaction: transactionInit(init) });
  if (transaction === undefined) throw new Error("No transaction was returned");
  return transaction;
}

/** A block as it is stored, as far as transactions look at it and its validator asks. */
export function blockDocument(height: bigint, status: string) {
  const hashes = { block_id: hash(), previous_hash: hash(), merkle_root: hash() };
  return { ...hashes, height, status, timestamp: new Date(), created_at: new Date(), revision: 1n };
}

/** Stores a block, without the chain that it would be in. */
export async function newBlock(db: Db, status = "CONFIRMED"): Promise<{ blockId: string; height: bigint }> {
  const block = blockDocument(BigInt(randomBytes(6).readUIntBE(0, 6)), status);
  await db.collection("blocks").insertOne(block);
  return { blockId: block.block_id, height: block.height };
}

export async function setBlockStatus(db: Db, blockId: string, status: string): Promise<void> {
  await db.collection("blocks").updateOne({ block_id: blockId }, { $set: { status } });
}
