import { RE2JS } from "@bufbuild/re2";
import fc from "fast-check";
import { expect, test } from "vitest";

import { pattern } from "../../src/repository/condition-pattern.ts";

/** Pieces of patterns, among them all that asks for what is beside a character. */
const piece = fc.constantFrom(
  ...["a", "b", "ab", ".", "(?s).", "[ab]", "[^a]", "(?i)A", "\u00E9", "\u{1F4A5}", "\\n", "\\w", "\\d", "\\pL"],
  ...["^", "$", "(?m)^", "(?m)$", "\\A", "\\z", "\\b", "\\B", ""],
);
const repetition = fc.constantFrom("*", "+", "?", "*?", "{2}", "{0,2}", "{2,}");
const { expression } = fc.letrec<{ expression: string }>((tie) => {
  const inner = tie("expression");
  return {
    expression: fc.oneof(
      { maxDepth: 4 },
      piece,
      fc.tuple(inner, inner).map(([one, other]) => one + other),
      fc.tuple(inner, inner).map(([one, other]) => `(${one}|${other})`),
      fc.tuple(inner, repetition).map(([one, times]) => `(?:${one})${times}`),
    ),
  };
});
const text = fc.string({
  unit: fc.constantFrom("a", "b", "A", "1", "_", " ", "\n", "\u00E9", "\u{1F4A5}"),
  maxLength: 8,
});

test("a pattern is in those texts that the library's own engine says", () => {
  const property = fc.property(expression, fc.array(text, { minLength: 5, maxLength: 5 }), (made, texts) => {
    const theirs = RE2JS.compile(made);
    const ours = pattern(made);
    for (const each of texts)
      expect(
        ours.isIn(each, () => {}),
        each,
      ).toBe(theirs.test(each));
  });
  fc.assert(property, { numRuns: 3000 });
});

test("a character costs no more than all instructions of a pattern, whatever the two are", () => {
  const property = fc.property(expression, text, (made, each) => {
    const compiled = pattern(made);
    let visited = 0;
    compiled.isIn(each, (visits) => (visited += visits));
    expect(visited).toBeLessThanOrEqual(compiled.size * (Array.from(each).length + 1));
  });
  fc.assert(property, { numRuns: 1000 });
});

test("who counts the visits can stop it", () => {
  let visited = 0;
  const stop = (visits: number) => {
    visited += visits;
    if (visited > 100_000) throw new Error("enough");
  };
  expect(() => pattern("(.*){900}$").isIn("a".repeat(100_000), stop)).toThrow("enough");
  expect(visited).toBeLessThan(110_000);
});

test("half of a pair of surrogates is a character", () => {
  expect(pattern("^a.b$").isIn("a\uD83Db", () => {})).toBe(true);
});
