import type { Document } from "bson";
import type { IndexDescriptionInfo } from "mongodb";

/** What a query asks of a collection. */
export interface Query {
  readonly filter: Document;
  readonly sort?: Document;
}

/** How narrowly a condition bounds a key of an index. */
type Bound = "point" | "range" | "none";

/**
 * Why MongoDB cannot answer a query from one of these indexes without looking at what it does not return; undefined where it can.
 * By its own rules: an index serves the values that its first keys are compared with, then an order, then a range; a partial
 * index only queries that imply its condition. What only leaves out the deleted may be looked at in the documents, since they
 * are few. Needs no planner, so it says the same whatever the server.
 */
export function whyNotServed(
  { filter, sort = {} }: Query,
  indexes: readonly IndexDescriptionInfo[],
): string | undefined {
  const { fields, choices } = flattened(filter);
  const order = Object.entries(sort as Record<string, 1 | -1>).filter(
    ([name]) => boundOf(fields.get(name)) !== "point",
  );
  const problems = indexes.map((index) => `${index.name}: ${problemWith(index, fields, order) ?? ""}`);
  if (problems.some((problem) => problem.endsWith(": "))) return undefined;
  const [choice, ...others] = choices;
  if (choice !== undefined) {
    // Each branch by an index of its own, merged in the order.
    const conditions = [...fields].flatMap(([name, all]) => all.map((condition) => ({ [name]: condition })));
    const rest = [...conditions, ...others.map(($or) => ({ $or }))];
    const branches = choice.map((branch) => whyNotServed({ filter: { $and: [...rest, branch] }, sort }, indexes));
    const failed = branches.find((branch) => branch !== undefined);
    return failed === undefined ? undefined : `one of ${choice.length} branches: ${failed}`;
  }
  return problems.length === 0 ? "there is no index" : problems.join("; ");
}

/** The conditions that hold for each field, and the choices between others. */
function flattened(filter: Document): { fields: Map<string, unknown[]>; choices: Document[][] } {
  const fields = new Map<string, unknown[]>();
  const choices: Document[][] = [];
  const visit = (part: Document): void => {
    for (const [name, condition] of Object.entries(part)) {
      if (name === "$and") for (const each of condition as Document[]) visit(each);
      else if (name === "$or") choices.push(condition as Document[]);
      else fields.set(name, [...(fields.get(name) ?? []), condition]);
    }
  };
  visit(filter);
  return { fields, choices };
}

function problemWith(
  { key, partialFilterExpression, unique = false }: IndexDescriptionInfo,
  fields: ReadonlyMap<string, unknown[]>,
  order: readonly (readonly [string, 1 | -1])[],
): string | undefined {
  const partial = Object.entries(partialFilterExpression ?? {});
  if (!partial.every(([name, condition]) => implies(fields.get(name), condition))) return "is of a part only";
  const keys = Object.entries(key as Record<string, 1 | -1>);
  const bound = ([name]: readonly [string, unknown]) => boundOf(fields.get(name));
  const isOne = unique && keys.every((each) => bound(each) === "point");
  if (isOne) return undefined;
  // Values first, then the order, in which the values may stand too.
  let ordered = 0;
  let turned = 0;
  for (const each of keys) {
    const [name, direction] = each;
    if (bound(each) === "point") continue;
    const [wanted, to] = order[ordered] ?? [];
    if (name !== wanted || to === undefined) break;
    turned ||= direction * to;
    if (direction * to !== turned) break;
    ordered += 1;
  }
  if (ordered < order.length) return "gives another order";
  const [first] = keys;
  if (first === undefined || (order.length === 0 && bound(first) === "none")) return "would be read as a whole";
  const left = [...fields.keys()].filter(
    (name) => bound([name, 0]) !== "none" && !(name in key) && !isNull(fields.get(name)),
  );
  return left.length === 0 ? undefined : `lacks ${left.join(", ")}`;
}

function boundOf(conditions: readonly unknown[] | undefined): Bound {
  const bounds = (conditions ?? []).map(boundOfOne);
  return bounds.includes("point") ? "point" : bounds.includes("range") ? "range" : "none";
}

function boundOfOne(condition: unknown): Bound {
  if (condition instanceof RegExp) return condition.source.startsWith("^") ? "range" : "none";
  const operators = operatorsOf(condition);
  if (operators === undefined) return "point";
  const names = Object.keys(operators);
  // The values of a list are read one after the other and merged in the order.
  if (names.some((name) => name === "$eq" || name === "$in")) return "point";
  if (names.some((name) => ["$gt", "$gte", "$lt", "$lte"].includes(name))) return "range";
  return typeof operators["$regex"] === "string" && operators["$regex"].startsWith("^") ? "range" : "none";
}

/** The operators of a condition; undefined where it is a value. */
function operatorsOf(condition: unknown): Document | undefined {
  const isPlain =
    typeof condition === "object" && condition !== null && Object.getPrototypeOf(condition) === Object.prototype;
  return isPlain && Object.keys(condition).some((name) => name.startsWith("$")) ? condition : undefined;
}

function isNull(conditions: readonly unknown[] | undefined): boolean {
  return (conditions ?? []).every((condition) => condition === null);
}

/** Whether what holds for a field implies the condition of a partial index. */
function implies(conditions: readonly unknown[] | undefined, wanted: unknown): boolean {
  return (conditions ?? []).some((condition) => {
    if (operatorsOf(wanted) === undefined) return condition === wanted;
    const operators = operatorsOf(condition);
    const values = operators === undefined ? [condition] : ((operators["$in"] as unknown[] | undefined) ?? []);
    // There is no other condition of a part but that a field exists.
    return values.length > 0 ? !values.includes(null) : boundOfOne(condition) === "range";
  });
}

/** The names of all stages of a plan. */
export function stagesOf(plan: unknown): string[] {
  if (typeof plan !== "object" || plan === null) return [];
  const { stage } = plan as { stage?: unknown };
  return [...(typeof stage === "string" ? [stage] : []), ...Object.values(plan).flatMap(stagesOf)];
}
