import { type Client, ConnectError } from "@connectrpc/connect";
import fc from "fast-check";
import { afterAll, beforeAll, expect, test } from "vitest";

import {
  type Transaction,
  TransactionStatus,
  TransactionStatusSchema,
} from "../../gen/lucid/repository/v1/transaction_pb.ts";
import type { TransactionService } from "../../gen/lucid/repository/v1/transaction_service_pb.ts";
import { storedName } from "../../src/schema/stored-field.ts";
import { runs, within } from "../support/sequences.ts";
import { refusalOf } from "./support.ts";
import {
  blockDocument,
  hash,
  newBlock,
  newTransaction,
  setBlockStatus,
  type TransactionsApp,
  transactionsApp,
} from "./transaction-support.ts";

let service: TransactionsApp;
beforeAll(async () => {
  service = await transactionsApp();
  // The collection and its indexes are there before documents are put in by hand.
  await newTransaction(service.transactions);
});
afterAll(() => service[Symbol.asyncDispose]());

type BlockState = "CONFIRMED" | "FINALIZED" | "ORPHANED";

/** What the service should know of a transaction; places are by the numbers of blocks. */
interface Known {
  status: keyof typeof TransactionStatus;
  block: number | undefined;
  index: number;
  confirmations: number;
}

interface World {
  readonly blocks: BlockState[];
  readonly transactions: Known[];
}

const statuses = ["IN_MEMPOOL", "CONFIRMED", "FINALIZED", "FAILED", "REJECTED"] as const;

const before: Readonly<Record<(typeof statuses)[number], readonly string[]>> = {
  IN_MEMPOOL: ["PENDING"],
  CONFIRMED: ["IN_MEMPOOL"],
  FINALIZED: ["CONFIRMED"],
  FAILED: ["PENDING", "IN_MEMPOOL", "CONFIRMED"],
  REJECTED: ["PENDING", "IN_MEMPOOL"],
};

type Step =
  | { readonly kind: "update"; readonly at: number; readonly to: (typeof statuses)[number] }
  | { readonly kind: "assign"; readonly at: number; readonly block: number; readonly index: number }
  | { readonly kind: "confirm"; readonly at: number; readonly block: number; readonly count: number }
  | { readonly kind: "block"; readonly block: number; readonly to: BlockState };

/** What a step should do to the world: changes it, or returns the reason that it is refused for. */
function follow({ blocks, transactions }: World, step: Step): string | undefined {
  if (step.kind === "block") {
    // Nothing leaves the ends of a block.
    if (blocks[step.block] === "CONFIRMED") blocks[step.block] = step.to;
    return undefined;
  }
  const one = transactions[step.at];
  if (one === undefined) throw new Error("There is no such transaction");
  const at = one.block === undefined ? undefined : blocks[one.block];
  switch (step.kind) {
    case "update": {
      if (step.to === "IN_MEMPOOL" && at === "ORPHANED" && one.status === "CONFIRMED") {
        Object.assign(one, { status: "IN_MEMPOOL", block: undefined, confirmations: 0 });
        return undefined;
      }
      if (!before[step.to].includes(one.status)) return "ILLEGAL_TRANSITION";
      if (step.to === "FINALIZED" && one.block === undefined) return "TRANSACTION_NOT_IN_BLOCK";
      if (step.to === "FINALIZED" && at !== "FINALIZED") return "BLOCK_NOT_FINALIZED";
      one.status = step.to;
      return undefined;
    }
    case "assign": {
      if (blocks[step.block] === "ORPHANED") return "BLOCK_ORPHANED";
      if (one.block === step.block && one.index === step.index) return undefined;
      if (one.block === step.block || (one.block !== undefined && at !== "ORPHANED"))
        return "TRANSACTION_ALREADY_ASSIGNED";
      if (["FINALIZED", "FAILED", "REJECTED"].includes(one.status)) return "ILLEGAL_TRANSITION";
      if (transactions.some(({ block, index }) => block === step.block && index === step.index)) {
        return "TRANSACTION_INDEX_TAKEN";
      }
      Object.assign(one, { status: "CONFIRMED", block: step.block, index: step.index, confirmations: 0 });
      return undefined;
    }
    case "confirm":
      if (one.block !== step.block) return "TRANSACTION_NOT_IN_BLOCK";
      one.confirmations = Math.max(one.confirmations, step.count);
      return undefined;
  }
}

const blockNumber = fc.integer({ min: 0, max: 2 });
const transactionNumber = fc.integer({ min: 0, max: 1 });
const smallIndex = fc.integer({ min: 0, max: 1 });

