import { SearchKind } from "../../gen/lucid/options/v1/options_pb.ts";
import { type SearchedField, type SearchedMessage, suggestField, suggestionName } from "../schema/search-mapping.ts";

/** What values a field has, and so what can be asked of it. */
export type FieldType =
  | "keyword"
  | "text"
  | "date"
  | "long"
  | "double"
  | "boolean"
  | "ip"
  /** What is in a free-form object: compared as text, and nothing else. */
  | "free"
  /** What is suggested, and nothing else. */
  | "completion"
  | "object";

/** A field of an index. */
export interface IndexField {
  /** As callers name it. */
  readonly path: string;
  readonly type: FieldType;
  /** Where its values are compared as they are; of text undefined, unless its words are indexed as a whole too. */
  readonly exact: string | undefined;
  /** The list of messages that it is in, each of which is matched on its own. */
  readonly nestedIn: string | undefined;
  /** Whether it is another form of a field, which words are looked for in only where it is named. */
  readonly isForm?: boolean;
  /** Whether its analyser may leave nothing of a word, as those do that know words which say nothing. */
  readonly dropsWords?: boolean;
  /** Where its values are indexed for suggestions. */
  readonly suggestions: string | undefined;
  /** What its values lie within, where that is less than its type holds: servers refuse to compare others. Of dates in milliseconds. */
  readonly limits?: Limits | undefined;
}

/** The least and the greatest value. */
export interface Limits {
  readonly least: number;
  readonly greatest: number;
}

/** The fields of an index, by their paths. */
export interface IndexFields {
  find(path: string): IndexField | undefined;
  all(): Iterable<IndexField>;
}

const typesOfKinds: ReadonlyMap<SearchKind, FieldType> = new Map([
  [SearchKind.KEYWORD, "keyword"],
  [SearchKind.TEXT, "text"],
  [SearchKind.NAME, "text"],
  [SearchKind.DATE, "date"],
  [SearchKind.LONG, "long"],
  [SearchKind.DOUBLE, "double"],
  [SearchKind.BOOLEAN, "boolean"],
  [SearchKind.IP, "ip"],
  [SearchKind.OBJECT, "object"],
  [SearchKind.NESTED, "object"],
  [SearchKind.FREE_FORM, "free"],
]);

/** The fields that a message's index has, as its proto says. */
export function fieldsOfMessage({ fields }: SearchedMessage): IndexFields {
  const found: IndexField[] = [];
  const visit = (field: SearchedField, nestedIn: string | undefined): void => {
    const { path, kind } = field;
    const type = typesOfKinds.get(kind) ?? "object";
    const isName = kind === SearchKind.NAME;
    found.push({
      path,
      type,
      exact: isName ? `${path}.keyword` : type === "text" ? undefined : path,
      nestedIn: kind === SearchKind.NESTED ? path : nestedIn,
      suggestions: isName ? `${suggestField}.${suggestionName(path)}` : undefined,
    });
    for (const inner of field.fields) visit(inner, kind === SearchKind.NESTED ? path : nestedIn);
  };
  for (const field of fields) visit(field, undefined);
  return byPath(found);
}

/** Types of fields that servers know, of those that this service can ask of. */
const typesOfServers: Readonly<Record<string, FieldType>> = {
  keyword: "keyword",
  constant_keyword: "keyword",
  text: "text",
  match_only_text: "text",
  search_as_you_type: "text",
  completion: "completion",
  date: "date",
  date_nanos: "date",
  long: "long",
  integer: "long",
  short: "long",
  byte: "long",
  double: "double",
  float: "double",
  half_float: "double",
  scaled_float: "double",
  boolean: "boolean",
  ip: "ip",
  flattened: "free",
  flat_object: "free",
  object: "object",
  nested: "object",
};

/** Of those types that hold less than what they are asked of as. */
const limitsOfServers: Readonly<Record<string, Limits>> = {
  byte: { least: -(2 ** 7), greatest: 2 ** 7 - 1 },
  short: { least: -(2 ** 15), greatest: 2 ** 15 - 1 },
  integer: { least: -(2 ** 31), greatest: 2 ** 31 - 1 },
  half_float: { least: -65_504, greatest: 65_504 },
  float: { least: -(2 - 2 ** -23) * 2 ** 127, greatest: (2 - 2 ** -23) * 2 ** 127 },
  // Nanoseconds since 1970 in 64 bits.
  date_nanos: { least: 0, greatest: Math.floor(2 ** 63 / 1e6) },
};

