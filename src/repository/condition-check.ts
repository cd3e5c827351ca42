import { type CelEnv, CelScalar, type CelType, listType, mapType, objectType, type parse } from "@bufbuild/cel";

import { pattern } from "./condition-pattern.ts";

/** What the parser makes of an expression. */
export type Expression = ReturnType<typeof parse>["expr"];

/** A call in it, of a function or an operator. */
export type Call = Extract<Expression["exprKind"], { case: "callExpr" }>["value"];
type Comprehension = Extract<Expression["exprKind"], { case: "comprehensionExpr" }>["value"];

/** What is wrong with an expression, and in which part of it. */
export class ConditionProblem extends Error {
  readonly part: bigint | undefined;
  constructor(message: string, part?: bigint) {
    super(message);
    this.part = part;
  }
}

/** What is known of an expression that was checked. */
export interface CheckedExpression {
  /** Types of its parts by their ids; `dyn` where they are known only when it is evaluated. */
  readonly types: ReadonlyMap<bigint, CelType>;
  /** How many parts it has. */
  readonly size: number;
  /** What it names: `subject.attributes.region` as its names. Each once, in the order of the text. */
  readonly paths: readonly (readonly string[])[];
}

/** Most parts of an expression, how deep they may lie in each other, and how deep those that go through lists. */
const most = { parts: 500, levels: 60, loops: 3, paths: 32, patternLength: 256, patternSize: 4000 };

const { BOOL, BYTES, DOUBLE, DYN, INT, NULL, STRING, TYPE, UINT } = CelScalar;
const timestamp = objectType("google.protobuf.Timestamp");
const parameters = mapType(STRING, DYN);
/** Stands for the subject, which has fields and is not a map that could have others. */
const subject = objectType("subject");
const subjectFields: Readonly<Record<string, CelType>> = { type: STRING, id: STRING, attributes: mapType(STRING, DYN) };
const variables: ReadonlyMap<string, CelType> = new Map<string, CelType>([
  ["subject", subject],
  ["parameters", parameters],
  ["now", timestamp],
  ...["bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint"].map(
    (name): [string, CelType] => [name, TYPE],
  ),
]);

/**
 * Checks an expression: that what it names is there, that its functions take what they are given, that it is true or false,
 * that it is no larger than it may be. The library has a checker of its own, but that one knows only constants and
 * variables. Fails with a `ConditionProblem`.
 */
