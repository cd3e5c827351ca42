import type { IndexDescriptionInfo } from "mongodb";
import { expect, test } from "vitest";

import { type Query, whyNotServed } from "./served.ts";

test.for<[string, readonly IndexDescriptionInfo[], Query, boolean]>([
  ["a value by its index", [{ key: { a: 1 } }], { filter: { a: 1 } }, true],
  ["a value without an index", [{ key: { _id: 1 } }], { filter: { a: 1 } }, false],
  ["everything", [{ key: { a: 1 } }], { filter: {} }, false],
  ["everything in the order of an index", [{ key: { a: 1, b: 1 } }], { filter: {}, sort: { a: -1, b: -1 } }, true],
  ["an order that no index has", [{ key: { a: 1, b: 1 } }], { filter: {}, sort: { a: 1, b: -1 } }, false],
  ["a value and an order", [{ key: { a: 1, b: 1 } }], { filter: { a: 1 }, sort: { b: 1 } }, true],
  ["a value outside the index of the order", [{ key: { b: 1 } }], { filter: { a: 1 }, sort: { b: 1 } }, false],
  ["an order whose index has the value", [{ key: { b: 1, a: 1 } }], { filter: { a: 1 }, sort: { b: 1 } }, true],
  ["a range before the order", [{ key: { a: 1, b: 1 } }], { filter: { a: { $gt: 1 } }, sort: { b: 1 } }, false],
  ["a range in the order", [{ key: { a: 1, b: 1 } }], { filter: { a: { $gt: 1 } }, sort: { a: 1, b: 1 } }, true],
  ["a range on a later key only", [{ key: { a: 1, b: 1 } }], { filter: { b: { $gt: 1 } } }, false],
  ["what is not deleted, of one value", [{ key: { a: 1 } }], { filter: { a: 1, deleted_at: null } }, true],
  ["a value of two outside the index", [{ key: { a: 1 } }], { filter: { a: 1, b: 2 } }, false],
  ["a value of two beside a unique one", [{ key: { a: 1 }, unique: true }], { filter: { a: 1, b: 2 } }, true],
  ["the start of a text", [{ key: { a: 1 } }], { filter: { a: { $regex: "^x" } } }, true],
  ["a part of a text", [{ key: { a: 1 } }], { filter: { a: { $regex: "x" } } }, false],
  [
    "either of two with an index each",
    [{ key: { a: 1 } }, { key: { b: 1 } }],
    { filter: { $or: [{ a: 1 }, { b: 1 }] } },
    true,
  ],
  ["either of two with one index", [{ key: { a: 1 } }], { filter: { $or: [{ a: 1 }, { b: 1 }] } }, false],
  [
    "a part by a partial index",
    [{ key: { a: 1 }, partialFilterExpression: { d: null } }],
    { filter: { a: 1, d: null } },
    true,
  ],
  [
    "the whole by a partial index",
    [{ key: { a: 1 }, partialFilterExpression: { d: null } }],
    { filter: { a: 1 } },
    false,
  ],
  [
    "a value by a sparse index",
    [{ key: { a: 1 }, partialFilterExpression: { a: { $exists: true } } }],
    { filter: { a: 1 } },
    true,
  ],
  [
    "absence by a sparse index",
    [{ key: { a: 1 }, partialFilterExpression: { a: { $exists: true } } }],
    { filter: { a: null } },
    false,
  ],
])("what an index serves: %s", ([, indexes, query, isServed]) => {
  expect(whyNotServed(query, indexes) === undefined).toBe(isServed);
});
