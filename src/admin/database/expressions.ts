import type { JsonObject, JsonValue } from "@bufbuild/protobuf";
import { BSONError, type Document, EJSON, Long } from "bson";

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

/** What stands for a value in extended JSON, as the only name of an object. `$regex` is an operator here, with others beside it. */
const values: ReadonlySet<string> = new Set([
  ...["$oid", "$uuid", "$binary", "$date", "$timestamp", "$symbol", "$regularExpression", "$minKey", "$maxKey"],
  ...["$numberInt", "$numberLong", "$numberDouble", "$numberDecimal"],
]);

/** An expression of the server's, such as a filter, from extended JSON. Fails with `BAD_REQUEST`. */
export function expressionOf(json: JsonObject, { field, mostBytes }: ExpressionLimits): Document {
  const wrong = (description: string) => badRequest({ field, description });

  const valueOf = (object: JsonObject): unknown => {
    try {
      // Numbers keep their types: an int64 must be exact.
      const value: unknown = EJSON.deserialize(object, { relaxed: false });
      if (Object.keys(object).length === 1 && value !== object) return value;
    } catch (error) {
      if (!(error instanceof BSONError) && !(error instanceof TypeError) && !(error instanceof RangeError)) throw error;
    }
    throw wrong("holds a value that is no extended JSON");
  };

  const read = (value: JsonValue, level: number): unknown => {
    if (typeof value !== "object" || value === null) return value;
    if (level > mostLevels) throw wrong(`must have at most ${mostLevels} levels`);
    if (Array.isArray(value)) return value.map((each) => read(each, level + 1));
    const names = Object.keys(value);
    const code = names.find((name) => javaScript.has(name));
    if (code !== undefined) throw wrong(`must not have ${code}: JavaScript is not run`);
    if (names.some((name) => values.has(name))) {
      if (level === 1) throw wrong("must not be a value");
      return valueOf(value);
    }
    return Object.fromEntries(Object.entries(value).map(([name, each]) => [name, read(each, level + 1)]));
  };

  const expression = read(json, 1) as Document; // the outermost level is always an object
  const large = tooLarge(field, expression, mostBytes);
  if (large.length > 0) throw badRequest(...large);
  return expression;
}

/** The same the other way round, as people read it; numbers that JSON would round are told with all their digits. */
export function jsonOf(expression: Document): JsonObject {
  return EJSON.serialize(exact(expression), { relaxed: true });
}

function exact(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(exact);
  if (Long.isLong(value) && !Number.isSafeInteger(value.toNumber())) return { $numberLong: value.toString() };
  if (typeof value !== "object" || value === null || Object.getPrototypeOf(value) !== Object.prototype) return value;
  return Object.fromEntries(Object.entries(value).map(([name, each]) => [name, exact(each)]));
}
