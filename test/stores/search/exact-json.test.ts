import fc from "fast-check";
import { expect, test } from "vitest";

import { integerOf, parseExact, writeExact } from "../../../src/stores/search/exact-json.ts";

test("whole numbers of any size keep all their digits, there and back", () => {
  fc.assert(
    fc.property(fc.bigInt({ min: -(2n ** 80n), max: 2n ** 80n }), (number) => {
      const text = `{"a":[${number}]}`;
      const parsed = parseExact(text) as { a: [number | bigint] };
      expect(BigInt(parsed.a[0])).toBe(number);
      expect(integerOf(parsed.a[0])).toBe(number);
      expect(writeExact(parsed)).toBe(text);
    }),
  );
});

test("all else is as JSON.parse has it", () => {
  fc.assert(
    fc.property(fc.json(), (text) => {
      fc.pre(!/\d{16}/.test(text));
      expect(parseExact(text)).toStrictEqual(JSON.parse(text));
    }),
  );
  expect(parseExact('{"a":1e300,"b":-0.5,"c":9007199254740993,"d":1.0}')).toStrictEqual({
    a: 1e300,
    b: -0.5,
    c: 9007199254740993n,
    d: 1,
  });
  expect([integerOf("x"), integerOf(undefined), integerOf(0.5)]).toEqual([0n, 0n, 0n]);
});