/** A field, as a server tells of it. */
interface Property {
  readonly type?: string;
  readonly properties?: Readonly<Record<string, Property>>;
  readonly fields?: Readonly<Record<string, Property>>;
  /** False where it cannot be searched. */
  readonly index?: boolean;
  readonly analyzer?: string;
  readonly search_analyzer?: string;
}

/** What queries read as a part of a name that stands for any, and as the weight of a field. */
const meansMore = /[*^]/;

/** The fields that an index of an operator's has, as the server tells of its mapping. What cannot be asked of is left out. */
export function fieldsOfMapping(properties: Readonly<Record<string, Property>>): IndexFields {
  const found: IndexField[] = [];
  const visit = (
    property: Property,
    path: string,
    { nestedIn, isForm }: Pick<IndexField, "nestedIn" | "isForm">,
  ): void => {
    const type = typesOfServers[property.type ?? "object"];
    if (type === undefined || property.index === false || meansMore.test(path)) return;
    const within = property.type === "nested" ? path : nestedIn;
    const others = Object.entries(property.fields ?? {});
    const named = (wanted: string) => others.find(([, other]) => other.type === wanted)?.[0];
    const [keyword, completion] = [named("keyword"), named("completion")];
    found.push({
      path,
      type,
      exact: type !== "text" && type !== "completion" ? path : keyword === undefined ? undefined : `${path}.${keyword}`,
      nestedIn: within,
      dropsWords: [property.analyzer, property.search_analyzer].some((name = "standard") => name !== "standard"),
      suggestions: type === "completion" ? path : completion === undefined ? undefined : `${path}.${completion}`,
      isForm: isForm === true,
      limits: limitsOfServers[property.type ?? "object"],
    });
    for (const [name, inner] of Object.entries(property.properties ?? {})) {
      visit(inner, `${path}.${name}`, { nestedIn: within });
    }
    for (const [name, other] of others) visit(other, `${path}.${name}`, { nestedIn: within, isForm: true });
  };
  for (const [name, property] of Object.entries(properties)) visit(property, name, { nestedIn: undefined });
  return byPath(found);
}

function byPath(fields: readonly IndexField[]): IndexFields {
  const known = new Map(fields.map((field) => [field.path, field]));
  return {
    all: () => known.values(),
    find(path) {
      const field = known.get(path);
      if (field !== undefined) return field;
      // Whatever name there is in an object of any form.
      for (let end = path.lastIndexOf("."); end > 0; end = path.lastIndexOf(".", end - 1)) {
        const around = known.get(path.slice(0, end));
        if (around?.type === "free") return { ...around, path, exact: path };
        if (around !== undefined) return undefined;
      }
      return undefined;
    },
  };
}

/** Fields of several indices that are searched together. */
export function fieldsTogether(indices: readonly IndexFields[]): IndexFields {
  const [first] = indices;
  if (first !== undefined && indices.length === 1) return first;
  return {
    find(path) {
      const [field, ...others] = indices.flatMap((fields) => fields.find(path) ?? []);
      return (
        field && { ...field, limits: others.reduce((limits, other) => common(limits, other.limits), field.limits) }
      );
    },
    all: () => new Map(indices.flatMap((fields) => [...fields.all()].map((field) => [field.path, field]))).values(),
  };
}

/** What fields of several indices all hold. */
function common(one: Limits | undefined, other: Limits | undefined): Limits | undefined {
  if (one === undefined || other === undefined) return one ?? other;
  return { least: Math.max(one.least, other.least), greatest: Math.min(one.greatest, other.greatest) };
}

/** Whether indices that have a field disagree about it, so that no query could mean the same in all of them. */
export function disagree(indices: readonly IndexFields[], path: string): boolean {
  const found = indices.map((fields) => fields.find(path)).filter((field) => field !== undefined);
  const kinds = new Set(found.map(({ type, exact, nestedIn }) => JSON.stringify([type, exact, nestedIn])));
  return kinds.size > 1;
}
