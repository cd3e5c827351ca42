import { ConnectError } from "@connectrpc/connect";
import { errors as searchErrors } from "@elastic/elasticsearch";
import { MongoClient, MongoServerError } from "mongodb";
import { expect, test } from "vitest";

import { reasonOf } from "../../src/errors.ts";
import { translateStoreError } from "../../src/stores/errors.ts";
import { openRedis } from "../../src/stores/redis.ts";
import { openSearch } from "../../src/stores/search.ts";
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

test.for([
  [50, "DEADLINE_EXCEEDED"],
  [112, "STORE_CONFLICT"],
  [189, "STORE_UNAVAILABLE"],
  [13, "STORE_REFUSED"],
] as const)("MongoDB's code %i is %s", ([code, reason]) => {
  const error = new MongoServerError({ message: "canary at host", code });
  const translated = translateStoreError(error);
  expect(reasonOf(translated)?.reason).toBe(reason);
  expect(ConnectError.from(translated).rawMessage).not.toContain("canary");
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
  const product = await search.product(AbortSignal.timeout(10_000));
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
