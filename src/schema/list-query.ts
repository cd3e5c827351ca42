import { create, type DescMessage, getOption, type MessageShape, toBinary } from "@bufbuild/protobuf";
import type { Timestamp } from "@bufbuild/protobuf/wkt";
import type { Document } from "bson";

import { required } from "../../gen/lucid/options/v1/options_pb.ts";
import { fail } from "../errors.ts";
import { collectionOf } from "./collection.ts";
import { timeRange } from "./filters.ts";

/** An order that an index gives: what is sorted by, the unique id last, so that no two documents are equal. */
export interface ListOrder {
  readonly sort: Readonly<Record<string, 1 | -1>>;
}

/** What a list is restricted by, which an index must serve too. */
export interface Restrictions {
  /** Fields that are compared for equality. */
  readonly equal: readonly string[];
  /** A field that is compared with a range. */
  readonly range?: string;
}

/** What the filters of most entities have besides fields of their own. */
interface CommonFilter {
  readonly createdFrom?: Timestamp | undefined;
  readonly createdBefore?: Timestamp | undefined;
  readonly showDeleted: boolean;
}

/** The documents with these values that a filter means, and what an index must serve for it. */
export function filteredBy(equal: Document, { createdFrom, createdBefore, showDeleted }: CommonFilter) {
  const created = timeRange(createdFrom, createdBefore);
  const restrictions: Restrictions = {
    equal: Object.keys(equal),
    ...(created !== undefined && { range: "created_at" }),
  };
  const filter: Document = {
    ...equal,
    ...(created !== undefined && { created_at: created }),
    ...(!showDeleted && { deleted_at: null }),
  };
  return { filter, restrictions };
}

/**
 * Reads `order_by`: names of fields with commas between them, each perhaps with ` desc` after it. Takes those orders that an
 * index gives together with the restrictions, so that no list sorts or scans a collection, and by what every document has one of,
 * since a page begins behind the values of a document. Fails with `BAD_REQUEST`.
 */
export function listOrder(
  schema: DescMessage,
  text: string,
  restrictions: Restrictions,
  { id, fallback }: { readonly id: string; readonly fallback: string },
): ListOrder {
  const usual = termsOf(fallback);
  const terms = text.trim() === "" ? usual : termsOf(text);
  const last = terms.at(-1)?.[1] ?? 1;
  const wanted: readonly (readonly [string, 1 | -1])[] = terms.some(([name]) => name === id)
    ? terms
    : [...terms, [id, last]];
  const { range } = restrictions;
  if (range !== undefined && terms[0]?.[0] !== range) throw wrong(`must start with ${range} where it is filtered by`);
  const { indexes } = collectionOf(schema);
  const served = indexes.some(
    (index) => index.partialFilterExpression === undefined && serves([...index.key], wanted, restrictions.equal),
  );
  // What the filter leaves has what the list is usually ordered by.
  const isThere = (name: string) => usual.some(([each]) => each === name) || hasOne(schema, name);
  if (!served || !terms.every(([name]) => isThere(name))) {
    const names = terms.map(([name]) => name).join(", ");
    const filter = restrictions.equal.length === 0 ? "" : ` together with a filter by ${restrictions.equal.join(", ")}`;
    throw wrong(`cannot be ${JSON.stringify(names)}${filter}`);
  }
  return { sort: Object.fromEntries(wanted) };
}

function termsOf(text: string): readonly (readonly [string, 1 | -1])[] {
  return text.split(",").map((term) => {
    const [name = "", direction = "asc", ...rest] = term.trim().split(/ +/);
    if (name === "" || rest.length > 0 || (direction !== "asc" && direction !== "desc")) {
      throw wrong("must be names of fields with commas between, each perhaps with ` desc`");
    }
    return [name, direction === "desc" ? -1 : 1] as const;
  });
}

/** Whether every document has one value in a field. */
function hasOne(schema: DescMessage, name: string): boolean {
  const field = schema.fields.find((candidate) => candidate.name === name);
  return field !== undefined && field.fieldKind !== "list" && getOption(field, required);
}

/** Whether an index has all fields that are compared for equality, in any order, and then the wanted ones, forwards or backwards. */
function serves(
  key: readonly (readonly [string, 1 | -1])[],
  wanted: readonly (readonly [string, 1 | -1])[],
  equal: readonly string[],
): boolean {
  if (key.length !== equal.length + wanted.length) return false;
  const [before, after] = [key.slice(0, equal.length), key.slice(equal.length)];
  const turned = after[0]?.[1] === wanted[0]?.[1] ? 1 : -1;
  return (
    before.every(([field]) => equal.includes(field)) &&
    after.every(([field, direction], index) => {
      const [name, to] = wanted[index] ?? ["", 1];
      return field === name && direction * turned === to;
    })
  );
}

function wrong(description: string) {
  return fail("BAD_REQUEST", `order_by ${description}`, {
    metadata: { fields: "order_by" },
    fields: [{ field: "order_by", description }],
  });
}

/** What a page token is bound to: the method's request, with all that it asks for but the size and place of the page. */
export function queryOf<D extends DescMessage>(schema: D, request: MessageShape<D>): Uint8Array {
  // A request that is a message has these members if its proto does.
  const same = create(schema, { ...request, pageSize: 0, pageToken: "" } as never);
  return Buffer.concat([Buffer.from(`${schema.typeName}\0`), toBinary(schema, same)]);
}

/** How many documents a page has: the wanted number, 50 where none is wanted, at most 1000. */
export function pageSizeOf(wanted: number): number {
  return wanted === 0 ? 50 : Math.min(wanted, 1000);
}
