import { randomUUID } from "node:crypto";

import type { MessageInitShape } from "@bufbuild/protobuf";
import { timestampMs } from "@bufbuild/protobuf/wkt";
import { afterAll, beforeAll, expect, test } from "vitest";

import { SessionStatus } from "../../gen/lucid/repository/v1/session_pb.ts";
import { type ListSessionsRequestSchema, SessionSearchMode } from "../../gen/lucid/repository/v1/session_service_pb.ts";
import { newSession, sessionIn, someTree, type SessionsApp, sessionsApp } from "./session-support.ts";
import { refusalOf } from "./support.ts";

let service: SessionsApp;
beforeAll(async () => {
  service = await sessionsApp();
});
afterAll(() => service[Symbol.asyncDispose]());

test("a new session is pending, with defaults and nothing that only the service sets", async () => {
  const before = Date.now();
  const { session } = await service.sessions.createSession({
    session: {
      userId: "ada",
      sessionName: "A review",
      sessionId: "chosen by the caller",
      status: SessionStatus.COMPLETED,
      totalChunks: 9n,
      errorMessage: "x",
      revision: 9n,
      startedAt: { seconds: 1n },
      blockchainAnchor: { merkleRoot: "0".repeat(64) },
    },
  });
  expect(session).toMatchObject({
    userId: "ada",
    sessionName: "A review",
    status: SessionStatus.PENDING,
    maxSizeBytes: 107_374_182_400n,
    storageProvider: "local",
    totalChunks: 0n,
    chunksUploaded: 0n,
    chunksProcessed: 0n,
    chunksEncrypted: 0n,
    retryCount: 0,
    revision: 1n,
    etag: '"1"',
  });
  expect(session?.sessionId).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-/);
  for (const field of ["startedAt", "blockchainAnchor", "errorMessage", "deletedAt"] as const) {
    expect(session?.[field]).toBeUndefined();
  }
  const createdAt = session?.createdAt === undefined ? 0 : timestampMs(session.createdAt);
  expect(createdAt).toBeGreaterThanOrEqual(before);
  expect(createdAt).toBeLessThanOrEqual(Date.now());
});

test.for(["sessions", "overHttp"] as const)(
  "a session is found by its id, alone and among others (%s)",
  async (name) => {
    const sessions = service[name];
    const made = await newSession(sessions, {
      sessionName: "ü",
      description: "d",
      rdpServerId: "rdp-1",
      rdpPort: 3389,
      rdpConnectionInfo: { colour: 32, $where: "sleep(1000)" },
      recordedSizeBytes: 2n ** 60n + 1n,
      compressedSizeBytes: 0n,
      compressionRatio: 2.5,
      maxSizeBytes: 5n,
      manifestId: "m",
      trustPolicyId: "p",
      pipelineState: { step: { "a.b": [1, null] } },
      retryCount: 2,
      storageProvider: "s3",
      storagePath: "/a",
      storageVolume: "v",
      uploadBandwidthMbps: 12.5,
      metadata: { constructor: 1 },
    });
    expect((await sessions.getSession({ sessionId: made.sessionId })).session).toStrictEqual(made);
    const other = await newSession(sessions);
    const ids = [other.sessionId, "nothing", made.sessionId];
    const found = await sessions.batchGetSessions({ sessionIds: ids });
    expect(found.sessions).toStrictEqual([other, made]);
    expect(found.missingSessionIds).toEqual(["nothing"]);
  },
);

test("a create that is repeated with its request_id returns the first session as it is now", async () => {
  const { sessions, db } = service;
  const request = { session: { userId: randomUUID() }, requestId: randomUUID() };
  const made = await Promise.all(Array.from({ length: 10 }, () => sessions.createSession(request)));
  const ids = new Set(made.map(({ session }) => session?.sessionId));
  expect(ids.size).toBe(1);
  const [sessionId = ""] = ids;
  await sessions.updateSession({ session: { sessionId, description: "new" } });
  expect((await sessions.createSession(request)).session).toMatchObject({ sessionId, description: "new" });
  expect(await db.collection("sessions").countDocuments({ user_id: request.session.userId })).toBe(1);
  const another = { ...request, session: { userId: "another" } };
  expect(await refusalOf(sessions.createSession(another))).toMatchObject({ reason: "REQUEST_ID_REUSED" });
});

