import { randomUUIDv7 } from "node:crypto";

import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";

import { IndexedDocumentSchema } from "../../gen/lucid/search/v1/search_index_pb.ts";
import {
  BulkAction,
  type BulkIndexRequest,
  type SearchIndexService,
} from "../../gen/lucid/search/v1/search_index_service_pb.ts";
import type { CarryOut } from "../schema/audited-call.ts";
import { badRequest } from "../schema/refusals.ts";
import { removedField } from "../schema/search-mapping.ts";
import type { SearchStore } from "../stores/search.ts";
import type { BulkDetails } from "../stores/search/bulk.ts";
import { type ExactObject, integerOf, parseExact } from "../stores/search/exact-json.ts";
import { pathOf, property, rawRequest } from "../stores/search/requests.ts";
import { bulkIndex } from "./bulk-index.ts";
import { documentNotFound, type DocumentWrite, encoded, etagOf, writeDocuments } from "./document-writes.ts";
import { type IndexCatalog, indexResource, isKept, requireAliased, requireOperators } from "./index-catalog.ts";
import { structOf } from "./response.ts";

/** What writing documents needs. */
export interface IndexDocumentsOptions {
  readonly search: SearchStore;
  readonly catalog: IndexCatalog;
  /** Tells the audit log of a change. */
  readonly carryOut: CarryOut;
}

/** The handlers of documents that operators put into indices of their own. */
export function indexDocuments({
  search,
  catalog,
  carryOut,
}: IndexDocumentsOptions): Pick<
  ServiceImpl<typeof SearchIndexService>,
  "indexDocument" | "getDocument" | "updateDocument" | "deleteDocument" | "bulkIndex"
> {
  /** Makes one change, and tells of it. */
  const write = async (
    { index, waitUntilSearchable }: { readonly index: string; readonly waitUntilSearchable: boolean },
    change: DocumentWrite,
    context: HandlerContext,
  ): Promise<BulkDetails> => {
    requireOperators(index);
    const name = `${index}/${change.documentId}`.slice(0, mostNameCharacters).toWellFormed();
    const resource = { type: IndexedDocumentSchema.name, name };
    return carryOut(context, resource, async () => {
      const { signal } = context;
      const [written] = await writeDocuments(index, [change], { search, catalog, signal, waitUntilSearchable });
      if (written?.kind !== "done") throw written?.error ?? new Error("A write has no outcome");
      return written.details;
    });
  };

  return {
    async indexDocument(request, context) {
      const { createOnly, etag } = request;
      const documentId = request.documentId === "" ? randomUUIDv7() : request.documentId;
      const action = createOnly ? BulkAction.CREATE : BulkAction.INDEX;
      const source = encoded(request.document ?? {}, { field: "document", action });
      const details = await write(request, { action, documentId, source, etag }, context);
      return { documentId, created: details.result === "created", version: details.version, etag: etagOf(details) };
    },

    async getDocument({ index, documentId }, { signal }) {
      // The id goes in the body, so that none becomes a part of a path.
      const body = JSON.stringify({ docs: [{ _id: documentId }] });
      const { address } = await catalog.findLive(index, signal);
      const path = `${pathOf(address)}/_mget`;
      const answer = await rawRequest(search.client, { method: "POST", path, body, name: "mget" }, { signal });
      const [found] = (property(parseExact(answer.toString()), "docs") ?? []) as unknown[]; // what is asked for is a list
      const source = property(found, "_source");
      // A tombstone only keeps what comes late from bringing a document back.
      const isGone = isKept(index) && property(source, removedField) === true;
      if (property(found, "found") !== true || isGone) throw documentNotFound(index, documentId);
      const place = {
        sequenceNumber: integerOf(property(found, "_seq_no")),
        primaryTerm: integerOf(property(found, "_primary_term")),
      };
      const version = integerOf(property(found, "_version"));
      const document = structOf(source as ExactObject); // documents are objects
      return { document: { index, documentId, document, version, etag: etagOf(place) } };
    },

    async updateDocument(request, context) {
      const { documentId, etag } = request;
      const action = BulkAction.UPDATE;
      const source = encoded(request.fields ?? {}, { field: "fields", action });
      const details = await write(request, { action, documentId, source, etag }, context);
      return { version: details.version, etag: etagOf(details) };
    },

    async deleteDocument(request, context) {
      const { documentId, etag } = request;
      await write(request, { action: BulkAction.DELETE, documentId, etag }, context);
      return {};
    },

    async bulkIndex(requests, context) {
      const { signal } = context;
      const messages = requests[Symbol.asyncIterator]();
      const first = await messages.next();
      const index = first.done === true ? "" : first.value.index;
      if (first.done === true || index === "") throw wrongIndex("must be set in the first message");
      requireOperators(index);
      requireAliased(await catalog.findLive(index, signal));
      const ended = await carryOut(context, indexResource(index), () =>
        bulkIndex(sameIndex(index, first.value, messages), (writes) =>
          writeDocuments(index, writes, { search, catalog, signal }),
        ),
      );
      if (ended.failure !== undefined) throw ended.failure.cause;
      return ended.response;
    },
  };
}

/** Longest name that records of the audit log are found by. */
const mostNameCharacters = 256;

/** The messages of a stream, the first one again. Fails with `BAD_REQUEST` where one names another index. */
async function* sameIndex(
  index: string,
  first: BulkIndexRequest,
  rest: AsyncIterator<BulkIndexRequest>,
): AsyncGenerator<BulkIndexRequest> {
  yield first;
  for (let next = await rest.next(); next.done !== true; next = await rest.next()) {
    if (!["", index].includes(next.value.index)) throw wrongIndex("must be the same in all messages");
    yield next.value;
  }
}

function wrongIndex(description: string): Error {
  return badRequest({ field: "index", description });
}
