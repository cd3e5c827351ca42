import fc from "fast-check";
import { expect, test } from "vitest";

import { JsonScan } from "../../../src/stores/search/json-scan.ts";

/** JSON with blanks wherever they may be. */
function spread(value: unknown, blanks: Iterator<string>): string {
  const blank = (): string => String(blanks.next().value);
  if (Array.isArray(value))
    return `[${blank()}${value.map((one) => spread(one, blanks)).join(`${blank()},${blank()}`)}${blank()}]`;
  if (typeof value !== "object" || value === null) return JSON.stringify(value);
  const members = Object.entries(value).map(
    ([name, one]) => `${JSON.stringify(name)}${blank()}:${blank()}${spread(one, blanks)}`,
  );
  return `{${blank()}${members.join(`${blank()},${blank()}`)}${blank()}}`;
}

const blanks = fc.infiniteStream(fc.constantFrom("", "", " ", "\n\t", "\r\n"));

test("every member and element of any JSON is found, and nothing else", () => {
  fc.assert(
    fc.property(fc.jsonValue({ maxDepth: 4 }), blanks, (value, between) => {
      const text = spread(value, between);
      const scan = new JsonScan(Buffer.from(` ${text}\n`));
      expect(scan.text(scan.whole())).toBe(text);
      if (Array.isArray(value)) {
        expect(Array.from(scan.elements(scan.whole()), (element) => scan.parse(element))).toEqual(JSON.parse(text));
      } else if (typeof value === "object" && value !== null) {
        const members = Array.from(scan.members(scan.whole()), ([name, member]) => [name, scan.parse(member)]);
        expect(members).toEqual(Object.entries(JSON.parse(text) as object));
      }
    }),
    { seed: 3, numRuns: 500 },
  );
});

test.for([
  [
    `{"_source":{"a":1.0,"a":2,"n":123456789012345678901234567890.10e-5},"x":0}`,
    `{"a":1.0,"a":2,"n":123456789012345678901234567890.10e-5}`,
  ],
  [`{"_source":{"q":"}\\"]{","b":"\\\\"},"x":0}`, `{"q":"}\\"]{","b":"\\\\"}`],
  [`{"x":"\\\\\\"","_source":{ "\\u00e9" : [ ] }}`, `{ "\\u00e9" : [ ] }`],
  [
    `{"\\u005fsource":{"deep":${"[".repeat(5000)}${"]".repeat(5000)}}}`,
    `{"deep":${"[".repeat(5000)}${"]".repeat(5000)}}`,
  ],
])("a value is cut out to the last byte", ([text = "", source = ""]) => {
  const scan = new JsonScan(Buffer.from(text));
  const member = scan.member(scan.whole(), "_source");
  expect(member && scan.text(member)).toBe(source);
});

test.for([`{"a":1`, `{"a" 1}`, `{"a":"b`, `[1,`, ``, `{"a":}`])("what is cut off or no JSON is refused: %s", (text) => {
  const scan = new JsonScan(Buffer.from(text));
  const walk = (): unknown => {
    const whole = scan.whole();
    return text.startsWith("[") ? [...scan.elements(whole)] : [...scan.members(whole)];
  };
  expect(walk).toThrow("The search server sent");
});
