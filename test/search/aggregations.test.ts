import type { MessageInitShape } from "@bufbuild/protobuf";
import { type Timestamp, timestampDate, timestampFromDate } from "@bufbuild/protobuf/wkt";
import { afterAll, beforeAll, expect, test } from "vitest";

import { BlockSchema } from "../../gen/lucid/repository/v1/block_pb.ts";
import {
  type AggregationResult,
  type AggregationSchema,
  CalendarUnit,
} from "../../gen/lucid/search/v1/search_aggregation_pb.ts";
import { refusalOf } from "../repository/support.ts";
import { onEveryServer } from "../support/search-servers.ts";
import { type SearchApp, searchApp } from "./search-app.ts";

type Aggregation = MessageInitShape<typeof AggregationSchema>;

const time = (text: string): Timestamp => timestampFromDate(new Date(text));

/** What an operator keeps of orders. */
const orders = {
  1: {
    shop: "north",
    sold_at: "2026-03-28T22:30:00Z",
    amount: 10.5,
    units: 1,
    paid: true,
    lines: [
      { sku: "a", n: 1 },
      { sku: "b", n: 5 },
    ],
  },
  2: { shop: "north", sold_at: "2026-03-29T12:00:00Z", amount: 20, units: 2, paid: true, lines: [{ sku: "a", n: 3 }] },
  3: { shop: "south", sold_at: "2026-04-01T00:00:00Z", amount: 30, units: "9007199254740993", paid: false, lines: [] },
  4: { shop: "west" },
};

const properties = {
  shop: { type: "keyword" },
  sold_at: { type: "date" },
  amount: { type: "double" },
  units: { type: "long" },
  paid: { type: "boolean" },
  note: { type: "text" },
  lines: { type: "nested", properties: { sku: { type: "keyword" }, n: { type: "long" } } },
};

