import { create } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { afterAll, beforeAll, expect, test } from "vitest";

import { AuditRecordSchema } from "../../gen/lucid/repository/v1/audit_record_pb.ts";
import { BlockSchema, BlockStatus } from "../../gen/lucid/repository/v1/block_pb.ts";
import { ManifestSchema } from "../../gen/lucid/repository/v1/manifest_pb.ts";
import { SessionSchema, SessionStatus } from "../../gen/lucid/repository/v1/session_pb.ts";
import { TransactionSchema, TransactionType } from "../../gen/lucid/repository/v1/transaction_pb.ts";
import { UserRole, UserSchema, UserStatus } from "../../gen/lucid/repository/v1/user_pb.ts";
import { IndexFieldType } from "../../gen/lucid/search/v1/search_index_pb.ts";
import { SearchIndexService } from "../../gen/lucid/search/v1/search_index_service_pb.ts";
import { QuerySchema } from "../../gen/lucid/search/v1/search_query_pb.ts";
import { refusalOf } from "../repository/support.ts";
import { onEveryServer } from "../support/search-servers.ts";
import { type SearchApp, searchApp } from "./search-app.ts";

const hash = (digit: string) => digit.repeat(64);
const at = (minute: number) => timestampFromDate(new Date(Date.UTC(2026, 0, 1, 0, minute)));
const created = (minute: number) => ({ createdAt: at(minute), updatedAt: at(minute), revision: 1n });
const idsOf = ({ hits }: { readonly hits: readonly { readonly id: string }[] }) => hits.map(({ id }) => id);

const ofAda = { displayName: "Ada Lovelace", bio: "Does not want to be found by this" };
const notes = "The engine & its <notes> were looked at, then looked at again";

const users = [
  {
    userId: "ada",
    email: "ada@example.com",
    username: "countess",
    tronAddress: "T-ada",
    status: UserStatus.ACTIVE,
    role: UserRole.ADMIN,
    profile: ofAda,
    totalStorageUsed: 9_007_199_254_740_993n,
    ...created(1),
  },
  {
    userId: "grace",
    email: "grace@example.com",
    username: "amazing",
    tronAddress: "T-grace",
    status: UserStatus.ACTIVE,
    role: UserRole.USER,
    profile: { displayName: "Grace Hopper" },
    ...created(2),
  },
  {
    userId: "gone",
    email: "gone@example.com",
    username: "lovelace",
    tronAddress: "T-gone",
    status: UserStatus.BANNED,
    role: UserRole.USER,
    deletedAt: at(9),
    ...created(3),
  },
];

const sessions = [
  {
    sessionId: "first",
    userId: "ada",
    sessionName: "First review",
    description: notes,
    status: SessionStatus.PENDING,
    metadata: { room: { name: "blue" }, tags: ["a", "b"] },
    totalSizeBytes: 100n,
    ...created(1),
  },
  { sessionId: "second", userId: "ada", sessionName: "Second review", status: SessionStatus.COMPLETED, ...created(2) },
  { sessionId: "third", userId: "grace", sessionName: "Compiler", status: SessionStatus.PENDING, ...created(3) },
];

const block = (digit: string, height: bigint) => ({
  blockId: hash(digit),
  height,
  previousHash: hash("0"),
  merkleRoot: hash("d"),
  timestamp: at(Number(height)),
  status: BlockStatus.CONFIRMED,
  ...created(Number(height)),
});

