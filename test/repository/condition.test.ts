import type { JsonObject } from "@bufbuild/protobuf";
import { expect, test } from "vitest";

import { ConditionProblem } from "../../src/repository/condition-check.ts";
import { condition, conditionInput, mostSteps, valueOf } from "../../src/repository/condition.ts";
import { cpuMsOf } from "../support/cpu.ts";

const thousand = Array.from({ length: 1000 }, (_, index) => index);
const attributes: JsonObject = {
  score: 71.5,
  region: "eu",
  roles: ["admin", "user"],
  nested: { a: { b: 1 } },
  "a b": true,
  constructor: "mine",
  nothing: null,
  list: thousand,
  large: "x".repeat(200_000),
  digits: "9".repeat(200_000),
};
const parameters: JsonObject = { regions: ["eu", "us"], least: 70 };
const input = conditionInput({ type: "user", id: "u1", attributes }, parameters, new Date(Date.UTC(2026, 0, 2, 3)));

function verdict(expression: string) {
  return condition(expression).evaluate(input, { left: Infinity });
}

test.for([
  ["subject.attributes.score >= 70 && subject.attributes.region in parameters.regions", true],
  ["subject.attributes.score >= parameters.least + 2.0", false],
  ["subject.type == 'user' && subject.id.startsWith('u')", true],
  ["has(subject.attributes.missing) || subject.attributes['a b']", true],
  ["'admin' in subject.attributes.roles", true],
  ["subject.attributes.roles.exists(role, role == 'guest')", false],
  ["subject.attributes.nested.a.b == 1", true],
  ["subject.attributes.nothing == null", true],
  // What every object of JavaScript has is no attribute.
  ["has(subject.attributes.toString) || has(parameters.__proto__)", false],
  ["subject.attributes.constructor == 'mine'", true],
  ["now > timestamp('2026-01-01T00:00:00Z') && now.getHours('UTC') == 3", true],
  ["now - timestamp('2026-01-02T00:00:00Z') == duration('3h')", true],
  ["subject.id.matches('^u[0-9]+$')", true],
  ["subject.attributes.list.filter(x, x >= 990).map(x, x * 2.0).size() == 10", true],
  ["{'a': [1, 2]}['a'][1] == 2 && [1, 2].exists_one(x, x > 1)", true],
  ["true || subject.attributes.missing", true],
  ["size(string(1) + string(2u)) == 2 && type(1.5) == double && int('7') == 7", true],
] as const)("%s is %s", ([expression, expected]) => {
  expect(verdict(expression)).toEqual({ isTrue: expected });
});

test.for([
  ["subject.attributes.missing == 1", /field not found: missing/],
  ["subject.attributes.score + 1 > 3.0", /no matching overload/],
  ["subject.attributes.region", /neither true nor false/],
  ["subject.attributes.roles[7] == 'x'", /out of bounds/],
  ["1 / int(subject.attributes.nested.a.b - 1.0) == 1", /zero/],
  ["subject.attributes.large.exists(x, true)", /iterable/],
] as const)("whether %s is unknown", ([expression, problem]) => {
  expect(verdict(expression)).toEqual({ problem: expect.stringMatching(problem) as string });
});

test.for([
  ["", "is no CEL expression"],
  ["subject.attributes.score >", "is no CEL expression"],
  ["true ==== false", "is no CEL expression"],
  ["$where", "is no CEL expression"],
  ["@pay(1, 1, 1) == 1", "is no CEL expression"],
  ["a\0b", "is no CEL expression"],
  ["score > 1", 'names "score", which there is not, at character 1'],
  ["constructor == 1", 'names "constructor"'],
  ["__proto__ == 1", 'names "__proto__"'],
  ["this.constructor", 'names "this"'],
  ["subject.score > 1", 'looks for "score" in subject, at character 8'],
  ["subject['score'] > 1", 'looks for "score" in subject'],
  ["subject[subject.id] == 1", 'looks for "" in subject'],
  ["now.seconds == 1", 'looks for "seconds" in timestamp'],
  ["eval('1')", "uses eval, which there is not"],
  ["subject.id.exec('1')", "uses exec, which there is not"],
  ["subject.id + 1 == 'x'", "gives + string, int, which it does not take"],
  ["subject.id.startsWith(1)", "gives startsWith string, int"],
  ["subject.id == 1", "compares string with int, which are never equal"],
  ["[1].exists(x, x == 'a')", "compares int with string"],
  ["!subject.id", "gives ! string"],
  ["subject.id && true", "gives && string"],
  ["subject.id ? true : false", "gives ? string"],
  ["subject.id.exists(x, true)", "goes through string, which is no list"],
  ["1", "is int and not true or false"],
  ["google.protobuf.Timestamp{}", "cannot make messages"],
  ["subject.id.matches(subject.id)", "gives matches a pattern that is no literal"],
  ["subject.id.matches('(')", "has a pattern that is none"],
  ["subject.id.matches('((a{100}){100}){100}')", "has a pattern that is none"],
  [`subject.id.matches('${"a".repeat(257)}')`, "has a pattern of more than 256 characters"],
  ["subject.id.matches('(a{1000}){1}a{1000}a{1000}a{1000}')", "has a pattern of more than 4000 instructions"],
  [`${"(".repeat(1000)}true${")".repeat(1000)}`, "nests too deeply"],
  [`${"[".repeat(900)}1${"]".repeat(900)} == 1`, ""],
  [`subject.attributes${".a".repeat(100)}`, "has more than 60 levels"],
  [`${"true && ".repeat(252)}true`, "has more than 500 parts"],
  [
    Array.from({ length: 33 }, (_, index) => `has(subject.attributes.a${index})`).join(" || "),
    "names more than 32 values",
  ],
  ["[1].all(a, [1].all(b, [1].all(c, [1].all(d, true))))", "goes through lists more than 3 deep"],
] as const)("%s is refused", ([expression, problem]) => {
  expect(() => condition(expression)).toThrow(ConditionProblem);
  expect(() => condition(expression)).toThrow(problem);
});

