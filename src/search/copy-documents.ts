import type { MessageInitShape } from "@bufbuild/protobuf";

import type { RefusedDocumentSchema } from "../../gen/lucid/search/v1/search_index_service_pb.ts";
import { fail } from "../errors.ts";
import type { SearchStore } from "../stores/search.ts";
import { bulk, bulkBatches, type BulkItem } from "../stores/search/bulk.ts";
import { type Hit, PointInTime, type ReadingFailures } from "../stores/search/point-in-time.ts";
import { requestMs } from "../stores/search/requests.ts";
import { readSlice } from "../stores/search/slice-reader.ts";

/** How far a copy is. */
export interface CopyProgress {
  /** As it was counted at first. */
  readonly documents: number;
  written: number;
  /** Documents of which the target had that version or a newer one. */
  present: number;
  refused: number;
  /** The first of those that the server refused. */
  readonly examples: MessageInitShape<typeof RefusedDocumentSchema>[];
}

const mostExamples = 100;
/** Documents of one page. */
const mostHits = 2000;

const failures: ReadingFailures = {
  lost: (index, cause) =>
    fail("SEARCH_INDEX_CHANGED", `The index ${index} was deleted while it was read, or the server gave it up`, {
      metadata: { index },
      cause,
    }),
  unreadable: (index) =>
    fail("SEARCH_INDEX_UNREADABLE", `The index ${index} does not keep the source of all its documents`, {
      metadata: { index },
    }),
};

/**
 * Copies what an index holds now into another, one page in memory, each document with its version: where the other has that or a
 * newer one, it stays. So a copy may be begun again at any time, beside others that write.
 */
export async function* copyDocuments(
  search: SearchStore,
  { source, target }: { readonly source: string; readonly target: string },
  signal: AbortSignal,
): AsyncGenerator<Readonly<CopyProgress>> {
  const { client } = search;
  await client.indices.refresh({ index: source }, { signal, requestTimeout: requestMs });
  const { count } = await client.count({ index: source }, { signal, requestTimeout: requestMs });
  const progress: CopyProgress = { documents: count, written: 0, present: 0, refused: 0, examples: [] };
  yield progress;
  await using pointInTime = await PointInTime.open(search, source, { signal, failures });
  for await (const hits of readSlice(pointInTime, { slice: { id: 0, max: 1 }, mostHits })) {
    for (const batch of bulkBatches(hits)) {
      const results = await bulk(client, target, batch.map(itemOf), { signal, requireAlias: true });
      for (const [at, { status, type }] of results.entries()) {
        if (status === 404) throw failures.lost(target, undefined);
        note(progress, { id: batch[at]?.id ?? "", status, type });
      }
    }
    yield progress;
  }
  signal.throwIfAborted();
}

function note(
  progress: CopyProgress,
  { id, status, type }: { readonly id: string; readonly status: number; readonly type: string },
): void {
  if (status >= 200 && status < 300) progress.written++;
  else if (status === 409) progress.present++;
  else {
    progress.refused++;
    if (progress.examples.length < mostExamples) progress.examples.push({ documentId: id, errorType: type });
  }
}

function itemOf({ id, routing, version, source }: Hit): BulkItem {
  const fields = [`"_id":${JSON.stringify(id)}`, `"version":${version},"version_type":"external"`];
  if (routing !== "") fields.push(`"routing":${JSON.stringify(routing)}`);
  return { action: `{"index":{${fields.join(",")}}}`, source: onOneLine(source) };
}

/** Text of JSON holds no line breaks but between values. */
function onOneLine(source: Uint8Array): Uint8Array {
  const hasBreaks = source.includes(0x0a) || source.includes(0x0d);
  return hasBreaks ? source.map((byte) => (byte === 0x0a || byte === 0x0d ? 0x20 : byte)) : source;
}
