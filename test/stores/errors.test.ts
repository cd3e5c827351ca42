import { ConnectError } from "@connectrpc/connect";
import { errors as searchErrors } from "@elastic/elasticsearch";
import { MongoClient, MongoNetworkError, MongoServerError } from "mongodb";
import { expect, test } from "vitest";

import { RetryInfoSchema } from "../../gen/google/rpc/error_details_pb.ts";
import { startRedis } from "../../local/redis.ts";
import { reasonOf } from "../../src/errors.ts";
import { translateStoreError } from "../../src/stores/errors.ts";
import { openMongodb } from "../../src/stores/mongodb.ts";
import { openRedis } from "../../src/stores/redis.ts";
import { openSearch } from "../../src/stores/search.ts";
import { patient } from "../support/app.ts";
import { storeAddresses, uniqueName } from "../support/stores.ts";

const nobody = { mongodb: "mongodb://127.0.0.1:1/", redis: "redis://127.0.0.1:1", search: "http://127.0.0.1:1" };

/** What an operation on a store throws, translated. */
async function failure(operation: Promise<unknown>): Promise<unknown> {
  const [outcome] = await Promise.allSettled([operation]);
  if (outcome.status === "fulfilled") throw new Error("did not fail");
  return translateStoreError(outcome.reason);
}

test("a store that nobody serves is away, each named, no host told", async () => {
  const mongodb = new MongoClient(nobody.mongodb, { serverSelectionTimeoutMS: 500 });
  await using redis = openRedis({ uri: nobody.redis, mode: "single" });
  await using search = openSearch({ uri: nobody.search });
  const failures = {
    mongodb: await failure(mongodb.db("any").command({ ping: 1 })),
    redis: await failure(redis.client.ping()),
    search: await failure(search.client.cat.health()),
  };
  for (const [store, error] of Object.entries(failures)) {
    expect(reasonOf(error)).toMatchObject({ reason: "STORE_UNAVAILABLE", metadata: { store } });
    expect(ConnectError.from(error).rawMessage).not.toMatch(/127|:1\b/);
    expect(ConnectError.from(error).findDetails(RetryInfoSchema)).toHaveLength(1);
  }
});

test("what MongoDB refuses is told by its kind, without the document", async () => {
  const client = await MongoClient.connect(storeAddresses().mongodbUri);
  const db = client.db(uniqueName("errors"));
  try {
    const strict = await db.createCollection("strict", { validator: { n: { $type: "int" } } });
    expect(reasonOf(await failure(strict.insertOne({ secret: "canary" })))?.reason).toBe("DOCUMENT_INVALID");
    const refused = await failure(db.command({ noSuchCommandAnywhere: 1 }));
    expect(reasonOf(refused)).toMatchObject({ reason: "STORE_REFUSED", metadata: { server_code: "59" } });
  } finally {
    await db.dropDatabase();
    await client.close();
  }
});

test("two transactions that meet are a conflict, which may be tried again", async (context) => {
  await using store = openMongodb({
    uri: patient(storeAddresses().mongodbUri),
    database: uniqueName("errors"),
    systemDatabase: "x",
  });
  const { transactions } = await store.features(AbortSignal.timeout(150_000));
  context.skip(!transactions, "The server has no transactions");
  const counters = store.domain.collection<{ _id: number; n: number }>("counters");
  await using first = store.client.startSession();
  await using second = store.client.startSession();
  try {
    await counters.insertOne({ _id: 1, n: 0 });
    first.startTransaction();
    second.startTransaction();
    await counters.updateOne({ _id: 1 }, { $inc: { n: 1 } }, { session: first });
    const error = await failure(counters.updateOne({ _id: 1 }, { $inc: { n: 1 } }, { session: second }));
    expect(reasonOf(error)).toMatchObject({ reason: "STORE_CONFLICT", metadata: { store: "mongodb" } });
    expect(ConnectError.from(error).findDetails(RetryInfoSchema)).toHaveLength(1);
  } finally {
    await first.abortTransaction();
    await second.abortTransaction();
    await store.domain.dropDatabase();
  }
});

test("what Redis refuses is told by its kind, without the key", async () => {
  await using server = await startRedis();
  await using redis = openRedis({ uri: server.uri, mode: "single" });
  const reason = async (operation: Promise<unknown>) => reasonOf(await failure(operation));
  expect(await reason(redis.client.call("NOSUCHCOMMAND", "canary"))).toMatchObject({ reason: "STORE_REFUSED" });
  await redis.client.config("SET", "maxmemory", "1");
  expect(await reason(redis.client.set("canary", "1"))).toEqual({
    reason: "STORE_REFUSED",
    metadata: { store: "redis", server_code: "OOM" },
  });
  await redis.client.replicaof("127.0.0.1", 1);
  expect(await reason(redis.client.set("canary", "1"))).toMatchObject({ reason: "STORE_UNAVAILABLE" });
  // A mistake of ours is a bug, and stays what it is.
  const wrong = await failure(redis.client.call("GET"));
  expect(wrong).toMatchObject({ name: "ReplyError" });
});