export function checkExpression(expression: Expression, { funcs }: Pick<CelEnv, "funcs">): CheckedExpression {
  const types = new Map<bigint, CelType>();
  const paths = new Map<string, readonly string[]>();

  const check = (part: Expression | undefined, scope: Scope, inChain = false): CelType => {
    if (part === undefined) throw new ConditionProblem("has a part that is empty");
    const within = { ...scope, level: scope.level + 1 };
    if (within.level > most.levels) throw new ConditionProblem(`has more than ${most.levels} levels`, part.id);
    if (types.size === most.parts) throw new ConditionProblem(`has more than ${most.parts} parts`);
    types.set(part.id, DYN);
    const path = inChain ? undefined : pathOf(part, scope);
    if (path !== undefined) paths.set(path.join("\0"), path);
    if (paths.size > most.paths) throw new ConditionProblem(`names more than ${most.paths} values`);
    const type = typeOf(part, within, path !== undefined || inChain);
    types.set(part.id, type);
    return type;
  };

  const typeOf = (part: Expression, scope: Scope, inChain: boolean): CelType => {
    const { id, exprKind } = part;
    switch (exprKind.case) {
      case "constExpr":
        return constantTypes[exprKind.value.constantKind.case ?? "nullValue"] ?? DYN;
      case "identExpr": {
        const { name } = exprKind.value;
        const type = scope.names.get(name);
        if (type === undefined) throw new ConditionProblem(`names ${JSON.stringify(name)}, which there is not`, id);
        return type;
      }
      case "selectExpr": {
        const { operand, field, testOnly } = exprKind.value;
        const found = memberType(check(operand, scope, inChain), field, id);
        return testOnly ? BOOL : found;
      }
      case "listExpr":
        return listType(common(exprKind.value.elements.map((element) => check(element, scope))));
      case "structExpr":
        if (exprKind.value.messageName !== "") throw new ConditionProblem("cannot make messages", id);
        return mapType(
          DYN,
          common(
            exprKind.value.entries.map(({ keyKind, value }) => {
              if (keyKind.case === "mapKey") check(keyKind.value, scope);
              return check(value, scope);
            }),
          ),
        );
      case "callExpr":
        return callType(id, exprKind.value, scope, inChain);
      case "comprehensionExpr":
        return comprehensionType(id, exprKind.value, scope);
      default:
        throw new ConditionProblem("has a part that is empty", id);
    }
  };

  const callType = (id: bigint, call: Call, scope: Scope, inChain: boolean): CelType => {
    const { target, args } = call;
    if (call.function === "_[_]") {
      const [of, index] = args;
      return indexType(check(of, scope, inChain), { index, type: check(index, scope) }, id);
    }
    const given = [...(target === undefined ? [] : [target]), ...args].map((one) => check(one, scope));
    switch (call.function) {
      case "_&&_":
      case "_||_":
        for (const type of given) expectType(type, BOOL, spoken(call.function), id);
        return BOOL;
      case "@not_strictly_false":
        return BOOL;
      case "_?_:_":
        expectType(given[0] ?? DYN, BOOL, "?", id);
        return common(given.slice(1));
      default:
        return overloadType(id, call, given);
    }
  };

  const overloadType = (id: bigint, call: Call, given: readonly CelType[]): CelType => {
    const group = funcs.find(call.function);
    const name = spoken(call.function);
    if (group === undefined) throw new ConditionProblem(`uses ${name}, which there is not`, id);
    const isMethod = call.target !== undefined;
    const fitting = [...group].filter(({ target, arguments: wanted }) => {
      const all = [...(target === undefined ? [] : [target]), ...wanted];
      return (
        (target !== undefined) === isMethod &&
        all.length === given.length &&
        all.every((type, index) => fits(given[index] ?? DYN, type))
      );
    });
    if (fitting.length === 0) {
      throw new ConditionProblem(
        `gives ${name} ${given.map(nameOf).join(", ") || "nothing"}, which it does not take`,
        id,
      );
    }
    const [left, right] = given;
    if ((name === "==" || name === "!=") && left !== undefined && right !== undefined && !comparable(left, right)) {
      throw new ConditionProblem(`compares ${nameOf(left)} with ${nameOf(right)}, which are never equal`, id);
    }
    if (call.function === "matches") checkPattern(call.args[0], id);
    return common(fitting.map(({ result }) => result));
  };

  /** A pattern that is known now is compiled now, and one that a subject brings along is not let in. */
  const checkPattern = (given: Expression | undefined, id: bigint): void => {
    const kind = given?.exprKind;
    const constant = kind?.case === "constExpr" ? kind.value.constantKind : undefined;
    if (constant?.case !== "stringValue") throw new ConditionProblem("gives matches a pattern that is no literal", id);
    if (constant.value.length > most.patternLength) {
      throw new ConditionProblem(`has a pattern of more than ${most.patternLength} characters`, id);
    }
    if (sizeOf(constant.value, id) > most.patternSize) {
      throw new ConditionProblem(`has a pattern of more than ${most.patternSize} instructions`, id);
    }
  };

  const comprehensionType = (id: bigint, value: Comprehension, scope: Scope): CelType => {
    if (value.iterVar2 !== "") throw new ConditionProblem("goes through a map by two names", id);
    const loops = scope.loops + 1;
    if (loops > most.loops) throw new ConditionProblem(`goes through lists more than ${most.loops} deep`, id);
    const range = check(value.iterRange, scope);
    if (range.kind !== "list" && range.kind !== "map" && range !== DYN) {
      throw new ConditionProblem(`goes through ${nameOf(range)}, which is no list`, id);
    }
    const item = range.kind === "list" ? range.element : DYN;
    const result = check(value.accuInit, scope);
    const accumulator = result.kind === "list" ? listType(DYN) : result;
    const inner = {
      ...scope,
      loops,
      names: new Map([...scope.names, [value.accuVar, accumulator], [value.iterVar, item]]),
    };
    check(value.loopCondition, inner);
    check(value.loopStep, inner);
    return check(value.result, inner);
  };

  const type = check(expression, { names: variables, level: 0, loops: 0 });
  if (!fits(type, BOOL)) throw new ConditionProblem(`is ${nameOf(type)} and not true or false`);
  return { types, size: types.size, paths: [...paths.values()] };
}

