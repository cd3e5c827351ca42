import { type MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";

import {
  type Aggregation,
  type AggregationResultSchema,
  type BucketSchema,
  CalendarUnit,
  type FieldBounds,
} from "../../gen/lucid/search/v1/search_aggregation_pb.ts";
import { fail } from "../errors.ts";
import { dateAtOrAfter, storable } from "../schema/filters.ts";
import { badRequest } from "../schema/refusals.ts";
import { type ExactJson, type ExactObject, writeExact } from "../stores/search/exact-json.ts";
import type { FieldType, IndexField } from "./index-fields.ts";
import { type Clause, isoTimes, known, type SearchedFields } from "./query.ts";

type Result = MessageInitShape<typeof AggregationResultSchema>;
type Bucket = MessageInitShape<typeof BucketSchema>;

/** Aggregations that may be sent, and how their answer is read. */
export interface CompiledAggregations {
  readonly clauses: Readonly<Record<string, Clause>>;
  /** Fails with `SEARCH_TOO_COSTLY` where there are more buckets than a response may have. */
  results(answer: ExactObject): Result[];
}

const most = { all: 20, depth: 3, buckets: 10_000 } as const;

/** What each kind is computed of. */
const computedOf: Readonly<Record<string, readonly FieldType[]>> = {
  terms: ["keyword", "text", "long", "double", "boolean", "date", "ip"],
  dateHistogram: ["date"],
  histogram: ["long", "double"],
  range: ["long", "double", "date"],
  stats: ["long", "double", "date"],
  percentiles: ["long", "double", "date"],
  cardinality: ["keyword", "text", "long", "double", "boolean", "date", "ip"],
};

const haveBuckets: ReadonlySet<string> = new Set(["terms", "dateHistogram", "histogram", "range"]);

const calendarUnits: ReadonlyMap<CalendarUnit, string> = new Map([
  [CalendarUnit.MINUTE, "minute"],
  [CalendarUnit.HOUR, "hour"],
  [CalendarUnit.DAY, "day"],
  [CalendarUnit.WEEK, "week"],
  [CalendarUnit.MONTH, "month"],
  [CalendarUnit.QUARTER, "quarter"],
  [CalendarUnit.YEAR, "year"],
]);

/** Makes aggregations that the server takes. Fails with `BAD_REQUEST` and the field's path, or `SEARCH_TOO_COSTLY`. */
export function compileAggregations(
  aggregations: readonly Aggregation[],
  fields: SearchedFields,
): CompiledAggregations {
  let count = 0;
  const compile = (all: readonly Aggregation[], around: Around): Compiled[] => {
    const names = new Set<string>();
    return all.map((aggregation, index) => {
      const at = `${around.at}aggregations[${index}]`;
      count++;
      if (count > most.all) throw badRequest({ field: at, description: `must be one of at most ${most.all} in all` });
      if (names.has(aggregation.name)) throw badRequest({ field: `${at}.name`, description: "must be unique" });
      names.add(aggregation.name);
      return compiled(aggregation, { ...around, at });
    });
  };

  const compiled = (aggregation: Aggregation, { at, depth, nestedIn, parents }: Around): Compiled => {
    const field = aggregatedField(aggregation, at, fields);
    const kind = aggregation.kind.case ?? "";
    const inner = aggregation.aggregations;
    if (inner.length > 0 && !haveBuckets.has(kind)) {
      throw badRequest({ field: `${at}.aggregations`, description: "must not be set beside what has no buckets" });
    }
    if (inner.length > 0 && depth === most.depth) {
      const description = `must be at most ${most.depth} within each other`;
      throw badRequest({ field: `${at}.aggregations`, description });
    }
    const buckets = parents * knownBuckets(aggregation);
    if (buckets > most.buckets) throw tooManyBuckets(buckets);
    const within = compile(inner, { at: `${at}.`, depth: depth + 1, nestedIn: field.nestedIn, parents: buckets });
    const own = { ...clauseOf(aggregation, field, at), ...(within.length > 0 && { aggs: clausesOf(within) }) };
    return { aggregation, field, within, clause: moved(own, field, nestedIn) };
  };

  const all = compile(aggregations, { at: "", depth: 1, nestedIn: undefined, parents: 1 });
  return {
    clauses: clausesOf(all),
    results(answer) {
      const seen = { buckets: 0 };
      return resultsOf(all, answer, seen);
    },
  };
}

/** Where an aggregation stands. */
interface Around {
  readonly at: string;
  readonly depth: number;
  /** The list of messages that is being looked at one by one there. */
  readonly nestedIn: string | undefined;
  /** Buckets that there may be around it. */
  readonly parents: number;
}

interface Compiled {
  readonly aggregation: Aggregation;
  readonly field: IndexField;
  readonly within: readonly Compiled[];
  readonly clause: Clause;
}

/** By their places: names are the caller's. */
function clausesOf(all: readonly Compiled[]): Record<string, Clause> {
  return Object.fromEntries(all.map(({ clause }, index) => [`a${index}`, clause]));
}

/** What is computed of messages in a list looks at each of them. */
function moved(clause: Clause, { nestedIn: to }: IndexField, from: string | undefined): Clause {
  if (to === from) return clause;
  const aggs = { moved: clause };
  // From one list into another the way leads through the document.
  const into = to === undefined ? clause : { nested: { path: to }, aggs };
  if (from === undefined) return into;
  return { reverse_nested: {}, aggs: { moved: into } };
}

function aggregatedField({ field: path, kind }: Aggregation, at: string, fields: SearchedFields): IndexField {
  const field = known(path, `${at}.field`, fields);
  const types = computedOf[kind.case ?? ""] ?? [];
  if (!types.includes(field.type) || field.exact === undefined) {
    const description = `must be a field that this can be computed of; it is ${field.type}`;
    throw badRequest({ field: `${at}.field`, description });
  }
  return field;
}

/** How many buckets it has at most; 1 where only the documents tell. */
function knownBuckets({ kind }: Aggregation): number {
  if (kind.case === "terms") return kind.value.size === 0 ? defaultTerms : kind.value.size;
  return kind.case === "range" ? kind.value.ranges.length : 1;
}

const defaultTerms = 10;

function clauseOf({ kind }: Aggregation, field: IndexField, at: string): Clause {
  const of = { field: field.exact };
  switch (kind.case) {
    case "terms":
      return { terms: { ...of, size: kind.value.size === 0 ? defaultTerms : kind.value.size } };
    case "dateHistogram": {
      const { unit, timeZone } = kind.value;
      const zone = zoneOf(timeZone, `${at}.date_histogram.time_zone`);
      const interval = calendarUnits.get(unit);
      return { date_histogram: { ...of, calendar_interval: interval, time_zone: zone, min_doc_count: 1 } };
    }
    case "histogram":
      return { histogram: { ...of, interval: kind.value.interval, min_doc_count: 1 } };
    case "range": {
      const ranges = kind.value.ranges.map((bounds, index) => ({
        // The server orders ranges by their bounds; the caller gets them in the order of the request.
        key: String(index),
        ...boundsOf(bounds, field, `${at}.range.ranges[${index}]`),
      }));
      if (field.type === "date") return { date_range: { ...of, keyed: true, format: isoTimes, ranges } };
      return { range: { ...of, keyed: true, ranges } };
    }
    case "stats":
      return { stats: of };
    case "percentiles":
      return { percentiles: { ...of, keyed: false, percents: percentsOf(kind.value.percents) } };
    default:
      return { cardinality: { ...of, precision_threshold: 3000 } };
  }
}

function percentsOf(percents: readonly number[]): readonly number[] {
  return percents.length === 0 ? [1, 5, 25, 50, 75, 95, 99] : percents;
}

/** The zone as the server spells it: its names are of one case. */
function zoneOf(name: string, at: string): string {
  try {
    return new Intl.DateTimeFormat("en", { timeZone: name === "" ? "UTC" : name }).resolvedOptions().timeZone;
  } catch {
    throw badRequest({ field: at, description: "must be a time zone" });
  }
}

function boundsOf({ from, before }: FieldBounds, { type }: IndexField, at: string): Clause {
  if (from.case === undefined && before.case === undefined) {
    throw badRequest({ field: at, description: "must have a bound" });
  }
  const bound = (given: FieldBounds["from"] | FieldBounds["before"]): unknown => {
    if (given.case === undefined) return undefined;
    const isTime = given.case === "fromTime" || given.case === "beforeTime";
    if (isTime !== (type === "date"))
      throw badRequest({ field: at, description: `must fit the field, which is ${type}` });
    return isTime ? dateAtOrAfter(given.value) : given.value;
  };
  return { from: bound(from), to: bound(before) };
}

interface Seen {
  buckets: number;
}

function resultsOf(all: readonly Compiled[], answer: ExactObject, seen: Seen): Result[] {
  return all.map((compiled, index) => {
    let own = objectIn(answer, `a${index}`);
    while (own["moved"] !== undefined) own = objectIn(own, "moved");
    return { name: compiled.aggregation.name, result: resultOf(compiled, own, seen) };
  });
}

function resultOf(compiled: Compiled, own: ExactObject, seen: Seen): NonNullable<Result["result"]> {
  const { kind } = compiled.aggregation;
  switch (kind.case) {
    case "stats": {
      const { count, min, max, avg, sum } = own;
      const value = {
        count: wholeOf(count),
        ...(typeof min === "number" && { min }),
        ...(typeof max === "number" && { max }),
        ...(typeof avg === "number" && { mean: avg }),
        sum: Number(sum),
      };
      return { case: "stats", value };
    }
    case "percentiles": {
      const values = new Map(objectsIn(own, "values").map(({ key, value }) => [key, value]));
      const percentiles = percentsOf(kind.value.percents).map((percent) => {
        const value = values.get(percent);
        return { percent, ...(typeof value === "number" && { value }) };
      });
      return { case: "percentiles", value: { percentiles } };
    }
    case "cardinality":
      return { case: "cardinality", value: { count: wholeOf(own["value"]) } };
    default:
      return { case: "buckets", value: bucketsOf(compiled, own, seen) };
  }
}

function bucketsOf(compiled: Compiled, own: ExactObject, seen: Seen) {
  const { kind } = compiled.aggregation;
  const isRange = kind.case === "range";
  const keyed = isRange ? objectIn(own, "buckets") : {};
  const all = isRange ? kind.value.ranges.map((_, index) => objectIn(keyed, String(index))) : objectsIn(own, "buckets");
  seen.buckets += all.length;
  if (seen.buckets > most.buckets) throw tooManyBuckets(seen.buckets);
  const buckets = all.map((bucket, index): Bucket => ({
    key: isRange
      ? { case: "range", value: kind.value.ranges[index] ?? {} }
      : keyOf(bucket, kind.case === "histogram" ? "double" : compiled.field.type),
    count: wholeOf(bucket["doc_count"]),
    aggregations: resultsOf(compiled.within, bucket, seen),
  }));
  const { sum_other_doc_count: otherCount = 0, doc_count_error_upper_bound: countError = 0 } = own;
  return { buckets, otherCount: wholeOf(otherCount), countError: wholeOf(countError) };
}

function keyOf({ key }: ExactObject, type: FieldType): NonNullable<Bucket["key"]> {
  switch (type) {
    case "long":
      return { case: "integer", value: wholeOf(key) };
    case "double":
      return { case: "number", value: Number(key) };
    case "boolean":
      return { case: "flag", value: key === 1 || key === true };
    case "date":
      // A day of a zone in the east begins before the first time; documents of operators have any.
      return { case: "time", value: timestampFromDate(storable(Number(key))) };
    default:
      return { case: "text", value: typeof key === "string" ? key : writeExact(key) };
  }
}

function wholeOf(value: ExactJson | undefined): bigint {
  return typeof value === "bigint" ? value : BigInt(Math.trunc(Number(value ?? 0)));
}

function objectIn(parent: ExactObject, name: string): ExactObject {
  const found = parent[name];
  // The server answers each aggregation with an object.
  return typeof found === "object" && found !== null ? (found as ExactObject) : {};
}

function objectsIn(parent: ExactObject, name: string): readonly ExactObject[] {
  const found = parent[name];
  return Array.isArray(found) ? (found as readonly ExactObject[]) : [];
}

function tooManyBuckets(count: number) {
  return fail("SEARCH_TOO_COSTLY", `The aggregations would have more than ${most.buckets} buckets`, {
    metadata: { buckets: String(count), most_buckets: String(most.buckets) },
  });
}
