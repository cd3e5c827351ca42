import { randomUUID } from "node:crypto";

import type { MessageInitShape } from "@bufbuild/protobuf";
import { afterAll, beforeAll, expect, test } from "vitest";

import { type Session, type SessionSchema, SessionStatus } from "../../gen/lucid/repository/v1/session_pb.ts";
import { SessionSearchMode, SessionService } from "../../gen/lucid/repository/v1/session_service_pb.ts";
import { chunkRefusals, missing, type SessionCall } from "./chunk-refusals.ts";
import { bad, deep, long, megabyte, noToken, nothing, type Refusal, stale, unknown, untried } from "./refusals.ts";
import { newSession, type SessionsApp, sessionsApp } from "./session-support.ts";
import { refusalOf } from "./support.ts";

type Init = MessageInitShape<typeof SessionSchema>;

/** A field of a new session that breaks its rule, by its name in proto. */
const wrongFields: readonly [string, Init][] = [
  ["user_id", { userId: long }],
  ["session_name", { sessionName: "x".repeat(201) }],
  ["session_name", { sessionName: megabyte }],
  ["description", { description: "x".repeat(1001) }],
  ["rdp_server_id", { rdpServerId: long }],
  ["rdp_port", { rdpPort: 0 }],
  ["rdp_port", { rdpPort: 65_536 }],
  ["rdp_connection_info", { rdpConnectionInfo: { "a\0": 1 } }],
  ["rdp_connection_info", { rdpConnectionInfo: { a: megabyte } }],
  ["recorded_size_bytes", { recordedSizeBytes: -1n }],
  ["compressed_size_bytes", { compressedSizeBytes: -1n }],
  ["compression_ratio", { compressionRatio: 0 }],
  ["compression_ratio", { compressionRatio: Number.POSITIVE_INFINITY }],
  ["max_size_bytes", { maxSizeBytes: 0n }],
  ["manifest_id", { manifestId: long }],
  ["trust_policy_id", { trustPolicyId: long }],
  ["pipeline_state", { pipelineState: deep(31) }],
  ["retry_count", { retryCount: -1 }],
  ["storage_provider", { storageProvider: "a b" }],
  ["storage_path", { storagePath: "x".repeat(1025) }],
  ["storage_volume", { storageVolume: long }],
  ["upload_bandwidth_mbps", { uploadBandwidthMbps: -0.5 }],
  ["upload_bandwidth_mbps", { uploadBandwidthMbps: Number.POSITIVE_INFINITY }],
  ["metadata", { metadata: { a: megabyte } }],
];

