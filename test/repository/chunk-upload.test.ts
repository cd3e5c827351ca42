import { create } from "@bufbuild/protobuf";
import { Code, createContextValues, type HandlerContext } from "@connectrpc/connect";
import { MongoClient } from "mongodb";
import { afterAll, beforeAll, expect, test } from "vitest";

import { ErrorInfoSchema } from "../../gen/google/rpc/error_details_pb.ts";
import { ChunkSchema, ChunkStatus } from "../../gen/lucid/repository/v1/chunk_pb.ts";
import { type AddChunksRequest, AddChunksRequestSchema } from "../../gen/lucid/repository/v1/session_service_pb.ts";
import { chunkStore } from "../../src/repository/chunk-store.ts";
import { upload } from "../../src/repository/chunk-upload.ts";
import { sessionEntities } from "../../src/repository/session-entity.ts";
import { storeAddresses } from "../support/stores.ts";
import { chunkInit, countedRows, countersOf, newSession, type SessionsApp, sessionsApp } from "./session-support.ts";
import { refusalOf } from "./support.ts";

let service: SessionsApp;
beforeAll(async () => {
  service = await sessionsApp();
});
afterAll(() => service[Symbol.asyncDispose]());

const hash = "ab".repeat(32);

async function* messages<T>(...sent: T[]) {
  yield* sent;
}

/** The counters of a session, which equal its chunks. */
async function counters(sessionId: string) {
  const { session } = await service.sessions.getSession({ sessionId });
  expect(countersOf(session)).toEqual(await countedRows(service.db, sessionId));
  return countersOf(session);
}

/** The first and the last index of each range of chunks that a session has. */
async function rangesOf(sessionId: string) {
  const { ranges } = await service.sessions.listChunkRanges({ sessionId });
  return ranges.map(({ firstIndex, lastIndex }) => [Number(firstIndex), Number(lastIndex)]);
}

test.for(["sessions", "overHttp"] as const)("an upload tells what became of each chunk (%s)", async (name) => {
  const sessions = service[name];
  const { sessionId } = await newSession(sessions);
  await sessions.addChunk({ sessionId, chunk: chunkInit(1) });
  const response = await sessions.addChunks(
    messages(
      { sessionId, chunks: [chunkInit(0), chunkInit(1), chunkInit(1, { hash })] },
      { chunks: [] },
      { sessionId, chunks: [chunkInit(2), chunkInit(2), chunkInit(0, { sizeBytes: 1n })] },
    ),
  );
  expect(response).toMatchObject({ receivedCount: 6n, addedCount: 2n, alreadyPresentCount: 2n, failedCount: 2n });
  expect(response.failures.map(({ position, chunkIndex }) => [position, chunkIndex])).toEqual([
    [2n, 1n],
    [5n, 0n],
  ]);
  for (const { status, chunkIndex } of response.failures) {
    expect(status).toMatchObject({ code: Code.AlreadyExists });
    const [detail] = status?.details ?? [];
    expect(detail?.typeUrl).toBe(`type.googleapis.com/${ErrorInfoSchema.typeName}`);
    expect(Buffer.from(detail?.value ?? []).toString()).toContain("CHUNK_ALREADY_EXISTS");
    expect(Buffer.from(detail?.value ?? []).toString()).toContain(String(chunkIndex));
  }
  expect(await counters(sessionId)).toMatchObject({ totalChunks: 3n });
});

test("an upload that broke off is resumed, by sending all again or what is missing", async () => {
  const { sessions } = service;
  const { sessionId } = await newSession(sessions);
  const all = Array.from({ length: 2500 }, (_, index) => chunkInit(index, { status: ChunkStatus.UPLOADED }));
  async function* broken() {
    for (let at = 0; at < 1500; at += 250) yield { sessionId, chunks: all.slice(at, at + 250) };
    throw new Error("The line is cut");
  }
  await expect(sessions.addChunks(broken())).rejects.toThrow("The line is cut");
  const { ranges } = await sessions.listChunkRanges({ sessionId });
  const has = (index: bigint) => ranges.some(({ firstIndex, lastIndex }) => firstIndex <= index && index <= lastIndex);
  const missing = all.filter(({ chunkIndex = 0n }) => !has(chunkIndex));
  async function* rest(chunks: typeof all) {
    for (let at = 0; at < chunks.length; at += 1000) yield { sessionId, chunks: chunks.slice(at, at + 1000) };
  }
  const resumed = await sessions.addChunks(rest(missing));
  expect(Number(resumed.addedCount + resumed.alreadyPresentCount)).toBe(missing.length);
  expect(await counters(sessionId)).toMatchObject({ totalChunks: 2500n, chunksUploaded: 2500n });
  const again = await sessions.addChunks(rest(all));
  expect(again).toMatchObject({ receivedCount: 2500n, addedCount: 0n, alreadyPresentCount: 2500n });
  expect((await sessions.listChunkRanges({ sessionId })).ranges).toMatchObject([{ firstIndex: 0n, lastIndex: 2499n }]);
});

