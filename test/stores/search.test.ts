import { once } from "node:events";
import { createServer, type RequestListener } from "node:http";
import { setTimeout as pause } from "node:timers/promises";

import { expect, test } from "vitest";

import { reasonOf } from "../../src/errors.ts";
import { translateStoreError } from "../../src/stores/errors.ts";
import { latencyRecorder } from "../../src/stores/latency.ts";
import { openSearch } from "../../src/stores/search.ts";
import { onEveryServer } from "../support/search-servers.ts";
import { uniqueName } from "../support/stores.ts";

async function failureOf(operation: Promise<unknown>): Promise<unknown> {
  const [outcome] = await Promise.allSettled([operation]);
  if (outcome.status === "fulfilled") throw new Error("did not fail");
  return outcome.reason;
}

onEveryServer(behaves);

/** What must be true of both families. */
function behaves(uri: string): void {
  const signal = AbortSignal.timeout(150_000);

  test("a point in time holds what there was, and is paged through without gaps or repetitions", async () => {
    await using store = openSearch({ uri });
    const dialect = await store.dialect(signal);
    expect(dialect.product).toEqual(await store.product(signal));
    expect(dialect.freeForm).toBe(dialect.product.name === "opensearch" ? "flat_object" : "flattened");
    const index = uniqueName("store");
    const mappings = { properties: { same: { type: "long" }, free: { type: dialect.freeForm } } } as const;
    await store.client.indices.create({ index, mappings: mappings as object, settings: { number_of_shards: 2 } });
    try {
      const write = (from: number, to: number) =>
        store.client.bulk({
          refresh: true,
          operations: Array.from({ length: to - from }, (_, n) => [
            { index: { _index: index, _id: String(from + n) } },
            { same: 1, free: { any: { depth: n } } },
          ]).flat(),
        });
      expect((await write(0, 50)).errors).toBe(false);
      const id = await dialect.openPointInTime([index], "1m", { signal });
      await write(50, 80);
      const ids: (string | undefined)[] = [];
      for (let after: object | undefined; ;) {
        const { hits } = await store.client.search({
          size: 7,
          pit: { id, keep_alive: "1m" },
          sort: [{ same: "asc" }, dialect.tieBreak],
          ...(after !== undefined && { search_after: after as never }),
        });
        ids.push(...hits.hits.map(({ _id }) => _id));
        after = hits.hits.at(-1)?.sort;
        if (after === undefined) break;
      }
      expect(ids.map(Number).toSorted((a, b) => a - b)).toEqual(Array.from({ length: 50 }, (_, n) => n));
      await dialect.closePointInTime(id, { signal });
      await dialect.closePointInTime(id, { signal });
      const closed = await failureOf(store.client.search({ pit: { id } }));
      expect(closed).toMatchObject({ statusCode: 404 });
    } finally {
      await store.client.indices.delete({ index });
    }
  });

  test("a request that takes too long ends itself and nothing else of its caller", async () => {
    const latency = latencyRecorder();
    await using store = openSearch({ uri }, { latency });
    await store.product(signal);
    const caller = new AbortController();
    let heard = 0;
    caller.signal.addEventListener("abort", () => heard++);
    // The server waits for a second node, which never comes.
    const wait = { wait_for_nodes: ">=2", timeout: "10s" };
    const late = await failureOf(store.client.cluster.health(wait, { signal: caller.signal, requestTimeout: 100 }));
    expect(reasonOf(translateStoreError(late))).toMatchObject({
      reason: "DEADLINE_EXCEEDED",
      metadata: { store: "search" },
    });
    expect(heard).toBe(0);
    // The client is as good as before.
    await store.client.cluster.health({}, { signal: caller.signal });
    const { search } = latency.report(10_000).scopes;
    expect(search.find(({ operation }) => operation === "cluster.health")).toMatchObject({ count: 2, failures: 1 });
  });

  test("a request that is aborted fails with the reason of its signal", async () => {
    await using store = openSearch({ uri });
    await store.product(signal);
    const caller = new AbortController();
    const reason = new Error("the caller has left");
    const search = failureOf(store.client.search({ size: 0 }, { signal: caller.signal }));
    // Once the request is on its way.
    setImmediate(() => caller.abort(reason));
    expect(await search).toBe(reason);
  });

  test("what a caller can act on is told, and what is wrong in the request is a bug", async () => {
    await using store = openSearch({ uri });
    const index = uniqueName("store");
    try {
      const versioned = (version: number) =>
        store.client.index({ index, id: "1", document: {}, version, version_type: "external" });
      await versioned(5);
      const stale = translateStoreError(await failureOf(versioned(4)));
      expect(reasonOf(stale)).toMatchObject({
        reason: "STORE_CONFLICT",
        metadata: { store: "search", server_code: "409" },
      });
      const unknown = await failureOf(store.client.transport.request({ method: "GET", path: "/_no/such/api/here" }));
      expect(reasonOf(translateStoreError(unknown))?.reason).toBe("STORE_REFUSED");
      const wrong = await failureOf(store.client.search({ index, query: { nonsense: {} } as object }));
      expect(translateStoreError(wrong)).toBe(wrong);
    } finally {
      await store.client.indices.delete({ index });
    }
  });
}

test("user and password of the address are sent, and told to nobody", async () => {
  const seen: (string | undefined)[] = [];
  await using server = await serverOf((request, response) => {
    seen.push(request.headers.authorization);
    response.writeHead(503).end();
  });
  await using store = openSearch({ uri: `http://opera%3Ator:p%40ss%2Fword@${server.address}` });
  const error = translateStoreError(await failureOf(store.product(AbortSignal.timeout(150_000))));
  expect(reasonOf(error)?.reason).toBe("STORE_UNAVAILABLE");
  expect(String(error)).not.toMatch(/opera|word|127\.0/);
  expect(seen).toEqual([`Basic ${Buffer.from("opera:tor:p@ss/word").toString("base64")}`]);
});

test("a server that stands still for some seconds says what it is to whoever has the time", async () => {
  await using server = await serverOf((_request, response) => {
    const answer = { version: { number: "3.8.0", distribution: "opensearch" } };
    void pause(3000).then(() =>
      response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(answer)),
    );
  });
  await using store = openSearch({ uri: `http://${server.address}` });
  expect(await store.product(AbortSignal.timeout(150_000))).toEqual({ name: "opensearch", version: "3.8.0" });
});

async function serverOf(answer: RequestListener): Promise<AsyncDisposable & { readonly address: string }> {
  const server = createServer(answer);
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("no port");
  return {
    address: `127.0.0.1:${address.port}`,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      server.close();
    },
  };
}