onEveryServer((uri) => {
  let there: SearchApp;
  beforeAll(async () => {
    there = await searchApp(uri);
    await there.put(UserSchema, ...users);
    await there.put(SessionSchema, ...sessions);
    await there.put(
      BlockSchema,
      block("a", 1n),
      {
        ...block("b", 2n),
        sessionAnchors: [
          { sessionId: "first", userId: "ada", merkleRoot: hash("e"), chunkCount: 3n, totalSizeBytes: 30n },
          { sessionId: "third", userId: "grace", merkleRoot: hash("f"), chunkCount: 7n, totalSizeBytes: 70n },
        ],
      },
      { ...block("c", 2n), status: BlockStatus.ORPHANED, orphanedAt: at(5) },
    );
    await there.put(
      TransactionSchema,
      { transactionId: hash("1"), transactionType: TransactionType.GOVERNANCE, ...created(1) },
      { transactionId: hash("2"), transactionType: TransactionType.SYSTEM, ...created(2) },
    );
    await there.put(
      ManifestSchema,
      { manifestId: "m1", sessionId: "first", merkleRoot: hash("a"), chunkCount: 1n, ...created(1) },
      { manifestId: "m3", sessionId: "third", merkleRoot: hash("b"), chunkCount: 1n, ...created(3) },
    );
    const record = (sequence: bigint, id: string, action: string) => ({
      sequence,
      auditId: `record-${sequence}`,
      timestamp: at(Number(sequence)),
      actor: { id, sourceAddress: "192.0.2.7" },
      rpc: "lucid.Test/Do",
      action,
      outcome: "OK",
      previousHash: hash("0"),
      hash: String(sequence).padStart(64, "0"),
    });
    await there.put(
      AuditRecordSchema,
      record(901n, "ada", "create"),
      record(902n, "ada", "delete"),
      record(903n, "grace", "create"),
    );
    await there.operatorIndex(
      "prose",
      { properties: { stops: { type: "text", analyzer: "stop" }, text: { type: "text" } } },
      {
        1: { stops: "the house of cards" },
        2: { stops: "a house", text: "Chapter 3" },
        3: { text: "Add ½ cup 🎉 caret", "a^b": "odd", "t*": "odd" },
      },
    );
    await there.copy(UserSchema, SessionSchema, BlockSchema, TransactionSchema, ManifestSchema, AuditRecordSchema);
  });
  afterAll(() => there?.[Symbol.asyncDispose]());

  test("words find documents in whichever of their fields, and both listeners say the same", async () => {
    for (const client of [there.client, there.overHttp]) {
      const { hits, totalHits, nextPageToken } = await client.searchUsers({ query: { text: "LOVELACE ACTIVE" } });
      expect(hits).toHaveLength(1);
      // Whole, also with what the index does not hold.
      expect(hits[0]).toMatchObject({
        id: "ada",
        indexedRevision: 1n,
        user: { username: "countess", profile: ofAda },
      });
      expect(hits[0]?.user?.totalStorageUsed).toBe(9_007_199_254_740_993n);
      expect(hits[0]?.score).toBeGreaterThan(0);
      expect(totalHits).toMatchObject({ count: 1n, isMinimum: false });
      expect(nextPageToken).toBe("");
    }
  });

  test.for<[text: string, found: readonly string[]]>([
    ["review", ["first", "second"]],
    ["review -second", ["first"]],
    ["compiler | first", ["first", "third"]],
    ["(compiler | first) pending", []],
    ["(compiler | first) PENDING", ["first", "third"]],
    ['"first review"', ["first"]],
    ['"review first"', []],
    ["comp*", ["third"]],
    ["omp*", []],
    ["compilre~", ["third"]],
    ["cmpilre~", []],
    ["cmpilre~2", ["third"]],
    ["kompiler~2", []],
    ["ada", ["first", "second"]],
    ["engine\\*", ["first"]],
    ["session_name:compiler", []],
    ["", ["first", "second", "third"]],
    ["  ", ["first", "second", "third"]],
    ["&& ! *", []],
    ["review & first", ["first"]],
  ])("the text %j finds %j", async ([text, found]) => {
    expect(idsOf(await there.client.searchSessions({ query: { text } })).toSorted()).toEqual(found);
  });

  test.for<[text: string, field: string, found: readonly string[]]>([
    ["the house", "stops", ["1", "2"]],
    ["the house", "", ["1", "2"]],
    ["house of the cards", "", ["1"]],
    ["the hous*", "", ["1", "2"]],
    ["the housee~", "", ["1", "2"]],
    ['"of the" house', "", ["1", "2"]],
    ["house -the", "", ["1", "2"]],
    ["house -(the cards)", "", ["2"]],
    ["the | cards", "", ["1"]],
    ["the", "", []],
    ["to be or not to be", "", []],
    ["the -house", "", []],
    ["chapter 3", "", ["2"]],
    ["chapter 4", "text", []],
    ["add ½ cup", "text", ["3"]],
    ["½", "text", []],
    ["🎉", "text", ["3"]],
    ["🎉 cup", "text", ["3"]],
    ["🎉 chapter", "text", []],
    ["❤️ | 🇩🇪", "text", []],
  ])("of words that analysers drop, the others are asked for: %j in %j finds %j", async ([text, field, found]) => {
    const query = { text, fields: field === "" ? [] : [field] };
    const { hits } = await there.client.search({ indices: ["prose"], query, idsOnly: true });
    expect(idsOf({ hits }).toSorted()).toEqual(found);
  });

  test("fields whose names mean more to servers are kept and not found, and break no search", async () => {
    const client = there.client;
    for (const name of ["a^b", "t*"]) {
      const query = create(QuerySchema, { text: "caret", fields: [name] });
      expect(await refusalOf(client.count({ indices: ["prose"], query }))).toMatchObject({
        reason: "BAD_REQUEST",
        fields: ["query.fields[0]"],
      });
    }
    const { hits } = await client.search({ indices: ["prose"], query: { text: "cup" } });
    expect(hits[0]?.document.value).toMatchObject({ "a^b": "odd", "t*": "odd" });
  });

  test("words are looked for in the fields that are named, also within lists of messages", async () => {
    const search = async (text: string, ...fields: string[]) =>
      idsOf(await there.client.searchBlocks({ query: { text, fields } }));
    expect(await search("first", "session_anchors.session_id")).toEqual([hash("b")]);
    expect(await search("first", "block_id")).toEqual([]);
    expect(await search("first -third", "session_anchors.session_id", "status")).toEqual([]);
    const { client } = there;
    expect(idsOf(await client.searchSessions({ query: { text: "first", fields: ["description"] } }))).toEqual([]);
  });

  test("highlights are text in parts, whatever the text is", async () => {
    const { hits } = await there.client.searchSessions({ query: { text: "looked notes" }, highlight: true });
    const [highlight] = hits[0]?.highlights ?? [];
    expect(highlight?.field).toBe("description");
    const parts = highlight?.fragments.flatMap((fragment) => fragment.parts) ?? [];
    expect(parts.filter(({ matched }) => matched).map(({ text }) => text)).toEqual(["notes", "looked", "looked"]);
    expect(parts.map(({ text }) => text).join("")).toBe(notes);
  });

  test("what is deleted or orphaned is hidden unless it is asked for", async () => {
    const { client } = there;
    expect(idsOf(await client.searchUsers({ query: { text: "lovelace" } }))).toEqual(["ada"]);
    const all = await client.searchUsers({ query: { text: "lovelace", showDeleted: true } });
    expect(idsOf(all).toSorted()).toEqual(["ada", "gone"]);
    expect(idsOf(await client.searchBlocks({}))).toEqual([hash("b"), hash("a")]);
    expect(idsOf(await client.searchBlocks({ status: BlockStatus.ORPHANED }))).toEqual([hash("c")]);
    expect((await client.count({ indices: ["users"] })).count).toBe(2n);
    expect((await client.count({ indices: ["users"], query: { showDeleted: true } })).count).toBe(3n);
  });

  test("what MongoDB no longer shows is not shown, though the index still has it", async () => {
    const { client, app } = there;
    await there.put(UserSchema, {
      userId: "late",
      email: "late@example.com",
      tronAddress: "T-late",
      username: "latecomer",
      ...created(4),
    });
    await there.copy(UserSchema);
    expect(idsOf(await client.searchUsers({ query: { text: "latecomer" } }))).toEqual(["late"]);
    const stored = app.mongodb.db(app.config.mongodb.database).collection("users");
    await stored.updateOne({ user_id: "late" }, { $set: { username: "renamed" } });
    const [renamed] = (await client.searchUsers({ query: { text: "latecomer" } })).hits;
    expect(renamed?.user?.username).toBe("renamed");
    await stored.updateOne({ user_id: "late" }, { $set: { deleted_at: new Date() } });
    expect(idsOf(await client.searchUsers({ query: { text: "latecomer" } }))).toEqual([]);
    await stored.deleteOne({ user_id: "late" });
    expect(idsOf(await client.searchUsers({ query: { text: "latecomer", showDeleted: true } }))).toEqual([]);
    const ids = await client.searchUsers({ query: { text: "latecomer" }, idsOnly: true });
    expect(ids.hits[0]).toMatchObject({ id: "late" });
    expect(ids.hits[0]?.user).toBeUndefined();
  });

  test("typed searches have the filters of their kind", async () => {
    const { client } = there;
    expect(idsOf(await client.searchUsers({ status: UserStatus.ACTIVE, role: UserRole.USER }))).toEqual(["grace"]);
    expect(idsOf(await client.searchSessions({ userId: "ada" }))).toEqual(["second", "first"]);
    expect(idsOf(await client.searchSessions({ userId: "ada", status: SessionStatus.PENDING }))).toEqual(["first"]);
    expect(idsOf(await client.searchBlocks({ fromHeight: 1n, beforeHeight: 2n }))).toEqual([hash("a")]);
    expect(idsOf(await client.searchBlocks({ fromHeight: 2n }))).toEqual([hash("b")]);
    const governance = { transactionType: TransactionType.GOVERNANCE };
    expect(idsOf(await client.searchTransactions(governance))).toEqual([hash("1")]);
    expect(idsOf(await client.searchManifests({ userId: "ada" }))).toEqual(["m1"]);
    expect(idsOf(await client.searchManifests({ userId: "nobody" }))).toEqual([]);
    expect(idsOf(await client.searchManifests({}))).toEqual(["m3", "m1"]);
    const creations = await client.searchAuditLogs({ action: "create", query: { text: "192.0.2.7 | OK" } });
    expect(idsOf(creations)).toEqual(["record-903", "record-901"]);
    expect(creations.hits[0]?.record?.actor?.id).toBe("grace");
    const early = await client.searchAuditLogs({ userId: "ada", from: at(902), before: at(903) });
    expect(idsOf(early)).toEqual(["record-902"]);
  });

  test.for<[name: string, filter: object, found: readonly string[]]>([
    ["a term", { field: "status", term: { text: "PENDING" } }, ["first", "third"]],
    ["no term", { field: "status", term: { text: "PENDING" }, negated: true }, ["second"]],
    ["a name as a whole", { field: "session_name", term: { text: "First review" } }, ["first"]],
    ["a part of a name", { field: "session_name", term: { text: "First" } }, []],
    ["the start of a name", { field: "session_name", prefix: "First re" }, ["first"]],
    ["terms", { field: "session_id", terms: { values: [{ text: "first" }, { text: "third" }] } }, ["first", "third"]],
    ["a whole number", { field: "total_size_bytes", term: { integer: "100" } }, ["first"]],
    [
      "a range",
      { field: "total_size_bytes", range: { from: { integer: "100" }, before: { integer: "101" } } },
      ["first"],
    ],
    ["a time", { field: "created_at", term: { time: "2026-01-01T00:02:00Z" } }, ["second"]],
    ["a time that no document can have", { field: "created_at", term: { time: "2026-01-01T00:02:00.0001Z" } }, []],
    ["times", { field: "created_at", range: { from: { time: "2026-01-01T00:01:00.000001Z" } } }, ["second", "third"]],
    ["that there is a value", { field: "description", exists: true }, ["first"]],
    ["that there is none", { field: "description", exists: false }, ["second", "third"]],
    ["free-form text", { field: "metadata.room.name", term: { text: "blue" } }, ["first"]],
    ["free-form text of a list", { field: "metadata.tags", terms: { values: [{ text: "b" }] } }, ["first"]],
    ["the start of free-form text", { field: "metadata.room.name", prefix: "bl" }, ["first"]],
  ])("a filter by %s", async ([, filter, found]) => {
    const response = await fetch(`http://${there.app.httpAddress}/lucid.search.v1.SearchService/SearchSessions`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ query: { filters: [filter] } }),
    });
    const { hits = [] } = (await response.json()) as { hits?: { id: string }[] };
    expect(response.status).toBe(200);
    expect(idsOf({ hits }).toSorted()).toEqual(found);
  });

  test("messages of a list are matched one by one", async () => {
    const { client } = there;
    const anchor = (integer: bigint) => ({
      query: {
        filters: [
          {
            field: "session_anchors.chunk_count",
            condition: { case: "term", value: { value: { case: "integer", value: integer } } },
          } as const,
        ],
      },
    });
    expect(idsOf(await client.searchBlocks(anchor(7n)))).toEqual([hash("b")]);
    expect(idsOf(await client.searchBlocks(anchor(8n)))).toEqual([]);
  });

  test("there is no value where there are no messages of a list", async () => {
    for (const field of ["session_anchors", "session_anchors.chunk_count"]) {
      for (const [value, negated, found] of [
        [true, false, "b"],
        [false, false, "a"],
        [true, true, "a"],
        [false, true, "b"],
      ] as const) {
        const query = create(QuerySchema, { filters: [{ field, condition: { case: "exists", value }, negated }] });
        expect(idsOf(await there.client.searchBlocks({ query }))).toEqual([hash(found)]);
      }
    }
  });

  test.for([
    ["session_name", ["third", "first", "second"]],
    ["status, created_at desc", ["second", "third", "first"]],
    ["total_size_bytes desc, session_id desc", ["first", "third", "second"]],
    ["started_at, session_id", ["first", "second", "third"]],
    ["score, session_id", ["first", "second", "third"]],
  ] as const)("hits are ordered by %s", async ([orderBy, found]) => {
    expect(idsOf(await there.client.searchSessions({ orderBy }))).toEqual(found);
  });

  test("several indices are searched at once, and each hit is of its own message", async () => {
    await there.operatorIndex(
      "notes",
      { properties: { title: { type: "text" }, number: { type: "long" } } },
      { n1: { title: "A review of reviews", number: 3, long: 1, list: [{ deep: null }] } },
    );
    const { hits } = await there.client.search({ indices: ["sessions", "notes", "users"], query: { text: "review" } });
    const byId = new Map(hits.map((hit) => [hit.id, hit]));
    expect([...byId.keys()].toSorted()).toEqual(["first", "n1", "second"]);
    expect(byId.get("first")).toMatchObject({
      index: "sessions",
      document: { case: "session", value: { sessionName: "First review" } },
    });
    expect(byId.get("n1")).toMatchObject({
      index: "notes",
      document: { case: "fields", value: { title: "A review of reviews", number: 3, list: [{ deep: null }] } },
    });
    const ids = await there.client.search({ indices: ["notes"], query: { text: "review" }, idsOnly: true });
    expect(ids.hits[0]?.document.case).toBeUndefined();
  });

  test("what operators call as the domain does hides nothing of theirs", async () => {
    await there.operatorIndex("removals", { properties: {} }, { r1: { deleted_at: "2026-01-01", word: "removal" } });
    for (const indices of [["removals"], ["removals", "users", "blocks"]]) {
      expect(idsOf(await there.client.search({ indices, query: { text: "removal" } }))).toEqual(["r1"]);
    }
    const both = await there.client.search({ indices: ["removals", "users"], query: { text: "lovelace" } });
    expect(idsOf(both)).toEqual(["ada"]);
    const query = { text: "lovelace", showDeleted: true };
    const all = await there.client.search({ indices: ["removals", "users"], query, idsOnly: true });
    expect(idsOf(all).toSorted()).toEqual(["ada", "gone"]);
  });

  test("an index of any name behind an alias of the deployment is searched beside others", async () => {
    const { client } = there.store;
    const index = `${there.indices.alias("x")}elsewhere_2026`;
    const body = {
      mappings: { properties: { list: { type: "nested", properties: { n: { type: "long" } } } } },
    } as const;
    await client.indices.create({ index, ...body, aliases: { [there.indices.alias("elsewhere")]: {} } });
    const documents = [1, 2].map((n) => [{ index: { _id: `e${n}` } }, { list: [{ n }], word: "elsewhere" }]);
    await client.bulk({ index, operations: documents.flat(), refresh: true });
    const indices = ["elsewhere", "users"];
    const found = await there.client.search({ indices, query: { text: "elsewhere | lovelace" } });
    expect(found.hits.map((hit) => `${hit.index}/${hit.id}`).toSorted()).toEqual([
      "elsewhere/e1",
      "elsewhere/e2",
      "users/ada",
    ]);
    // An order by messages of a list that the other index does not have.
    expect(idsOf(await there.client.search({ indices, orderBy: "list.n desc" })).slice(0, 2)).toEqual(["e2", "e1"]);
  });

  test("a text that is too long to be highlighted to its end breaks no search", async () => {
    const text = `needle ${"hay ".repeat(300_000)}needle`;
    await there.operatorIndex(
      "long",
      { properties: { text: { type: "text" } } },
      { 1: { text }, 2: { text: "a needle" } },
    );
    const { hits } = await there.client.search({
      indices: ["long"],
      query: { text: "needle" },
      highlight: true,
      idsOnly: true,
    });
    const matched = hits.map(({ highlights }) =>
      highlights.flatMap(({ fragments }) => fragments.flatMap(({ parts }) => parts.filter((part) => part.matched))),
    );
    expect(matched.map((parts) => parts.length)).toEqual([1, 1]);
  });

  test("each type of a field is found as its description says, and so are its other forms", async () => {
    const { client } = there;
    const indices = there.app.client(SearchIndexService);
    const { COMPLETION, KEYWORD, SEARCH_AS_YOU_TYPE, TEXT } = IndexFieldType;
    const fields = {
      code: { type: KEYWORD, forms: { words: { type: TEXT }, typed: { type: COMPLETION } } },
      typed: { type: COMPLETION },
    };
    await indices.createIndex({ index: "formed", mapping: { fields } });
    const document = { code: "North Shore", typed: "Lighthouse" };
    await indices.indexDocument({ index: "formed", documentId: "1", document, waitUntilSearchable: true });
    const found = async (text: string, ...named: string[]) =>
      idsOf(await client.search({ indices: ["formed"], query: { text, fields: named } }));
    expect(await found("shore", "code.words")).toEqual(["1"]);
    expect(await found("shore")).toEqual([]);
    for (const text of ["north", "light"]) {
      expect((await client.suggest({ index: "formed", text })).suggestions).toHaveLength(1);
    }
    const { suggestions } = await client.suggest({ index: "formed", text: "north", fields: ["code.typed"] });
    expect(suggestions).toMatchObject([{ text: "North Shore", field: "code.typed" }]);
    const refused = { reason: "BAD_REQUEST", fields: ["order_by"] };
    expect(await refusalOf(client.search({ indices: ["formed"], orderBy: "typed" }))).toMatchObject(refused);
    // Not every server has it.
    const asYouType = { fields: { code: { type: SEARCH_AS_YOU_TYPE } } };
    if ((await there.store.product(AbortSignal.timeout(60_000))).name === "elasticsearch") {
      const made = indices.createIndex({ index: "asyoutype", mapping: asYouType });
      expect(await refusalOf(made)).toMatchObject({ reason: "SEARCH_FEATURE_MISSING" });
      return;
    }
    await indices.createIndex({ index: "asyoutype", mapping: asYouType });
    await indices.indexDocument({ index: "asyoutype", documentId: "1", document, waitUntilSearchable: true });
    expect(idsOf(await client.search({ indices: ["asyoutype"], query: { text: "sho*" } }))).toEqual(["1"]);
  });

  test("suggestions complete what is typed, those that nearly fit last", async () => {
    const suggest = async (text: string, ...fields: string[]) =>
      (await there.client.suggest({ index: "users", text, fields })).suggestions.map((found) => found.text);
    expect((await suggest("a")).toSorted()).toEqual(["Ada Lovelace", "amazing"]);
    expect(await suggest("ada lo")).toEqual(["Ada Lovelace"]);
    expect(await suggest("a", "username")).toEqual(["amazing"]);
    expect(await suggest("amzing")).toEqual(["amazing"]);
    expect(await suggest("lovelace")).toEqual([]); // deleted
    expect(await suggest(".*")).toEqual([]);
    const name = { type: "text", fields: { suggested: { type: "completion" } } } as const;
    await there.operatorIndex("names", { properties: { name } }, { 1: { name: "Ada Lovelace" } });
    for (const index of ["users", "names"]) {
      const { suggestions } = await there.client.suggest({ index, text: "Ada\u001fLove" });
      expect(suggestions).toMatchObject([{ text: "Ada Lovelace" }]);
      expect((await there.client.suggest({ index, text: "\u0000" })).suggestions).toEqual([]);
    }
    const { suggestions } = await there.client.suggest({ index: "users", text: "ada", size: 1 });
    expect(suggestions).toMatchObject([{ text: "Ada Lovelace", field: "profile.display_name", id: "ada" }]);
    const of = (userId: string, field = "user_id") => {
      const condition = { case: "term", value: { value: { case: "text", value: userId } } } as const;
      return there.overHttp.suggest({ index: "users", text: "a", filters: [{ field, condition }] });
    };
    const every = (await there.client.suggest({ index: "users", text: "a" })).suggestions;
    for (const userId of ["ada", "grace"]) {
      expect((await of(userId)).suggestions).toEqual(every.filter(({ id }) => id === userId));
    }
    expect(await refusalOf(of("ada", "nothing"))).toMatchObject({
      reason: "BAD_REQUEST",
      fields: ["filters[0].field"],
    });
  });
});