const labelled = new MongoServerError({
  message: "canary at host",
  code: 2,
  errorLabels: ["TransientTransactionError"],
});
function refusedBySearch(type: string, statusCode: number): Error {
  const told = { type, reason: "canary" };
  const body = { error: { root_cause: [told], ...told }, status: statusCode };
  return new searchErrors.ResponseError({ statusCode, body, headers: {}, warnings: null, meta: {} as never });
}

const overloaded = new MongoServerError({ message: "canary at host", code: 2, errorLabels: ["SystemOverloadedError"] });

test.for<[string, unknown, string]>([
  ...(
    [
      [13, "STORE_REFUSED"],
      [18, "STORE_REFUSED"],
      [26, "STORE_REFUSED"],
      [50, "DEADLINE_EXCEEDED"],
      [64, "DEADLINE_EXCEEDED"],
      [67, "STORE_REFUSED"],
      [91, "STORE_UNAVAILABLE"],
      [112, "STORE_CONFLICT"],
      [121, "DOCUMENT_INVALID"],
      [189, "STORE_UNAVAILABLE"],
      [237, "CANCELLED"],
      [251, "STORE_CONFLICT"],
      [262, "DEADLINE_EXCEEDED"],
      [10_107, "STORE_UNAVAILABLE"],
      [10_334, "DOCUMENT_INVALID"],
      [11_601, "CANCELLED"],
      [40_573, "STORE_REFUSED"],
    ] as const
  ).map(([code, reason]): [string, unknown, string] => [
    `MongoDB's code ${code}`,
    new MongoServerError({ message: "canary at host", code }),
    reason,
  ]),
  ["MongoDB's label of a transaction", labelled, "STORE_CONFLICT"],
  ["MongoDB's label of overload", overloaded, "STORE_UNAVAILABLE"],
  ["MongoDB's network", new MongoNetworkError("canary at host"), "STORE_UNAVAILABLE"],
  [
    "a connection that breaks under a command",
    Object.assign(new Error("canary"), { code: "EPIPE" }),
    "STORE_UNAVAILABLE",
  ],
  ["Redis' time limit", new Error("Command timed out"), "DEADLINE_EXCEEDED"],
  ["the search client's time limit", new searchErrors.TimeoutError("canary"), "DEADLINE_EXCEEDED"],
  ["the search client's connection", new searchErrors.ConnectionError("canary at host"), "STORE_UNAVAILABLE"],
  ["a full queue of the search server", refusedBySearch("es_rejected_execution_exception", 429), "STORE_BUSY"],
  ["a circuit breaker of the search server", refusedBySearch("circuit_breaking_exception", 429), "STORE_BUSY"],
  ["a search server without shards", refusedBySearch("no_shard_available_action_exception", 503), "STORE_UNAVAILABLE"],
  ["an aborted search", new searchErrors.RequestAbortedError("canary"), "CANCELLED"],
  ["a signal that timed out", new DOMException("canary", "TimeoutError"), "DEADLINE_EXCEEDED"],
  ["a signal that was aborted", new DOMException("canary", "AbortError"), "CANCELLED"],
])("%s is told as such", ([, error, reason]) => {
  const translated = translateStoreError(error);
  expect(reasonOf(translated)?.reason).toBe(reason);
  // The original is kept for the log and not sent.
  expect(ConnectError.from(translated).cause).toBe(error);
  expect(JSON.stringify([ConnectError.from(translated).rawMessage, reasonOf(translated)])).not.toContain("canary");
});

test("what no store failed with is left as it is", () => {
  for (const bug of [new TypeError("x is not a function"), new MongoServerError({ message: "odd", code: 2 }), "text"]) {
    expect(translateStoreError(bug)).toBe(bug);
  }
  expect(translateStoreError(new searchErrors.ConfigurationError("bad"))).toBeInstanceOf(
    searchErrors.ConfigurationError,
  );
});

test("one client serves the search server, whatever its family", async () => {
  await using search = openSearch({ uri: storeAddresses().searchUri });
  const product = await search.product(AbortSignal.timeout(150_000));
  expect(["elasticsearch", "opensearch"]).toContain(product.name);
  expect(product.version).toMatch(/^\d+\.\d+/);
  const index = uniqueName("errors");
  await search.client.index({ index, id: "1", document: { n: 1 }, refresh: true });
  try {
    expect((await search.client.search({ index })).hits.hits).toMatchObject([{ _id: "1", _source: { n: 1 } }]);
  } finally {
    await search.client.indices.delete({ index });
  }
});
