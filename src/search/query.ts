import { isIP } from "node:net";

import type { FieldRange, FieldValue, Filter, Query } from "../../gen/lucid/search/v1/search_query_pb.ts";
import { fail } from "../errors.ts";
import { dateAtOrAfter, dateAtOrBefore } from "../schema/filters.ts";
import { badRequest } from "../schema/refusals.ts";
import { keyField, removedField } from "../schema/search-mapping.ts";
import { disagree, type FieldType, type IndexField, type IndexFields } from "./index-fields.ts";
import { type Leaf, parseWords, type Words } from "./query-text.ts";

/** A clause of a query, as servers take it. */
export type Clause = Readonly<Record<string, unknown>>;

/** What indices that are searched together have. */
export interface SearchedFields {
  /** Of any of them. */
  readonly together: IndexFields;
  readonly each: readonly IndexFields[];
  /** Whether documents of the domain are among them, which hide what is deleted. */
  readonly hasDomain: boolean;
  /** Whether those of operators are, too, whose fields mean what they like. */
  readonly isMixed?: boolean;
}

/** A query that may be sent. */
export interface CompiledQuery {
  readonly clause: Clause;
  /** Fields that words are looked for in; none where there are no words. */
  readonly wordFields: readonly IndexField[];
}

/** Servers take 1,024 clauses at least; a search of several parts counts all. */
const mostClauses = 1000;
/** The form in which times are sent. */
export const isoTimes = "strict_date_optional_time";

/** Words of the index that may stand for one that is written in another way. */
const mostExpansions = 20;

/**
 * Makes a query that the server takes: every field is known, every value is of its field's type, and what it costs is bounded.
 * `more` are conditions beside those of the caller. Fails with `BAD_REQUEST` and the field's path, or `SEARCH_TOO_COSTLY`.
 */
export function compileQuery(
  query: Pick<Query, "text" | "fields" | "filters" | "showDeleted"> | undefined,
  fields: SearchedFields,
  more: readonly Clause[] = [],
): CompiledQuery {
  const { text = "", fields: named = [], filters = [], showDeleted = false } = query ?? {};
  const wordFields = namedWordFields(named, fields);
  const words = parseWords(text);
  const filter = [...more, ...filterClauses(filters, "query.filters", fields)];
  const hidden = fields.hasDomain ? hiddenClauses(showDeleted, fields.isMixed) : [];
  const must = words === undefined ? [] : [words === "nothing" ? { match_none: {} } : wordsClause(words, wordFields)];
  return {
    clause: { bool: { must, filter, must_not: hidden } },
    wordFields: words === undefined || words === "nothing" ? [] : wordFields,
  };
}

/** What the domain does not show: deleted documents, orphaned blocks, and what is left of documents that are gone for good. */
function hiddenClauses(showDeleted: boolean, isMixed = false): Clause[] {
  const removed = { term: { [removedField]: { value: true } } };
  const deleted = [{ exists: { field: "deleted_at" } }, { exists: { field: "orphaned_at" } }];
  const hidden = showDeleted ? [removed] : [removed, ...deleted];
  if (!isMixed) return hidden;
  // Copies of the domain, and no others, have a key.
  return [{ bool: { filter: [{ exists: { field: keyField } }], should: hidden, minimum_should_match: 1 } }];
}

function namedWordFields(named: readonly string[], { together, each }: SearchedFields): readonly IndexField[] {
  const isWords = ({ type }: IndexField) => type === "text" || type === "keyword";
  if (named.length === 0) {
    const all = [...together.all()].filter(
      (field) => isWords(field) && field.nestedIn === undefined && field.isForm !== true,
    );
    return all.filter(({ path }) => !path.startsWith("_") && !disagree(each, path));
  }
  return named.map((path, index) => {
    const at = `query.fields[${index}]`;
    const field = known(path, at, { together, each });
    if (!isWords(field))
      throw badRequest({ field: at, description: `must hold text or identifiers, not ${field.type}` });
    return field;
  });
}

/** The field of that name. Fails with `BAD_REQUEST` for the field of the request that names it. */
export function known(
  path: string,
  at: string,
  { together, each }: Pick<SearchedFields, "together" | "each">,
): IndexField {
  const field = together.find(path);
  // What the service keeps beside a copy is nobody's field.
  if (field === undefined || path.startsWith("_")) {
    throw badRequest({ field: at, description: "must be a field of the index" });
  }
  if (disagree(each, path)) throw badRequest({ field: at, description: "must be of one type in all these indices" });
  return field;
}

