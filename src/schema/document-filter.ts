import type { Document } from "bson";

/** Says of documents in memory what a filter says of them in the store. */
export interface DocumentFilter {
  /** Top fields that it looks at. */
  readonly fields: ReadonlySet<string>;
  /** Whether it means the document; with `among`, as far as those of its fields go. */
  readonly matches: (document: Document, among?: ReadonlySet<string>) => boolean;
}

type Test = (value: unknown) => boolean;

interface Condition {
  readonly fields: ReadonlySet<string>;
  readonly test: (document: Document) => boolean;
}

/**
 * Compiles a filter of those operators that lists use: equality, null for what is absent too, `$in`, the four
 * comparisons of numbers and times, `$and` and `$or`. Throws for any other, so that no filter is taken for what it is not.
 */
export function documentFilter(filter: Document): DocumentFilter {
  const conditions = conditionsOf(filter);
  return {
    fields: new Set(conditions.flatMap(({ fields }) => [...fields])),
    matches: (document, among) =>
      conditions.every(({ fields, test }) => (among !== undefined && fields.isDisjointFrom(among)) || test(document)),
  };
}

function conditionsOf(filter: Document): readonly Condition[] {
  return Object.entries(filter).flatMap(([name, value]): readonly Condition[] => {
    if (name === "$and") return (value as Document[]).flatMap(conditionsOf); // as the store demands
    if (name === "$or") return [either((value as Document[]).map(conditionsOf))];
    if (name.startsWith("$")) throw new Error(`A watch cannot filter by ${name}`);
    const path = name.split(".");
    const tests = testsOf(value);
    const test = (document: Document) => {
      const found = candidates(document, path);
      return tests.every((one) => found.some(one));
    };
    return [{ fields: new Set([path[0] ?? ""]), test }];
  });
}

function either(branches: readonly (readonly Condition[])[]): Condition {
  return {
    fields: new Set(branches.flat().flatMap(({ fields }) => [...fields])),
    test: (document) => branches.some((branch) => branch.every(({ test }) => test(document))),
  };
}

/** What a path leads to: the value, and where it is an array its items too; undefined where there is none. */
function candidates(document: unknown, [name = "", ...rest]: readonly string[]): readonly unknown[] {
  const value = typeof document === "object" && document !== null ? (document as Document)[name] : undefined;
  if (rest.length === 0) return Array.isArray(value) ? [value, ...value] : [value];
  return (Array.isArray(value) ? value : [value]).flatMap((item) => candidates(item, rest));
}

/** What a value is compared with; of an array, another item may fulfil each test. */
function testsOf(wanted: unknown): readonly Test[] {
  if (!isOperators(wanted)) return [equals(wanted)];
  return Object.entries(wanted).map(([operator, value]) => operatorTest(operator, value));
}

function isOperators(value: unknown): value is Document {
  return typeof value === "object" && value !== null && Object.keys(value).some((name) => name.startsWith("$"));
}

function operatorTest(operator: string, wanted: unknown): Test {
  switch (operator) {
    case "$eq":
      return equals(wanted);
    case "$in": {
      const tests = (wanted as unknown[]).map(equals); // as the store demands
      return (found) => tests.some((test) => test(found));
    }
    case "$gt":
      return compares(wanted, (found, bound) => found > bound);
    case "$gte":
      return compares(wanted, (found, bound) => found >= bound);
    case "$lt":
      return compares(wanted, (found, bound) => found < bound);
    case "$lte":
      return compares(wanted, (found, bound) => found <= bound);
    default:
      throw new Error(`A watch cannot filter by ${operator}`);
  }
}

function equals(wanted: unknown): Test {
  const kind = kindOf(wanted);
  if (kind === "null") return (found) => kindOf(found) === kind;
  if (kind === "number" || kind === "time") return compares(wanted, (found, bound) => found === bound);
  if (kind !== "string" && kind !== "boolean") throw new Error("A watch can filter by plain values only");
  return (found) => found === wanted;
}

/** As in the store, what is of another kind is neither more nor less. */
function compares(wanted: unknown, holds: (found: number | bigint, bound: number | bigint) => boolean): Test {
  const kind = kindOf(wanted);
  if (kind !== "number" && kind !== "time") throw new Error("A watch can compare numbers and times only");
  const bound = sizeOf(wanted);
  return (found) => kindOf(found) === kind && holds(sizeOf(found), bound);
}

function kindOf(value: unknown): "null" | "number" | "time" | "string" | "boolean" | "other" {
  if (value === undefined || value === null) return "null";
  if (value instanceof Date) return "time";
  const type = typeof value;
  if (type === "number" || type === "bigint") return "number";
  return type === "string" || type === "boolean" ? type : "other";
}

/** Of a number or a time. Whole numbers are of one type, so that those that are equal are the same. */
function sizeOf(value: unknown): number | bigint {
  const size = value instanceof Date ? value.getTime() : (value as number | bigint); // as its kind says
  return typeof size === "number" && Number.isInteger(size) ? BigInt(size) : size;
}
