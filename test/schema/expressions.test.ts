import { expect, test } from "vitest";

import { mostLong, wholeSum } from "../../src/schema/expressions.ts";

// The local server fails where a sum is higher than int64; MongoDB goes on with doubles.
test.for([
  ["an int", 5, 5n],
  ["a long", 2n ** 60n + 1n, 2n ** 60n + 1n],
  ["a double that no int64 holds", 2 ** 64, mostLong],
] as const)("a sum that comes as %s is told as int64", ([, sum, told]) => {
  expect(wholeSum(sum)).toBe(told);
});