const costly = [
  "subject.attributes.list.all(x, subject.attributes.list.all(y, subject.attributes.list.all(z, z >= 0)))",
  // An operator that knows its answer without does not hide that there were too many.
  "subject.attributes.list.all(x, subject.attributes.list.all(y, y >= 0)) || true",
  "subject.attributes.list.map(x, subject.attributes.list.map(y, x)).size() == 0",
  "[subject.attributes.list.map(x, x)].all(m, subject.attributes.list.all(y, y in m))",
  "subject.attributes.list.all(x, !subject.attributes.large.contains('y'))",
  "subject.attributes.list.map(x, subject.attributes.large + 'x').size() == 0",
  "subject.attributes.list.all(x, subject.attributes == subject.attributes)",
  "subject.attributes.list.all(x, now.getHours('Europe/Berlin') >= 0)",
  "subject.attributes.list.exists(x, int(subject.attributes.digits) > 0)",
  String.raw`subject.attributes.list.all(x, !subject.id.matches('[\\pL\\pN]*([^\\pL]|\\pM){0,200}[\\pP]+(a|b|c|d|e|f){0,300}z'))`,
  // Short, and made of thousands of instructions.
  "subject.attributes.large.matches('(.*){900}$')",
  "subject.attributes.large.matches('^x*(x|y)*x(.?){900}z')",
  String.raw`subject.attributes.large.matches('\pL{1000}\pN{1000}\b')`,
];

test.for(costly)("%s is given up before it takes long", (expression) => {
  const compiled = condition(expression);
  const meter = { left: 1_000_000 };
  compiled.evaluate(input, meter); // tables of the library are made by who needs them first
  const evaluated = () => expect(compiled.evaluate(input, meter)).toEqual({ problem: "takes too many steps" });
  expect(cpuMsOf(evaluated)).toBeLessThan(1000); // some 50 ms; a second shows that there is a bound
  expect(meter.left).toBe(1_000_000 - 2 * mostSteps);
});

test.for([
  ["(a+)+$", `${"a".repeat(5000)}!`],
  ["(a|aa)+$", `${"a".repeat(5000)}!`],
  ["(a*)*b", "a".repeat(5000)],
  ["(.*a){20}x", "a".repeat(5000)],
  ["([a-zA-Z]+)*[0-9]", "a".repeat(5000)],
  ["^(([a-z])+.)+[A-Z]([a-z])+$", "a".repeat(5000)],
] as const)("the pattern %s takes no longer for a text that is made for it", ([pattern, text]) => {
  const compiled = condition(`subject.id.matches('${pattern}')`);
  const made = conditionInput({ type: "user", id: text, attributes: {} }, {}, new Date());
  const evaluated = () => expect(compiled.evaluate(made, { left: mostSteps })).toEqual({ isTrue: false });
  expect(cpuMsOf(evaluated)).toBeLessThan(1000);
});

test("what is told of a failure is short, whatever was sent", () => {
  const problem = expect.stringMatching(/^.{1,200}$/) as string;
  expect(verdict("now.getHours(subject.attributes.large) == 1")).toEqual({ problem });
});

test("an evaluation takes no more steps than are left for it", () => {
  const compiled = condition("subject.attributes.list.all(x, x >= 0)");
  const meter = { left: 500 };
  expect(compiled.evaluate(input, meter)).toEqual({ problem: "takes too many steps" });
  expect(meter.left).toBe(0);
  expect(condition("true").evaluate(input, meter)).toEqual({ problem: "takes too many steps" });
});

test("a list of more than a thousand items is not gone through", () => {
  const long = conditionInput({ type: "user", id: "u", attributes: { list: [...thousand, 1000] } }, {}, new Date());
  expect(condition("subject.attributes.list.all(x, true)").evaluate(long, { left: mostSteps })).toEqual({
    problem: "goes through more than 1000 items",
  });
});

test("what an expression names is told, and what its value is", () => {
  const { paths } = condition(
    `subject.attributes.nested.a.b == 1 && subject.attributes["a b"] && has(parameters.least) && subject.id != ''
      && [{'id': 1}].all(subject, subject.id == 1) && subject.attributes.roles[0] == 'x'`,
  );
  expect(paths.map(({ text, names }) => [text, valueOf(input, names)])).toEqual([
    ["subject.attributes.nested.a.b", 1],
    ['subject.attributes["a b"]', true],
    ["parameters.least", 70],
    ["subject.id", "u1"],
    ["subject.attributes.roles", ["admin", "user"]],
  ]);
  expect(valueOf(input, ["subject", "attributes", "toString"])).toBeUndefined();
});

test("what was compiled is kept while it is used, and only so much of it", () => {
  const used = condition("subject.id == 'kept'");
  const forgotten = condition("subject.id == 'forgotten'");
  for (let index = 0; index < 250; index++) {
    condition(`subject.id != '${String(index).padEnd(1000, "-")}'`);
    expect(condition("subject.id == 'kept'")).toBe(used);
  }
  expect(condition("subject.id == 'forgotten'")).not.toBe(forgotten);
});
