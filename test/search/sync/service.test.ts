import { Long } from "bson";
import { expect, test } from "vitest";

import { JobState } from "../../../gen/lucid/admin/v1/backup_service_pb.ts";
import { Store } from "../../../gen/lucid/admin/v1/common_pb.ts";
import { HealthStatus, MonitoringService } from "../../../gen/lucid/admin/v1/monitoring_service_pb.ts";
import { UserService } from "../../../gen/lucid/repository/v1/user_service_pb.ts";
import { DifferenceKind, SearchSyncService, SyncPhase } from "../../../gen/lucid/search/v1/search_sync_service_pb.ts";
import { reasonOf } from "../../../src/errors.ts";
import { openSearch } from "../../../src/stores/search.ts";
import { newUser as createUser } from "../../repository/support.ts";
import { type TestApp, testApp } from "../../support/app.ts";
import { newUser } from "./support.ts";

/** The service with search kept up to date, and a client of the search server. */
async function searchApp(environment: Readonly<Record<string, string>> = {}) {
  await using stack = new AsyncDisposableStack();
  const app = stack.use(await testApp({ LUCID_SEARCH_SYNC: "on", ...environment }));
  const search = stack.use(openSearch(app.config.search));
  const all = stack.move();
  return { app, search, prefix: app.config.search.prefix, [Symbol.asyncDispose]: () => all.disposeAsync() };
}

function domainOf({ mongodb, config }: TestApp) {
  return mongodb.db(config.mongodb.database);
}

async function following(app: TestApp, index: string): Promise<void> {
  const sync = app.client(SearchSyncService);
  const status = async () => (await sync.getSyncStatus({ indices: [index] })).indices[0];
  await expect
    .poll(status, { timeout: 150_000, interval: 500 })
    .toMatchObject({ phase: SyncPhase.FOLLOWING, lagDocuments: 0n, lag: { seconds: 0n } });
}

test("what a service writes is searchable, and how far search is, is told and watched", async () => {
  await using each = await searchApp();
  const { app, search, prefix } = each;
  const { userId } = await createUser(app.client(UserService));
  await following(app, "users");
  const { _source } = await search.client.get<Record<string, unknown>>({ index: `${prefix}users`, id: userId });
  expect(_source).toMatchObject({ user_id: userId, revision: 1 });
  const leave = new AbortController();
  const sync = app.client(SearchSyncService);
  for await (const { indices } of sync.watchSyncStatus({ interval: { seconds: 1n } }, { signal: leave.signal })) {
    expect(indices.map(({ index }) => index).toSorted()).toEqual([
      "audit-logs",
      "blocks",
      "manifests",
      "sessions",
      "transactions",
      "users",
    ]);
    break;
  }
  // The user's audit record leaves the document a moment later, which is one more change.
  const metrics = async () => (await fetch(`http://${app.httpAddress}/metrics`)).text();
  await expect
    .poll(metrics, { timeout: 150_000, interval: 500 })
    .toMatch(/^lucid_search_lag_seconds\{index="users"\} 0$/m);
  const unknown: unknown = await sync.getSyncStatus({ indices: ["nothing"] }).catch((error: unknown) => error);
  expect(reasonOf(unknown)?.reason).toBe("SEARCH_INDEX_NOT_FOUND");
});

test("health is degraded while an index is behind", async () => {
  await using each = await searchApp({ LUCID_SEARCH_LAG_WARNING_SECONDS: "1" });
  const { app, search, prefix } = each;
  await following(app, "users");
  // Other tests' indices on the server may be a concern too.
  const concern = async () => {
    const { stores } = await app.client(MonitoringService).getHealth({});
    const { status, problem = "" } = stores.find(({ store }) => store === Store.SEARCH) ?? {};
    const isBehind = problem.includes("Search indices are behind their collections: users");
    if (isBehind) expect(status).toBe(HealthStatus.DEGRADED);
    return isBehind;
  };
  const soon = { timeout: 150_000, interval: 500 };
  await expect.poll(concern, soon).toBe(false);
  // Something else takes the name, which the service does not touch.
  const settings = { number_of_replicas: 0 };
  await search.client.indices.delete({ index: `${prefix}users-v1` });
  await search.client.indices.create({ index: `${prefix}users`, settings });
  await createUser(app.client(UserService));
  await expect.poll(concern, soon).toBe(true);
  const status = async () => (await app.client(SearchSyncService).getSyncStatus({ indices: ["users"] })).indices[0];
  await expect.poll(async () => (await status())?.problem, soon).toContain("is taken by");
  await search.client.indices.delete({ index: `${prefix}users` });
  await expect.poll(concern, soon).toBe(false);
});