function wordsClause(words: Words, fields: readonly IndexField[]): Clause {
  const cost = costOf(words, fields);
  if (cost > mostClauses) {
    throw fail("SEARCH_TOO_COSTLY", "The search has too many words for so many fields", {
      metadata: { clauses: String(cost), most_clauses: String(mostClauses) },
    });
  }
  return clauseOf(words, fields);
}

/** How many clauses words become at most. */
function costOf(words: Words, fields: readonly IndexField[]): number {
  if (words.kind === "not") return costOf(words.of, fields) + 1;
  if (words.kind !== "leaf") {
    const asked = words.kind === "all" ? [...words.of, ...unanchored(words.of, fields)] : words.of;
    return asked.reduce((sum, each) => sum + costOf(each, fields), 1);
  }
  const tokens = words.text.match(tokenPattern)?.length ?? 1;
  const perToken = typeof words.match === "number" ? mostExpansions : 1;
  return fields.reduce((sum, { type }) => sum + (type === "text" ? tokens * perToken : 1), 0);
}

/** What the standard analyser makes a term of: runs of letters and digits, and single signs of some scripts and pictures. */
const tokenPattern =
  /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}\p{Script=Lao}\p{Script=Khmer}\p{Script=Myanmar}\p{Extended_Pictographic}]|[\p{L}\p{N}\p{M}_]+/gu;

function clauseOf(words: Words, fields: readonly IndexField[]): Clause {
  switch (words.kind) {
    case "all":
      return allOf(words.of, fields);
    case "any":
      return { bool: { should: words.of.map((each) => clauseOf(each, fields)), minimum_should_match: 1 } };
    case "not":
      return { bool: { must_not: [clauseOf(words.of, fields)] } };
    default:
      return leafClause(words, fields);
  }
}

/** All of several. A word of which analysers leave nothing asks for nothing there, unless no other is left. */
function allOf(words: readonly Words[], fields: readonly IndexField[]): Clause {
  const must = words.map((each) =>
    mayVanish(each, fields) ? leafClause(each, fields, { zero_terms_query: "all" }) : clauseOf(each, fields),
  );
  const any = unanchored(words, fields);
  return { bool: { must, ...(any.length > 0 && { filter: [clauseOf({ kind: "any", of: any }, fields)] }) } };
}

/** Words of which one must be there: those that may vanish, where nothing beside them is sure to ask for something. */
function unanchored(words: readonly Words[], fields: readonly IndexField[]): readonly Leaf[] {
  const wanted = words.filter(({ kind }) => kind !== "not");
  const vanishing = wanted.filter((each) => mayVanish(each, fields));
  return vanishing.length === wanted.length ? vanishing : [];
}

/** Whether analysers may leave nothing of it: some drop words, and all of them signs and numbers such as ½. */
function mayVanish(words: Words, fields: readonly IndexField[]): words is Leaf {
  if (words.kind !== "leaf") return false;
  return !/[\p{L}\p{Nd}]/u.test(words.text) || fields.some(({ dropsWords }) => dropsWords === true);
}

/** One word or phrase, in whichever of the fields fits best. */
function leafClause(words: Leaf, fields: readonly IndexField[], more: Clause = {}): Clause {
  const isFuzzy = typeof words.match === "number";
  const groups = Map.groupBy(fields, ({ nestedIn, type }) =>
    JSON.stringify([nestedIn ?? "", isFuzzy && type === "text"]),
  );
  const queries = [...groups.values()].map((group): Clause => {
    const [{ nestedIn, type } = { nestedIn: undefined, type: "text" }] = group;
    const paths = group.map(({ path }) => path);
    const query = { multi_match: { query: words.text, fields: paths, ...matchOf(words, type === "text"), ...more } };
    return nestedIn === undefined ? query : nested(nestedIn, query);
  });
  const [only] = queries;
  return only !== undefined && queries.length === 1 ? only : { dis_max: { queries } };
}

function matchOf(words: Leaf, isText: boolean): Clause {
  if (words.match === "phrase") return { type: "phrase" };
  if (words.match === "start") return { type: "bool_prefix", operator: "and" };
  const same = { type: "best_fields", operator: "and" };
  // A word in an identifier that is nearly the same is another identifier.
  if (words.match === "word" || !isText) return same;
  return { ...same, fuzziness: words.match, prefix_length: 1, max_expansions: mostExpansions };
}

function nested(path: string, query: Clause): Clause {
  return { nested: { path, query, ignore_unmapped: true } };
}

/** Conditions that are at `at` in the request. Fails with `BAD_REQUEST` and the field's path. */
export function filterClauses(filters: readonly Filter[], at: string, fields: SearchedFields): Clause[] {
  return filters.map((each, index) => filterClause(each, `${at}[${index}]`, fields));
}

