import { type DescMessage, getOption } from "@bufbuild/protobuf";
import type { Document } from "bson";

import { collection as collectionOption, type Index } from "../../gen/lucid/options/v1/options_pb.ts";

/** Where the id of a call that created a document is kept, beside it. */
export const requestIdKey = "_request.id";

/** An index as MongoDB makes it. */
export interface StoredIndex {
  readonly name: string;
  readonly key: ReadonlyMap<string, 1 | -1>;
  readonly unique: boolean;
  readonly partialFilterExpression?: Document;
  readonly expireAfterSeconds?: number;
}

/** Where a message is stored. */
interface StoredCollection {
  readonly name: string;
  readonly indexes: readonly StoredIndex[];
}

/** Options are decoded each time that they are asked for, and every write and list asks. */
const collections = new WeakMap<DescMessage, StoredCollection>();

/** The collection that a message says it is stored in. Throws where it says none: that is a bug. */
export function collectionOf(schema: DescMessage): StoredCollection {
  const known = collections.get(schema);
  if (known !== undefined) return known;
  const collection = storedCollection(schema);
  collections.set(schema, collection);
  return collection;
}

/** Whether documents of a message hold what nobody may read. */
export function holdsSecrets(schema: DescMessage): boolean {
  return schema.fields.some((field) => field.proto.options?.debugRedact === true);
}

function storedCollection(schema: DescMessage): StoredCollection {
  const { name, indexes, keepsRequestId } = getOption(schema, collectionOption);
  if (name === "") throw new Error(`${schema.typeName} is stored in no collection`);
  const declared = indexes.map(storedIndex);
  const requestId: StoredIndex = {
    name: `${requestIdKey}_1`,
    key: new Map([[requestIdKey, 1]]),
    unique: true,
    partialFilterExpression: { [requestIdKey]: { $exists: true } },
  };
  // What was deleted softly is few, and found by the purge.
  const isDeletedSoftly = schema.fields.some((field) => field.name === "deleted_at");
  return {
    name,
    indexes: [...declared, ...(keepsRequestId ? [requestId] : []), ...(isDeletedSoftly ? [deletedIndex] : [])],
  };
}

const deletedIndex: StoredIndex = {
  name: "deleted_at_1",
  key: new Map([["deleted_at", 1]]),
  unique: false,
  partialFilterExpression: { deleted_at: { $exists: true } },
};

function storedIndex(index: Index): StoredIndex {
  const key = new Map(
    index.keys.map((text): [string, 1 | -1] => (text.startsWith("-") ? [text.slice(1), -1] : [text, 1])),
  );
  const present = index.presentOnly ? [...key.keys()].map((field) => [field, { $exists: true }]) : [];
  // An absent field equals null; a partial index cannot ask for absence otherwise.
  const live = index.liveOnly ? [["deleted_at", null]] : [];
  const isTrue = index.trueOnly === "" ? [] : [[index.trueOnly, true]];
  const absent = index.absent === "" ? [] : [[index.absent, null]];
  const filter = [...present, ...isTrue, ...absent, ...live];
  return {
    name: [...key].map(([field, direction]) => `${field}_${direction}`).join("_"),
    key,
    unique: index.unique,
    ...(filter.length > 0 && { partialFilterExpression: Object.fromEntries(filter) as Document }),
    ...(index.expireAfterSeconds !== undefined && { expireAfterSeconds: index.expireAfterSeconds }),
  };
}
