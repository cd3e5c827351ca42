import { expect, test } from "vitest";

import { JobState } from "../../gen/lucid/admin/v1/backup_service_pb.ts";
import { AuditLogService } from "../../gen/lucid/repository/v1/audit_log_service_pb.ts";
import { UserService } from "../../gen/lucid/repository/v1/user_service_pb.ts";
import { SearchSyncService, SyncPhase } from "../../gen/lucid/search/v1/search_sync_service_pb.ts";
import { newUser } from "../repository/support.ts";
import { isCheckpoint, watching } from "../repository/watch/support.ts";
import { patient, testApp } from "../support/app.ts";
import { storeAddresses } from "../support/stores.ts";
import { openRouter } from "./database/router.ts";

/** How long the server stands still, in milliseconds. */
const standstillMs = 10_000;

test("a server that stands still for some seconds fails no call that has the time", async () => {
  // As a server that waits within a statement: it breaks off what may not take so long, and does the others then.
  await using server = await openRouter(storeAddresses().mongodbUri, ({ maxTimeMS }, name) => {
    if (typeof maxTimeMS !== "number" || maxTimeMS >= standstillMs || name === "getMore") return undefined;
    return { ok: 0, code: 50, codeName: "MaxTimeMSExpired", errmsg: "operation exceeded time limit" };
  });
  await using app = await testApp({ LUCID_MONGODB_URI: patient(server.uri) });
  const users = app.client(UserService);
  await newUser(users);
  await newUser(users);
  const { nextPageToken } = await users.listUsers({ pageSize: 1 });
  expect((await users.listUsers({ pageSize: 1, pageToken: nextPageToken })).users).toHaveLength(1);
  using watch = watching((options) => users.watchUsers({}, options));
  await watch.until(isCheckpoint);
});

test("no statement on what the service keeps for itself goes on for ever", async () => {
  await using server = await openRouter(storeAddresses().mongodbUri, () => undefined);
  await using app = await testApp({ LUCID_MONGODB_URI: patient(server.uri), LUCID_SEARCH_SYNC: "on" });
  await newUser(app.client(UserService));
  expect((await app.client(AuditLogService).listAuditRecords({})).records).not.toEqual([]);
  const sync = app.client(SearchSyncService);
  const status = async () => (await sync.getSyncStatus({ indices: ["users"] })).indices[0];
  await expect.poll(status).toMatchObject({ phase: SyncPhase.FOLLOWING });
  const { comparison } = await sync.compareIndex({ index: "users" });
  const comparisonId = comparison?.comparisonId ?? "";
  const compared = async () => (await sync.getComparison({ comparisonId })).comparison?.state;
  await expect.poll(compared).toBe(JobState.SUCCEEDED);
  const asked = server.commands
    .map((command) => ({ command, name: Object.keys(command)[0] ?? "" }))
    .filter(({ command: { $db }, name }) => {
      const isStatement = /^(?:find|findAndModify|insert|update|delete)$/.test(name);
      return isStatement && $db === app.config.mongodb.systemDatabase;
    })
    .map(({ command, name }) => ({ to: `${name} ${String(command[name])}`, limit: command["maxTimeMS"] as unknown }))
    // The synchronisation reads on in it for as long as there is more.
    .filter(({ to }) => to !== "find audit_logs");
  const seen = new Set(asked.map(({ to }) => to));
  expect([...seen]).toEqual(
    expect.arrayContaining([
      "findAndModify jobs",
      "findAndModify leases",
      "findAndModify search_sync",
      "insert audit_logs",
    ]),
  );
  expect(asked.filter(({ limit }) => typeof limit !== "number")).toEqual([]);
});
