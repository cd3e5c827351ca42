import type { JsonObject } from "@bufbuild/protobuf";
import type { Client } from "@connectrpc/connect";

import { IndexFieldType } from "../../gen/lucid/search/v1/search_index_pb.ts";
import { SearchIndexService, type WatchIndexJobResponse } from "../../gen/lucid/search/v1/search_index_service_pb.ts";
import { type TestApp, testApp } from "../support/app.ts";
import { type SearchPart, searchPart } from "./support.ts";

/** The service with a prefix of its own on a search server. */
export interface IndexApp extends AsyncDisposable {
  readonly app: TestApp;
  /** Clients of both listeners. */
  readonly indices: Client<typeof SearchIndexService>;
  readonly overHttp: Client<typeof SearchIndexService>;
  /** The server, for what the service does not do. */
  readonly part: SearchPart;
}

export async function indexApp(uri: string, environment: Readonly<Record<string, string>> = {}): Promise<IndexApp> {
  const part = searchPart(uri);
  const app = await testApp({ LUCID_SEARCH_URI: uri, LUCID_SEARCH_PREFIX: part.prefix, ...environment });
  return {
    app,
    indices: app.client(SearchIndexService),
    overHttp: app.http(SearchIndexService),
    part,
    async [Symbol.asyncDispose]() {
      await app[Symbol.asyncDispose]();
      await part[Symbol.asyncDispose]();
    },
  };
}

let made = 0;

/** A name that no other test has. */
export function indexName(): string {
  return `things-${++made}`;
}

/** An index of an operator. */
export async function newIndex({ indices }: Pick<IndexApp, "indices">, index = indexName()): Promise<string> {
  const fields = {
    name: { type: IndexFieldType.TEXT, forms: { exact: { type: IndexFieldType.KEYWORD } } },
    count: { type: IndexFieldType.LONG },
  };
  await indices.createIndex({ index, mapping: { fields } });
  return index;
}

/** Documents in messages, as BulkIndex takes them. */
export async function* messagesOf(
  index: string,
  documents: Iterable<readonly [id: string, document: JsonObject]>,
  perMessage = 500,
): AsyncGenerator<{ index: string; operations: { documentId: string; document: JsonObject }[] }> {
  let operations: { documentId: string; document: JsonObject }[] = [];
  for (const [documentId, document] of documents) {
    operations.push({ documentId, document });
    if (operations.length < perMessage) continue;
    yield { index, operations };
    operations = [];
  }
  yield { index, operations };
}

export async function* once<T>(message: T): AsyncGenerator<T> {
  yield message;
}

/** Waits for the end of a job. */
export async function endOf(
  { indices }: Pick<IndexApp, "indices">,
  jobId: string,
): Promise<WatchIndexJobResponse | undefined> {
  let last: WatchIndexJobResponse | undefined;
  for await (const event of indices.watchIndexJob({ jobId })) last = event;
  return last;
}