/** How many instructions a pattern has. */
function sizeOf(expression: string, id: bigint): number {
  try {
    return pattern(expression).size;
  } catch (error) {
    throw new ConditionProblem(`has a pattern that is none: ${error instanceof Error ? error.message : ""}`, id);
  }
}

/** What a part can name, and how deep it lies. */
interface Scope {
  readonly names: ReadonlyMap<string, CelType>;
  readonly level: number;
  readonly loops: number;
}

/** The names of `subject.attributes.a["b"].c`; undefined for anything else, and for a name that means an item of a list. */
function pathOf({ exprKind }: Expression, scope: Scope): readonly string[] | undefined {
  if (exprKind.case === "identExpr") {
    const { name } = exprKind.value;
    // Whatever is known of the outer `subject` does not hold for an item that has its name.
    return name !== "now" && variables.get(name) !== TYPE && variables.get(name) === scope.names.get(name)
      ? [name]
      : undefined;
  }
  if (exprKind.case === "selectExpr") {
    const { operand, field } = exprKind.value;
    const before = operand && pathOf(operand, scope);
    return before && [...before, field];
  }
  if (exprKind.case !== "callExpr" || exprKind.value.function !== "_[_]") return undefined;
  const [of, index] = exprKind.value.args;
  const key = index && stringOf(index);
  const before = of && pathOf(of, scope);
  return before && key !== undefined ? [...before, key] : undefined;
}

function stringOf({ exprKind }: Expression): string | undefined {
  if (exprKind.case !== "constExpr") return undefined;
  const { constantKind } = exprKind.value;
  return constantKind.case === "stringValue" ? constantKind.value : undefined;
}

function memberType(of: CelType, name: string, id: bigint): CelType {
  if (of === DYN) return DYN;
  if (of.kind === "map") return of.value;
  const known = of === subject && Object.hasOwn(subjectFields, name) ? subjectFields[name] : undefined;
  if (known === undefined) throw new ConditionProblem(`looks for ${JSON.stringify(name)} in ${nameOf(of)}`, id);
  return known;
}

function indexType(
  of: CelType,
  { index, type }: { index: Expression | undefined; type: CelType },
  id: bigint,
): CelType {
  if (of === subject) return memberType(of, (index && stringOf(index)) ?? "", id);
  if (of === DYN) return DYN;
  if (of.kind === "list" && [INT, UINT, DOUBLE, DYN].some((number) => number === type)) return of.element;
  if (of.kind === "map" && [INT, UINT, DOUBLE, BOOL, STRING, DYN].some((key) => key === type)) return of.value;
  throw new ConditionProblem(`looks for ${nameOf(type)} in ${nameOf(of)}`, id);
}

const constantTypes: Readonly<Record<string, CelType>> = {
  boolValue: BOOL,
  bytesValue: BYTES,
  doubleValue: DOUBLE,
  int64Value: INT,
  nullValue: NULL,
  stringValue: STRING,
  uint64Value: UINT,
};

/** Whether what has one type can be given where another is wanted. */
function fits(type: CelType, wanted: CelType): boolean {
  return type === DYN || wanted === DYN || type.name === wanted.name;
}

function comparable(left: CelType, right: CelType): boolean {
  const numbers: readonly CelType[] = [INT, UINT, DOUBLE];
  return fits(left, right) || left === NULL || right === NULL || (numbers.includes(left) && numbers.includes(right));
}

function expectType(type: CelType, wanted: CelType, name: string, id: bigint): void {
  if (!fits(type, wanted)) throw new ConditionProblem(`gives ${name} ${nameOf(type)}, which it does not take`, id);
}

/** The type that all are of; `dyn` where they differ. */
function common([first, ...rest]: readonly CelType[]): CelType {
  return first !== undefined && rest.every(({ name }) => name === first.name) ? first : DYN;
}

function nameOf({ name }: CelType): string {
  return name.replace("google.protobuf.", "").toLowerCase();
}

/** `_+_` as it is written. */
function spoken(name: string): string {
  return name.replaceAll(/[_@]/g, "");
}
