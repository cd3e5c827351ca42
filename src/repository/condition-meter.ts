import { celFunc, type CelFunc, celList, type CelType, CelScalar, isCelList, isCelMap, listType } from "@bufbuild/cel";

import type { Call, CheckedExpression, Expression } from "./condition-check.ts";
import { pattern } from "./condition-pattern.ts";

/** Steps that an evaluation has left; -1 where it wanted more than there were. A step takes up to about a microsecond. */
export interface Meter {
  left: number;
}

/** Most items that one of the functions that go through lists may see. */
export const mostItems = 1000;

/** How an expression pays: these functions of our own stand around what takes long. No text can name them. */
const pay = "@pay";
const payForItems = "@pay_for_items";

const { DYN, INT } = CelScalar;
const anyList = listType(DYN);

/** The meter of the evaluation that is under way: evaluations take no turns. */
let running: Meter | undefined;

/** Runs an evaluation that pays from `meter`. */
export function metered<Result>(meter: Meter, run: () => Result): Result {
  running = meter;
  try {
    return run();
  } finally {
    running = undefined;
  }
}

/** Takes steps. Once there were too few, whatever asks for more fails, so that an evaluation comes to its end. */
function take(steps: number): void {
  if (running === undefined) throw new Error("Nothing is being evaluated");
  running.left = running.left < steps ? -1 : running.left - steps;
  if (running.left < 0) throw new Error("takes too many steps");
}

/** The functions that metered expressions call. */
export const meterFunctions: CelFunc[] = [
  celFunc(pay, [DYN, INT, INT], DYN, (value, weight, more) => {
    take(Number(more));
    takeFor(value, Number(weight));
    return value;
  }),
  celFunc(payForItems, [DYN, INT, INT], DYN, (range, size, isBuilding) => {
    if (!isCelList(range) && !isCelMap(range)) return range; // the library says what is wrong
    const items = range.size;
    if (items > mostItems) throw new Error(`goes through more than ${mostItems} items`);
    // A list that is built copies what it has for each item.
    take(items * Number(size) + (isBuilding === 1n ? (items * items) / 32 : 0));
    return range;
  }),
  // The library's own leaves lists in lists, so that a list of n items that was built is read in n² steps.
  celFunc("_+_", [anyList, anyList], anyList, (left, right) => celList([...left, ...right])),
];

/** Instructions of a pattern that are visited in one step. */
const visitsPerStep = 32;

/** How metered expressions look for patterns. */
export const meteredPatterns = {
  compile(expression: string) {
    const compiled = pattern(expression);
    take(compiled.size);
    return { test: (text: string) => compiled.isIn(text, (visits) => take(visits / visitsPerStep)) };
  },
};

/** Takes a step for each value within a value, and for each 32 characters. */
function takeFor(value: unknown, weight: number): void {
  if (typeof value === "string" || value instanceof Uint8Array) take(1 + (weight * value.length) / 32);
  else if (isCelList(value)) {
    take(1);
    for (const item of value) takeFor(item, weight);
  } else if (isCelMap(value)) {
    take(1);
    for (const [, item] of value) takeFor(item, weight);
  } else take(1);
}

/** What the functions cost that are much slower than their input is long: a zone and a pattern are looked at anew each time. */
const zoneSteps = 300;
const patternSteps = { each: 300, character: 30 };
/** How much more others take for the same text, as measured with 200,000 characters. */
const weights: Readonly<Record<string, number>> = { int: 8, uint: 8, size: 2 };

