import { create, type DescMessage, type MessageInitShape } from "@bufbuild/protobuf";
import type { Client } from "@connectrpc/connect";

import { AuditRecordSchema } from "../../gen/lucid/repository/v1/audit_record_pb.ts";
import { SearchService } from "../../gen/lucid/search/v1/search_service_pb.ts";
import { codecFor } from "../../src/schema/codec.ts";
import { collectionOf } from "../../src/schema/collection.ts";
import { searchCopier } from "../../src/schema/search-copy.ts";
import { searchIndices, type SearchIndices } from "../../src/search/indices.ts";
import { searchedMessages } from "../../src/search/messages.ts";
import type { SearchStore } from "../../src/stores/search.ts";
import { type TestApp, testApp } from "../support/app.ts";
import { searchPart } from "./support.ts";

/** The service with indices of its own. */
export interface SearchApp extends AsyncDisposable {
  readonly app: TestApp;
  readonly client: Client<typeof SearchService>;
  readonly overHttp: Client<typeof SearchService>;
  /** A client of the server, beside the service's own. */
  readonly store: SearchStore;
  readonly indices: SearchIndices;
  /** Stores messages in MongoDB, as their services do. */
  put<D extends DescMessage>(schema: D, ...messages: readonly MessageInitShape<D>[]): Promise<void>;
  /** Copies what is stored of these messages into their indices, so that it is found at once. */
  copy(...schemas: readonly DescMessage[]): Promise<void>;
  /** Makes an index as an operator does, with documents by their ids. */
  operatorIndex(
    name: string,
    mappings: object,
    documents: Readonly<Record<string, object>>,
    shards?: number,
  ): Promise<void>;
  /** Another process of the service, with the same stores. */
  another(): Promise<TestApp>;
}

export async function searchApp(uri: string, environment: Readonly<Record<string, string>> = {}): Promise<SearchApp> {
  await using parts = new AsyncDisposableStack();
  const { search: store, prefix } = parts.use(searchPart(uri));
  const { client } = store;
  const settings = { LUCID_SEARCH_URI: uri, LUCID_SEARCH_PREFIX: prefix, ...environment };
  const app = parts.use(await testApp(settings));
  const { database, systemDatabase } = app.config.mongodb;
  const indices = searchIndices({ search: store, prefix });
  const signal = AbortSignal.timeout(150_000);
  await Promise.all([...searchedMessages.keys()].map((name) => indices.ensure(name, signal)));
  const collectionFor = (schema: DescMessage) =>
    app.mongodb.db(schema === AuditRecordSchema ? systemDatabase : database).collection(collectionOf(schema).name);
  const running = parts.move();
  return {
    app,
    client: app.client(SearchService),
    overHttp: app.http(SearchService),
    store,
    indices,
    async put(schema, ...messages) {
      const codec = codecFor(schema);
      const documents = messages.map((message) => codec.encode(create(schema, message)));
      // Tests leave out what they do not look at, and the collection may have its validator already.
      await collectionFor(schema).insertMany(documents, { bypassDocumentValidation: true });
    },
    async copy(...schemas) {
      for (const message of searchedMessages.values()) {
        if (!schemas.includes(message.schema)) continue;
        const copier = searchCopier(message);
        const operations: (string | object)[] = [];
        for await (const document of collectionFor(message.schema).find<Uint8Array>({}, { raw: true })) {
          const { id, revision, json } = copier.fromBson(document);
          operations.push({ index: { _id: id, version: Number(revision), version_type: "external" } }, json);
        }
        // What has been copied already is refused for its version.
        const index = indices.alias(message.name);
        await client.bulk({ index, operations: operations as object[] });
        await client.indices.refresh({ index });
      }
    },
    async operatorIndex(name, mappings, documents, shards = 1) {
      const index = indices.versioned(name, 1);
      const sharded = { number_of_shards: shards };
      await client.indices.create({ index, mappings, settings: sharded, aliases: { [indices.alias(name)]: {} } });
      const operations = Object.entries(documents).flatMap(([id, document]) => [{ index: { _id: id } }, document]);
      if (operations.length > 0) await client.bulk({ index, operations, refresh: true });
    },
    another: () =>
      testApp({ ...settings, LUCID_MONGODB_DATABASE: database, LUCID_MONGODB_SYSTEM_DATABASE: systemDatabase }),
    [Symbol.asyncDispose]: () => running.disposeAsync(),
  };
}
