import { create } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { type CallOptions, Code } from "@connectrpc/connect";
import { Long } from "bson";
import { afterAll, beforeAll, expect, test, vi } from "vitest";

import { SessionSchema, SessionStatus } from "../../gen/lucid/repository/v1/session_pb.ts";
import { UserSchema } from "../../gen/lucid/repository/v1/user_pb.ts";
import { QuerySchema } from "../../gen/lucid/search/v1/search_query_pb.ts";
import { type ExportHitsResponse, SearchService } from "../../gen/lucid/search/v1/search_service_pb.ts";
import { versionOf } from "../../src/search/sync/version.ts";
import { refusalOf } from "../repository/support.ts";
import { onEveryServer } from "../support/search-servers.ts";
import { refusingProxy, type RefusingProxy } from "./refusing-proxy.ts";
import { type SearchApp, searchApp } from "./search-app.ts";

const count = 60;
const idOf = (place: number) => `session-${String(place).padStart(3, "0")}`;
const allIds = Array.from({ length: count }, (_, place) => idOf(place));

/** Some are without a name, without a start, and alike in all but their ids. */
const sessions = allIds.map((sessionId, place) => ({
  sessionId,
  userId: "ada",
  status: place % 2 === 0 ? SessionStatus.PENDING : SessionStatus.COMPLETED,
  ...(place % 3 === 0 && { sessionName: `Review ${place % 4}` }),
  ...(place % 5 === 0 && { startedAt: timestampFromDate(new Date(Date.UTC(2026, 0, place + 1))) }),
  ...(place % 7 === 0 && { compressionRatio: place / 3 }),
  recordedSizeBytes: 9_223_372_036_854_775_000n + BigInt(place),
  createdAt: timestampFromDate(new Date(Date.UTC(2026, 0, 1))),
  revision: 1n,
}));

