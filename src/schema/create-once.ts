import { createHash } from "node:crypto";

import { create, type DescMessage, type Message, type MessageShape, toJson } from "@bufbuild/protobuf";
import type { ConnectError } from "@connectrpc/connect";
import { Binary, deserialize, type Document, serialize } from "bson";
import { type Collection, MongoBulkWriteError, MongoServerError, type WriteError } from "mongodb";

import { fail } from "../errors.ts";
import { requestIdKey, type StoredIndex } from "./collection.ts";
import { onlyWritable } from "./field-mask.ts";

/** A call that creates a document, as it is kept beside it. */
export interface RequestMark {
  readonly id: string;
  readonly digest: Binary;
}

/**
 * The mark of a request; undefined where it has no id. Requests that say the same have the same mark: what only the service sets
 * in what they send is ignored here too.
 */
export function requestMark<D extends DescMessage>(
  schema: D,
  request: MessageShape<D> & { readonly requestId: string },
): RequestMark | undefined {
  if (request.requestId === "") return undefined;
  // The wire form has no order of map entries, and clients that retry may well shuffle them.
  const heard = toJson(schema, onlyHeard(schema, request)) as Readonly<Record<string, unknown>>; // a message is an object
  const { requestId: _, ...said } = heard;
  const json = JSON.stringify(said, (__, value: unknown) => sorted(value));
  return {
    id: request.requestId.toLowerCase(),
    digest: new Binary(createHash("sha256").update(json).digest()),
  };
}

/** A request whose messages lack what only the service sets. That may be anything, also a time that JSON cannot say. */
function onlyHeard<D extends DescMessage>(schema: D, request: MessageShape<D>): MessageShape<D> {
  const members = request as Message & Readonly<Record<string, unknown>>; // a message has its fields by their names
  const messages = schema.fields.flatMap((field) => {
    const value = members[field.localName];
    if (field.fieldKind !== "message" || value === undefined) return [];
    return [[field.localName, onlyWritable(field.message, value as Message)] as const]; // what its descriptor says
  });
  return create(schema, { ...request, ...Object.fromEntries(messages) } as never);
}

function sorted(value: unknown): unknown {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return value;
  return Object.fromEntries(Object.entries(value).toSorted(([left], [right]) => (left < right ? -1 : 1)));
}

/** What became of a document that was to be created. */
export interface Created {
  /** The stored document, as raw BSON. */
  readonly document: Uint8Array;
  /** False where an earlier call with the same id had created it. */
  readonly isNew: boolean;
}

/**
 * Inserts a document, unless a call with the same id has inserted one before: then returns that one as it is now. Fails with
 * `REQUEST_ID_REUSED` where that call said something else, and with the driver's own error for any other duplicate.
 */
export async function createOnce(
  collection: Collection,
  document: Document,
  request: RequestMark | undefined,
  options: { maxTimeMS?: number },
): Promise<Created> {
  const stored = marked(document, request);
  try {
    await collection.insertOne(stored, options);
    return { document: serialize(stored), isNew: true };
  } catch (error) {
    // A retry clashes in its natural keys as much as in its id, and the server names only one of them.
    if (request === undefined || duplicateKey(error) === undefined) throw error;
    const found = await createdBefore(collection, request, options, error);
    if (found === null) throw error;
    return { document: found, isNew: false };
  }
}

/** A document with the mark of the call that creates it. */
export function marked(document: Document, request: RequestMark | undefined): Document {
  return request === undefined ? document : { ...document, _request: request };
}

/**
 * The document that a call with the same id has created before, as it is now; null where there is none. Fails with
 * `REQUEST_ID_REUSED` where that call said something else.
 */
export async function createdBefore(
  collection: Collection,
  request: RequestMark,
  options: { maxTimeMS?: number },
  cause?: unknown,
): Promise<Uint8Array | null> {
  const found = await collection.findOne<Uint8Array>({ [requestIdKey]: request.id }, { ...options, raw: true });
  if (found === null) return null;
  const { _request: first } = deserialize(found, { promoteValues: false });
  // It was found by its mark.
  if (!isSame((first as RequestMark).digest, request.digest)) throw requestIdReused(request, cause);
  return found;
}

/** A document that is to be created with others. */
export interface NewDocument {
  readonly document: Document;
  readonly mark?: RequestMark | undefined;
}