/** A world that steps can lead to. */
const anyWorld: fc.Arbitrary<World> = fc
  .record({
    blocks: fc.array(fc.constantFrom<BlockState>("CONFIRMED", "CONFIRMED", "FINALIZED", "ORPHANED"), {
      minLength: 3,
      maxLength: 3,
    }),
    transactions: fc.array(
      fc.record({
        status: fc.constantFrom<Known["status"]>("PENDING", "IN_MEMPOOL", "CONFIRMED", "CONFIRMED", ...statuses),
        block: fc.option(blockNumber, { nil: undefined }),
      }),
      { minLength: 2, maxLength: 2 },
    ),
  })
  .map(({ blocks, transactions }) => ({
    blocks,
    transactions: transactions.map(({ status, block }, index) => {
      const canBeInBlock = ["CONFIRMED", "FINALIZED", "FAILED"].includes(status);
      const isFinal = block !== undefined && blocks[block] === "FINALIZED";
      return {
        status: status === "FINALIZED" && !isFinal ? "CONFIRMED" : status,
        block: canBeInBlock ? block : undefined,
        index,
        confirmations: canBeInBlock && block !== undefined ? 1 : 0,
      };
    }),
  }));

const anyStep: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 3,
    arbitrary: fc.record({ kind: fc.constant("update"), at: transactionNumber, to: fc.constantFrom(...statuses) }),
  },
  {
    weight: 4,
    arbitrary: fc.record({ kind: fc.constant("assign"), at: transactionNumber, block: blockNumber, index: smallIndex }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant("confirm"),
      at: transactionNumber,
      block: blockNumber,
      count: fc.integer({ min: 0, max: 3 }),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant("block"),
      block: blockNumber,
      to: fc.constantFrom<BlockState>("FINALIZED", "ORPHANED"),
    }),
  },
);

/** Stores worlds as they are, so that short sequences start from everywhere. */
async function store(worlds: readonly World[]) {
  const stored = worlds.map((world, place) => {
    const blocks = world.blocks.map((status, number) => blockDocument(BigInt(place * 10 + number), status));
    const documents = world.transactions.map(({ status, block, index, confirmations }) => ({
      transaction_id: hash(),
      transaction_type: "SYSTEM",
      status,
      ...(block !== undefined && {
        block_id: blocks[block]?.block_id,
        block_height: BigInt(block),
        transaction_index: index,
      }),
      confirmations: BigInt(confirmations),
      size_bytes: 1n,
      created_at: new Date(),
      revision: 1n,
    }));
    return { blocks, documents };
  });
  const { db } = service;
  await db.collection("blocks").insertMany(stored.flatMap(({ blocks }) => blocks));
  await db.collection("transactions").insertMany(stored.flatMap(({ documents }) => documents));
  return stored.map(({ blocks, documents }) => ({
    blockIds: blocks.map(({ block_id }) => block_id),
    ids: documents.map(({ transaction_id }) => transaction_id),
  }));
}

async function run(
  client: Client<typeof TransactionService>,
  step: Step,
  ids: readonly string[],
  blockIds: readonly string[],
) {
  const blockId = "block" in step ? (blockIds[step.block] ?? "") : "";
  if (step.kind === "block") {
    const filter = { block_id: blockId, status: "CONFIRMED" };
    await service.db.collection("blocks").updateOne(filter, { $set: { status: step.to } });
    return;
  }
  const transactionId = ids[step.at] ?? "";
  switch (step.kind) {
    case "update":
      await client.updateTransactionStatus({ transactionId, status: TransactionStatus[step.to] });
      return;
    case "assign":
      await client.assignTransactionToBlock({ transactionId, blockId, transactionIndex: step.index });
      return;
    case "confirm":
      await client.updateTransactionConfirmations({ transactionId, blockId, confirmations: BigInt(step.count) });
  }
}

function seen(transaction: Transaction, blockIds: readonly string[]) {
  const { status, blockId, transactionIndex, confirmations } = transaction;
  const block = blockId === undefined ? undefined : blockIds.indexOf(blockId);
  return {
    status: storedName(TransactionStatusSchema, status),
    block,
    index: transactionIndex,
    confirmations: Number(confirmations),
  };
}

/** Cases that run side by side in one run: the store is slower than what is tried on it. */
const cases = 20;

