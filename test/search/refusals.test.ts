import { create, fromJson, type JsonObject } from "@bufbuild/protobuf";
import { type CallOptions, Code, ConnectError } from "@connectrpc/connect";
import fc from "fast-check";
import { afterAll, beforeAll, expect, test, vi } from "vitest";

import { UserSchema } from "../../gen/lucid/repository/v1/user_pb.ts";
import { SearchIndexService } from "../../gen/lucid/search/v1/search_index_service_pb.ts";
import { QuerySchema } from "../../gen/lucid/search/v1/search_query_pb.ts";
import { SearchService } from "../../gen/lucid/search/v1/search_service_pb.ts";
import { reasonOf } from "../../src/errors.ts";
import { whole } from "../../src/search/ask.ts";
import { refusalOf } from "../repository/support.ts";
import { testApp } from "../support/app.ts";
import { onEveryServer } from "../support/search-servers.ts";
import { refusingProxy, type RefusingProxy } from "./refusing-proxy.ts";
import { type SearchApp, searchApp } from "./search-app.ts";

onEveryServer((uri) => {
  let server: RefusingProxy;
  let there: SearchApp;
  beforeAll(async () => {
    server = await refusingProxy(uri);
    there = await searchApp(server.uri);
    await there.put(
      UserSchema,
      ...["ada", "grace", "mary"].map((userId) => ({
        userId,
        email: `${userId}@example.com`,
        tronAddress: userId,
        revision: 1n,
      })),
    );
    await there.copy(UserSchema);
    const properties = {
      kept: { type: "keyword" },
      lost: { type: "keyword", doc_values: false },
      text: { type: "text" },
    };
    const wider = {
      byte: "long",
      short: "long",
      integer: "long",
      half_float: "double",
      float: "double",
      date_nanos: "date",
    };
    for (const [name, types] of [
      ["numbers", Object.keys(wider)],
      ["wider", Object.values(wider)],
    ] as const) {
      const fields = Object.keys(wider).map((narrow, place) => [`${narrow}_field`, { type: types[place] }] as const);
      const document = Object.fromEntries(fields.map(([field]) => [field, 1]));
      await there.operatorIndex(name, { properties: Object.fromEntries(fields) }, { 1: document });
    }
    await there.operatorIndex("notes", { properties }, { 1: { kept: "a", lost: "b", text: "c" } });
    await there.operatorIndex("sharded", { properties }, { 1: { kept: "a" } }, 2);
  });
  afterAll(async () => {
    await there?.[Symbol.asyncDispose]();
    await server?.[Symbol.asyncDispose]();
  });

  const search = (request: JsonObject) =>
    Promise.all(
      [there.client, there.overHttp].map((client) => refusalOf(client.searchBlocks(fromJson(blocksRequest, request)))),
    );
  const blocksRequest = SearchService.method.searchBlocks.input;
  const filter = (members: JsonObject): JsonObject => ({
    query: { filters: [{ field: "height", exists: true }, members] },
  });
  const at = (path: string) => `query.filters[1].${path}`;

  test.for<[why: string, request: JsonObject, field: string]>([
    ["an unknown field", filter({ field: "colour", exists: true }), at("field")],
    ["a field that the service keeps for itself", filter({ field: "_key", exists: true }), at("field")],
    ["a field within one that has none", filter({ field: "height.x", exists: true }), at("field")],
    ["text for a number", filter({ field: "height", term: { text: "1" } }), at("term")],
    ["a fraction for a whole number", filter({ field: "height", term: { number: 1.5 } }), at("term")],
    ["a number for text", filter({ field: "status", term: { integer: "1" } }), at("term")],
    ["a number for a time", filter({ field: "timestamp", term: { integer: "1" } }), at("term")],
    ["text for a flag", filter({ field: "finalized", term: { text: "true" } }), at("term")],
    [
      "one of several values",
      filter({ field: "height", terms: { values: [{ integer: "1" }, { flag: true }] } }),
      at("terms.values[1]"),
    ],
    ["a range of text", filter({ field: "status", range: { from: { text: "A" } } }), at("range")],
    [
      "a bound of another type",
      filter({ field: "height", range: { from: { integer: "1" }, before: { text: "9" } } }),
      at("range.before"),
    ],
    ["the start of a number", filter({ field: "height", prefix: "1" }), at("prefix")],
    ["a message", filter({ field: "session_anchors", term: { text: "x" } }), at("term")],
    ["an unknown field for words", { query: { text: "x", fields: ["block_id", "colour"] } }, "query.fields[1]"],
    ["a number for words", { query: { text: "x", fields: ["height"] } }, "query.fields[0]"],
    ["an unknown field to order by", { orderBy: "colour" }, "order_by"],
    ["free-form text to order by", { orderBy: "metadata.x" }, "order_by"],
    ["the reverse of score", { orderBy: "score desc" }, "order_by"],
    ["an order of four fields", { orderBy: "height, status, nonce, version" }, "order_by"],
    ["no order", { orderBy: "height sideways" }, "order_by"],
    ["an open phrase", { query: { text: 'a "b' } }, "query.text"],
    ["an open bracket", { query: { text: "(a" } }, "query.text"],
    ["a bracket too many", { query: { text: "a)" } }, "query.text"],
    ["brackets too deep", { query: { text: `${"(".repeat(9)}a${")".repeat(9)}` } }, "query.text"],
    ["too many words", { query: { text: "a ".repeat(33) } }, "query.text"],
    ["a star after one letter", { query: { text: "a*" } }, "query.text"],
    ["too many changed letters", { query: { text: "abcdef~3" } }, "query.text"],
    ["a changed letter of few", { query: { text: "abc~" } }, "query.text"],
  ])("%s is refused by the field's path, on both listeners", async ([, request, field]) => {
    for (const refusal of await search(request)) {
      expect(refusal).toMatchObject({ code: "InvalidArgument", reason: "BAD_REQUEST", fields: [field] });
    }
  });

  test("text of one address is no address", async () => {
    const query = fromJson(QuerySchema, {
      filters: [{ field: "actor.source_address", term: { text: "192.0.2.0/24" } }],
    });
    expect(await refusalOf(there.client.searchAuditLogs({ query }))).toMatchObject({
      reason: "BAD_REQUEST",
      fields: ["query.filters[0].term"],
    });
  });

  test("a field that has another type in another index is refused", async () => {
    await there.operatorIndex("others", { properties: { status: { type: "long" } } }, { 1: { status: 1 } });
    const call = there.client.count({
      indices: ["users", "others"],
      query: { filters: [{ field: "status", condition: { case: "exists", value: true } }] },
    });
    expect(await refusalOf(call)).toMatchObject({ reason: "BAD_REQUEST", fields: ["query.filters[0].field"] });
    // Words are looked for in the fields that mean the same in both.
    expect((await there.client.count({ indices: ["users", "others"], query: { text: "ada" } })).count).toBe(1n);
  });

  test.for<[type: string, condition: JsonObject, field: string]>([
    ["byte", { term: { integer: "128" } }, "term"],
    ["short", { terms: { values: [{ integer: "0" }, { integer: "-32769" }] } }, "terms.values[1]"],
    ["integer", { range: { from: { integer: "-9223372036854775808" } } }, "range.from"],
    ["half_float", { range: { before: { integer: "70000" } } }, "range.before"],
    ["float", { term: { number: 1e300 } }, "term"],
    ["date_nanos", { term: { time: "1969-12-31T23:59:59Z" } }, "term"],
    ["date_nanos", { range: { before: { time: "9999-01-01T00:00:00Z" } } }, "range.before"],
  ])("what a field of type %s cannot hold is refused, and what it holds is found", async ([type, condition, place]) => {
    const count = (indices: string[], wanted: JsonObject) =>
      there.client.count({
        indices,
        query: fromJson(QuerySchema, { filters: [{ field: `${type}_field`, ...wanted }] }),
      });
    for (const indices of [["numbers"], ["numbers", "wider"]]) {
      expect(await refusalOf(count(indices, condition))).toMatchObject({
        reason: "BAD_REQUEST",
        fields: [`query.filters[0].${place}`],
      });
    }
    const extremes: JsonObject =
      type === "date_nanos"
        ? { from: { time: "1970-01-01T00:00:00Z" }, before: { time: "2262-04-11T23:47:16.854Z" } }
        : { from: { integer: "-128" }, before: { integer: "127" } };
    expect((await count(["numbers"], { range: extremes })).count).toBe(1n);
  });

  test("words that become too many clauses are refused, and the server takes the most that are not", async () => {
    const many = Array.from({ length: 32 }, (_, place) => `a${place}.${"b.".repeat(12)}`).join(" ");
    expect(await refusalOf(there.client.searchUsers({ query: { text: many } }))).toMatchObject({
      code: "InvalidArgument",
      reason: "SEARCH_TOO_COSTLY",
    });
    const each = Array.from({ length: 32 }, (_, place) => `word${place}~2`);
    for (const text of [
      each.slice(0, 16).join(" | "),
      "漢字".repeat(200),
      each.map((word) => word.slice(0, -2)).join(" "),
    ]) {
      expect(
        (await there.client.searchUsers({ query: { text, fields: ["username", "profile.display_name"] } })).hits,
      ).toEqual([]);
    }
  });

  test("an index that there is not is said to be missing", async () => {
    await there.store.client.indices.delete({ index: there.indices.versioned("manifests", 1) });
    for (const [index, call] of [
      ["nothing", () => there.client.search({ indices: ["users", "nothing"] })],
      // The index behind the alias, which holds what is hidden.
      ["users-v1", () => there.client.search({ indices: ["users-v1"] })],
      ["nothing", () => there.overHttp.suggest({ index: "nothing", text: "a" })],
      ["manifests", () => there.client.searchManifests({})],
      ["manifests", () => there.client.count({ indices: ["users", "manifests"] })],
      ["manifests", () => all(there.client.exportHits({ index: "manifests" }))],
    ] as const) {
      expect(await refusalOf(call())).toMatchObject({
        code: "NotFound",
        reason: "SEARCH_INDEX_NOT_FOUND",
        metadata: { index },
      });
    }
  });

  test("what an operator's index does not allow is told", async () => {
    expect(await refusalOf(there.client.search({ indices: ["notes"], orderBy: "lost" }))).toMatchObject({
      code: "InvalidArgument",
      reason: "SEARCH_NOT_POSSIBLE",
    });
    expect(await refusalOf(there.client.search({ indices: ["notes"], orderBy: "text" }))).toMatchObject({
      reason: "BAD_REQUEST",
      fields: ["order_by"],
    });
    const suggestions = { code: "FailedPrecondition", reason: "SEARCH_NOTHING_TO_SUGGEST" };
    expect(await refusalOf(there.client.suggest({ index: "notes", text: "a" }))).toMatchObject(suggestions);
    const field = { reason: "BAD_REQUEST", fields: ["fields[0]"] };
    expect(await refusalOf(there.client.suggest({ index: "users", text: "a", fields: ["email"] }))).toMatchObject(
      field,
    );
  });

  test("a server without points in time serves first pages, and says that it lacks them for others", async () => {
    server.refuses = (method, path) => {
      if (!/\/_pit\b|\/point_in_time\b/.test(path)) return undefined;
      return { status: 400, body: { error: `no handler found for uri [${path}] and method [${method}]` } };
    };
    try {
      const { nextPageToken } = await there.client.searchUsers({ pageSize: 1 });
      expect(await refusalOf(there.client.searchUsers({ pageSize: 1, pageToken: nextPageToken }))).toMatchObject({
        code: "FailedPrecondition",
        reason: "STORE_REFUSED",
        metadata: { store: "search" },
      });
    } finally {
      server.refuses = () => undefined;
    }
  });

  test("a server that has no room for points in time is searched without", async () => {
    // As OpenSearch says it once 300 are open.
    const told = { type: "rejected_execution_exception", reason: "Trying to create too many Point In Time contexts" };
    const body = { error: { root_cause: [told], type: "search_phase_execution_exception" }, status: 429 };
    server.refuses = (_method, path) => (/\/_pit\b|\/point_in_time\b/.test(path) ? { status: 429, body } : undefined);
    try {
      const ids: string[] = [];
      for (let pageToken = ""; ;) {
        const { hits, nextPageToken } = await there.client.searchUsers({ pageSize: 1, pageToken, orderBy: "user_id" });
        ids.push(...hits.map(({ id }) => id));
        if (nextPageToken === "") break;
        pageToken = nextPageToken;
      }
      expect(ids).toEqual(["ada", "grace", "mary"]);
      expect(await all(there.client.exportHits({ index: "notes" }))).toHaveLength(1);
      const sharded = there.client.search({ indices: ["sharded"] });
      expect(await refusalOf(sharded)).toMatchObject({
        code: "Unavailable",
        reason: "STORE_BUSY",
        metadata: { store: "search", exhausted: "points_in_time" },
      });
    } finally {
      server.refuses = () => undefined;
    }
  });

  test("a server that has no room is told to be busy, and why, not to be away", async () => {
    const type = "circuit_breaking_exception";
    const body = { error: { root_cause: [{ type, reason: "[request] Data too large" }], type }, status: 429 };
    server.refuses = (_method, path) => (path.includes("/_search?") ? { status: 429, body } : undefined);
    try {
      for (const call of [
        () => there.client.searchUsers({}),
        () => there.client.count({ indices: ["notes"] }),
        () => all(there.client.exportHits({ index: "users" })),
      ]) {
        expect(await refusalOf(call())).toMatchObject({
          code: "Unavailable",
          reason: "STORE_BUSY",
          metadata: { store: "search", server_code: type },
        });
      }
    } finally {
      server.refuses = () => undefined;
    }
  });

  test("a server whose answer breaks off is told to be away", async () => {
    const documents = there.app.client(SearchIndexService);
    server.breaks = (path) => /_search\?|_mget|_bulk/.test(path);
    try {
      for (const call of [
        () => there.client.searchUsers({}),
        () => there.client.suggest({ index: "users", text: "a" }),
        () => all(there.client.exportHits({ index: "notes" })),
        () => documents.getDocument({ index: "notes", documentId: "1" }),
        () => documents.updateDocument({ index: "notes", documentId: "1", fields: { kept: "a" } }),
      ]) {
        expect(await refusalOf(call())).toMatchObject({
          code: "Unavailable",
          reason: "STORE_UNAVAILABLE",
          metadata: { store: "search" },
        });
      }
    } finally {
      server.breaks = () => false;
    }
  });

  test("no point in time is left of a search that fails, or whose caller leaves", async () => {
    const isPointInTime = (path: string) => /\/_pit\b|\/point_in_time\b/.test(path);
    const counts = { opened: 0, closed: 0 };
    const told = { type: "parsing_exception", reason: "refused" };
    const refused = { status: 400, body: { error: { root_cause: [told], ...told }, status: 400 } };
    const opening = Promise.withResolvers<void>();
    const leaving = new AbortController();
    const call = (options?: CallOptions) => there.client.search({ indices: ["sharded"] }, options);
    server.refuses = (method, path) => {
      if (isPointInTime(path)) counts[method === "DELETE" ? "closed" : "opened"]++;
      return path.startsWith("/_search?") ? refused : undefined;
    };
    try {
      expect(await refusalOf(call())).toMatchObject({ reason: "SEARCH_NOT_POSSIBLE" });
      expect(counts).toEqual({ opened: 1, closed: 1 });
      server.refuses = async (method, path) => {
        if (!isPointInTime(path)) return undefined;
        counts[method === "DELETE" ? "closed" : "opened"]++;
        if (method === "DELETE") return undefined;
        leaving.abort();
        await opening.promise;
        return undefined;
      };
      expect(await refusalOf(call({ signal: leaving.signal }))).toMatchObject({ code: "Canceled" });
      opening.resolve();
      await vi.waitFor(() => expect(counts).toEqual({ opened: 2, closed: 2 }), { timeout: 60_000 });
    } finally {
      server.refuses = () => undefined;
    }
  });

  test("whatever is looked for, the server has no error, and is asked for nothing but words", async () => {
    const pieces = fc.constantFrom(
      ...'( ) " | - * ~ ~1 ~2 ~9 \\ + ! : / [ ] { } ^ && || AND OR NOT TO < > = ? .* $where _id \0 \u202E é 漢 😀 a ab abcd'.split(
        " ",
      ),
      " ",
      "_exists_:user_id",
      "user_id:*",
      "/(a+)+$/",
      '{"match_all":{}}',
    );
    const text = fc.oneof(
      fc.array(pieces, { maxLength: 60 }).map((chosen) => chosen.join("")),
      fc.string({ maxLength: 300, unit: "binary" }),
    );
    const paths = [
      "username",
      "email",
      "profile.display_name",
      "status",
      "metadata.x",
      "created_at",
      "height",
      "_source",
      "*",
      "a.b",
    ];
    const values = fc.oneof(
      fc.string({ maxLength: 40, unit: "binary" }).map((value) => ({ case: "text" as const, value })),
      fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }).map((value) => ({ case: "integer" as const, value })),
      fc.double({ noNaN: true, noDefaultInfinity: true }).map((value) => ({ case: "number" as const, value })),
    );
    const request = fc.record({
      text,
      fields: fc.array(fc.constantFrom(...paths), { maxLength: 3 }),
      filters: fc.array(
        fc.record({
          field: fc.constantFrom(...paths),
          condition: values.map((value) => ({ case: "term" as const, value: { value } })),
        }),
        { maxLength: 2 },
      ),
    });
    let found = 0;
    const holds = fc.asyncProperty(fc.array(request, { minLength: 20, maxLength: 20 }), async (requests) => {
      await Promise.all(
        requests.map(async ({ text: words, fields, filters }) => {
          const query = create(QuerySchema, { text: words.slice(0, 1000).toWellFormed(), fields, filters });
          try {
            await there.client.count({ indices: ["users", "sessions"], query });
            found++;
          } catch (error) {
            const { code } = ConnectError.from(error);
            expect([Code[code], reasonOf(error)?.reason]).toEqual([
              "InvalidArgument",
              expect.stringMatching(/^(BAD_REQUEST|SEARCH_TOO_COSTLY)$/),
            ]);
          }
        }),
      );
    });
    await fc.assert(holds, { numRuns: 25 });
    expect(found).toBeGreaterThan(20);
  });
});

