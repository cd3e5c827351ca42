import type { Document } from "bson";
import * as fc from "fast-check";
import { MongoClient } from "mongodb";
import { expect, test } from "vitest";

import { documentFilter } from "../../src/schema/document-filter.ts";
import { storeAddresses, uniqueName } from "../support/stores.ts";

const values = fc.oneof(
  fc.constantFrom<unknown>("ACTIVE", "BANNED", "", null, true, false, 0, 1, 2.5, -1, 7n, 2n ** 53n + 1n),
  fc.constantFrom(new Date(0), new Date(1), new Date(1_700_000_000_000)),
);
const sizes = fc.constantFrom<unknown>(0, 1, 2.5, 7n, new Date(0), new Date(1), new Date(1_700_000_000_000));

const documents = fc.record(
  {
    a: fc.oneof(values, fc.array(values, { maxLength: 3 })),
    b: values,
    c: fc.record({ d: values }, { requiredKeys: [] }),
  },
  { requiredKeys: [] },
);

const range = fc.record({ $gt: sizes, $gte: sizes, $lt: sizes, $lte: sizes }, { requiredKeys: [] });
const comparison = fc.oneof(
  values,
  range.filter((one) => Object.keys(one).length > 0),
  fc.record({ $in: fc.array(values, { maxLength: 3 }) }),
  fc.record({ $eq: values }),
);
const simple = fc
  .dictionary(fc.constantFrom("a", "b", "c.d"), comparison, { minKeys: 1, maxKeys: 2 })
  .map((filter): Document => ({ ...filter }));
const filters = fc.oneof(
  simple,
  fc.array(simple, { minLength: 1, maxLength: 3 }).map((branches): Document => ({ $or: branches })),
  fc.tuple(simple, simple).map((both): Document => ({ $and: both })),
);

test("says of each document what the store says", async () => {
  await using client = await MongoClient.connect(storeAddresses().mongodbUri);
  const db = client.db(uniqueName("filters"), { useBigInt64: true });
  try {
    const made = fc.sample(documents, { numRuns: 300, seed: 1 }).map((document, number) => ({ ...document, number }));
    const collection = db.collection("documents");
    await collection.insertMany(made);
    const stored = await collection.find().toArray();
    await fc.assert(
      fc.asyncProperty(filters, async (filter) => {
        const { matches } = documentFilter(filter);
        const found = await collection.find(filter, { projection: { number: 1 }, sort: { number: 1 } }).toArray();
        const numbers = (all: readonly Document[]) => all.map(({ number }) => Number(number));
        expect(numbers(stored.filter((one) => matches(one))).toSorted((x, y) => x - y)).toEqual(numbers(found));
      }),
      { numRuns: 100 },
    );
  } finally {
    await db.dropDatabase();
  }
});

test("looks at those conditions only that it is asked about", () => {
  const { fields, matches } = documentFilter({ a: 1, "b.c": 2, $or: [{ d: 1 }, { e: 1 }] });
  expect([...fields]).toEqual(["a", "b", "d", "e"]);
  const document = { a: 1, b: { c: 3 }, d: 2, e: 2 };
  expect(matches(document)).toBe(false);
  expect(matches(document, new Set(["a", "z"]))).toBe(true);
  expect(matches(document, new Set(["b"]))).toBe(false);
  expect(matches(document, new Set(["e"]))).toBe(false);
});

test.for<Document>([
  { a: { $regex: "x" } },
  { a: /x/ },
  { $where: "true" },
  { a: { $gt: "x" } },
  { a: { b: 1 } },
  { a: { $ne: 1 } },
])("refuses %o rather than to guess", (filter) => {
  expect(() => documentFilter(filter)).toThrow(/^A watch can/);
});
