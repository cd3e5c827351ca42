import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { createClient } from "@connectrpc/connect";
import * as grpc from "@grpc/grpc-js";
import { serialize } from "bson";
import { MongoClient } from "mongodb";

import { SessionSchema } from "../gen/lucid/repository/v1/session_pb.ts";
import { SessionService } from "../gen/lucid/repository/v1/session_service_pb.ts";
import { QuerySchema } from "../gen/lucid/search/v1/search_query_pb.ts";
import { SearchSessionsRequestSchema, SearchService } from "../gen/lucid/search/v1/search_service_pb.ts";
import { runCommand } from "../local/project.ts";
import { collections } from "../local/seed/documents.ts";
import { namedStores, startStores, storeEnvironment } from "../local/stores.ts";
import { searchCopier } from "../src/schema/search-copy.ts";
import { searchedMessage } from "../src/schema/search-mapping.ts";
import { fieldsOfMessage } from "../src/search/index-fields.ts";
import { searchIndices } from "../src/search/indices.ts";
import { compileQuery } from "../src/search/query.ts";
import { openSearch } from "../src/stores/search.ts";
import { callBytes } from "./support/load.ts";
import { startService } from "./support/service-process.ts";
import { median, printTable } from "./support/table.ts";
import { throwawayDatabases, throwawayIndices } from "./support/throwaway.ts";

const database = "bench_search";
const systemDatabase = "bench_search_system";
const prefix = "bench-search-";
const seeded = 50_000;
const [warmUps, calls] = [200, 300];

/** The client alone, the client and the driver, and the service without and with documents. */
const kinds = ["client", "both", "ids", "documents"] as const;
type Kind = (typeof kinds)[number];

/** What is looked for: words, a filter with words, a filter alone in the order of time. */
const queries: Readonly<Record<string, MessageInitShape<typeof QuerySchema>>> = {
  "a word": { text: "review" },
  "words and a filter": { text: "review | session*", filters: [completed()] },
  "a filter, newest first": { filters: [completed()] },
};

/**
 * SearchSessions against the same query by the client of the search server alone, which gets the index's own copies, and against
 * that client and the driver, which do by hand what the service does: the index tells ids, MongoDB gives documents. In turns,
 * pages of 25.
 */
await runCommand(async () => {
  await using stores = await startStores({ named: namedStores(process.env) });
  await using mongodb = await MongoClient.connect(stores.mongodbUri);
  await using search = openSearch({ uri: stores.searchUri });
  const { client } = search;
  const message = searchedMessage(SessionSchema);
  if (message === undefined) throw new Error("Sessions are not searched");
  const indices = searchIndices({ search, prefix });
  const index = indices.alias(message.name);
  await using stack = new AsyncDisposableStack();
  stack.use(await throwawayDatabases(mongodb, [database, systemDatabase]));
  stack.use(await throwawayIndices(search, prefix));
  await using service = await startService({
    ...storeEnvironment(stores),
    LUCID_MONGODB_DATABASE: database,
    LUCID_MONGODB_SYSTEM_DATABASE: systemDatabase,
    LUCID_SEARCH_PREFIX: prefix,
    LUCID_SEARCH_SYNC: "off",
  });
  const channel = new grpc.Client(service.address, grpc.credentials.createInsecure());
  const path = `/${SearchService.typeName}/${SearchService.method.searchSessions.name}`;
  const searchSessions = (init: MessageInitShape<typeof SearchSessionsRequestSchema>) => {
    const request = Buffer.from(toBinary(SearchSessionsRequestSchema, create(SearchSessionsRequestSchema, init)));
    return () => callBytes({ client: channel, path, request });
  };

  await indices.ensure(message.name, AbortSignal.timeout(60_000));
  const stored = mongodb.db(database).collection("sessions");
  // A write waits for the unique indexes of its collection, which the service makes while it serves.
  await createClient(SessionService, service.transport).createSession({ session: { userId: "bench" } });
  const made = collections(1, seeded).find(({ name }) => name === "sessions");
  const documents = Array.from({ length: made?.count ?? 0 }, (_, place) => made?.document(place) ?? {});
  await stored.insertMany(documents);
  const copier = searchCopier(message);
  for (let at = 0; at < documents.length; at += 1000) {
    const operations = documents.slice(at, at + 1000).flatMap((document) => {
      const { id, json, revision } = copier.fromBson(serialize(document));
      return [{ index: { _id: id, version: Number(revision), version_type: "external" } }, json as unknown as object];
    });
    await client.bulk({ index, operations });
  }
  await client.indices.refresh({ index });
  await client.indices.forcemerge({ index, max_num_segments: 1 });

  const fields = fieldsOfMessage(message);
  const searched = { together: fields, each: [fields], hasDomain: true };
  const rows = [["", ...kinds.map((kind) => `${kind} ms`), "ids / client", "documents / client", "documents / both"]];
  for (const [name, init] of Object.entries(queries)) {
    const query = create(QuerySchema, init);
    const { clause } = compileQuery(query, searched);
    const byTime = { created_at: { order: "desc", missing: "_last" } } as const;
    const order = [query.text === "" ? byTime : "_score", { session_id: "asc" }] as const;
    const body = { index, query: clause, sort: [...order], size: 26, track_total_hits: 10_000 };
    const run = {
      client: () => client.search(body),
      both: async () => {
        const { hits } = await client.search({ ...body, _source: false });
        const ids = hits.hits.slice(0, 25).map(({ _id }) => _id);
        return stored.find({ session_id: { $in: ids }, deleted_at: null }).toArray();
      },
      ids: searchSessions({ query, idsOnly: true }),
      documents: searchSessions({ query }),
    };
    const { hits } = (await run.client()).hits;
    if (hits.length < body.size) throw new Error(`There are too few sessions with ${name}`);
    const took: Record<Kind, number[]> = { client: [], both: [], ids: [], documents: [] };
    // One after the other in turns, so that whatever else the machine does meets all alike. The first ones warm everything up.
    for (let call = -warmUps; call < calls; call += 1) {
      for (const kind of kinds) {
        const began = performance.now();
        await run[kind]();
        if (call >= 0) took[kind].push(performance.now() - began);
      }
    }
    const ratio = (kind: Kind, to: Kind) => (median(took[kind]) / median(took[to])).toFixed(2);
    const shown = kinds.map((kind) => median(took[kind]).toFixed(2));
    rows.push([name, ...shown, ratio("ids", "client"), ratio("documents", "client"), ratio("documents", "both")]);
  }
  printTable(`Searches among ${documents.length} sessions, median of ${calls} calls`, rows);

  channel.close();
});

function completed() {
  return {
    field: "status",
    condition: { case: "term", value: { value: { case: "text", value: "COMPLETED" } } },
  } as const;
}
