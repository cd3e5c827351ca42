import { create, type MessageInitShape } from "@bufbuild/protobuf";
import type { Document } from "mongodb";

import {
  type CollectionIndex,
  CollectionIndexSchema,
  type IndexDefinition,
  type IndexKey,
  type IndexKeySchema,
  IndexKeyType,
} from "../../../gen/lucid/admin/v1/collection_index_pb.ts";
import { badRequest } from "../../schema/refusals.ts";
import { collationOf, serverCollation } from "./catalog.ts";
import { expressionOf, jsonOf } from "./expressions.ts";

/** An index as the server is told of it, and lists it. */
export interface IndexSpec extends Document {
  readonly name: string;
  /** In their order: names that look like numbers would lead in an object. */
  readonly key: ReadonlyMap<string, unknown>;
}

const mostFilterBytes = 64 * 1024;

/** What the server is to make. Fails with `BAD_REQUEST`, by paths below `field`. */
export function specOf(definition: IndexDefinition, field: string): IndexSpec {
  const { keys, unique, sparse, partialFilter, expireAfterSeconds, collation, hidden } = definition;
  const key = keyOf(keys);
  const wrong = [
    ...(key.size < keys.length ? [{ field: `${field}.keys`, description: "must have each field once" }] : []),
    ...(sparse && partialFilter !== undefined
      ? [{ field: `${field}.sparse`, description: "must not be set beside partial_filter" }]
      : []),
    ...(expireAfterSeconds !== undefined && (keys.length > 1 || typeof kinds.get(keys[0]?.type) !== "number")
      ? [{ field: `${field}.expire_after_seconds`, description: "needs exactly one key in an order" }]
      : []),
  ];
  if (wrong.length > 0) throw badRequest(...wrong);
  const at = { field: `${field}.partial_filter`, mostBytes: mostFilterBytes };
  return {
    name: definition.index === "" ? usualName(key) : definition.index,
    key,
    ...(unique && { unique }),
    ...(sparse && { sparse }),
    ...(hidden && { hidden }),
    ...(expireAfterSeconds !== undefined && { expireAfterSeconds }),
    ...(partialFilter && { partialFilterExpression: expressionOf(partialFilter, at) }),
    ...(collation && { collation: serverCollation(collation) }),
  };
}

/** Keys as the server takes them; a field that comes twice is there once. */
export function keyOf(keys: readonly IndexKey[]): ReadonlyMap<string, unknown> {
  return new Map(keys.map(({ field, type }) => [field, kinds.get(type)]));
}

/** The same as messages. */
export function keyMessages(key: ReadonlyMap<string, unknown>): MessageInitShape<typeof IndexKeySchema>[] {
  return [...key].map(([field, kind]) => {
    const serverType = String(kind);
    return { field, type: types.get(serverType) ?? IndexKeyType.UNSPECIFIED, serverType };
  });
}

/** How servers and drivers call an index that nobody has given a name. */
function usualName(key: IndexSpec["key"]): string {
  return [...key].map(([field, kind]) => `${field}_${String(kind)}`).join("_");
}

const kinds = new Map<IndexKeyType | undefined, number | string>([
  [IndexKeyType.ASCENDING, 1],
  [IndexKeyType.DESCENDING, -1],
  [IndexKeyType.TEXT, "text"],
  [IndexKeyType.HASHED, "hashed"],
  [IndexKeyType.GEO_2DSPHERE, "2dsphere"],
]);

const types = new Map([...kinds].map(([type, kind]) => [String(kind), type] as const));

/** An index that is listed, or to be made, as a message. */
export function indexMessage(
  spec: IndexSpec,
  { database, collection, isProtected }: { database: string; collection: string; isProtected: boolean },
): CollectionIndex {
  const { name, unique, sparse, hidden, expireAfterSeconds, partialFilterExpression, collation } = spec;
  return create(CollectionIndexSchema, {
    database,
    collection,
    protected: isProtected,
    definition: {
      index: name,
      keys: keysOf(spec),
      unique: unique === true,
      sparse: sparse === true,
      hidden: hidden === true,
      ...(expireAfterSeconds !== undefined && { expireAfterSeconds: Number(expireAfterSeconds) }),
      ...(partialFilterExpression !== undefined && { partialFilter: jsonOf(partialFilterExpression as Document) }),
      ...(collation !== undefined && { collation: collationOf(collation as Document) }),
    },
  });
}

/** A text index is listed by a key that stands for all its fields, which are beside it, with their weights. */
function keysOf({ key, weights = {} }: IndexSpec): MessageInitShape<typeof IndexKeySchema>[] {
  const words = Object.keys(weights as Document).map((field) => [field, "text"] as const);
  const shown = [...key].flatMap(([field, kind]) => {
    if (field === "_ftsx") return [];
    return field === "_fts" ? words : [[field, kind] as const];
  });
  return keyMessages(new Map(shown));
}
