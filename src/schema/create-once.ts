import { createHash } from "node:crypto";

import { type DescMessage, type MessageShape, toJson } from "@bufbuild/protobuf";
import { Binary, deserialize, type Document, serialize } from "bson";
import { type Collection, MongoServerError } from "mongodb";

import { fail } from "../errors.ts";
import { requestIdKey } from "./collection.ts";

/** A call that creates a document, as it is kept beside it. */
export interface RequestMark {
  readonly id: string;
  readonly digest: Binary;
}

/** The mark of a request; undefined where it has no id. Requests that say the same have the same mark. */
export function requestMark<D extends DescMessage>(
  schema: D,
  request: MessageShape<D> & { readonly requestId: string },
): RequestMark | undefined {
  if (request.requestId === "") return undefined;
  // The wire form has no order of map entries, and clients that retry may well shuffle them.
  const { requestId: _, ...said } = toJson(schema, request) as Readonly<Record<string, unknown>>; // a message is an object
  const json = JSON.stringify(said, (__, value: unknown) => sorted(value));
  return {
    id: request.requestId.toLowerCase(),
    digest: new Binary(createHash("sha256").update(json).digest()),
  };
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
  const stored = request === undefined ? document : { ...document, _request: request };
  try {
    await collection.insertOne(stored, options);
    return { document: serialize(stored), isNew: true };
  } catch (error) {
    // A retry clashes in its natural keys as much as in its id, and the server names only one of them.
    if (request === undefined || duplicateKey(error) === undefined) throw error;
    const found = await collection.findOne<Uint8Array>({ [requestIdKey]: request.id }, { ...options, raw: true });
    if (found === null) throw error;
    const { _request: first } = deserialize(found, { promoteValues: false });
    // It was found by its mark.
    if (!isSame((first as RequestMark).digest, request.digest)) {
      const description = "was used for another request before";
      throw fail("REQUEST_ID_REUSED", `The request_id ${request.id} ${description}`, {
        metadata: { request_id: request.id },
        fields: [{ field: "request_id", description }],
        cause: error,
      });
    }
    return { document: found, isNew: false };
  }
}

function isSame(left: Binary, right: Binary): boolean {
  return Buffer.compare(left.value(), right.value()) === 0;
}

/** The fields of the unique index that a write came up against; undefined for any other error. */
export function duplicateKey(error: unknown): readonly string[] | undefined {
  if (!(error instanceof MongoServerError) || error.code !== 11_000) return undefined;
  // Undocumented in the driver's types, sent by servers since 4.4.
  const pattern: unknown = error["keyPattern"];
  return typeof pattern === "object" && pattern !== null ? Object.keys(pattern) : [];
}