/** What each rpc refuses. `made` is a live session that nothing is done with. */
const refusals: readonly Refusal<SessionCall>[] = [
  ["createSession: nothing", (sessions) => sessions.createSession({}), bad("session")],
  ["createSession: nobody's", (sessions) => sessions.createSession({ session: {} }), bad("session.user_id")],
  [
    "createSession: a time that no calendar has",
    (sessions) =>
      sessions.createSession({
        session: { userId: "a" },
        encryptionKey: { encryptionKey: Buffer.from("k"), expiresAt: { seconds: 2n ** 63n - 1n } },
        requestId: "00000000-0000-4000-8000-000000000001",
      }),
    bad("encryption_key.expires_at"),
  ],
  [
    "createSession: request_id",
    (sessions) => sessions.createSession({ session: { userId: "a" }, requestId: "1" }),
    bad("request_id"),
  ],
  ...wrongFields.flatMap(([field, init]): Refusal<SessionCall>[] => [
    [
      `createSession: ${field} ${Object.values(init).join().slice(0, 20)}`,
      (sessions) => sessions.createSession({ session: { userId: "ada", ...init } }),
      bad(`session.${field}`),
    ],
    [
      `updateSession: ${field} ${Object.values(init).join().slice(0, 20)}`,
      (sessions, { sessionId }) => sessions.updateSession({ session: { sessionId, ...init } }),
      bad(`session.${field}`),
    ],
  ]),
  ["getSession: no id", (sessions) => sessions.getSession({}), bad("session_id")],
  ["getSession: long id", (sessions) => sessions.getSession({ sessionId: long }), bad("session_id")],
  [
    "getSession: nothing there",
    (sessions) => sessions.getSession({ sessionId: nothing }),
    { ...missing, metadata: { session_id: nothing } },
  ],
  ["getSession: an operator as id", (sessions) => sessions.getSession({ sessionId: '{"$ne":null}' }), missing],
  ["batchGetSessions: nothing", (sessions) => sessions.batchGetSessions({}), bad("session_ids")],
  [
    "batchGetSessions: too many",
    (sessions) => sessions.batchGetSessions({ sessionIds: Array.from({ length: 101 }, () => randomUUID()) }),
    bad("session_ids"),
  ],
  ["batchGetSessions: twice", (sessions) => sessions.batchGetSessions({ sessionIds: ["a", "a"] }), bad("session_ids")],
  [
    "batchGetSessions: empty id",
    (sessions) => sessions.batchGetSessions({ sessionIds: ["a", ""] }),
    bad("session_ids[1]"),
  ],
  ["updateSession: nothing", (sessions) => sessions.updateSession({}), bad("session")],
  ["updateSession: no id", (sessions) => sessions.updateSession({ session: { userId: "a" } }), bad("session")],
  [
    "updateSession: nothing there",
    (sessions) => sessions.updateSession({ session: { sessionId: nothing, rdpPort: 1 } }),
    missing,
  ],
  [
    "updateSession: cleared user",
    (sessions, { sessionId }) =>
      sessions.updateSession({ session: { sessionId }, updateMask: { paths: ["user_id", "rdp_port"] } }),
    bad("session.user_id"),
  ],
  [
    "updateSession: a secret",
    (sessions, { sessionId }) =>
      sessions.updateSession({ session: { sessionId }, updateMask: { paths: ["encryption_key"] } }),
    bad("update_mask"),
  ],
  [
    "updateSession: an operator",
    (sessions, { sessionId }) => sessions.updateSession({ session: { sessionId }, updateMask: { paths: ["$set"] } }),
    bad("update_mask"),
  ],
  [
    "updateSession: stale etag",
    (sessions, { sessionId }) => sessions.updateSession({ session: { sessionId, rdpPort: 1 }, etag: '"99"' }),
    stale,
  ],
  [
    "updateSession: long etag",
    (sessions, { sessionId }) => sessions.updateSession({ session: { sessionId, rdpPort: 1 }, etag: long }),
    bad("etag"),
  ],
  ["updateSessionStatus: nothing", (sessions) => sessions.updateSessionStatus({}), bad("session_id", "status")],
  [
    "updateSessionStatus: unknown state",
    (sessions, { sessionId }) => sessions.updateSessionStatus({ sessionId, status: unknown }),
    bad("status"),
  ],
  [
    "updateSessionStatus: a reason without a failure",
    (sessions, { sessionId }) =>
      sessions.updateSessionStatus({ sessionId, status: SessionStatus.RECORDING, errorMessage: "x" }),
    { code: "InvalidArgument", reason: "BAD_REQUEST" },
  ],
  [
    "updateSessionStatus: a megabyte of reason",
    (sessions, { sessionId }) =>
      sessions.updateSessionStatus({ sessionId, status: SessionStatus.FAILED, errorMessage: megabyte }),
    bad("error_message"),
  ],
  [
    "updateSessionStatus: nothing there",
    (sessions) => sessions.updateSessionStatus({ sessionId: nothing, status: SessionStatus.RECORDING }),
    missing,
  ],
  [
    "updateSessionStatus: two states at once",
    (sessions, { sessionId }) => sessions.updateSessionStatus({ sessionId, status: SessionStatus.PROCESSING }),
    { code: "FailedPrecondition", reason: "ILLEGAL_TRANSITION" },
  ],
  [
    "updateSessionStatus: stale etag",
    (sessions, { sessionId }) =>
      sessions.updateSessionStatus({ sessionId, status: SessionStatus.RECORDING, etag: '"99"' }),
    stale,
  ],
  [
    "setSessionEncryptionKey: nothing",
    (sessions) => sessions.setSessionEncryptionKey({}),
    bad("session_id", "encryption_key"),
  ],
  [
    "setSessionEncryptionKey: no key",
    (sessions, { sessionId }) => sessions.setSessionEncryptionKey({ sessionId, encryptionKey: {} }),
    bad("encryption_key.encryption_key"),
  ],
  [
    "setSessionEncryptionKey: long key",
    (sessions, { sessionId }) =>
      sessions.setSessionEncryptionKey({ sessionId, encryptionKey: { encryptionKey: new Uint8Array(4097) } }),
    bad("encryption_key.encryption_key"),
  ],
  [
    "setSessionEncryptionKey: nothing there",
    (sessions) =>
      sessions.setSessionEncryptionKey({ sessionId: nothing, encryptionKey: { encryptionKey: Buffer.from("k") } }),
    missing,
  ],
  ...chunkRefusals,
  ["getSessionStatistics: no session", (sessions) => sessions.getSessionStatistics({}), bad("session_id")],
  ["getSessionStatistics: nothing there", (sessions) => sessions.getSessionStatistics({ sessionId: nothing }), missing],
  ["getSessionManifest: no session", (sessions) => sessions.getSessionManifest({}), bad("session_id")],
  ["getSessionManifest: nothing there", (sessions) => sessions.getSessionManifest({ sessionId: nothing }), missing],
  ["deleteSession: no id", (sessions) => sessions.deleteSession({}), bad("session_id")],
  ["deleteSession: nothing there", (sessions) => sessions.deleteSession({ sessionId: nothing }), missing],
  [
    "deleteSession: stale etag, only checked",
    (sessions, { sessionId }) => sessions.deleteSession({ sessionId, etag: '"99"', validateOnly: true }),
    stale,
  ],
  ["undeleteSession: no id", (sessions) => sessions.undeleteSession({}), bad("session_id")],
  ["undeleteSession: nothing there", (sessions) => sessions.undeleteSession({ sessionId: nothing }), missing],
  [
    "undeleteSession: not deleted",
    (sessions, { sessionId }) => sessions.undeleteSession({ sessionId }),
    { code: "FailedPrecondition", reason: "SESSION_NOT_DELETED" },
  ],
  ["listSessions: negative size", (sessions) => sessions.listSessions({ pageSize: -1 }), bad("page_size")],
  ["listSessions: made-up token", (sessions) => sessions.listSessions({ pageToken: "abc" }), noToken],
  ["listSessions: long token", (sessions) => sessions.listSessions({ pageToken: megabyte }), bad("page_token")],
  [
    "listSessions: order without an index",
    (sessions) => sessions.listSessions({ orderBy: "ended_at" }),
    bad("order_by"),
  ],
  [
    "listSessions: order by what may be absent",
    (sessions) => sessions.listSessions({ orderBy: "session_name" }),
    bad("order_by"),
  ],
  ["listSessions: long order", (sessions) => sessions.listSessions({ orderBy: megabyte }), bad("order_by")],
  ["listSessions: long user", (sessions) => sessions.listSessions({ filter: { userId: long } }), bad("filter.user_id")],
  [
    "listSessions: unknown state",
    (sessions) => sessions.listSessions({ filter: { status: unknown } }),
    bad("filter.status"),
  ],
  [
    "countSessions: unknown state",
    (sessions) => sessions.countSessions({ filter: { status: unknown } }),
    bad("filter.status"),
  ],
  ["searchSessions: nothing", (sessions) => sessions.searchSessions({}), bad("query")],
  ["searchSessions: null character", (sessions) => sessions.searchSessions({ query: "a\0b" }), bad("query")],
  ["searchSessions: a megabyte", (sessions) => sessions.searchSessions({ query: megabyte }), bad("query")],
  ["searchSessions: unknown mode", (sessions) => sessions.searchSessions({ query: "a", mode: unknown }), bad("mode")],
  [
    "searchSessions: short part",
    (sessions) => sessions.searchSessions({ query: "ab", mode: SessionSearchMode.SUBSTRING }),
    { code: "InvalidArgument", reason: "BAD_REQUEST" },
  ],
  ["searchSessions: made-up token", (sessions) => sessions.searchSessions({ query: "a", pageToken: "abc" }), noToken],
  [
    "watchSessions: long token",
    (sessions) => Array.fromAsync(sessions.watchSessions({ resumeToken: "x".repeat(2049) })),
    bad("resume_token"),
  ],
  [
    "watchSessions: made-up token",
    (sessions) => Array.fromAsync(sessions.watchSessions({ resumeToken: "abc" })),
    { code: "InvalidArgument", reason: "WATCH_TOKEN_INVALID", fields: ["resume_token"] },
  ],
  [
    "watchSessions: long interval",
    (sessions) => Array.fromAsync(sessions.watchSessions({ checkpointInterval: { seconds: 301n } })),
    bad("checkpoint_interval"),
  ],
  [
    "watchSessions: long id",
    (sessions) => Array.fromAsync(sessions.watchSessions({ sessionId: long })),
    bad("session_id"),
  ],
  [
    "watchSessions: unknown state",
    (sessions) => Array.fromAsync(sessions.watchSessions({ filter: { status: unknown } })),
    bad("filter.status"),
  ],
];

let service: SessionsApp;
let made: Session;
beforeAll(async () => {
  service = await sessionsApp();
  made = await newSession(service.sessions);
});
afterAll(() => service[Symbol.asyncDispose]());

test("every rpc is refused something here", () => {
  expect(untried(SessionService, refusals)).toEqual([]);
});

test.for(refusals)("%s", async ([, call, expected]) => {
  expect(await refusalOf(call(service.sessions, made))).toMatchObject(expected);
  expect(await refusalOf(call(service.overHttp, made))).toMatchObject(expected);
  // What was refused has changed nothing.
  expect((await service.sessions.getSession({ sessionId: made.sessionId })).session).toStrictEqual(made);
});
