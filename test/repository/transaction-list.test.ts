import type { MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { afterAll, beforeAll, expect, test } from "vitest";

import {
  TransactionStatus,
  TransactionSummarySchema,
  TransactionType,
} from "../../gen/lucid/repository/v1/transaction_pb.ts";
import type { TransactionFilterSchema } from "../../gen/lucid/repository/v1/transaction_service_pb.ts";
import { tronAddress } from "./support.ts";
import { hash, newTransaction, type TransactionsApp, transactionsApp } from "./transaction-support.ts";

const startMs = Date.UTC(2026, 0, 1);
const addresses = [tronAddress(), tronAddress(), "node-1"] as const;
const blocks = [hash(), hash()] as const;
const types = ["SESSION_ANCHOR", "SYSTEM", "GOVERNANCE"] as const;
const statuses = ["PENDING", "CONFIRMED", "FINALIZED", "FAILED"] as const;

/** Stored transactions in which every filter finds some, and few times, so that many have the same. */
const stored = Array.from({ length: 72 }, (_, number) => {
  const status = statuses[number % 4] ?? "PENDING";
  const submitted = new Date(startMs + Math.floor(number / 3) * 1000);
  const took = (ms: number) => new Date(submitted.getTime() + ms);
  return {
    transaction_id: hash(),
    transaction_type: types[number % 3] ?? "SYSTEM",
    status,
    from_address: addresses[number % 3] ?? "",
    ...(number % 2 === 0 && { to_address: addresses[Math.floor(number / 2) % 3] ?? "" }),
    ...(status !== "PENDING" && {
      block_id: blocks[number % 2] ?? "",
      block_height: BigInt(number % 2),
      transaction_index: 100 - number,
      included_at: took(number * 100),
      confirmed_at: took(number * 200),
    }),
    ...(status === "FINALIZED" && { finalized_at: took(number * 1000) }),
    size_bytes: BigInt(number),
    ...(number % 5 === 0 && { fee: BigInt(number * 10) }),
    confirmations: 0n,
    submitted_at: submitted,
    created_at: submitted,
    updated_at: submitted,
    json: { large: "x".repeat(100) },
    metadata: { number },
    revision: 1n,
  };
});
type Stored = (typeof stored)[number];

let service: TransactionsApp;
beforeAll(async () => {
  service = await transactionsApp();
  const { db } = service;
  const { transactionId } = await newTransaction(service.transactions); // makes the indexes
  await db.collection("transactions").deleteOne({ transaction_id: transactionId });
  const gone = { ...stored[0], transaction_id: hash(), transaction_index: 7, deleted_at: new Date() };
  await db.collection("transactions").insertMany([...stored, gone]);
});
afterAll(() => service[Symbol.asyncDispose]());

type Filter = MessageInitShape<typeof TransactionFilterSchema>;

const [address, other, node] = addresses;
const between = {
  createdFrom: timestampFromDate(new Date(startMs + 5000)),
  createdBefore: timestampFromDate(new Date(startMs + 15_000)),
};
const inTime = ({ created_at }: Stored) =>
  created_at.getTime() >= startMs + 5000 && created_at.getTime() < startMs + 15_000;
const either = (one: Stored, wanted: string) => one.from_address === wanted || one.to_address === wanted;

/** Filters that an index serves, with what they mean. */
const filters: readonly [string, Filter, (one: Stored) => boolean][] = [
  ["nothing", {}, () => true],
  ["type", { transactionType: TransactionType.SYSTEM }, (one) => one.transaction_type === "SYSTEM"],
  ["status", { status: TransactionStatus.CONFIRMED }, (one) => one.status === "CONFIRMED"],
  [
    "type and status",
    { transactionType: TransactionType.GOVERNANCE, status: TransactionStatus.FAILED },
    (one) => one.transaction_type === "GOVERNANCE" && one.status === "FAILED",
  ],
  ["sender", { fromAddress: address }, (one) => one.from_address === address],
  ["receiver", { toAddress: other }, (one) => one.to_address === other],
  ["either", { address }, (one) => either(one, address)],
  ["name of a node", { address: node }, (one) => either(one, node)],
  [
    "sender and status",
    { fromAddress: address, status: TransactionStatus.FINALIZED },
    (one) => one.from_address === address && one.status === "FINALIZED",
  ],
  [
    "receiver and status",
    { toAddress: address, status: TransactionStatus.PENDING },
    (one) => one.to_address === address && one.status === "PENDING",
  ],
  [
    "either and status",
    { address: other, status: TransactionStatus.PENDING },
    (one) => either(one, other) && one.status === "PENDING",
  ],
];

interface Page {
  readonly ids: readonly string[];
  readonly nextPageToken: string;
}

/** Reads a list to its end, in small pages. */
async function all(page: (place: { pageSize: number; pageToken: string }) => Promise<Page>): Promise<string[]> {
  const found: string[] = [];
  let pageToken = "";
  do {
    const { ids, nextPageToken } = await page({ pageSize: 16, pageToken });
    found.push(...ids);
    pageToken = nextPageToken;
  } while (pageToken !== "");
  return found;
}

const idsOf = (list: readonly { readonly transactionId: string }[]) => list.map(({ transactionId }) => transactionId);

function byCreation(one: Stored, another: Stored): number {
  const order = one.created_at.getTime() - another.created_at.getTime();
  return order === 0 ? (one.transaction_id < another.transaction_id ? -1 : 1) : order;
}

test.for(filters)(
  "a list by %s gives each transaction once, in both orders, also of a time",
  async ([, filter, isMeant]) => {
    const { transactions, overHttp } = service;
    for (const [more, within] of [
      [{}, () => true],
      [between, inTime],
    ] as const) {
      const expected = stored.filter((one) => isMeant(one) && within(one)).toSorted(byCreation);
      const ids = expected.map(({ transaction_id }) => transaction_id);
      expect(ids).not.toEqual([]);
      const request = { filter: { ...filter, ...more } };
      const list = (client: typeof transactions, orderBy: string) =>
        all(async (place) => {
          const found = await client.listTransactions({ ...request, ...place, orderBy });
          return { ids: idsOf(found.transactions), nextPageToken: found.nextPageToken };
        });
      expect(await list(transactions, "created_at")).toEqual(ids);
      expect(await list(overHttp, "")).toEqual(ids.toReversed());
      expect(await transactions.countTransactions(request)).toMatchObject({ count: BigInt(ids.length) });
      const summaries = await transactions.listTransactionSummaries({ ...request, pageSize: 1000 });
      expect(idsOf(summaries.summaries)).toEqual(ids.toReversed());
    }
  },
);

test("a block's transactions come in the order that they have in it", async () => {
  const { transactions } = service;
  for (const blockId of blocks) {
    const inBlock = stored.filter((one) => "block_id" in one && one.block_id === blockId);
    // The positions were given backwards.
    const ids = inBlock.map(({ transaction_id }) => transaction_id).toReversed();
    const found = await all(async (place) => {
      const page = await transactions.listTransactionsByBlock({ blockId, ...place });
      return { ids: idsOf(page.transactions), nextPageToken: page.nextPageToken };
    });
    expect(found).toEqual(ids);
    for (const [orderBy, expected] of [
      ["", ids],
      ["transaction_index desc", ids.toReversed()],
    ] as const) {
      const page = await transactions.listTransactions({ filter: { blockId }, orderBy });
      expect(idsOf(page.transactions)).toEqual(expected);
    }
  }
  expect((await transactions.listTransactionsByBlock({ blockId: hash() })).transactions).toEqual([]);
});

test("a summary is the part of its transaction that it names", async () => {
  const { transactions } = service;
  const [whole, part] = [
    await transactions.listTransactions({ pageSize: 1000 }),
    await transactions.listTransactionSummaries({ pageSize: 1000 }),
  ];
  const names = TransactionSummarySchema.fields.map(({ localName }) => localName);
  const partOf = (of: object) => Object.fromEntries(names.map((name) => [name, (of as Record<string, unknown>)[name]]));
  expect(part.summaries.map(partOf)).toEqual(whole.transactions.map(partOf));
});

test("a search finds by the beginning of a hash, in any case, and by a whole address", async () => {
  const { transactions } = service;
  const [one] = stored;
  if (one === undefined) throw new Error("Nothing is stored");
  for (const length of [4, 20, 64]) {
    const query = one.transaction_id.slice(0, length);
    const expected = stored.map(({ transaction_id }) => transaction_id).filter((id) => id.startsWith(query));
    for (const text of [query, query.toUpperCase()]) {
      expect(idsOf((await transactions.searchTransactions({ query: text })).transactions)).toEqual(expected.toSorted());
    }
  }
  const ids = stored
    .filter((each) => either(each, address))
    .toSorted(byCreation)
    .map(({ transaction_id }) => transaction_id);
  const found = await all(async (place) => {
    const page = await transactions.searchTransactions({ query: address, ...place });
    return { ids: idsOf(page.transactions), nextPageToken: page.nextPageToken };
  });
  expect(found).toEqual(ids.toReversed());
  expect((await transactions.searchTransactions({ query: tronAddress() })).transactions).toEqual([]);
});

/** Plain sums over the stored documents. */
function plain(documents: readonly Stored[]) {
  const of = (numbers: readonly number[]) => ({
    count: BigInt(numbers.length),
    total: BigInt(numbers.reduce((sum, number) => sum + number, 0)),
    min: BigInt(Math.min(...numbers)),
    max: BigInt(Math.max(...numbers)),
    avg: numbers.reduce((sum, number) => sum + number, 0) / numbers.length,
  });
  const times = (field: "included_at" | "confirmed_at" | "finalized_at") => {
    const took = documents
      .flatMap((one) =>
        field in one ? [((one as Record<string, unknown>)[field] as Date).getTime() - one.submitted_at.getTime()] : [],
      )
      .toSorted((one, another) => one - another);
    const rank = (part: number) => (took[Math.ceil(took.length * part) - 1] ?? 0) / 1000;
    const avg = took.reduce((sum, ms) => sum + ms, 0) / took.length / 1000;
    return { count: BigInt(took.length), avg, p50: rank(0.5), p95: rank(0.95) };
  };
  return {
    sizes: of(documents.map(({ size_bytes }) => Number(size_bytes))),
    fees: of(documents.flatMap((one) => ("fee" in one ? [Number(one.fee)] : []))),
    times: [times("included_at"), times("confirmed_at"), times("finalized_at")],
  };
}

test.for([
  ["all", {}, () => true],
  ["one type", { transactionType: TransactionType.SYSTEM }, (one: Stored) => one.transaction_type === "SYSTEM"],
  ["a time", between, inTime],
] as const)("statistics of %s are what the documents say", async ([, request, isMeant]) => {
  const meant = stored.filter(isMeant);
  const window = { createdFrom: timestampFromDate(new Date(0)), createdBefore: timestampFromDate(new Date()) };
  const { statistics } = await service.transactions.getTransactionStatistics({ ...window, ...request });
  const expected = plain(meant);
  expect(statistics).toMatchObject({ count: BigInt(meant.length), sizes: expected.sizes, fees: expected.fees });
  const tallies = Object.entries(Object.groupBy(meant, (one) => `${one.transaction_type} ${one.status}`));
  expect(statistics?.tallies).toHaveLength(tallies.length);
  for (const { transactionType, status, count } of statistics?.tallies ?? []) {
    const group = meant.filter(
      (one) => TransactionType[one.transaction_type] === transactionType && TransactionStatus[one.status] === status,
    );
    expect(count).toBe(BigInt(group.length));
  }
  const { timeToInclusion, timeToConfirmation, timeToFinality } = statistics ?? {};
  for (const [index, found] of [timeToInclusion, timeToConfirmation, timeToFinality].entries()) {
    const plainly = expected.times[index];
    expect(found?.count).toBe(plainly?.count);
    expect(found?.avgSeconds).toBeCloseTo(plainly?.avg ?? -1);
    for (const [told, exact] of [
      [found?.p50Seconds, plainly?.p50],
      [found?.p95Seconds, plainly?.p95],
    ] as const) {
      expect(Math.abs((told ?? -1) - (exact ?? 0))).toBeLessThanOrEqual((exact ?? 0) * 0.0101);
    }
  }
});

test("statistics without a time are those of the last day", async () => {
  const { transactions } = service;
  await newTransaction(transactions, { sizeBytes: 5n });
  const { statistics } = await transactions.getTransactionStatistics({});
  expect(statistics).toMatchObject({
    count: 1n,
    sizes: { total: 5n },
    fees: { count: 0n },
    timeToFinality: { count: 0n },
  });
  const { createdFrom, createdBefore } = statistics ?? {};
  expect((createdBefore?.seconds ?? 0n) - (createdFrom?.seconds ?? 0n)).toBe(86_400n);
});

test.for([
  ["the first moment", -62_135_596_800n],
  ["what no calendar has", -(2n ** 63n)],
  ["what no calendar reaches", 2n ** 63n - 1n],
] as const)("statistics of a day before %s are told", async ([, seconds]) => {
  const { statistics } = await service.transactions.getTransactionStatistics({ createdBefore: { seconds } });
  const { createdFrom, createdBefore } = statistics ?? {};
  expect(createdFrom?.seconds).toBeGreaterThanOrEqual(-62_135_596_800n);
  expect(createdBefore?.seconds).toBeLessThanOrEqual(253_402_300_799n);
});