function filterClause({ field: path, condition, negated }: Filter, at: string, fields: SearchedFields): Clause {
  const field = known(path, `${at}.field`, fields);
  const clause = conditionClause(field, condition, at);
  const placed = field.nestedIn === undefined ? clause : nested(field.nestedIn, clause);
  // That there is no value at all is true of no single message of a list.
  const isMissing = condition.case === "exists" && !condition.value;
  return negated === isMissing ? placed : { bool: { must_not: [placed] } };
}

function conditionClause(field: IndexField, condition: Filter["condition"], at: string): Clause {
  switch (condition.case) {
    case "exists":
      return { exists: { field: field.path } };
    case "term":
      return equal(field, [condition.value], () => `${at}.term`);
    case "terms":
      return equal(field, condition.value.values, (index) => `${at}.terms.values[${index}]`);
    case "range":
      return { range: { [field.path]: rangeOf(field, condition.value, `${at}.range`) } };
    case "prefix":
      if (field.type !== "keyword" && field.type !== "free" && field.type !== "text") {
        throw mismatch(`${at}.prefix`, field, "text");
      }
      return { prefix: { [exactly(field, `${at}.prefix`)]: { value: condition.value } } };
    default:
      throw badRequest({ field: at, description: "must have a condition" });
  }
}

function equal(field: IndexField, values: readonly FieldValue[], at: (index: number) => string): Clause {
  const path = exactly(field, at(0));
  if (field.type !== "date") {
    return { terms: { [path]: values.map((value, index) => plainValue(field, value, at(index))) } };
  }
  // A time is compared in the form that the field has, whichever that is; stored times are whole milliseconds.
  const should = values.map((given, index) => {
    const { value } = given;
    const from = { gte: plainValue(field, given, at(index)) };
    const through = value.case === "time" && { lte: dateAtOrBefore(value.value) };
    return { range: { [path]: { ...from, ...through, format: isoTimes } } };
  });
  return { bool: { should, minimum_should_match: 1 } };
}

/** Where a field's values are compared as they are. */
function exactly(field: IndexField, at: string): string {
  if (field.type === "object") throw badRequest({ field: at, description: "must be of a field within this message" });
  if (field.exact !== undefined) return field.exact;
  throw badRequest({ field: at, description: "must be of a field that is not text: that is found by its words only" });
}

function rangeOf(field: IndexField, { from, before }: FieldRange, at: string): Clause {
  if (!["date", "long", "double"].includes(field.type)) throw mismatch(at, field, "numbers or times");
  const bounds = {
    ...(from !== undefined && { gte: plainValue(field, from, `${at}.from`) }),
    ...(before !== undefined && { lt: plainValue(field, before, `${at}.before`) }),
  };
  return field.type === "date" ? { ...bounds, format: isoTimes } : bounds;
}

/** What each type of a field takes, of the members of a FieldValue. */
const taken: Readonly<Record<FieldType, readonly string[]>> = {
  keyword: ["text"],
  text: ["text"],
  free: ["text"],
  ip: ["text"],
  long: ["integer"],
  double: ["integer", "number"],
  boolean: ["flag"],
  date: ["time"],
  completion: [],
  object: [],
};

function plainValue(field: IndexField, { value }: FieldValue, at: string): unknown {
  if (value.case === undefined || !taken[field.type].includes(value.case)) {
    throw mismatch(at, field, value.case ?? "nothing");
  }
  if (field.type === "ip" && value.case === "text" && isIP(value.value) === 0) {
    throw badRequest({ field: at, description: "must be an IP address" });
  }
  const plain = value.case === "time" ? dateAtOrAfter(value.value) : value.value;
  requireWithin(field, plain, at);
  return plain;
}

function requireWithin(
  { limits, type }: IndexField,
  value: string | number | bigint | boolean | Date,
  at: string,
): void {
  if (limits === undefined || typeof value === "string" || typeof value === "boolean") return;
  const compared = value instanceof Date ? value.getTime() : value;
  if (compared >= limits.least && compared <= limits.greatest) return;
  const told = (bound: number) => (type === "date" ? new Date(bound).toISOString() : String(bound));
  const description = `must be from ${told(limits.least)} to ${told(limits.greatest)}, which the field holds`;
  throw badRequest({ field: at, description });
}

function mismatch(at: string, { type }: IndexField, given: string) {
  return badRequest({ field: at, description: `must fit the field, which is ${type}: ${given} does not` });
}