onEveryServer((uri) => {
  let there: SearchApp;
  beforeAll(async () => {
    there = await searchApp(uri);
    await there.operatorIndex("orders", { properties }, orders);
    await there.put(BlockSchema, { blockId: "a".repeat(64), height: 1n, revision: 1n });
    await there.copy(BlockSchema);
  });
  afterAll(() => there?.[Symbol.asyncDispose]());

  async function results(...aggregations: Aggregation[]): Promise<AggregationResult[]> {
    return (await there.client.aggregate({ indices: ["orders"], aggregations })).results;
  }

  async function result(field: string, kind: Aggregation["kind"], ...within: Aggregation[]) {
    const [only] = await results({ name: "it", field, kind, aggregations: within } as Aggregation);
    expect(only?.name).toBe("it");
    return only?.result;
  }

  const bucketsOf = (found: AggregationResult["result"] | undefined) =>
    found?.case === "buckets" ? found.value.buckets : [];
  const counts = (found: AggregationResult["result"] | undefined) =>
    bucketsOf(found).map(({ key, count }) => [key.value, count]);

  test("terms count values of every type, the most frequent first", async () => {
    const terms = { case: "terms", value: {} } as const;
    expect(counts(await result("shop", terms))).toEqual([
      ["north", 2n],
      ["south", 1n],
      ["west", 1n],
    ]);
    expect(counts(await result("units", terms))).toEqual([
      [1n, 1n],
      [2n, 1n],
      [9_007_199_254_740_993n, 1n],
    ]);
    expect(counts(await result("amount", terms))).toEqual([
      [10.5, 1n],
      [20, 1n],
      [30, 1n],
    ]);
    expect(counts(await result("paid", terms))).toEqual([
      [true, 2n],
      [false, 1n],
    ]);
    expect(counts(await result("sold_at", terms))[0]).toMatchObject([{ seconds: time(orders[1].sold_at).seconds }, 1n]);
    const two = await result("shop", { case: "terms", value: { size: 2 } });
    expect(two).toMatchObject({ case: "buckets", value: { otherCount: 1n } });
  });

  test("a day begins where its time zone has it, also on the day that the clocks are changed", async () => {
    const days = (timeZone: string) =>
      result("sold_at", { case: "dateHistogram", value: { unit: CalendarUnit.DAY, timeZone } });
    const begins = await days("Europe/Berlin");
    expect(counts(begins)).toMatchObject([
      [time("2026-03-27T23:00:00Z"), 1n],
      [time("2026-03-28T23:00:00Z"), 1n],
      [time("2026-03-31T22:00:00Z"), 1n],
    ]);
    expect(counts(await days("europe/berlin"))).toEqual(counts(begins));
    const months = await result("sold_at", { case: "dateHistogram", value: { unit: CalendarUnit.MONTH } });
    expect(counts(months)).toMatchObject([
      [time("2026-03-01T00:00:00Z"), 2n],
      [time("2026-04-01T00:00:00Z"), 1n],
    ]);
  });

  test("a time that no message holds is the first or the last one", async () => {
    const days = { 1: { day: "0001-01-01T00:00:00Z" }, 2: { day: 9e15 }, 3: { day: "2026-01-01T00:00:00Z" } };
    await there.operatorIndex("days", { properties: { day: { type: "date" } } }, days);
    const aggregations: Aggregation[] = [
      { name: "value", field: "day", kind: { case: "terms", value: {} } },
      {
        name: "day",
        field: "day",
        kind: { case: "dateHistogram", value: { unit: CalendarUnit.DAY, timeZone: "Pacific/Kiritimati" } },
      },
    ];
    for (const client of [there.client, there.overHttp]) {
      const [value, day] = (await client.aggregate({ indices: ["days"], aggregations })).results;
      for (const [found, known] of [
        [value, "2026-01-01T00:00:00.000Z"],
        [day, "2025-12-31T10:00:00.000Z"],
      ] as const) {
        const times = bucketsOf(found?.result).map(
          ({ key }) => key.case === "time" && timestampDate(key.value).toISOString(),
        );
        expect(new Set(times)).toEqual(new Set(["0001-01-01T00:00:00.000Z", known, "9999-12-31T23:59:59.999Z"]));
      }
    }
  });

  test("histograms and ranges divide numbers and times", async () => {
    expect(counts(await result("amount", { case: "histogram", value: { interval: 15 } }))).toEqual([
      [0, 1n],
      [15, 1n],
      [30, 1n],
    ]);
    const numbers = [
      { from: { case: "fromNumber", value: 20 } },
      { before: { case: "beforeNumber", value: 20 } },
    ] as const;
    const found = await result("amount", { case: "range", value: { ranges: [...numbers] } });
    expect(bucketsOf(found)).toMatchObject([
      { key: { case: "range", value: numbers[0] }, count: 2n },
      { key: { case: "range", value: numbers[1] }, count: 1n },
    ]);
    const march = {
      from: { case: "fromTime", value: time("2026-03-01T00:00:00Z") },
      before: { case: "beforeTime", value: time("2026-04-01T00:00:00Z") },
    } as const;
    expect(bucketsOf(await result("sold_at", { case: "range", value: { ranges: [march] } }))).toMatchObject([
      { count: 2n },
    ]);
  });

  test("stats, percentiles and cardinality are figures", async () => {
    expect(await result("amount", { case: "stats", value: {} })).toMatchObject({
      case: "stats",
      value: { count: 3n, min: 10.5, max: 30, mean: 60.5 / 3, sum: 60.5 },
    });
    const percentiles = await result("amount", { case: "percentiles", value: { percents: [100, 0] } });
    expect(percentiles).toMatchObject({
      value: {
        percentiles: [
          { percent: 100, value: 30 },
          { percent: 0, value: 10.5 },
        ],
      },
    });
    expect(await result("shop", { case: "cardinality", value: {} })).toMatchObject({ value: { count: 3n } });
    const { results: empty } = await there.client.aggregate({
      indices: ["orders"],
      query: { text: "nothing" },
      aggregations: [
        { name: "stats", field: "amount", kind: { case: "stats", value: {} } },
        { name: "percentiles", field: "amount", kind: { case: "percentiles", value: {} } },
      ],
    });
    expect(empty[0]?.result.value).toMatchObject({ count: 0n, sum: 0 });
    expect(empty[0]?.result.value).not.toHaveProperty("min");
    expect(empty[1]?.result).toMatchObject({
      value: { percentiles: [1, 5, 25, 50, 75, 95, 99].map((percent) => ({ percent })) },
    });
  });

  test("buckets have aggregations of their own, also into lists of messages and out of them", async () => {
    const sum = { name: "sum", field: "amount", kind: { case: "stats", value: {} } } as Aggregation;
    const skus = {
      name: "skus",
      field: "lines.sku",
      kind: { case: "terms", value: {} },
      aggregations: [sum],
    } as Aggregation;
    const shops = bucketsOf(await result("shop", { case: "terms", value: {} }, sum, skus));
    const north = shops[0]?.aggregations ?? [];
    expect(north[0]?.result.value).toMatchObject({ sum: 30.5 });
    // Two orders of the shop have a line of `a`, one of them a line of `b`.
    expect(counts(north[1]?.result)).toEqual([
      ["a", 2n],
      ["b", 1n],
    ]);
    expect(bucketsOf(north[1]?.result)[1]?.aggregations[0]?.result.value).toMatchObject({ sum: 10.5 });
    const units = { name: "n", field: "lines.n", kind: { case: "stats", value: {} } } as Aggregation;
    const lines = bucketsOf(await result("lines.sku", { case: "terms", value: {} }, units));
    expect(lines.map(({ aggregations }) => aggregations[0]?.result.value)).toMatchObject([{ sum: 4 }, { sum: 5 }]);
  });

  test("results are in the order of the request, of the documents that the query finds", async () => {
    const { results: found, totalHits } = await there.client.aggregate({
      indices: ["orders", "blocks"],
      query: {
        filters: [{ field: "paid", condition: { case: "term", value: { value: { case: "flag", value: true } } } }],
      },
      aggregations: [
        { name: "z", field: "amount", kind: { case: "stats", value: {} } },
        { name: "a", field: "height", kind: { case: "stats", value: {} } },
      ],
    });
    expect(totalHits).toMatchObject({ count: 2n });
    expect(found.map(({ name }) => name)).toEqual(["z", "a"]);
    expect(found[1]?.result.value).toMatchObject({ count: 0n });
  });

  const terms = (size: number, ...within: Aggregation[]): Aggregation => ({
    name: "it",
    field: "shop",
    kind: { case: "terms", value: { size } },
    aggregations: within,
  });
  const of = (field: string, kind: Aggregation["kind"]): Aggregation => ({ name: "it", field, kind }) as Aggregation;

  test.for<[why: string, aggregations: readonly Aggregation[], field: string]>([
    ["an unknown field", [of("nothing", { case: "stats", value: {} })], "aggregations[0].field"],
    ["text", [of("note", { case: "terms", value: {} })], "aggregations[0].field"],
    ["a mean of text", [terms(1), { ...of("shop", { case: "stats", value: {} }), name: "b" }], "aggregations[1].field"],
    ["an object", [of("lines", { case: "terms", value: {} })], "aggregations[0].field"],
    ["a histogram of times", [of("sold_at", { case: "histogram", value: { interval: 1 } })], "aggregations[0].field"],
    [
      "a day of a number",
      [of("units", { case: "dateHistogram", value: { unit: CalendarUnit.DAY } })],
      "aggregations[0].field",
    ],
    ["the same name twice", [terms(1), terms(2)], "aggregations[1].name"],
    [
      "what has no buckets",
      [{ ...of("amount", { case: "stats", value: {} }), aggregations: [terms(1)] } as Aggregation],
      "aggregations[0].aggregations",
    ],
    [
      "too deep",
      [terms(1, terms(1, terms(1, terms(1))))],
      "aggregations[0].aggregations[0].aggregations[0].aggregations",
    ],
    [
      "no such zone",
      [of("sold_at", { case: "dateHistogram", value: { unit: CalendarUnit.DAY, timeZone: "Mars/Base" } })],
      "aggregations[0].date_histogram.time_zone",
    ],
    [
      "a range without bounds",
      [of("amount", { case: "range", value: { ranges: [{}] } })],
      "aggregations[0].range.ranges[0]",
    ],
    [
      "times for numbers",
      [
        of("amount", {
          case: "range",
          value: { ranges: [{ from: { case: "fromTime", value: time("2026-01-01T00:00:00Z") } }] },
        }),
      ],
      "aggregations[0].range.ranges[0]",
    ],
  ])("%s is refused by the field's path", async ([, aggregations, field]) => {
    const refusal = await refusalOf(there.client.aggregate({ indices: ["orders"], aggregations: [...aggregations] }));
    expect(refusal).toMatchObject({ code: "InvalidArgument", reason: "BAD_REQUEST", fields: [field] });
  });

  test("more buckets than a response may have are refused, before and after they are counted", async () => {
    const expected = { code: "InvalidArgument", reason: "SEARCH_TOO_COSTLY" };
    const many = terms(1000, terms(11));
    expect(await refusalOf(there.client.aggregate({ indices: ["orders"], aggregations: [many] }))).toMatchObject(
      expected,
    );
    const documents = Object.fromEntries(Array.from({ length: 10_001 }, (_, place) => [place, { number: place * 2 }]));
    await there.operatorIndex("numbers", { properties: { number: { type: "long" } } }, documents);
    const all = of("number", { case: "histogram", value: { interval: 1 } });
    expect(await refusalOf(there.client.aggregate({ indices: ["numbers"], aggregations: [all] }))).toMatchObject(
      expected,
    );
    const wide = of("number", { case: "histogram", value: { interval: 4 } });
    const found = await there.client.aggregate({ indices: ["numbers"], aggregations: [wide] });
    expect(bucketsOf(found.results[0]?.result)).toHaveLength(5001);
  });
});