onEveryServer((uri) => {
  let server: RefusingProxy;
  let there: SearchApp;
  beforeAll(async () => {
    server = await refusingProxy(uri);
    there = await searchApp(server.uri);
    await there.put(SessionSchema, ...sessions);
    await there.put(UserSchema, { userId: "ada", email: "a@example.com", tronAddress: "T", revision: 1n });
    await there.copy(SessionSchema, UserSchema);
    const notes = allIds.map((id, place) => [id, { title: "A note", place }] as const);
    const mappings = { properties: { place: { type: "long" } } };
    await there.operatorIndex("notes", mappings, Object.fromEntries(notes));
    await there.operatorIndex("sharded", mappings, Object.fromEntries(notes), 2);
  });
  afterAll(async () => {
    await there?.[Symbol.asyncDispose]();
    await server?.[Symbol.asyncDispose]();
  });

  /** Ids of all pages, one after the other. */
  async function walk(
    page: (token: string) => Promise<{ hits: readonly { id: string }[]; nextPageToken: string }>,
    between: (token: string) => Promise<void> = async () => {},
  ): Promise<string[]> {
    const ids: string[] = [];
    for (let token = ""; ;) {
      const { hits, nextPageToken } = await page(token);
      ids.push(...hits.map(({ id }) => id));
      if (nextPageToken === "") return ids;
      await between(nextPageToken);
      token = nextPageToken;
    }
  }

  /** Has the server forget points in time, as one does whose node has gone: an index that is closed keeps none. */
  async function forgetPointsInTime(): Promise<void> {
    const { indices } = there.store.client;
    const index = ["sessions", "notes", "sharded"].map((name) => there.indices.alias(name));
    await indices.close({ index });
    await indices.open({ index });
    await there.store.client.cluster.health({ index, wait_for_status: "yellow", timeout: "30s" });
  }

  test.for([
    ["", [...allIds].toSorted()],
    ["session_name desc, status", undefined],
    ["started_at", undefined],
    ["compression_ratio desc", undefined],
    ["recorded_size_bytes desc", [...allIds].toReversed()],
  ] as const)("pages by %j tell each hit once, whatever has no value or the same", async ([orderBy, wanted]) => {
    const ids = await walk((pageToken) =>
      there.client.searchSessions({ orderBy, idsOnly: true, pageSize: 7, pageToken }),
    );
    expect(ids.toSorted()).toEqual(allIds);
    if (wanted !== undefined) expect(ids).toEqual(wanted);
    const atOnce = await there.client.searchSessions({ orderBy, idsOnly: true, pageSize: 200 });
    expect(ids).toEqual(atOnce.hits.map(({ id }) => id));
  });

  test("pages by score tell each hit once", async () => {
    const query = { text: "review | PENDING" };
    const ids = await walk((pageToken) =>
      there.client.searchSessions({ query, idsOnly: true, pageSize: 4, pageToken }),
    );
    expect(new Set(ids).size).toBe(ids.length);
    expect(BigInt(ids.length)).toBe((await there.client.count({ indices: ["sessions"], query })).count);
  });

  test("an operator's index that is empty and without fields has a page without hits, also beside others", async () => {
    await there.operatorIndex("empty", {}, {});
    expect((await there.client.search({ indices: ["empty"] })).hits).toEqual([]);
    expect(await responses(there.client.exportHits({ index: "empty" }))).toEqual([]);
    for (const other of ["notes", "sharded", "sessions"]) {
      const indices = ["empty", other];
      const ids = await walk((pageToken) => there.client.search({ indices, pageSize: 25, pageToken }));
      expect(ids.toSorted()).toEqual(allIds);
    }
  });

  test("pages of several indices tell each hit once", async () => {
    const indices = ["sessions", "notes", "users", "sharded"];
    const ids = await walk((pageToken) => there.client.search({ indices, pageSize: 50, pageToken }));
    expect(ids.toSorted()).toEqual([...allIds, ...allIds, ...allIds, "ada"].toSorted());
  });

  test("from the second page on, hits are those of one moment", async () => {
    const added = { ...sessions[0], sessionId: "session-999" };
    let pages = 0;
    const ids = await walk(
      (pageToken) => there.client.searchSessions({ orderBy: "session_id", idsOnly: true, pageSize: 20, pageToken }),
      async () => {
        pages++;
        if (pages !== 2) return;
        await there.put(SessionSchema, added);
        await there.copy(SessionSchema);
      },
    );
    expect(ids).toEqual(allIds);
    expect((await there.client.searchSessions({ query: { text: "session-999" } })).hits).toHaveLength(1);
    const { app } = there;
    await app.mongodb.db(app.config.mongodb.database).collection("sessions").deleteOne({ session_id: "session-999" });
    await there.store.client.delete({ index: there.indices.alias("sessions"), id: "session-999", refresh: true });
  });

  test("a page token outlives the process, and the server's point in time", async () => {
    const request = { orderBy: "session_id desc", idsOnly: true, pageSize: 25 };
    await using other = await there.another();
    const clients = [there.client, other.client(SearchService)];
    let turn = 0;
    const ids = await walk((pageToken) => {
      turn++;
      return (clients[turn % 2] ?? there.client).searchSessions({ ...request, pageToken });
    }, forgetPointsInTime);
    expect(ids).toEqual([...allIds].toReversed());
  });

  test.for([["notes"], ["sessions", "users"], ["notes", "sharded"]])(
    "a first page of %j holds nothing on the server where its hits have a place without",
    async (indices) => {
      let opened = 0;
      server.refuses = (_method, path) => {
        if (/\/_pit\b|\/point_in_time\b/.test(path)) opened++;
        return undefined;
      };
      try {
        const first = await there.client.search({ indices: [...indices], pageSize: 10 });
        expect(first.nextPageToken).not.toBe("");
        expect(opened).toBe(indices.includes("sharded") ? 1 : 0);
      } finally {
        server.refuses = () => undefined;
      }
    },
  );

  test.for([[["notes"]], [["sessions", "users"]]])(
    "pages of %j go on where the server has forgotten them",
    async ([indices = []]) => {
      const page = (pageToken: string) => there.client.search({ indices, pageSize: 25, pageToken });
      const ids = await walk(page, forgetPointsInTime);
      const wanted = indices.includes("users") ? [...allIds, "ada"] : allIds;
      expect(ids.toSorted()).toEqual(wanted.toSorted());
    },
  );

  test("a place in an operator's index of several shards that the server has forgotten is said to be gone", async () => {
    const { nextPageToken: pageToken } = await there.client.search({ indices: ["sharded"], pageSize: 10 });
    await forgetPointsInTime();
    const refusal = await refusalOf(there.client.search({ indices: ["sharded"], pageSize: 10, pageToken }));
    expect(refusal).toMatchObject({ code: Code[Code.OutOfRange], reason: "SEARCH_POSITION_EXPIRED" });
    expect(refusal.metadata).toEqual({ kept_minutes: "5" });
  });

  test("a place in an index that is made anew is found in the new one, where its documents have a place in any", async () => {
    const { client } = there.store;
    const signal = AbortSignal.timeout(60_000);
    const request = { orderBy: "session_id", idsOnly: true, pageSize: 20 };
    let turn = 0;
    const ids = await walk(
      (pageToken) => there.client.searchSessions({ ...request, pageToken }),
      async () => {
        turn++;
        // The second page is the first one in a point in time.
        if (turn !== 2) return;
        await client.indices.delete({ index: there.indices.versioned("sessions", 1) });
        await there.indices.ensure("sessions", signal);
        await there.copy(SessionSchema);
      },
    );
    expect(ids).toEqual(allIds);
    await there.operatorIndex("remade", { properties: {} }, { 1: {}, 2: {} });
    const { nextPageToken: pageToken } = await there.client.search({ indices: ["remade"], pageSize: 1 });
    await client.indices.delete({ index: there.indices.versioned("remade", 1) });
    await there.operatorIndex("remade", { properties: {} }, { 1: {}, 2: {} });
    expect(await refusalOf(there.client.search({ indices: ["remade"], pageSize: 1, pageToken }))).toMatchObject({
      code: Code[Code.OutOfRange],
      reason: "SEARCH_POSITION_EXPIRED",
    });
  });

  test("a page token of another query, a changed one and one of another rpc are refused", async () => {
    const first = await there.client.searchSessions({ pageSize: 5 });
    const pageToken = first.nextPageToken;
    for (const call of [
      () => there.client.searchSessions({ pageToken, orderBy: "status" }),
      () => there.client.searchSessions({ pageToken, query: { text: "x" } }),
      () => there.client.searchSessions({ pageToken: `${pageToken.slice(0, -2)}AA` }),
      () => there.client.search({ indices: ["sessions"], pageToken }),
    ]) {
      const { code, reason, fields } = await refusalOf(call());
      expect([code, reason, fields]).toEqual(["InvalidArgument", "PAGE_TOKEN_INVALID", ["page_token"]]);
    }
    const exported = await responses(there.client.exportHits({ index: "sessions" }));
    const cursor = exported.at(-1)?.cursor ?? "";
    const { code, reason, fields } = await refusalOf(responses(there.client.exportHits({ index: "notes", cursor })));
    expect([code, reason, fields]).toEqual(["InvalidArgument", "PAGE_TOKEN_INVALID", ["cursor"]]);
  });

  test("an export tells all hits, and goes on where it broke, also without its point in time", async () => {
    const query = create(QuerySchema, {
      filters: [{ field: "status", condition: { case: "term", value: { value: { case: "text", value: "PENDING" } } } }],
    });
    const all = await responses(there.client.exportHits({ index: "sessions", query }));
    expect(all.flatMap(({ hits }) => hits.map(({ id }) => id))).toEqual(allIds.filter((_, place) => place % 2 === 0));
    expect(all[0]?.hits[0]?.document).toMatchObject({ case: "session", value: { userId: "ada" } });
    // What comes after the last cursor is nothing.
    const cursor = all.at(-1)?.cursor ?? "";
    expect(await responses(there.client.exportHits({ index: "sessions", query, cursor }))).toEqual([]);
    await forgetPointsInTime();
    expect(await responses(there.client.exportHits({ index: "sessions", query, cursor }))).toEqual([]);
    const ids = await responses(there.client.exportHits({ index: "notes", idsOnly: true }));
    expect(ids.flatMap(({ hits }) => hits.map(({ id }) => id)).toSorted()).toEqual(allIds);
  });

  test("more hits than a server gives by their places are paged through and exported, no faster than they are taken", async () => {
    const text = "x".repeat(1000);
    const many = Array.from({ length: 10_100 }, (_, place) => [`n${place}`, { place, text }] as const);
    await there.operatorIndex("many", { properties: { place: { type: "long" } } }, Object.fromEntries(many));
    const query = create(QuerySchema, {
      filters: [
        {
          field: "place",
          condition: { case: "range", value: { from: { value: { case: "integer", value: 0n } } } },
        },
      ],
    });
    const request = { indices: ["many"], query, orderBy: "place", idsOnly: true, pageSize: 200 };
    const first = await there.client.search(request);
    expect(first.totalHits).toMatchObject({ count: 10_000n, isMinimum: true });
    const ids = await walk((pageToken) => there.client.search({ ...request, pageToken }));
    expect(ids).toEqual(many.map(([id]) => id));

    let searches = 0;
    server.refuses = (_method, path) => {
      if (path.startsWith("/_search?")) searches++; // in a point in time
      return undefined;
    };
    const stream = there.client.exportHits({ index: "many", query })[Symbol.asyncIterator]();
    const { value: begun } = await stream.next();
    // The server reads on until what is sent and not taken fills the connection: let it.
    for (let [quiet, before] = [0, searches]; quiet < 10; quiet++) {
      await there.client.count({ indices: ["users"] });
      if (before !== searches) quiet = 0;
      before = searches;
    }
    expect(searches).toBeLessThan(15);
    await stream.return?.();
    const rest = await responses(there.client.exportHits({ index: "many", query, cursor: begun?.cursor ?? "" }));
    const all = [begun, ...rest].flatMap(
      (response: ExportHitsResponse | undefined) => response?.hits.map(({ id }) => id) ?? [],
    );
    expect(all.toSorted()).toEqual(many.map(([id]) => id).toSorted());
    expect(searches).toBeGreaterThan(20);
    server.refuses = () => undefined;
  });

  test("a search waits for a write that it has to see, and says when it cannot", async () => {
    const index = there.indices.alias("users");
    const put = (revision: number, version = revision) =>
      there.store.client.index({
        index,
        id: "ada",
        version,
        version_type: "external",
        document: { user_id: "ada", username: "patient", revision },
      });
    const { app } = there;
    const stored = app.mongodb.db(app.config.mongodb.database).collection("users");
    await stored.updateOne({ user_id: "ada" }, { $set: { revision: Long.fromNumber(5) } });
    const minRevision = { id: "ada", revision: 5n };
    const waiting = there.client.searchUsers({ query: { text: "patient" }, minRevision });
    await put(4);
    await put(5);
    // The server makes writes searchable once a second.
    expect((await waiting).hits).toMatchObject([{ id: "ada", indexedRevision: 5n }]);
    // As if a restore had taken the document back: the copy is of a state that is no more.
    await put(7);
    await there.store.client.indices.refresh({ index });
    await expectRefusal((options) => there.client.searchUsers({ query: { text: "patient" }, minRevision }, options), {
      metadata: { revision: "5", indexed_revision: "7" },
    });
    await put(5, Number(versionOf(1, 5n)));
    const again = await there.client.searchUsers({ query: { text: "patient" }, minRevision });
    expect(again.hits).toMatchObject([{ id: "ada", indexedRevision: 5n }]);
    const late = { id: "ada", revision: 9n };
    const minRevisions = [{ ...late, index: "users" }];
    for (const call of [
      (options: CallOptions) => there.client.searchUsers({ minRevision: late }, options),
      (options: CallOptions) => there.client.count({ indices: ["sessions", "users"], minRevisions }, options),
    ]) {
      await expectRefusal(call, {
        code: "DeadlineExceeded",
        reason: "SEARCH_NOT_CAUGHT_UP",
        metadata: { index: "users", id: "ada", revision: "9", indexed_revision: "5" },
      });
    }
    const unclear = there.client.count({ indices: ["sessions", "users"], minRevisions: [minRevision] });
    expect(await refusalOf(unclear)).toMatchObject({ reason: "BAD_REQUEST", fields: ["min_revisions[0].index"] });
  });
});

/** Has a call refused in this way, which waits for its whole deadline: given more of it where a busy server was not even asked. */
async function expectRefusal(call: (options: CallOptions) => Promise<unknown>, expected: object): Promise<void> {
  let timeoutMs = 1000;
  const isRefused = async () => expect(await refusalOf(call({ timeoutMs: (timeoutMs *= 2) }))).toMatchObject(expected);
  await vi.waitFor(isRefused, { timeout: 120_000 });
}

async function responses(stream: AsyncIterable<ExportHitsResponse>): Promise<ExportHitsResponse[]> {
  const all: ExportHitsResponse[] = [];
  for await (const response of stream) all.push(response);
  return all;
}
