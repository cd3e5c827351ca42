import type { DescEnum, MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import type { Collection, Document } from "mongodb";

import {
  type TransactionStatus,
  TransactionStatusSchema,
  type TransactionType,
  TransactionTypeSchema,
} from "../../gen/lucid/repository/v1/transaction_pb.ts";
import type {
  GetTransactionStatisticsRequest,
  TransactionAmountsSchema,
  TransactionStatisticsSchema,
  TransactionTimesSchema,
} from "../../gen/lucid/repository/v1/transaction_service_pb.ts";
import { wholeSum } from "../schema/expressions.ts";
import { dateAtOrAfter, dateBefore } from "../schema/filters.ts";
import { storedName, storedNames } from "../schema/stored-field.ts";

const dayMs = 86_400_000;

/** Times fall into buckets of which each ends this many times later than the one before, so that those in one differ by 1 %. */
const growth = 1.01;

type Whole = bigint | number;

/** What the aggregation below returns; sums are int64, read as such. */
interface Facets {
  readonly tallies: readonly {
    readonly _id: { readonly type?: string; readonly status?: string };
    readonly count: Whole;
  }[];
  readonly sizes: readonly Amounts[];
  readonly fees: readonly Amounts[];
  readonly inclusion: readonly Bucket[];
  readonly confirmation: readonly Bucket[];
  readonly finality: readonly Bucket[];
}

interface Amounts {
  readonly count: Whole;
  readonly total: Whole;
  readonly min: Whole;
  readonly max: Whole;
  readonly avg: number;
}

interface Bucket {
  /** Which one: the times in it are at most `growth` to this power, in ms. */
  readonly _id: number;
  readonly count: Whole;
  readonly totalMs: Whole;
}

/** Computes statistics of the transactions of a time, in the store and in one pass, whatever their number. */
export async function statisticsOf(
  transactions: Collection,
  { createdFrom, createdBefore, transactionType }: GetTransactionStatisticsRequest,
  options: { maxTimeMS?: number; signal: AbortSignal },
): Promise<MessageInitShape<typeof TransactionStatisticsSchema>> {
  const before = createdBefore === undefined ? new Date() : dateAtOrAfter(createdBefore);
  const from = createdFrom === undefined ? dateBefore(before, dayMs) : dateAtOrAfter(createdFrom);
  const match = {
    ...(transactionType !== 0 && { transaction_type: storedName(TransactionTypeSchema, transactionType) }),
    created_at: { $gte: from, $lt: before },
    deleted_at: null,
  };
  const [found] = await transactions
    .aggregate<Facets>([{ $match: match }, { $facet: facets }], { ...options, useBigInt64: true })
    .toArray();
  const tallies = (found?.tallies ?? []).map(tally).toSorted(byTypeAndStatus);
  return {
    createdFrom: timestampFromDate(from),
    createdBefore: timestampFromDate(before),
    count: tallies.reduce((sum, { count }) => sum + count, 0n),
    tallies,
    sizes: amounts(found?.sizes[0]),
    fees: amounts(found?.fees[0]),
    timeToInclusion: times(found?.inclusion ?? []),
    timeToConfirmation: times(found?.confirmation ?? []),
    timeToFinality: times(found?.finality ?? []),
  };
}

const facets: Readonly<Record<keyof Facets, Document[]>> = {
  tallies: [{ $group: { _id: { type: "$transaction_type", status: "$status" }, count: { $sum: 1n } } }],
  sizes: amountStages("$size_bytes"),
  fees: amountStages("$fee"),
  inclusion: timeStages("$included_at"),
  confirmation: timeStages("$confirmed_at"),
  finality: timeStages("$finalized_at"),
};

function amountStages(field: string): Document[] {
  const group = {
    _id: null,
    count: { $sum: 1n },
    total: { $sum: field },
    min: { $min: field },
    max: { $max: field },
    avg: { $avg: field },
  };
  return [{ $match: { [field.slice(1)]: { $type: "number" } } }, { $group: group }];
}

/** Counts times by bucket, so that percentiles need neither a sort nor an operator that servers before 7.0 lack. */
function timeStages(end: string): Document[] {
  const took = { $max: [0n, { $subtract: [end, "$submitted_at"] }] };
  // What took less than a millisecond is in the bucket of one millisecond.
  const bucket = { $ceil: { $divide: [{ $ln: { $max: [1, "$took"] } }, Math.log(growth)] } };
  return [
    { $match: { submitted_at: { $type: "date" }, [end.slice(1)]: { $type: "date" } } },
    { $project: { _id: 0, took } },
    { $group: { _id: bucket, count: { $sum: 1n }, totalMs: { $sum: "$took" } } },
    { $sort: { _id: 1 } },
  ];
}

interface Tally {
  readonly transactionType: TransactionType;
  readonly status: TransactionStatus;
  readonly count: bigint;
}

function tally({ _id: { type, status }, count }: Facets["tallies"][number]): Tally {
  const number = (states: DescEnum, name: string | undefined) =>
    storedNames(states).find((known) => known.name === name)?.number ?? 0;
  return {
    // What the enums' own descriptors say.
    transactionType: number(TransactionTypeSchema, type) as TransactionType,
    status: number(TransactionStatusSchema, status) as TransactionStatus,
    count: BigInt(count),
  };
}

function byTypeAndStatus(one: Tally, other: Tally): number {
  return one.transactionType - other.transactionType || one.status - other.status;
}

function amounts(found: Amounts | undefined): MessageInitShape<typeof TransactionAmountsSchema> {
  if (found === undefined) return {};
  const { count, total, min, max, avg } = found;
  return { count: BigInt(count), total: wholeSum(total), min: BigInt(min), max: BigInt(max), avg };
}

function times(buckets: readonly Bucket[]): MessageInitShape<typeof TransactionTimesSchema> {
  const count = buckets.reduce((sum, bucket) => sum + BigInt(bucket.count), 0n);
  if (count === 0n) return {};
  const totalMs = buckets.reduce((sum, bucket) => sum + Number(bucket.totalMs), 0);
  return {
    count,
    avgSeconds: totalMs / Number(count) / 1000,
    p50Seconds: percentile(buckets, count, 0.5),
    p95Seconds: percentile(buckets, count, 0.95),
  };
}

/** The time, in seconds, that a part of all take at most. */
function percentile(buckets: readonly Bucket[], count: bigint, part: number): number {
  const rank = Math.ceil(Number(count) * part);
  let seen = 0;
  for (const bucket of buckets) {
    seen += Number(bucket.count);
    if (seen < rank) continue;
    // Exact where the times of the bucket are all the same.
    return Number(bucket.totalMs) / Number(bucket.count) / 1000;
  }
  return 0;
}
