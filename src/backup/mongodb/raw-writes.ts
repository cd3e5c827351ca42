import { createRequire } from "node:module";

import type { Db } from "mongodb";

import { hasCode, serverCode } from "./errors.ts";
import { bsonType, documentOf, elementsOf, idOf, int32Element, rawElement, valueBytes } from "./raw-bson.ts";

/** Most bytes and documents that one command carries. Servers take 48 MB, and 100,000 documents. */
const commandBytes = 4 * 1024 * 1024;
const commandDocuments = 2000;

/** Documents of a command in bytes. */
interface DocumentSequence {
  push(document: unknown, bytes: Uint8Array): number;
}

/**
 * The driver's own form of a command's documents in bytes. Its public functions encode documents themselves, which takes time
 * and changes some; this part of it is not exported, so that its version is pinned and a test writes through it.
 */
const { DocumentSequence } = createRequire(import.meta.url)("mongodb/lib/cmap/commands.js") as {
  DocumentSequence: new (field: string) => DocumentSequence;
};

/** What a write left undone. */
export interface WriteError {
  /** Index among the documents that were given. */
  readonly index: number;
  readonly code: number;
}

/** Cuts documents into batches that a command can carry. */
export function* commandBatches<T>(items: readonly T[], bytesOf: (item: T) => number): Generator<T[]> {
  let batch: T[] = [];
  let bytes = 0;
  for (const item of items) {
    const size = bytesOf(item);
    if (batch.length > 0 && (bytes + size > commandBytes || batch.length === commandDocuments)) {
      yield batch;
      batch = [];
      bytes = 0;
    }
    batch.push(item);
    bytes += size;
  }
  if (batch.length > 0) yield batch;
}

/**
 * Inserts documents as they are, also those that a validator would refuse. Returns what was not inserted; the others are.
 */
export async function insertRaw(
  db: Db,
  collection: string,
  documents: readonly Uint8Array[],
  { ordered = false }: { readonly ordered?: boolean } = {},
): Promise<WriteError[]> {
  const command = { insert: collection, ordered, bypassDocumentValidation: true };
  // A server puts the time in the place of an empty timestamp unless it is told not to, which those before 8.0 do not understand.
  if (!documents.some(hasEmptyTimestamp)) return write(db, command, "documents", documents);
  try {
    return await write(db, { ...command, bypassEmptyTsReplacement: true }, "documents", documents);
  } catch (error) {
    if (!hasCode(error, serverCode.unknownField)) throw error;
    return write(db, command, "documents", documents);
  }
}

/** Deletes documents. Each is given as what `idOf` returns for it. */
export async function deleteRaw(db: Db, collection: string, ids: readonly Uint8Array[]): Promise<void> {
  const deletions = ids.map((id) =>
    documentOf([rawElement(bsonType.document, "q", queryOf(id)), int32Element("limit", 1)]),
  );
  requireNone(await write(db, { delete: collection, ordered: false }, "deletes", deletions));
}

/**
 * Puts documents in the place of those with their `_id`s, or beside them where there are none. Returns what was not written.
 */
export async function upsertRaw(db: Db, collection: string, documents: readonly Uint8Array[]): Promise<WriteError[]> {
  const replaceable: number[] = [];
  const others: number[] = [];
  for (const [index, document] of documents.entries()) {
    (looksLikeOperators(document) || hasEmptyTimestamp(document) ? others : replaceable).push(index);
  }
  const pick = (indexes: readonly number[]): Uint8Array[] => indexes.flatMap((index) => documents[index] ?? []);
  const failed: WriteError[] = [];
  const take = (errors: readonly WriteError[], indexes: readonly number[]): void => {
    for (const { index, code } of errors) failed.push({ index: indexes[index] ?? index, code });
  };
  if (replaceable.length > 0) {
    const command = { update: collection, ordered: false, bypassDocumentValidation: true };
    take(await write(db, command, "updates", pick(replaceable).map(replacementOf)), replaceable);
  }
  if (others.length > 0) {
    await deleteRaw(
      db,
      collection,
      pick(others).flatMap((document) => idOf(document) ?? []),
    );
    take(await insertRaw(db, collection, pick(others)), others);
  }
  return failed;
}

const trueValue = Uint8Array.of(1);

function replacementOf(document: Uint8Array): Buffer {
  const id = idOf(document);
  if (id === undefined) throw new Error("A document has no _id");
  return documentOf([
    rawElement(bsonType.document, "q", queryOf(id)),
    rawElement(bsonType.document, "u", document),
    rawElement(8, "upsert", trueValue),
  ]);
}

/** `{_id: {$eq: …}}`: a document that is an `_id` may have names that look like operators. */
function queryOf(id: Uint8Array): Buffer {
  const [element] = elementsOf(documentOf([id]));
  if (element === undefined) throw new Error("A document has no _id");
  const equal = rawElement(element.type, "$eq", id.subarray(element.value - element.start));
  return documentOf([rawElement(bsonType.document, "_id", documentOf([equal]))]);
}

/** An update with such a document would be taken as one with operators, or refused. */
function looksLikeOperators(document: Uint8Array): boolean {
  for (const { name } of elementsOf(document)) if (name.startsWith("$")) return true;
  return false;
}

function hasEmptyTimestamp(document: Uint8Array): boolean {
  for (const element of elementsOf(document)) {
    if (element.type === bsonType.timestamp && valueBytes(document, element).every((byte) => byte === 0)) return true;
  }
  return false;
}

function requireNone(errors: readonly WriteError[]): void {
  const [error] = errors;
  if (error !== undefined) throw new Error(`The server refused a write with code ${error.code}`);
}

async function write(
  db: Db,
  command: Record<string, unknown>,
  field: string,
  documents: readonly Uint8Array[],
): Promise<WriteError[]> {
  if (documents.length === 0) return [];
  const sequence = new DocumentSequence(field);
  for (const document of documents) sequence.push(document, document);
  const result = await db.command({ ...command, [field]: sequence });
  const { writeErrors = [], writeConcernError } = result as {
    writeErrors?: { index: number; code: number }[];
    writeConcernError?: { code: number };
  };
  if (writeConcernError !== undefined) {
    throw new Error(`The server could not confirm a write: code ${writeConcernError.code}`);
  }
  return writeErrors.map(({ index, code }) => ({ index, code }));
}
