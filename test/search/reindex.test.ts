import { randomUUID } from "node:crypto";

import type { JsonObject } from "@bufbuild/protobuf";
import { afterAll, beforeAll, expect, test } from "vitest";

import { JobState } from "../../gen/lucid/admin/v1/backup_service_pb.ts";
import { IndexJobType } from "../../gen/lucid/search/v1/search_index_service_pb.ts";
import { refusalOf } from "../repository/support.ts";
import { onEveryServer } from "../support/search-servers.ts";
import { endOf, type IndexApp, indexApp, indexName, messagesOf, newIndex } from "./index-support.ts";

function* things(count: number): Generator<[string, JsonObject]> {
  for (let at = 0; at < count; at++) yield [`d${at}`, { name: `thing ${at}`, count: at }];
}

onEveryServer((uri) => {
  let service: IndexApp;
  beforeAll(async () => {
    service = await indexApp(uri);
  });
  afterAll(() => service[Symbol.asyncDispose]());

  test("a copy has every document with its version, and leaves newer ones alone", async () => {
    const { indices } = service;
    const sourceIndex = await newIndex(service);
    const index = await newIndex(service);
    await indices.bulkIndex(messagesOf(sourceIndex, things(5000)));
    await indices.updateDocument({ index: sourceIndex, documentId: "d1", fields: { count: -1 } });
    for (let version = 1; version <= 3; version++) {
      await indices.indexDocument({ index, documentId: "d1", document: { name: "newer", count: version } });
    }
    const requestId = randomUUID();
    const { job } = await indices.reindex({ sourceIndex, index, requestId });
    expect((await indices.reindex({ sourceIndex, index, requestId })).job?.jobId).toBe(job?.jobId);
    const last = await endOf(service, job?.jobId ?? "");
    expect(last).toMatchObject({
      state: JobState.SUCCEEDED,
      progress: { percent: 100, documentCount: 5000n, writtenCount: 4999n, presentCount: 1n, refusedCount: 0n },
    });
    expect((await indices.getDocument({ index, documentId: "d1" })).document?.document).toMatchObject({ count: 3 });
    expect((await indices.getDocument({ index, documentId: "d4999" })).document).toMatchObject({
      document: { name: "thing 4999", count: 4999 },
      version: 1n,
    });
    // Run again, it finds everything done.
    const again = await indices.reindex({ sourceIndex, index });
    expect(await endOf(service, again.job?.jobId ?? "")).toMatchObject({
      state: JobState.SUCCEEDED,
      progress: { writtenCount: 0n, presentCount: 5000n },
    });
    const got = await indices.getIndexJob({ jobId: job?.jobId ?? "" });
    expect(got.job).toMatchObject({ type: IndexJobType.REINDEX, index, sourceIndex, state: JobState.SUCCEEDED });
    const listed = await indices.listIndexJobs({ pageSize: 1 });
    expect(listed.jobs.map(({ jobId }) => jobId)).toEqual([again.job?.jobId]);
    const next = await indices.listIndexJobs({ pageSize: 1, pageToken: listed.nextPageToken });
    expect(next.jobs.map(({ jobId }) => jobId)).toEqual([job?.jobId]);
  });

  test("documents that the index does not take are named, and the others are copied", async () => {
    const { indices } = service;
    const sourceIndex = indexName();
    await indices.createIndex({ index: sourceIndex });
    const index = await newIndex(service);
    await indices.indexDocument({ index: sourceIndex, documentId: "good", document: { count: "1" } });
    await indices.indexDocument({ index: sourceIndex, documentId: "bad", document: { count: "one" } });
    const { job } = await indices.reindex({ sourceIndex, index });
    expect(await endOf(service, job?.jobId ?? "")).toMatchObject({
      state: JobState.FAILED,
      error: { reason: "SEARCH_COPY_INCOMPLETE", metadata: { refused_count: "1" } },
      progress: { writtenCount: 1n, refusedCount: 1n, refused: [{ documentId: "bad" }] },
    });
  });

  test("an index that is not there is told before there is a job, one that goes later fails it", async () => {
    const { indices } = service;
    const index = await newIndex(service);
    const missing = { code: "NotFound", reason: "SEARCH_INDEX_NOT_FOUND" };
    expect(await refusalOf(indices.reindex({ sourceIndex: indexName(), index }))).toMatchObject(missing);
    expect(await refusalOf(indices.reindex({ sourceIndex: index, index: indexName() }))).toMatchObject(missing);
    expect(await refusalOf(indices.reindex({ sourceIndex: index, index }))).toMatchObject({ reason: "BAD_REQUEST" });
    const nothing = { jobId: "00000000-0000-7000-8000-000000000000" };
    const noJob = { code: "NotFound", reason: "INDEX_JOB_NOT_FOUND", metadata: { job_id: nothing.jobId } };
    expect(await refusalOf(indices.getIndexJob(nothing))).toMatchObject(noJob);
    expect(await refusalOf(indices.cancelIndexJob(nothing))).toMatchObject(noJob);
    expect(await refusalOf(Array.fromAsync(indices.watchIndexJob(nothing)))).toMatchObject(noJob);
    expect(await refusalOf(indices.listIndexJobs({ pageToken: "abc" }))).toMatchObject({
      reason: "PAGE_TOKEN_INVALID",
    });
  });
});