test("a caller that sends slowly need not fill a batch to have its chunks stored", async () => {
  const { sessions } = service;
  const { sessionId } = await newSession(sessions);
  const stored = Promise.withResolvers<void>();
  async function* slowly() {
    yield { sessionId, chunks: [chunkInit(0)] };
    await stored.promise;
    yield { sessionId, chunks: [chunkInit(1)] };
  }
  const call = sessions.addChunks(slowly());
  const read = async () => (await sessions.getSession({ sessionId })).session?.totalChunks;
  await expect.poll(read, { timeout: 60_000 }).toBe(1n);
  stored.resolve();
  expect(await call).toMatchObject({ addedCount: 2n });
});

test("a chunk that cannot be stored keeps no other from being added", async () => {
  const { sessions } = service;
  const { sessionId } = await newSession(sessions);
  const chunks = [0, 1, 2, 3].map((index) =>
    chunkInit(index, index === 2 ? { metadata: { text: "x".repeat(5000) } } : { metadata: { text: "x" } }),
  );
  const response = await sessions.addChunks(messages({ sessionId, chunks }));
  expect(response).toMatchObject({ receivedCount: 4n, addedCount: 3n, failedCount: 1n });
  const [failure] = response.failures;
  expect(failure).toMatchObject({ position: 2n, chunkIndex: 2n, status: { code: Code.InvalidArgument } });
  const details = failure?.status?.details.map(({ value }) => Buffer.from(value).toString()).join();
  expect(details).toContain("BAD_REQUEST");
  expect(details).toContain("chunk.metadata");
  expect(await rangesOf(sessionId)).toEqual([
    [0, 1],
    [3, 3],
  ]);
  expect(await counters(sessionId)).toMatchObject({ totalChunks: 3n });
});

test.for(["sessions", "overHttp"] as const)("what comes before a broken rule is added (%s)", async (name) => {
  const sessions = service[name];
  const { sessionId } = await newSession(sessions);
  const from = (first: number, count: number) => Array.from({ length: count }, (_, at) => chunkInit(first + at));
  const sent = messages(
    { sessionId, chunks: from(0, 500) },
    { chunks: from(500, 400) },
    { chunks: from(900, 1) },
    { chunks: [chunkInit(901), chunkInit(902, { hash: "x" })] },
    { chunks: from(903, 1) },
  );
  expect(await refusalOf(sessions.addChunks(sent))).toMatchObject({
    code: "InvalidArgument",
    reason: "BAD_REQUEST",
    fields: ["chunks[1].hash"],
  });
  expect(await rangesOf(sessionId)).toEqual([[0, 900]]);
  expect(await counters(sessionId)).toMatchObject({ totalChunks: 901n });
});

/** What serves uploads, on a connection of its own. */
async function ownStore() {
  const client = await MongoClient.connect(storeAddresses().mongodbUri, { monitorCommands: true });
  const db = client.db(service.db.databaseName, { useBigInt64: true });
  const collections = { ready: async () => {} };
  const { chunks, counters: kept } = sessionEntities({ db, collections, pageTokens: expect.unreachable });
  const store = chunkStore({ chunks: chunks.collection, counters: kept });
  const { signal } = new AbortController();
  const context = { signal, values: createContextValues(), timeoutMs: () => undefined };
  return { client, store, context: context as unknown as HandlerContext }; // all that is asked of it
}

test("many chunks of one index in one message are looked up twice, and one is added", async () => {
  const { client, store, context } = await ownStore();
  await using _ = client;
  const { sessionId } = await newSession(service.sessions);
  let finds = 0;
  client.on("commandStarted", ({ commandName }) => {
    if (commandName === "find") finds += 1;
  });
  const same = Array.from({ length: 500 }, () => create(ChunkSchema, chunkInit(7)));
  const other = create(ChunkSchema, chunkInit(7, { hash }));
  const outcomes = await store.add(sessionId, [...same, other, ...same], context);
  expect(outcomes.map(({ kind }) => kind)).toEqual([
    "added",
    ...Array.from({ length: 499 }, () => "present"),
    "refused",
    ...Array.from({ length: 500 }, () => "present"),
  ]);
  expect(finds).toBe(2);
  expect(await counters(sessionId)).toMatchObject({ totalChunks: 1n });
});

test("a store that is slow keeps an upload of ten thousand chunks from being taken faster", async () => {
  const { client, store, context } = await ownStore();
  await using _ = client;
  const { sessionId } = await newSession(service.sessions);
  const [count, each] = [10_000, 250];
  let [taken, added, most] = [0, 0, 0];
  async function* sent(): AsyncGenerator<AddChunksRequest> {
    for (; taken < count; taken += each) {
      most = Math.max(most, taken - added);
      const chunks = Array.from({ length: each }, (__, at) => chunkInit(taken + at));
      yield create(AddChunksRequestSchema, { sessionId, chunks });
    }
  }
  const slow: typeof store = {
    async add(...call) {
      const outcomes = await store.add(...call);
      added += outcomes.length;
      return outcomes;
    },
  };
  const response = await upload(sent(), { store: slow, begin: async () => {} }, context);
  expect(response).toMatchObject({ receivedCount: BigInt(count), addedCount: BigInt(count), failedCount: 0n });
  // One statement that the store works on, and as much as the next one takes, with the message that was more than that.
  expect(most).toBeLessThanOrEqual(2000 + each);
  expect(await counters(sessionId)).toMatchObject({ totalChunks: BigInt(count) });
});