test("an update changes the fields of its mask and nothing that a step sets", async () => {
  const { sessions } = service;
  const made = await newSession(sessions, { sessionName: "old", description: "old", rdpPort: 1 });
  const { sessionId, userId } = made;
  const { session } = await sessions.updateSession({
    session: { sessionId, description: "$user_id", status: SessionStatus.COMPLETED, totalChunks: 7n },
    updateMask: { paths: ["description", "session_name", "status", "total_chunks", "storage_provider"] },
  });
  expect(session).toMatchObject({
    description: "$user_id",
    status: SessionStatus.PENDING,
    totalChunks: 0n,
    rdpPort: 1,
    userId,
    storageProvider: "local",
    revision: 2n,
  });
  expect(session).not.toHaveProperty("sessionName");
  const all = { session: { sessionId, userId }, updateMask: { paths: ["*"] } };
  const replaced = (await sessions.updateSession(all)).session;
  expect(replaced).toMatchObject({ userId, maxSizeBytes: 107_374_182_400n, status: SessionStatus.PENDING });
  expect(replaced).not.toHaveProperty("rdpPort");
  expect(replaced?.createdAt).toStrictEqual(made.createdAt);
});

test("the steps of the pipeline set the times that belong to them", async () => {
  const { sessions } = service;
  const recording = await sessionIn(sessions, SessionStatus.RECORDING);
  const { sessionId } = recording;
  expect(recording.startedAt).toStrictEqual(recording.updatedAt);
  expect(recording.endedAt).toBeUndefined();
  // As if recording had begun a while ago.
  const startedAt = new Date(Date.now() - 90_500);
  await service.db.collection("sessions").updateOne({ session_id: sessionId }, { $set: { started_at: startedAt } });
  const step = async (status: SessionStatus) => (await sessions.updateSessionStatus({ sessionId, status })).session;
  const processing = await step(SessionStatus.PROCESSING);
  expect(processing?.endedAt).toStrictEqual(processing?.updatedAt);
  expect(processing?.processingStartedAt).toStrictEqual(processing?.updatedAt);
  const endedAt = processing?.endedAt === undefined ? 0 : timestampMs(processing.endedAt);
  expect(processing?.durationSeconds).toBe(BigInt(Math.floor((endedAt - startedAt.getTime()) / 1000)));
  await step(SessionStatus.ENCRYPTING);
  const building = await step(SessionStatus.MERKLE_BUILDING);
  expect(building?.processingCompletedAt).toBeUndefined();
  expect(building).toMatchObject({ endedAt: processing?.endedAt, durationSeconds: processing?.durationSeconds });
  await sessions.setMerkleTree({ sessionId, merkleTree: someTree });
  const anchoring = await step(SessionStatus.ANCHORING);
  expect(anchoring?.processingCompletedAt).toStrictEqual(anchoring?.updatedAt);
  const [from, to] = [anchoring?.processingStartedAt, anchoring?.processingCompletedAt].map((time) =>
    time === undefined ? Number.NaN : timestampMs(time),
  );
  expect(anchoring?.processingTimeSeconds).toBeCloseTo(((to ?? 0) - (from ?? 0)) / 1000, 6);
  // A session may be completed without an anchor.
  expect(await step(SessionStatus.COMPLETED)).not.toHaveProperty("blockchainAnchor");
});

test.for([SessionStatus.FAILED, SessionStatus.CANCELLED])("recording ends with the session (%s)", async (status) => {
  const { sessions } = service;
  const begun = await sessionIn(sessions, SessionStatus.RECORDING);
  const errorMessage = status === SessionStatus.FAILED ? { errorMessage: "$user_id" } : {};
  const { session } = await sessions.updateSessionStatus({ sessionId: begun.sessionId, status, ...errorMessage });
  expect(session).toMatchObject({ status, endedAt: session?.updatedAt, ...errorMessage });
  expect(session?.durationSeconds).toBeLessThan(60n);
  const never = await sessionIn(sessions, status);
  for (const field of ["startedAt", "endedAt", "durationSeconds"]) expect(never).not.toHaveProperty(field);
  const later = await sessionIn(sessions, SessionStatus.ENCRYPTING);
  const after = (await sessions.updateSessionStatus({ sessionId: later.sessionId, status })).session;
  expect(after).toMatchObject({ endedAt: later.endedAt, durationSeconds: later.durationSeconds });
});

test("a step with an etag is taken only from that revision", async () => {
  const { sessions } = service;
  const { sessionId, etag } = await newSession(sessions);
  const status = SessionStatus.RECORDING;
  const stale = { code: "Aborted", reason: "ETAG_MISMATCH" };
  expect(await refusalOf(sessions.updateSessionStatus({ sessionId, status, etag: '"9"' }))).toMatchObject(stale);
  expect((await sessions.updateSessionStatus({ sessionId, status, etag })).session).toMatchObject({ status });
});

