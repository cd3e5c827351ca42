import type { JsonObject } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";
import { afterAll, beforeAll, expect, test } from "vitest";

import { AuditLogService } from "../../gen/lucid/repository/v1/audit_log_service_pb.ts";
import { IndexFieldType, UnknownFields } from "../../gen/lucid/search/v1/search_index_pb.ts";
import { BulkAction, BulkOutcome } from "../../gen/lucid/search/v1/search_index_service_pb.ts";
import { reasonOf } from "../../src/errors.ts";
import { refusalOf } from "../repository/support.ts";
import { onEveryServer } from "../support/search-servers.ts";
import { storeAddresses } from "../support/stores.ts";
import { type IndexApp, indexApp, indexName, messagesOf, newIndex, once } from "./index-support.ts";
import { refusingProxy } from "./refusing-proxy.ts";

onEveryServer((uri) => {
  let service: IndexApp;
  beforeAll(async () => {
    service = await indexApp(uri);
  });
  afterAll(() => service[Symbol.asyncDispose]());

  test("a document is put, got at once, changed and deleted", async () => {
    const { indices, overHttp } = service;
    const index = await newIndex(service);
    const document = { name: "A thing", count: 3, more: { list: [1, null, 2], inner: { deep: true } } };
    const put = await indices.indexDocument({ index, documentId: "a/b?c", document });
    expect(put).toMatchObject({ documentId: "a/b?c", created: true, version: 1n });
    const got = await overHttp.getDocument({ index, documentId: "a/b?c" });
    expect(got.document).toMatchObject({ index, documentId: "a/b?c", document, version: 1n, etag: put.etag });
    const changed = await indices.updateDocument({ index, documentId: "a/b?c", fields: { more: { list: [2] } } });
    expect(changed.version).toBe(2n);
    const { document: after } = await indices.getDocument({ index, documentId: "a/b?c" });
    expect(after).toMatchObject({
      document: { ...document, more: { list: [2], inner: { deep: true } } },
      etag: changed.etag,
    });
    await indices.deleteDocument({ index, documentId: "a/b?c" });
    const gone = { code: "NotFound", reason: "SEARCH_DOCUMENT_NOT_FOUND", metadata: { index, document_id: "a/b?c" } };
    expect(await refusalOf(indices.getDocument({ index, documentId: "a/b?c" }))).toMatchObject(gone);
    expect(await refusalOf(indices.deleteDocument({ index, documentId: "a/b?c" }))).toMatchObject(gone);
    expect(await refusalOf(indices.updateDocument({ index, documentId: "a/b?c", fields: {} }))).toMatchObject(gone);
  });

  test("an id is only ever an id", async () => {
    const { indices } = service;
    const index = await newIndex(service);
    const ids = ["..", "../..", "_mapping", "%2e%2e", "*", "_all", "a\nb", "\u0000", '"}}', " ", "ü".repeat(256)];
    for (const documentId of ids) await indices.indexDocument({ index, documentId, document: { name: documentId } });
    for (const documentId of ids) {
      const { document } = await indices.getDocument({ index, documentId });
      expect(document?.document).toEqual({ name: documentId });
    }
    const { documentId } = await indices.indexDocument({ index, document: { name: "one without" } });
    expect(documentId).toMatch(/^[0-9a-f-]{36}$/);
  });

  test("an etag lets only one of two writers through", async () => {
    const { indices } = service;
    const index = await newIndex(service);
    const { etag } = await indices.indexDocument({ index, documentId: "1", document: { count: 0 } });
    const writes = [1, 2].map((count) => indices.indexDocument({ index, documentId: "1", document: { count }, etag }));
    const outcomes = await Promise.allSettled(writes);
    expect(outcomes.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
    const stale = { code: "Aborted", reason: "ETAG_MISMATCH", fields: ["etag"] };
    const fields = { count: 9 };
    expect(await refusalOf(indices.updateDocument({ index, documentId: "1", fields, etag }))).toMatchObject(stale);
    expect(await refusalOf(indices.deleteDocument({ index, documentId: "1", etag }))).toMatchObject(stale);
    for (const made of ["x", "0-0", "9223372036854775808-1", "0-9999999999999999999", "0-1-1"]) {
      expect(await refusalOf(indices.deleteDocument({ index, documentId: "1", etag: made }))).toMatchObject(stale);
    }
    const again = indices.indexDocument({ index, documentId: "1", document: {}, createOnly: true });
    expect(await refusalOf(again)).toMatchObject({ code: "AlreadyExists", reason: "SEARCH_DOCUMENT_ALREADY_EXISTS" });
  });

  test("large whole numbers go in as text, are found as numbers, and come back with all digits", async () => {
    const { indices, part } = service;
    const index = await newIndex(service);
    const address = `${part.prefix}${index}`;
    await indices.indexDocument({ index, documentId: "1", document: { count: "9007199254740993" } });
    // As another writer may have stored it.
    await part.search.client.transport.request(
      {
        method: "PUT",
        path: `/${address}/_doc/2`,
        querystring: { refresh: true },
        body: '{"count":9223372036854775807}',
      },
      { headers: { "content-type": "application/json" } },
    );
    const { hits } = await part.search.client.search({
      index: address,
      query: { term: { count: "9007199254740993" } },
    });
    expect(hits.hits.map(({ _id }) => _id)).toEqual(["1"]);
    const { document } = await indices.getDocument({ index, documentId: "2" });
    expect(document?.document).toEqual({ count: "9223372036854775807" });
  });

  test("what the server does not take is told with its field, and without the value", async () => {
    const { indices } = service;
    const index = await newIndex(service);
    const refused = await refusalOf(
      indices.indexDocument({ index, documentId: "1", document: { count: "secret-value" } }),
    );
    expect(refused).toMatchObject({
      code: "FailedPrecondition",
      reason: "SEARCH_DOCUMENT_REFUSED",
      metadata: { index, document_id: "1", field: "count" },
    });
    expect(JSON.stringify(refused)).not.toContain("secret-value");
    const strict = indexName();
    await indices.createIndex({
      index: strict,
      mapping: { fields: { a: { type: IndexFieldType.KEYWORD } }, unknownFields: UnknownFields.REFUSE },
    });
    expect(await refusalOf(indices.indexDocument({ index: strict, document: { b: 1 } }))).toMatchObject({
      reason: "SEARCH_DOCUMENT_REFUSED",
    });
    const missing = indices.indexDocument({ index: indexName(), documentId: "1", document: {} });
    expect(await refusalOf(missing)).toMatchObject({ code: "NotFound", reason: "SEARCH_INDEX_NOT_FOUND" });
  });

  test("a stream does what it says in its order, and tells what became of each", async () => {
    const { indices } = service;
    const index = await newIndex(service);
    const operations = [
      { documentId: "1", document: { count: 1 } },
      { documentId: "1", document: { count: 2 }, action: BulkAction.UPDATE },
      { documentId: "1", document: { count: 2 }, action: BulkAction.UPDATE },
      { documentId: "1", document: {}, action: BulkAction.CREATE },
      { documentId: "2", document: { count: "x" } },
      { documentId: "1", action: BulkAction.DELETE },
      { documentId: "1", action: BulkAction.DELETE },
      { document: { count: 7 } },
    ];
    const response = await indices.bulkIndex(once({ index, operations, allResults: true }));
    expect(response).toMatchObject({
      receivedCount: 8n,
      createdCount: 2n,
      updatedCount: 1n,
      unchangedCount: 1n,
      deletedCount: 1n,
      failedCount: 3n,
    });
    const { CREATED, UPDATED, UNCHANGED, DELETED, FAILED } = BulkOutcome;
    expect(response.results.map(({ outcome }) => outcome)).toEqual([
      CREATED,
      UPDATED,
      UNCHANGED,
      FAILED,
      FAILED,
      DELETED,
      FAILED,
      CREATED,
    ]);
    expect(response.results.map(({ position }) => Number(position))).toEqual(operations.map((_, at) => at));
    expect(response.results.flatMap(({ status }) => status?.code ?? [])).toEqual([6, 9, 5]);
  });

  test("a stream of any length takes a bounded answer, and a wrong message leaves what was done", async () => {
    const { indices } = service;
    const index = await newIndex(service);
    const wrong = function* (): Generator<[string, JsonObject]> {
      for (let at = 0; at < 3000; at++) yield [`d${at}`, { count: "no number" }];
    };
    const refused = await indices.bulkIndex(messagesOf(index, wrong()));
    expect(refused).toMatchObject({ receivedCount: 3000n, failedCount: 3000n });
    expect(refused.results).toHaveLength(1000);
    const broken = async function* () {
      yield { index, operations: Array.from({ length: 1000 }, (_, at) => ({ documentId: `e${at}`, document: {} })) };
      yield { index, operations: [{ action: BulkAction.DELETE }] };
    };
    expect(await refusalOf(indices.bulkIndex(broken()))).toMatchObject({
      code: "InvalidArgument",
      reason: "BAD_REQUEST",
      fields: ["operations[0].document_id"],
    });
    expect((await indices.getDocument({ index, documentId: "e999" })).document?.version).toBe(1n);
    // The log says that it changed something, and how it ended.
    const audit = service.app.client(AuditLogService);
    const { records } = await audit.listAuditRecords({ filter: { resourceType: "Index", resourceName: index } });
    const bulks = records.filter(({ rpc }) => rpc.endsWith("/BulkIndex"));
    expect(bulks.map(({ outcome }) => outcome).toSorted()).toEqual(["INVALID_ARGUMENT", "OK"]);
  });

  test("what the stream does not say, or says differently, is refused", async () => {
    const { indices } = service;
    const index = await newIndex(service);
    const bad = { code: "InvalidArgument", reason: "BAD_REQUEST", fields: ["index"] };
    expect(await refusalOf(indices.bulkIndex(once({})))).toMatchObject(bad);
    const two = async function* () {
      yield { index };
      yield { index: `${index}x` };
    };
    expect(await refusalOf(indices.bulkIndex(two()))).toMatchObject(bad);
    const nothing = indices.bulkIndex(once({ index, operations: [{ documentId: "1" }] }));
    expect(await refusalOf(nothing)).toMatchObject({ fields: ["operations[0].document"] });
    expect(await refusalOf(indices.bulkIndex(once({ index: indexName() })))).toMatchObject({
      reason: "SEARCH_INDEX_NOT_FOUND",
    });
  });

  test("an index that is deleted under a stream ends it, and is not made again", async () => {
    const { indices } = service;
    const index = await newIndex(service);
    const stream = async function* () {
      yield* messagesOf(index, [["1", { count: 1 }]]);
      await indices.deleteIndex({ index, confirmIndex: index });
      yield* messagesOf(index, [["2", { count: 1 }]]);
    };
    expect(await refusalOf(indices.bulkIndex(stream()))).toMatchObject({ reason: "SEARCH_INDEX_NOT_FOUND" });
    expect(await refusalOf(indices.getIndex({ index }))).toMatchObject({ reason: "SEARCH_INDEX_NOT_FOUND" });
  });

  test("numbers that are none and documents that go too deep are refused by their field", async () => {
    const { indices } = service;
    const index = await newIndex(service);
    let deep: JsonObject = {};
    for (let level = 0; level < 31; level++) deep = { deep };
    for (const document of [deep, { count: Number.NaN }]) {
      const refused = indices.indexDocument({ index, documentId: "1", document }).catch((error: unknown) => error);
      const error = await refused;
      // A client of Protobuf's JSON would not have sent the second.
      expect([reasonOf(error)?.reason, undefined]).toContain(reasonOf(error)?.reason);
      expect(await refusalOf(indices.getDocument({ index, documentId: "1" }))).toMatchObject({
        reason: "SEARCH_DOCUMENT_NOT_FOUND",
      });
    }
    expect(await refusalOf(indices.indexDocument({ index, documentId: "1", document: deep }))).toMatchObject({
      code: "InvalidArgument",
      reason: "BAD_REQUEST",
      fields: ["document"],
    });
  });
});

test("of a stream the server has no room for a part of, that part is told, and what was done", async () => {
  await using server = await refusingProxy(storeAddresses().searchUri);
  await using busy = await indexApp(server.uri);
  const index = await newIndex(busy);
  const done = { status: 201, result: "created", _version: 1, _seq_no: 0, _primary_term: 1 };
  const refused = { status: 429, error: { type: "es_rejected_execution_exception", reason: "full" } };
  let asked = 0;
  server.refuses = (_, path) => {
    if (!path.includes("/_bulk")) return undefined;
    const items = asked++ === 0 ? [{ index: done }, { index: refused }] : [{ index: refused }];
    return { status: 200, body: { items } };
  };
  const operations = ["1", "2"].map((documentId) => ({ documentId, document: { count: 1 } }));
  const response = await busy.indices.bulkIndex(once({ index, operations }), { timeoutMs: 120_000 });
  expect(asked).toBeGreaterThan(3);
  expect(response).toMatchObject({ createdCount: 1n, failedCount: 1n });
  expect(response.results).toMatchObject([{ documentId: "2", outcome: BulkOutcome.FAILED }]);
  expect(response.results[0]?.status?.code).toBe(Code.Unavailable);
});
