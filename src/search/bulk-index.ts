import { randomUUIDv7 } from "node:crypto";

import { create } from "@bufbuild/protobuf";

import {
  BulkAction,
  type BulkIndexRequest,
  type BulkIndexResponse,
  BulkIndexResponseSchema,
  type BulkOperation,
  BulkOutcome,
  BulkResultSchema,
} from "../../gen/lucid/search/v1/search_index_service_pb.ts";
import { rpcStatusOf } from "../errors.ts";
import { badRequest } from "../schema/refusals.ts";
import { type DocumentWrite, encoded, type Written } from "./document-writes.ts";

/** What one request to the server holds at most, but for a last message of the stream. */
const most = { operations: 1000, bytes: 4 * 1024 * 1024 };
/** Results that are told one by one. */
const mostResults = 1000;

/** What became of a stream: what was done, and why it did not go on. */
export interface EndedBulk {
  readonly response: BulkIndexResponse;
  readonly failure?: { readonly cause: unknown } | undefined;
}

/**
 * Does what the messages of a stream say. While the server works on one batch, another is collected, and then no more is taken from
 * the stream: a slow server slows the caller down, and memory holds two batches. What was sent is ended before this resolves, also
 * where the stream breaks off. Rejects only where nothing was sent.
 */
export async function bulkIndex(
  messages: AsyncIterable<BulkIndexRequest>,
  write: (writes: readonly DocumentWrite[]) => Promise<Written[]>,
): Promise<EndedBulk> {
  const response = create(BulkIndexResponseSchema);
  let all = false;
  let batch: DocumentWrite[] = [];
  let bytes = 0;
  let sent = 0n;
  const work: { running?: Promise<void>; failure?: { readonly cause: unknown } } = {};

  /** Sends the batch once the one before it is done. */
  const send = async (): Promise<void> => {
    await work.running;
    if (work.failure !== undefined) throw work.failure.cause;
    const [writes, from] = [batch, sent];
    [batch, bytes, sent] = [[], 0, sent + BigInt(batch.length)];
    work.running = write(writes)
      .then((outcomes) => tell(response, { writes, outcomes, from, all }))
      .catch((cause: unknown) => {
        work.failure = { cause };
      });
  };

  try {
    let place = 0;
    for await (const message of messages) {
      if (place === 0) all = message.allResults;
      for (const [at, operation] of message.operations.entries()) {
        const next = writeOf(operation, `operations[${at}]`);
        batch.push(next);
        bytes += next.source?.byteLength ?? 0;
      }
      place++;
      response.receivedCount += BigInt(message.operations.length);
      if (batch.length >= most.operations || bytes >= most.bytes) await send();
    }
    if (batch.length > 0) await send();
    await work.running;
    if (work.failure !== undefined) throw work.failure.cause;
    return { response };
  } catch (cause) {
    await work.running;
    if (sent === 0n) throw cause;
    return { response, failure: { cause } };
  }
}

function writeOf({ action: asked, documentId, document }: BulkOperation, field: string): DocumentWrite {
  const action = asked === BulkAction.UNSPECIFIED ? BulkAction.INDEX : asked;
  const makesOne = action === BulkAction.INDEX || action === BulkAction.CREATE;
  if (documentId === "" && !makesOne) throw badRequest({ field: `${field}.document_id`, description: "must be set" });
  const id = documentId === "" ? randomUUIDv7() : documentId;
  if (action === BulkAction.DELETE) return { action, documentId: id };
  if (document === undefined) throw badRequest({ field: `${field}.document`, description: "must be set" });
  return { action, documentId: id, source: encoded(document, { field: `${field}.document`, action }) };
}

const outcomeNames: ReadonlyMap<string, BulkOutcome> = new Map([
  ["created", BulkOutcome.CREATED],
  ["updated", BulkOutcome.UPDATED],
  ["deleted", BulkOutcome.DELETED],
  ["noop", BulkOutcome.UNCHANGED],
]);

function tell(
  response: BulkIndexResponse,
  batch: {
    readonly writes: readonly DocumentWrite[];
    readonly outcomes: readonly Written[];
    readonly from: bigint;
    readonly all: boolean;
  },
): void {
  for (const [at, written] of batch.outcomes.entries()) {
    const outcome =
      written.kind === "failed"
        ? BulkOutcome.FAILED
        : (outcomeNames.get(written.details.result) ?? BulkOutcome.UPDATED);
    count(response, outcome);
    if (response.results.length >= mostResults || (!batch.all && written.kind !== "failed")) continue;
    const about = { position: batch.from + BigInt(at), documentId: batch.writes[at]?.documentId ?? "", outcome };
    const more =
      written.kind === "failed" ? { status: rpcStatusOf(written.error) } : { version: written.details.version };
    response.results.push(create(BulkResultSchema, { ...about, ...more }));
  }
}

function count(response: BulkIndexResponse, outcome: BulkOutcome): void {
  switch (outcome) {
    case BulkOutcome.CREATED:
      response.createdCount += 1n;
      return;
    case BulkOutcome.UPDATED:
      response.updatedCount += 1n;
      return;
    case BulkOutcome.DELETED:
      response.deletedCount += 1n;
      return;
    case BulkOutcome.UNCHANGED:
      response.unchangedCount += 1n;
      return;
    default:
      response.failedCount += 1n;
  }
}
