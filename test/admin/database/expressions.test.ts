import type { JsonObject } from "@bufbuild/protobuf";
import { Binary, Decimal128, type Document, EJSON, Long, MaxKey, ObjectId, Timestamp, UUID } from "bson";
import fc from "fast-check";
import { expect, test } from "vitest";

import { expressionOf, jsonOf } from "../../../src/admin/database/expressions.ts";
import { isReason } from "../../../src/errors.ts";

const limits = { field: "filter", mostBytes: 64 * 1024 };

/** Values that have a form of their own in extended JSON, and those that have none. */
const value = fc.oneof(
  fc.string({ unit: "binary", maxLength: 20 }),
  fc.integer(),
  fc.boolean(),
  fc.constant(null),
  fc.double({ noNaN: true, noDefaultInfinity: true }).filter((number) => !Number.isInteger(number)),
  fc.bigInt({ min: 2n ** 53n, max: 2n ** 63n - 1n }).map((number) => Long.fromBigInt(number)),
  fc.date({ min: new Date(0), max: new Date("9999-01-01"), noInvalidDate: true }),
  fc.uint8Array({ minLength: 12, maxLength: 12 }).map((bytes) => new ObjectId(bytes)),
  fc.uint8Array({ maxLength: 20 }).map((bytes) => new Binary(bytes)),
  fc.constantFrom(new MaxKey(), new Timestamp(5n), new Decimal128("1.50"), new UUID()),
);

const operator = fc.constantFrom(..."$eq $ne $gt $lt $in $regex $options $type $size $exists $ref $id".split(" "));
const field = fc.oneof(fc.constantFrom("a", "b.c", "__proto__", "constructor", "0"), fc.string({ maxLength: 8 }));
const name = fc.oneof(
  operator,
  field.filter((text) => !text.startsWith("$")),
);

const { expression } = fc.letrec<{ expression: Document; any: unknown }>((tie) => ({
  expression: fc.dictionary(name, tie("any"), { maxKeys: 4, noNullPrototype: true }),
  any: fc.oneof({ maxDepth: 4 }, value, tie("expression"), fc.array(tie("any"), { maxLength: 3 })),
}));

test("an expression that is told and read again is the same, with every name and type that it had", () => {
  fc.assert(
    fc.property(expression, (before) => {
      const told = JSON.parse(JSON.stringify(jsonOf(before))) as JsonObject;
      expect(EJSON.stringify(expressionOf(told, limits), { relaxed: false })).toBe(
        EJSON.stringify(before, { relaxed: false }),
      );
    }),
    { numRuns: 1000 },
  );
});

test("an operator beside a regular expression is not lost", () => {
  const json = { n: { $regex: "^a", $options: "i", $ne: "Ab" } };
  expect(expressionOf(json, limits)).toEqual(json);
});

test.for<JsonObject>([
  { a: { $oid: "0123456789abcdef01234567", $ne: 1 } },
  { a: { $numberLong: "nine" } },
  { a: { $date: {} } },
  { a: { $binary: { base64: 5 } } },
  { a: { $timestamp: "x" } },
])("%j holds no value", (json) => {
  let error: unknown;
  try {
    expressionOf(json, limits);
  } catch (cause) {
    error = cause;
  }
  expect(isReason(error, "BAD_REQUEST")).toBe(true);
});