/** Makes an expression take its steps from the meter of the evaluation. Changes it in place. */
export function putMeters(expression: Expression, { types }: CheckedExpression): Expression {
  const rewrite = (part: Expression): Expression => {
    const { exprKind } = part;
    switch (exprKind.case) {
      case "selectExpr":
        exprKind.value.operand &&= rewrite(exprKind.value.operand);
        break;
      case "listExpr":
        exprKind.value.elements = exprKind.value.elements.map(rewrite);
        break;
      case "structExpr":
        for (const entry of exprKind.value.entries) {
          if (entry.keyKind.case === "mapKey") entry.keyKind.value = rewrite(entry.keyKind.value);
          entry.value &&= rewrite(entry.value);
        }
        break;
      case "callExpr": {
        const { value } = exprKind;
        // What decides, picks or looks up takes no longer for what is large.
        const price = constantTime.has(value.function) ? undefined : priceOf(value);
        const [ofTarget, ofFirst] = value.target === undefined ? [undefined, price] : [price, price && plain];
        value.args = value.args.map((arg, index) => paying(arg, index === 0 ? ofFirst : price && plain));
        value.target &&= paying(value.target, ofTarget);
        break;
      }
      case "comprehensionExpr": {
        const { value } = exprKind;
        const size = sizeOf(value.loopCondition) + sizeOf(value.loopStep);
        const isBuilding = value.accuInit?.exprKind.case === "listExpr";
        value.loopCondition &&= rewrite(value.loopCondition);
        value.loopStep &&= rewrite(value.loopStep);
        value.iterRange &&= call(part.id, payForItems, rewrite(value.iterRange), size, isBuilding ? 1 : 0);
        break;
      }
      default:
    }
    return part;
  };

  const paying = (part: Expression, price: Price | undefined): Expression => {
    const { exprKind } = part;
    // What a list is built in is paid for where its range is.
    const isAccumulator = exprKind.case === "identExpr" && exprKind.value.name.startsWith("@");
    const isConstant = exprKind.case === "constExpr"; // no larger than the expression
    const isFree = isAccumulator || (price?.more === 0 && (isConstant || isSmall(types.get(part.id))));
    const inner = rewrite(part);
    return price === undefined || isFree ? inner : call(part.id, pay, inner, price.weight, price.more);
  };

  return rewrite(expression);
}

/** Steps for each 32 characters or for each value, and for the call itself. */
interface Price {
  readonly weight: number;
  readonly more: number;
}

const plain: Price = { weight: 1, more: 0 };

function priceOf(value: Call): Price {
  const weight = weights[value.function] ?? 1;
  if (value.function === "matches") {
    const kind = value.args[0]?.exprKind;
    const constant = kind?.case === "constExpr" ? kind.value.constantKind : undefined;
    const length = constant?.case === "stringValue" ? constant.value.length : 0;
    return { weight, more: patternSteps.each + patternSteps.character * length };
  }
  return { weight, more: value.function.startsWith("get") && value.args.length > 0 ? zoneSteps : 0 };
}

const constantTime = new Set(["_&&_", "_||_", "!_", "_?_:_", "_[_]", "@not_strictly_false", "type", "dyn"]);

const smallTypes = new Set([
  "bool",
  "int",
  "uint",
  "double",
  "null_type",
  "type",
  "google.protobuf.Timestamp",
  "google.protobuf.Duration",
]);

function isSmall(type: CelType | undefined): boolean {
  return type !== undefined && smallTypes.has(type.name);
}

function call(id: bigint, name: string, of: Expression, ...numbers: readonly number[]): Expression {
  const constants = numbers.map((number): Expression => ({
    $typeName: "cel.expr.Expr",
    id,
    exprKind: {
      case: "constExpr",
      value: { $typeName: "cel.expr.Constant", constantKind: { case: "int64Value", value: BigInt(number) } },
    },
  }));
  return {
    $typeName: "cel.expr.Expr",
    id,
    exprKind: {
      case: "callExpr",
      value: { $typeName: "cel.expr.Expr.Call", function: name, args: [of, ...constants] },
    },
  };
}

/** How many parts an expression has. */
function sizeOf(part: Expression | undefined): number {
  return 1 + partsOf(part).reduce((total, inner) => total + sizeOf(inner), 0);
}

function partsOf(part: Expression | undefined): readonly (Expression | undefined)[] {
  const kind = part?.exprKind;
  switch (kind?.case) {
    case "selectExpr":
      return [kind.value.operand];
    case "listExpr":
      return kind.value.elements;
    case "structExpr":
      return kind.value.entries.flatMap(({ keyKind, value }) =>
        keyKind.case === "mapKey" ? [keyKind.value, value] : [value],
      );
    case "callExpr":
      return [kind.value.target, ...kind.value.args];
    case "comprehensionExpr": {
      const { accuInit, iterRange, loopCondition, loopStep, result } = kind.value;
      return [accuInit, iterRange, loopCondition, loopStep, result];
    }
    default:
      return [];
  }
}