test("a server that is away is told to be, and what needs none works on", async () => {
  await using app = await testApp({ LUCID_SEARCH_URI: "http://127.0.0.1:9" });
  const client = app.client(SearchService);
  for (const call of [
    () => client.searchUsers({}),
    () => client.search({ indices: ["notes"] }),
    () => client.suggest({ index: "users", text: "a" }),
    () => all(client.exportHits({ index: "users" })),
  ]) {
    expect(await refusalOf(call())).toMatchObject({
      code: "Unavailable",
      reason: "STORE_UNAVAILABLE",
      metadata: { store: "search" },
    });
  }
  expect(await refusalOf(client.searchUsers({ orderBy: "colour" }))).toMatchObject({ reason: "BAD_REQUEST" });
});

test("what is of a part of the documents or shards is never taken for the whole", () => {
  const answer = { timed_out: false, _shards: { failed: 0 }, hits: { hits: [] } };
  expect(whole(answer)).toBe(answer);
  const reasonFor = (told: typeof answer) => {
    try {
      whole(told);
    } catch (error) {
      return reasonOf(error)?.reason;
    }
    return undefined;
  };
  expect(reasonFor({ ...answer, timed_out: true })).toBe("DEADLINE_EXCEEDED");
  expect(reasonFor({ ...answer, _shards: { failed: 1 } })).toBe("STORE_UNAVAILABLE");
});

async function all<T>(stream: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = [];
  for await (const each of stream) found.push(each);
  return found;
}