test(
  "transactions follow a plain model through any steps, alone and with their blocks",
  { timeout: within(300_000) },
  async () => {
    const { transactions, overHttp, db } = service;
    const one = fc.record({ start: anyWorld, steps: fc.array(anyStep, { minLength: 1, maxLength: 3 }) });
    const property = fc.asyncProperty(fc.array(one, { minLength: cases, maxLength: cases }), async (all) => {
      // The collections stay small: this is about right and wrong.
      await Promise.all(["transactions", "blocks"].map((name) => db.collection(name).deleteMany({})));
      const models = all.map(({ start }) => structuredClone<World>(start));
      const stored = await store(models);
      await Promise.all(
        all.map(async ({ steps }, number) => {
          const [model, { ids, blockIds }] = [elementOf(models, number), elementOf(stored, number)];
          const client = number % 2 === 0 ? transactions : overHttp;
          for (const next of steps) {
            const expected = follow(model, next);
            const call = run(client, next, ids, blockIds);
            if (expected === undefined) await call;
            else expect((await refusalOf(call)).reason).toBe(expected);
          }
        }),
      );
      const found = await transactions.batchGetTransactions({ transactionIds: stored.flatMap(({ ids }) => ids) });
      expect(
        found.transactions.map((transaction) =>
          seen(
            transaction,
            stored.flatMap(({ blockIds }) => blockIds),
          ),
        ),
      ).toEqual(
        models.flatMap((model, number) =>
          model.transactions.map((known) => ({
            ...known,
            block: known.block === undefined ? undefined : known.block + number * model.blocks.length,
            index: known.block === undefined ? undefined : known.index,
          })),
        ),
      );
    });
    await fc.assert(property, runs({ numRuns: Math.ceil(300 / cases) }, cases));
  },
);

function elementOf<T>(list: readonly T[], index: number): T {
  const found = list[index];
  if (found === undefined) throw new Error(`There is nothing at ${index}`);
  return found;
}

const many = Array.from({ length: 50 }, (_, number) => number);

/** What became of calls: how many succeeded, and the reasons of the others. */
async function outcomes(calls: readonly Promise<unknown>[]) {
  const settled = await Promise.all(
    calls.map((call) =>
      call.then(
        () => "OK",
        async (error: unknown) => (await refusalOf(Promise.reject(ConnectError.from(error)))).reason ?? "",
      ),
    ),
  );
  return {
    won: settled.filter((outcome) => outcome === "OK").length,
    reasons: [...new Set(settled)].toSorted((one, other) => one.localeCompare(other)),
  };
}

test("of many that assign one transaction to different blocks one wins, also out of an orphaned block", async () => {
  const { transactions, db } = service;
  const { transactionId } = await newTransaction(transactions);
  for (const _ of ["first", "after the block was orphaned"]) {
    const blocks = await Promise.all(many.map(() => newBlock(db)));
    const calls = blocks.map(({ blockId }) =>
      transactions.assignTransactionToBlock({ transactionId, blockId, transactionIndex: 0 }),
    );
    expect(await outcomes(calls)).toEqual({ won: 1, reasons: ["OK", "TRANSACTION_ALREADY_ASSIGNED"] });
    const { transaction } = await transactions.getTransaction({ transactionId });
    const winner = blocks.find(({ blockId }) => blockId === transaction?.blockId);
    expect(transaction?.blockHeight).toBe(winner?.height);
    await setBlockStatus(db, winner?.blockId ?? "", "ORPHANED");
  }
});

test("of many transactions that are assigned to one place of a block one is, and to different places all are", async () => {
  const { transactions, db } = service;
  const { blockId } = await newBlock(db);
  const made = await Promise.all(many.map(() => newTransaction(transactions)));
  const assign = (place: (number: number) => number) =>
    made.map(({ transactionId }, number) =>
      transactions.assignTransactionToBlock({ transactionId, blockId, transactionIndex: place(number) }),
    );
  expect(await outcomes(assign(() => 50))).toEqual({ won: 1, reasons: ["OK", "TRANSACTION_INDEX_TAKEN"] });
  // All but the one that is at another place already.
  expect(await outcomes(assign((number) => number))).toEqual({
    won: 49,
    reasons: ["OK", "TRANSACTION_ALREADY_ASSIGNED"],
  });
  const { transactions: listed } = await transactions.listTransactionsByBlock({ blockId });
  const places = listed.map(({ transactionIndex }) => transactionIndex ?? -1);
  expect(places).toEqual([...new Set(places)].toSorted((one, other) => one - other));
  expect(listed).toHaveLength(50);
});

test("of many that tell confirmations the largest number stays", async () => {
  const { transactions, db } = service;
  const { transactionId } = await newTransaction(transactions);
  const { blockId } = await newBlock(db);
  await transactions.assignTransactionToBlock({ transactionId, blockId, transactionIndex: 0 });
  await Promise.all(
    many.map((number) =>
      transactions.updateTransactionConfirmations({ transactionId, blockId, confirmations: BigInt((number * 7) % 50) }),
    ),
  );
  expect((await transactions.getTransaction({ transactionId })).transaction).toMatchObject({
    confirmations: 49n,
    revision: 52n,
  });
});