/** What became of a document that was to be created with others. */
export type CreatedOrRefused =
  | { readonly isNew: boolean }
  /** Stored names of the fields whose values another document has; empty where the server names no index of `unique`. */
  | { readonly duplicate: readonly string[]; readonly cause: Error }
  | { readonly refusal: ConnectError };

/**
 * Inserts several documents in one statement, each as `createOnce` does: what the store refuses keeps no other from being
 * stored. Says of each, in their order, what became of it. Throws where that is not known of all. `unique` are the collection's
 * indexes.
 */
export async function createManyOnce(
  collection: Collection,
  items: readonly NewDocument[],
  unique: readonly StoredIndex[],
  options: { maxTimeMS?: number },
): Promise<readonly CreatedOrRefused[]> {
  const stored = items.map(({ document, mark }) => marked(document, mark));
  const errors = await insertAll(collection, stored, options);
  const refused = [...errors].flatMap(([index, error]) => (isDuplicate(error) ? (items[index]?.mark ?? []) : []));
  const first = await marksOf(collection, refused, options);
  return items.map(({ mark }, index): CreatedOrRefused => {
    const error = errors.get(index);
    if (error === undefined) return { isNew: true };
    if (error.code === 121) {
      return { refusal: fail("DOCUMENT_INVALID", "The collection's validator refused the document") };
    }
    const cause = new Error(error.errmsg ?? "E11000");
    const digest = mark === undefined ? undefined : first.get(mark.id);
    if (mark === undefined || digest === undefined) return { duplicate: keysIn(cause.message, unique), cause };
    return isSame(digest, mark.digest) ? { isNew: false } : { refusal: requestIdReused(mark, cause) };
  });
}

/** Inserts in any order; returns which were refused for what they hold. */
async function insertAll(collection: Collection, documents: Document[], options: { maxTimeMS?: number }) {
  try {
    await collection.insertMany(documents, { ordered: false, ...options });
    return new Map<number, WriteError>();
  } catch (error) {
    if (!(error instanceof MongoBulkWriteError) || error.result.getWriteConcernError() !== undefined) throw error;
    const errors = error.result.getWriteErrors();
    if (errors.some((refusal) => !isDuplicate(refusal) && refusal.code !== 121)) throw error;
    return new Map(errors.map((refusal) => [refusal.index, refusal]));
  }
}

/** The digests that are stored under the ids of these marks. */
async function marksOf(collection: Collection, marks: readonly RequestMark[], options: { maxTimeMS?: number }) {
  if (marks.length === 0) return new Map<string, Binary>();
  const found = await collection
    .find<{ _request: RequestMark }>({ [requestIdKey]: { $in: marks.map(({ id }) => id) } }, options)
    .project<{ _request: RequestMark }>({ _id: 0, _request: 1 })
    .toArray();
  return new Map(found.map(({ _request: { id, digest } }) => [id, digest]));
}

/** For a statement of one document the server lists the keys; for one of several only its sentence names the index. */
function keysIn(sentence: string, unique: readonly StoredIndex[]): readonly string[] {
  const index = unique.find(({ name }) => sentence.includes(` index: ${name} `));
  return index === undefined ? [] : [...index.key.keys()];
}

function requestIdReused({ id }: RequestMark, cause: unknown): ConnectError {
  const description = "was used for another request before";
  return fail("REQUEST_ID_REUSED", `The request_id ${id} ${description}`, {
    metadata: { request_id: id },
    fields: [{ field: "request_id", description }],
    cause,
  });
}

function isSame(left: Binary, right: Binary): boolean {
  return Buffer.compare(left.value(), right.value()) === 0;
}

/** Whether a server has refused a write, or one of several, since a unique index holds its keys already. */
export function isDuplicate(error: unknown): boolean {
  return typeof error === "object" && error !== null && "code" in error && error.code === 11_000;
}

/** The fields of the unique index that a write came up against; undefined for any other error. */
export function duplicateKey(error: unknown): readonly string[] | undefined {
  if (!(error instanceof MongoServerError) || !isDuplicate(error)) return undefined;
  // Undocumented in the driver's types, sent by servers since 4.4.
  const pattern: unknown = error["keyPattern"];
  return typeof pattern === "object" && pattern !== null ? Object.keys(pattern) : [];
}
