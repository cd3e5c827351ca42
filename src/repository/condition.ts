import { celEnv, type CelInput, isCelError, parse, plan } from "@bufbuild/cel";
import type { JsonObject, JsonValue } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";

import { checkExpression, ConditionProblem } from "./condition-check.ts";
import { metered, meteredPatterns, putMeters, type Meter, meterFunctions } from "./condition-meter.ts";

/** What conditions see of whom a policy is evaluated for. */
export interface ConditionSubject {
  readonly type: string;
  readonly id: string;
  readonly attributes: JsonObject;
}

/** What a condition is evaluated with: made once for all conditions of a policy. */
export interface ConditionInput {
  /** What has a name, as it was given. */
  readonly named: JsonObject;
  /** The same, and the time, as an expression sees it. */
  readonly bindings: Readonly<Record<string, CelInput>>;
}

/** Whether a condition is true, or why nobody can tell. */
export type Verdict = { readonly isTrue: boolean } | { readonly problem: string };

/** A condition that was checked and can be evaluated. */
export interface Condition {
  /** What it names, each as `subject.attributes.region`, with the names on the way. */
  readonly paths: readonly { readonly text: string; readonly names: readonly string[] }[];
  /** Evaluates it, within the steps that `meter` has left and no more than `mostSteps`. */
  evaluate(input: ConditionInput, meter: Meter): Verdict;
}

/** Most steps that one evaluation may take: the worst expressions that could be thought of take them in 50 ms. */
export const mostSteps = 50_000;

/** Most characters of what is told of an evaluation that failed. */
const mostProblemLength = 200;

/** Most text of the conditions that are kept compiled. They were seen to take 80 bytes for each character: 16 MB. */
const mostKeptCharacters = 200_000;

const environment = celEnv({ funcs: meterFunctions, re2: meteredPatterns });

const kept = new Map<string, Condition>();
let keptCharacters = 0;

/**
 * Compiles an expression, or finds it among those that were used last. Fails with a `ConditionProblem`, which says what is
 * wrong as the end of a sentence that starts with the expression.
 */
export function condition(expression: string): Condition {
  const known = kept.get(expression);
  if (known !== undefined) {
    // What is used moves to the end, so that what is at the start was used longest ago.
    kept.delete(expression);
    kept.set(expression, known);
    return known;
  }
  const made = compiled(expression);
  kept.set(expression, made);
  keptCharacters += expression.length;
  for (const oldest of kept.keys()) {
    if (keptCharacters <= mostKeptCharacters) break;
    kept.delete(oldest);
    keptCharacters -= oldest.length;
  }
  return made;
}

function compiled(expression: string): Condition {
  const parsed = parsedExpression(expression);
  try {
    const checked = checkExpression(parsed.expr, environment);
    const evaluate = plan(environment, putMeters(parsed.expr, checked));
    return {
      paths: checked.paths.map((names) => ({ text: textOf(names), names })),
      evaluate({ bindings }, meter) {
        const granted = Math.min(mostSteps, meter.left);
        const own = { left: granted - checked.size };
        const result = own.left < 0 ? false : metered(own, () => evaluate({ ...bindings }));
        meter.left -= granted - Math.max(0, own.left);
        // An operator that knows its answer without it may have swallowed that there were too few.
        if (own.left < 0) return { problem: "takes too many steps" };
        // The library puts into it what the caller sent.
        if (isCelError(result)) return { problem: result.message.slice(0, mostProblemLength) };
        return typeof result === "boolean" ? { isTrue: result } : { problem: "is neither true nor false" };
      },
    };
  } catch (error) {
    if (!(error instanceof ConditionProblem) || error.part === undefined) throw error;
    const place = parsed.sourceInfo?.positions[String(error.part)];
    throw place === undefined ? error : new ConditionProblem(`${error.message}, at character ${place + 1}`, error.part);
  }
}

function parsedExpression(expression: string) {
  try {
    return parse(expression);
  } catch (error) {
    if (!(error instanceof Error)) throw error;
    // The parser calls itself for what is nested, and a text of 2048 characters can be more than the stack has room for.
    if (error instanceof RangeError && error.message.includes("call stack"))
      throw new ConditionProblem("nests too deeply");
    throw new ConditionProblem(`is no CEL expression: ${error.message.replace("<input>:", "").slice(0, 200)}`);
  }
}

/** `subject.attributes["a b"].c` for its names. */
function textOf(names: readonly string[]): string {
  return names
    .map((name, index) =>
      /^[A-Za-z_]\w*$/.test(name) ? `${index === 0 ? "" : "."}${name}` : `[${JSON.stringify(name)}]`,
    )
    .join("");
}

/** What conditions are evaluated with. */
export function conditionInput(subject: ConditionSubject, parameters: JsonObject, now: Date): ConditionInput {
  const { type, id, attributes } = subject;
  const seen = new Map<string, CelInput>([
    ["type", type],
    ["id", id],
    ["attributes", asInput(attributes)],
  ]);
  return {
    named: { subject: { type, id, attributes }, parameters },
    bindings: { subject: seen, parameters: asInput(parameters), now: timestampFromDate(now) },
  };
}

/** As maps, in which no name means more than another: the library looks at what an object inherits. */
function asInput(value: JsonValue): CelInput {
  if (Array.isArray(value)) return value.map(asInput);
  if (typeof value !== "object" || value === null) return value;
  return new Map(Object.entries(value).map(([name, inner]) => [name, asInput(inner)]));
}

/** The value of what a condition names; undefined where there is none. */
export function valueOf({ named }: ConditionInput, names: readonly string[]): JsonValue | undefined {
  let value: JsonValue | undefined = named;
  for (const name of names) {
    if (typeof value !== "object" || value === null || Array.isArray(value)) return undefined;
    value = Object.hasOwn(value, name) ? value[name] : undefined;
  }
  return value;
}
