import { randomUUID } from "node:crypto";

import { afterAll, beforeAll, expect, test } from "vitest";

import { JobState } from "../../gen/lucid/admin/v1/backup_service_pb.ts";
import { UserService } from "../../gen/lucid/repository/v1/user_service_pb.ts";
import { IndexFieldType, IndexHealth, IndexOrigin, UnknownFields } from "../../gen/lucid/search/v1/search_index_pb.ts";
import { EnsuredState, IndexJobPhase } from "../../gen/lucid/search/v1/search_index_service_pb.ts";
import { searchedMessages } from "../../src/search/messages.ts";
import { newUser, refusalOf } from "../repository/support.ts";
import { onEveryServer } from "../support/search-servers.ts";
import { endOf, type IndexApp, indexApp, indexName, newIndex, once } from "./index-support.ts";

onEveryServer((uri) => {
  let service: IndexApp;
  beforeAll(async () => {
    service = await indexApp(uri);
  });
  afterAll(() => service[Symbol.asyncDispose]());

  test("an index is made as it is described, and told so", async () => {
    const { indices, overHttp } = service;
    const index = indexName();
    const fields = {
      id: { type: IndexFieldType.KEYWORD, ignoreAbove: 100 },
      name: { type: IndexFieldType.TEXT, analyzer: "simple", forms: { exact: { type: IndexFieldType.KEYWORD } } },
      count: { type: IndexFieldType.LONG, notIndexed: true },
      at: { type: IndexFieldType.DATE, format: "epoch_millis" },
      from: { type: IndexFieldType.OBJECT, fields: { address: { type: IndexFieldType.IP } } },
      parts: { type: IndexFieldType.NESTED, fields: { size: { type: IndexFieldType.DOUBLE } } },
      anything: { type: IndexFieldType.FREE_FORM },
      suggestion: { type: IndexFieldType.COMPLETION },
    };
    const settings = { shardCount: 2, replicaCount: 0, refreshInterval: { seconds: 5n } };
    const made = await indices.createIndex({
      index,
      settings,
      mapping: { fields, unknownFields: UnknownFields.REFUSE },
    });
    expect(made.index).toMatchObject({
      index,
      origin: IndexOrigin.OPERATOR,
      version: 1,
      otherVersions: [],
      documentCount: 0n,
      settings,
      mapping: { fields, unknownFields: UnknownFields.REFUSE },
    });
    const told = await overHttp.getIndex({ index });
    expect(told.index?.mapping).toEqual(made.index?.mapping);
    expect(told.index?.health).toBe(IndexHealth.GREEN);
    expect(Number(told.index?.createTime?.seconds)).toBeGreaterThan(Date.now() / 1000 - 600);
  });

  test("fields are added, and none is changed", async () => {
    const { indices } = service;
    const index = await newIndex(service);
    const added = { fields: { extra: { type: IndexFieldType.BOOLEAN } } };
    const { index: told } = await indices.updateMapping({ index, mapping: added });
    expect(Object.keys(told?.mapping?.fields ?? {}).toSorted()).toEqual(["count", "extra", "name"]);
    for (const type of [IndexFieldType.TEXT, IndexFieldType.OBJECT]) {
      const change = indices.updateMapping({ index, mapping: { fields: { count: { type } } } });
      expect(await refusalOf(change)).toMatchObject({
        code: "FailedPrecondition",
        reason: "SEARCH_MAPPING_CONFLICT",
        metadata: { index },
      });
    }
    const wrong = { fields: { other: { type: IndexFieldType.KEYWORD, format: "epoch_millis" } } };
    expect(await refusalOf(indices.updateMapping({ index, mapping: wrong }))).toMatchObject({
      code: "InvalidArgument",
      reason: "SEARCH_MAPPING_INVALID",
    });
  });

  test("an index is deleted only where its name is said twice", async () => {
    const { indices } = service;
    const index = await newIndex(service);
    await indices.indexDocument({ index, documentId: "1", document: { name: "x" }, waitUntilSearchable: true });
    expect(await refusalOf(indices.deleteIndex({ index, confirmIndex: `${index}x` }))).toMatchObject({
      code: "FailedPrecondition",
      reason: "CONFIRMATION_MISMATCH",
      fields: ["confirm_index"],
    });
    expect((await indices.deleteIndex({ index, validateOnly: true })).documentCount).toBe(1n);
    expect((await indices.getIndex({ index })).index?.documentCount).toBe(1n);
    expect((await indices.deleteIndex({ index, confirmIndex: index })).documentCount).toBe(1n);
    expect(await refusalOf(indices.getIndex({ index }))).toMatchObject({
      code: "NotFound",
      reason: "SEARCH_INDEX_NOT_FOUND",
      metadata: { index },
    });
    // The name is free again.
    await newIndex(service, index);
  });

  test("the pages of a list hold each index once, and nothing of other deployments", async () => {
    const { indices, part } = service;
    const names = await Promise.all(Array.from({ length: 3 }, () => newIndex(service)));
    const elsewhere = `other-${part.prefix}x`;
    await part.search.client.indices.create({ index: elsewhere });
    try {
      const found: string[] = [];
      let pageToken = "";
      do {
        const page = await indices.listIndices({ pageSize: 2, pageToken, origin: IndexOrigin.OPERATOR });
        expect(page.indices.length).toBeLessThanOrEqual(2);
        found.push(...page.indices.map(({ index }) => index));
        pageToken = page.nextPageToken;
      } while (pageToken !== "");
      expect(found).toEqual([...new Set(found)].toSorted());
      expect(found).toEqual(expect.arrayContaining(names));
      expect(found.filter((name) => name.includes("other"))).toEqual([]);
    } finally {
      await part.search.client.indices.delete({ index: elsewhere });
    }
    expect(await refusalOf(indices.listIndices({ pageToken: "abc" }))).toMatchObject({ reason: "PAGE_TOKEN_INVALID" });
  });

  test("of two who make an index at once, one does", async () => {
    const index = indexName();
    const outcomes = await Promise.allSettled([newIndex(service, index), newIndex(service, index)]);
    expect(outcomes.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
    expect(await refusalOf(newIndex(service, index))).toMatchObject({
      code: "AlreadyExists",
      reason: "SEARCH_INDEX_ALREADY_EXISTS",
    });
  });

  test("the indices of the repositories are ensured, and nobody else changes them", async () => {
    const { indices } = service;
    const kept = [...searchedMessages.keys()].toSorted();
    const first = await indices.ensureIndices({});
    expect(first.indices.map(({ index }) => index)).toEqual(kept);
    const again = await indices.ensureIndices({});
    expect(again.indices.map(({ state }) => state)).toEqual(kept.map(() => EnsuredState.EXISTING));
    const listed = await indices.listIndices({ origin: IndexOrigin.REPOSITORY });
    expect(listed.indices.map(({ index }) => index)).toEqual(kept);
    const index = "users";
    const operations = [{ documentId: "x", document: {} }];
    const other = await newIndex(service);
    const changes: (() => Promise<unknown>)[] = [
      () => indices.createIndex({ index }),
      () => indices.updateMapping({ index, mapping: {} }),
      () => indices.deleteIndex({ index, confirmIndex: index }),
      () => indices.indexDocument({ index, documentId: "x", document: {} }),
      () => indices.updateDocument({ index, documentId: "x", fields: {} }),
      () => indices.deleteDocument({ index, documentId: "x" }),
      () => indices.bulkIndex(once({ index, operations })),
      () => indices.reindex({ index, sourceIndex: "sessions" }),
      () => indices.reindex({ index: other, sourceIndex: index }),
    ];
    for (const change of changes) {
      expect(await refusalOf(change())).toMatchObject({
        code: "FailedPrecondition",
        reason: "SEARCH_INDEX_PROTECTED",
      });
    }
    expect(await refusalOf(indices.ensureIndices({ indices: ["nothing"] }))).toMatchObject({
      reason: "SEARCH_INDEX_NOT_FOUND",
    });
  });

  test("an index that has a name without versions is read and deleted, and not written to", async () => {
    const { indices, part } = service;
    const index = indexName();
    const place = `${part.prefix}${index}`;
    await part.search.client.index({ index: place, id: "1", document: { a: 1 }, refresh: true });
    expect((await indices.getIndex({ index })).index).toMatchObject({ version: 0, documentCount: 1n });
    expect((await indices.getDocument({ index, documentId: "1" })).document?.document).toEqual({ a: 1 });
    const occupied = { code: "FailedPrecondition", reason: "SEARCH_INDEX_OCCUPIED" };
    expect(await refusalOf(indices.createIndex({ index }))).toMatchObject(occupied);
    expect(await refusalOf(indices.indexDocument({ index, documentId: "2", document: {} }))).toMatchObject(occupied);
    expect(await refusalOf(indices.bulkIndex(once({ index })))).toMatchObject(occupied);
    const source = await newIndex(service);
    expect(await refusalOf(indices.reindex({ index, sourceIndex: source }))).toMatchObject(occupied);
    await indices.deleteIndex({ index, confirmIndex: index });
    await newIndex(service, index);
  });

  test("an index that has the name of one of the service's own is a conflict that is named", async () => {
    const { indices, part } = service;
    const { client } = part.search;
    await indices.ensureIndices({ indices: ["blocks"] });
    await client.indices.delete({ index: `${part.prefix}blocks-v1` });
    await client.indices.create({ index: `${part.prefix}blocks` });
    const ensured = await indices.ensureIndices({ indices: ["blocks"] });
    expect(ensured.indices).toMatchObject([
      { index: "blocks", state: EnsuredState.CONFLICTING, occupiedBy: `${part.prefix}blocks` },
    ]);
    await client.indices.delete({ index: `${part.prefix}blocks` });
    expect((await indices.ensureIndices({ indices: ["blocks"] })).indices[0]?.state).toBe(EnsuredState.CREATED);
  });

  test("an index of the service's own is rebuilt and taken back while it serves", async () => {
    const { indices, overHttp, app } = service;
    const users = app.client(UserService);
    const { userId } = await newUser(users);
    await indices.ensureIndices({ indices: ["users"] });
    const nothing = overHttp.rollbackIndex({ index: "users", confirmIndex: "users" });
    expect(await refusalOf(nothing)).toMatchObject({
      code: "FailedPrecondition",
      reason: "SEARCH_NO_PREVIOUS_VERSION",
      metadata: { index: "users" },
    });
    const requestId = randomUUID();
    const { job } = await indices.rebuildIndex({ index: "users", requestId });
    expect((await overHttp.rebuildIndex({ index: "users", requestId })).job?.jobId).toBe(job?.jobId);
    expect(await refusalOf(indices.rebuildIndex({ index: "users" }))).toMatchObject({ reason: "SEARCH_INDEX_IN_USE" });
    expect(await endOf(service, job?.jobId ?? "")).toMatchObject({
      state: JobState.SUCCEEDED,
      progress: { percent: 100, writtenCount: 1n, comparedCount: 1n, phase: IndexJobPhase.SWAPPING },
    });
    expect((await indices.getIndex({ index: "users" })).index).toMatchObject({ version: 2, otherVersions: [1] });
    expect((await indices.getDocument({ index: "users", documentId: userId })).document?.document).toMatchObject({
      user_id: userId,
    });
    expect(await refusalOf(indices.rollbackIndex({ index: "users", confirmIndex: "user" }))).toMatchObject({
      code: "FailedPrecondition",
      reason: "CONFIRMATION_MISMATCH",
      fields: ["confirm_index"],
    });
    const back = await indices.rollbackIndex({ index: "users", confirmIndex: "users" });
    expect((await endOf(service, back.job?.jobId ?? ""))?.state).toBe(JobState.SUCCEEDED);
    expect((await indices.getIndex({ index: "users" })).index).toMatchObject({ version: 1, otherVersions: [2] });
    // The version that nothing had been written to has all that there is.
    expect((await indices.getDocument({ index: "users", documentId: userId })).document?.documentId).toBe(userId);
    for (const call of [
      () => indices.rebuildIndex({ index: "nothing" }),
      () => indices.rollbackIndex({ index: "nothing", confirmIndex: "nothing" }),
    ]) {
      expect(await refusalOf(call())).toMatchObject({ code: "NotFound", reason: "SEARCH_INDEX_NOT_FOUND" });
    }
  });

  test("messages of a list are no documents, wherever documents are counted", async () => {
    const { indices } = service;
    const index = indexName();
    await indices.createIndex({ index, mapping: { fields: { lines: { type: IndexFieldType.NESTED } } } });
    const document = { lines: [{ n: 1 }, { n: 2 }, { n: 3 }] };
    await indices.indexDocument({ index, document, waitUntilSearchable: true });
    const listed = (await indices.listIndices({ pageSize: 1000 })).indices.find((found) => found.index === index);
    expect(listed?.documentCount).toBe(1n);
    expect((await indices.getIndex({ index })).index?.documentCount).toBe(1n);
    expect((await indices.getIndexStatistics({ index })).statistics?.documentCount).toBe(1n);
    expect((await indices.deleteIndex({ index, confirmIndex: index })).documentCount).toBe(1n);
  });

  test("statistics count what was done", async () => {
    const { indices } = service;
    const index = await newIndex(service);
    for (const documentId of ["1", "2", "3"])
      await indices.indexDocument({ index, documentId, document: { name: "x" } });
    await indices.deleteDocument({ index, documentId: "3", waitUntilSearchable: true });
    const { statistics } = await indices.getIndexStatistics({ index });
    expect(statistics).toMatchObject({
      index,
      documentCount: 2n,
      health: IndexHealth.GREEN,
      activeShardCount: 1,
      inactiveShardCount: 0,
      writes: { count: 3n },
      deletions: { count: 1n },
    });
    expect(statistics?.storedBytes).toBeGreaterThan(0n);
  });
});