test("a poison document is a dead letter, which holds up nothing, and can be retried and discarded", async () => {
  await using each = await searchApp();
  const { app } = each;
  const sync = app.client(SearchSyncService);
  const users = domainOf(app).collection("users");
  // Whatever is read for the first fill, and comes as a change too, is tried twice.
  await following(app, "users");
  // What the validators of a running service would refuse, and a restore or an operator may bring all the same.
  await users.insertMany([
    newUser({ user_id: "poison-1", created_at: "no date" }),
    newUser({ user_id: "poison-2", status: { secret: "not told" } }),
    newUser({ user_id: "x".repeat(600) }),
    newUser({ user_id: "good" }),
  ]);
  await following(app, "users");
  const letters = async () => (await sync.listDeadLetters({ index: "users" })).deadLetters;
  await expect.poll(letters, { timeout: 150_000 }).toHaveLength(3);
  const [one, two, three] = (await letters()).toSorted((a, b) => (a.documentId < b.documentId ? -1 : 1));
  expect([one, two]).toMatchObject([
    { documentId: "poison-1", errorType: "mapper_parsing_exception", field: "created_at", revision: 1n, attempts: 1 },
    { documentId: "poison-2", errorType: "DOCUMENT_DAMAGED", field: "status" },
  ]);
  expect(JSON.stringify(await letters(), (_, value: unknown) => String(value))).not.toContain("not told");
  expect((await sync.getSyncStatus({ indices: ["users"] })).indices[0]?.deadLetters).toBe(3n);

  // A page at a time, with tokens.
  const first = await sync.listDeadLetters({ pageSize: 2 });
  const second = await sync.listDeadLetters({ pageSize: 2, pageToken: first.nextPageToken });
  expect(first.deadLetters.length + second.deadLetters.length).toBe(3);

  // The document is mended without a new revision, as an operator may do it.
  await users.updateOne({ user_id: "poison-1" }, { $set: { created_at: new Date() } });
  const ids = [one?.deadLetterId ?? "", two?.deadLetterId ?? "", "gone"];
  const retried = await sync.retryDeadLetters({ deadLetterIds: ids });
  expect(retried).toMatchObject({ settledIds: [ids[0]], refusedIds: [ids[1]], missingIds: ["gone"] });
  await expect.poll(async () => (await letters()).length, { timeout: 150_000 }).toBe(2);
  const discarded = await sync.discardDeadLetter({ deadLetterId: three?.deadLetterId ?? "" });
  expect(discarded.deadLetter?.discarded).toBe(true);
  expect((await letters()).map(({ documentId }) => documentId)).toEqual(["poison-2"]);

  // A later revision that is taken, and a removal, leave no letter behind.
  await users.updateOne({ user_id: "poison-2" }, { $set: { status: "ACTIVE", revision: Long.fromNumber(2) } });
  await users.deleteOne({ user_id: "x".repeat(600) });
  await expect
    .poll(async () => (await sync.listDeadLetters({ withDiscarded: true })).deadLetters, { timeout: 150_000 })
    .toEqual([]);
  const none: unknown = await sync.getDeadLetter({ deadLetterId: "gone" }).catch((error: unknown) => error);
  expect(reasonOf(none)).toMatchObject({ reason: "DEAD_LETTER_NOT_FOUND", metadata: { dead_letter_id: "gone" } });
});

test("a comparison names what differs, mends it, and finds nothing after that", async () => {
  await using each = await searchApp();
  const { app, search, prefix } = each;
  const sync = app.client(SearchSyncService);
  const users = domainOf(app).collection("users");
  const all = Array.from({ length: 120 }, () => newUser({ revision: Long.fromNumber(5) }));
  await users.insertMany(all);
  await following(app, "users");
  const [gone, older, newer] = all.map(({ user_id }) => user_id as string);
  const index = `${prefix}users`;
  const big = 2 ** 40;
  const { client } = search;
  await client.delete({ index, id: gone ?? "" });
  const copy = (revision: number, id = older) => ({ user_id: id, revision, _key: "x" });
  await client.index({ index, id: older ?? "", version: big, version_type: "external", document: copy(4) });
  await client.index({ index, id: newer ?? "", version: big, version_type: "external", document: copy(9, newer) });
  await client.index({ index, id: "surplus", version: big, version_type: "external", document: copy(1, "surplus") });
  const run = async (repair: boolean) => {
    const { comparison } = await sync.compareIndex({ index: "users", repair });
    const comparisonId = comparison?.comparisonId ?? "";
    const read = async () => (await sync.getComparison({ comparisonId })).comparison;
    await expect.poll(read, { timeout: 150_000 }).toMatchObject({ state: JobState.SUCCEEDED });
    return read();
  };
  const { MISSING, OLDER, NEWER, SURPLUS } = DifferenceKind;
  const wanted = [
    { documentId: gone, kind: MISSING, revision: 5n, indexedRevision: 0n },
    { documentId: older, kind: OLDER, revision: 5n, indexedRevision: 4n },
    { documentId: newer, kind: NEWER, revision: 5n, indexedRevision: 9n },
    { documentId: "surplus", kind: SURPLUS, revision: 0n, indexedRevision: 1n },
  ].toSorted((a, b) => ((a.documentId ?? "") < (b.documentId ?? "") ? -1 : 1));
  expect(await run(false)).toMatchObject({ compared: 120n, different: 4n, repaired: 0n, differences: wanted });
  expect(await run(true)).toMatchObject({ different: 4n, repaired: 4n, differences: wanted });
  const last = await run(true);
  expect(last).toMatchObject({ compared: 120n, different: 0n, percent: 100 });
  expect(last?.indexDigest).toBe(last?.documentsDigest);
  // The synchronisation goes on in the epoch that the comparison began.
  await users.updateMany({}, { $set: { status: "BANNED", revision: Long.fromNumber(6) } });
  await following(app, "users");
  expect(await run(false)).toMatchObject({ different: 0n });
  expect((await sync.listComparisons({ pageSize: 2 })).comparisons).toHaveLength(2);
});