test("a deleted session is not found, can be shown and comes back", async () => {
  const { sessions } = service;
  const made = await newSession(sessions);
  const { sessionId, etag, userId } = made;
  expect((await sessions.deleteSession({ sessionId, validateOnly: true, etag })).session).toStrictEqual(made);
  const gone = (await sessions.deleteSession({ sessionId, etag })).session;
  expect(gone?.deletedAt).toStrictEqual(gone?.updatedAt);
  for (const call of [
    () => sessions.getSession({ sessionId }),
    () => sessions.updateSession({ session: { sessionId, description: "x" } }),
    () => sessions.updateSessionStatus({ sessionId, status: SessionStatus.RECORDING }),
    () => sessions.deleteSession({ sessionId }),
  ]) {
    expect(await refusalOf(call())).toMatchObject({ code: "NotFound", reason: "SESSION_NOT_FOUND" });
  }
  expect((await sessions.getSession({ sessionId, showDeleted: true })).session).toStrictEqual(gone);
  expect((await sessions.listSessions({ filter: { userId } })).sessions).toEqual([]);
  expect((await sessions.listSessions({ filter: { userId }, showDeleted: true })).sessions).toStrictEqual([gone]);
  const back = (await sessions.undeleteSession({ sessionId, etag: gone?.etag ?? "" })).session;
  expect(back).toMatchObject({ sessionId, revision: 3n, status: SessionStatus.PENDING });
  expect((await sessions.getSession({ sessionId })).session).toStrictEqual(back);
});

test("a list is restricted by user, status and time, and counted alike", async () => {
  const { sessions, db } = service;
  const [ada, bob] = [randomUUID(), randomUUID()];
  const day = (date: number) => new Date(Date.UTC(2021, 0, date));
  const stored = [
    { session_id: "a", user_id: ada, status: "PENDING", created_at: day(1) },
    { session_id: "b", user_id: bob, status: "FAILED", created_at: day(2) },
    { session_id: "c", user_id: ada, status: "FAILED", created_at: day(3) },
    { session_id: "d", user_id: ada, status: "FAILED", created_at: day(4), deleted_at: day(5) },
  ];
  const scope = randomUUID();
  await db
    .collection("sessions")
    .insertMany(stored.map((each) => ({ ...each, session_id: `${each.session_id}${scope}`, revision: 1n })));
  const at = (date: number) => ({ seconds: BigInt(day(date).getTime() / 1000) });
  const cases = [
    [{ filter: { userId: ada } }, "ca"],
    [{ filter: { userId: ada }, orderBy: "created_at" }, "ac"],
    [{ filter: { userId: ada }, showDeleted: true }, "dca"],
    [{ filter: { userId: ada, status: SessionStatus.FAILED } }, "c"],
    [{ filter: { userId: ada, createdFrom: at(2) } }, "c"],
    [{ filter: { userId: ada, createdFrom: at(1), createdBefore: at(3) } }, "a"],
    [{ filter: { status: SessionStatus.FAILED, createdBefore: at(4) } }, "cb"],
    [{ filter: { createdFrom: at(1), createdBefore: at(5) } }, "cba"],
    [{ filter: { userId: "$ne" } }, ""],
  ] satisfies [MessageInitShape<typeof ListSessionsRequestSchema>, string][];
  for (const [request, expected] of cases) {
    let found = "";
    let pageToken = "";
    do {
      const page = await sessions.listSessions({ ...request, pageSize: 2, pageToken });
      found += page.sessions.map(({ sessionId }) => sessionId.charAt(0)).join("");
      pageToken = page.nextPageToken;
    } while (pageToken !== "");
    expect([request, found]).toEqual([request, expected]);
    expect(await sessions.countSessions(request)).toMatchObject({ count: BigInt(expected.length) });
  }
});

test("a search takes what it looks for literally", async () => {
  const { sessions } = service;
  const scope = randomUUID().slice(0, 8);
  const dots = await newSession(sessions, { sessionName: `${scope}.*$` });
  const plain = await newSession(sessions, { sessionName: `${scope}abc` });
  const search = async (query: string, mode: SessionSearchMode = SessionSearchMode.PREFIX) =>
    (await sessions.searchSessions({ query, mode })).sessions.map(({ sessionId }) => sessionId);
  expect(await search(scope)).toEqual([dots.sessionId, plain.sessionId]);
  expect(await search(`${scope}.*`)).toEqual([dots.sessionId]);
  expect(await search(`${scope.slice(2)}.*`, SessionSearchMode.SUBSTRING)).toEqual([dots.sessionId]);
  expect(await search(plain.sessionId)).toEqual([plain.sessionId]);
  expect(await search(plain.sessionId.slice(4), SessionSearchMode.SUBSTRING)).toEqual([plain.sessionId]);
  expect(await search(scope.toUpperCase() + "ABC")).toEqual([]);
  for (const hostile of ["^", "(?:", "[", String.raw`\Q`, "{$gt: ''}", "$where", "\u0001", "a.b.c"]) {
    expect(await search(hostile)).toEqual([]);
  }
  const { nextPageToken: pageToken } = await sessions.searchSessions({ query: scope, pageSize: 1 });
  const second = await sessions.searchSessions({ query: scope, pageSize: 1, pageToken });
  expect(second.sessions.map(({ sessionId }) => sessionId)).toEqual([plain.sessionId]);
});
