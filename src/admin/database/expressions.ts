import type { JsonObject, JsonValue } from "@bufbuild/protobuf";
import { BSONError, type Document, EJSON } from "bson";

import { badRequest, tooLarge } from "../../schema/refusals.ts";

/** What an expression of a request is limited to. */
export interface ExpressionLimits {
  /** Path of the field that it is in. */
  readonly field: string;
  readonly mostBytes: number;
}

/** Levels of objects and lists within each other. */
const mostLevels = 32;

/** Every way into the server's JavaScript: operators, and BSON's own type for code. */
const javaScript: ReadonlySet<string> = new Set(["$where", "$function", "$accumulator", "$code", "$scope"]);

/** An expression of the server's, such as a filter, from extended JSON. Fails with `BAD_REQUEST`. */
export function expressionOf(json: JsonObject, { field, mostBytes }: ExpressionLimits): Document {
  const problem = problemOf(json, 1);
  if (problem !== undefined) throw badRequest({ field, description: problem });
  let expression: Document;
  try {
    // Numbers keep their types: with others, bounds of an int64 would not be exact.
    expression = EJSON.deserialize(json, { relaxed: false }) as Document; // of an object that is no value of extended JSON
  } catch (error) {
    if (!(error instanceof BSONError) && !(error instanceof TypeError) && !(error instanceof RangeError)) throw error;
    throw badRequest({ field, description: "holds a value that is no extended JSON" });
  }
  // `{"$oid": …}` alone would be a value.
  if (Object.getPrototypeOf(expression) !== Object.prototype)
    throw badRequest({ field, description: "must be an object" });
  const wrong = tooLarge(field, expression, mostBytes);
  if (wrong.length > 0) throw badRequest(...wrong);
  return expression;
}

/** The same the other way round, as people read it. */
export function jsonOf(expression: Document): JsonObject {
  return EJSON.serialize(expression, { relaxed: true });
}

function problemOf(value: JsonValue, level: number): string | undefined {
  if (typeof value !== "object" || value === null) return undefined;
  if (level > mostLevels) return `must have at most ${mostLevels} levels`;
  const inner = Array.isArray(value) ? value : Object.values(value);
  const name = Array.isArray(value) ? undefined : Object.keys(value).find((key) => javaScript.has(key));
  if (name !== undefined) return `must not have ${name}: JavaScript is not run`;
  for (const each of inner) {
    const problem = problemOf(each, level + 1);
    if (problem !== undefined) return problem;
  }
  return undefined;
}
