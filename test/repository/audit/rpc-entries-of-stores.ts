import { randomUUID } from "node:crypto";

import { expect, vi } from "vitest";

import { JobState } from "../../../gen/lucid/admin/v1/backup_service_pb.ts";
import { IndexKeyType } from "../../../gen/lucid/admin/v1/collection_index_pb.ts";
import { Store } from "../../../gen/lucid/admin/v1/common_pb.ts";
import { VolumeType } from "../../../gen/lucid/admin/v1/volume_pb.ts";
import { MigrationMode } from "../../../gen/lucid/admin/v1/volume_service_pb.ts";
import { IndexFieldType } from "../../../gen/lucid/search/v1/search_index_pb.ts";
import { eventsOf } from "../../backup/support.ts";
import { endOf, indexName, newIndex, once } from "../../search/index-support.ts";
import { uniqueName } from "../../support/stores.ts";
import { upTo } from "../manifest-support.ts";
import { newSession } from "../session-support.ts";
import { type Call, type Clients, type Entry, of, type Prepare } from "./rpc-entries.ts";

/** Entries of what looks after stores, and of jobs. */
export const entriesOfStores: Readonly<Record<string, Prepare>> = {
  "BackupService.CreateBackup": async ({ backups }) => ({ of: ["Backup"], call: () => backups.createBackup(small) }),
  "BackupService.CancelBackup": async ({ backups }) => {
    await keepBusy(backups);
    const backupId = (await backups.createBackup(small)).backup?.backupId ?? "";
    return { of: ["Backup", backupId], call: () => backups.cancelBackup({ backupId }) };
  },
  "BackupService.DeleteBackup": async ({ backups }) => {
    const backupId = await takeBackup(backups);
    const call = () => backups.deleteBackup({ backupId, confirmBackupId: backupId });
    return { of: ["Backup", backupId], call };
  },
  "BackupService.VerifyBackup": async ({ backups }) => {
    const backupId = await keptBackup(backups);
    return { of: ["Verification"], call: () => backups.verifyBackup({ backupId }) };
  },
  "BackupService.CancelVerification": async ({ backups }) => {
    const backupId = await keptBackup(backups);
    await keepBusy(backups);
    const verificationId = (await backups.verifyBackup({ backupId })).verification?.verificationId ?? "";
    return { of: ["Verification", verificationId], call: () => backups.cancelVerification({ verificationId }) };
  },
  "BackupService.CreateRestore": async ({ backups }) => {
    const backupId = await keptBackup(backups);
    return { of: ["Restore"], call: () => backups.createRestore({ backupId, renames: elsewhere() }) };
  },
  "BackupService.CancelRestore": async ({ backups }) => {
    const backupId = await keptBackup(backups);
    await keepBusy(backups);
    const restoreId = (await backups.createRestore({ backupId, renames: elsewhere() })).restore?.restoreId ?? "";
    return { of: ["Restore", restoreId], call: () => backups.cancelRestore({ restoreId }) };
  },
  "SearchSyncService.ResyncIndex": async (clients) => {
    await begun(clients);
    return { of: ["Index", "users"], call: () => clients.sync.resyncIndex({ index: "users" }) };
  },
  "SearchSyncService.RetryDeadLetters": async (clients) => {
    const id = await letter(clients);
    return { of: ["DeadLetter", id], call: () => clients.sync.retryDeadLetters({ deadLetterIds: [id] }) };
  },
  "SearchSyncService.DiscardDeadLetter": async (clients) => {
    const id = await letter(clients);
    return { of: ["DeadLetter", id], call: () => clients.sync.discardDeadLetter({ deadLetterId: id }) };
  },
  "SearchSyncService.CompareIndex": async ({ sync }) => ({
    of: ["Comparison"],
    call: () => sync.compareIndex({ index: "users" }),
  }),
  "SearchSyncService.CancelComparison": async ({ sync }) => {
    const comparisonId = (await sync.compareIndex({ index: "users" })).comparison?.comparisonId ?? "";
    return { of: ["Comparison", comparisonId], call: () => sync.cancelComparison({ comparisonId }) };
  },
  "VolumeService.CreateVolume": async ({ volumes }) => {
    const name = `a${randomUUID()}`;
    return { of: ["Volume", name], call: () => volumes.createVolume({ volume: volumeInit(name) }) };
  },
  "VolumeService.UpdateVolume": ofVolume(({ volumes }, name) =>
    volumes.updateVolume({ volume: { name, description: "new" } }),
  ),
  "VolumeService.ResizeVolume": ofVolume(({ volumes }, name) => volumes.resizeVolume({ name, declaredBytes: 1n })),
  "VolumeService.DeleteVolume": ofVolume(({ volumes }, name) => volumes.deleteVolume({ name, confirmName: name })),
  "VolumeService.MeasureVolumePerformance": ofVolume(({ volumes }, name) =>
    volumes.measureVolumePerformance({ name, bytes: 1_048_576n }),
  ),
  "VolumeService.CleanUpVolume": ofVolume(({ volumes }, name) =>
    volumes.cleanUpVolume({ name, confirmName: name, olderThan: { seconds: 1n } }),
  ),
  "VolumeService.OptimiseVolume": ofVolume(({ volumes }, name) => volumes.optimiseVolume({ name, confirmName: name })),
  "VolumeService.MigrateVolume": async (clients) => {
    const { volumes } = clients;
    const request = { name: await newVolume(clients), targetName: `a${randomUUID()}`, mode: MigrationMode.COPY };
    return { of: ["VolumeJob"], call: () => volumes.migrateVolume(request) };
  },
  "VolumeService.CancelVolumeJob": async (clients) => {
    const { backups, volumes } = clients;
    const request = { name: await newVolume(clients), targetName: `a${randomUUID()}`, mode: MigrationMode.COPY };
    await keepBusy(backups);
    const jobId = (await volumes.migrateVolume(request)).job?.jobId ?? "";
    return { of: ["VolumeJob", jobId], call: () => volumes.cancelVolumeJob({ jobId }) };
  },
  "DataLifecycleService.PurgeDeleted": async ({ lifecycle }) => ({
    of: ["Removal"],
    call: () => lifecycle.purgeDeleted({ afterDays: 3000 }),
  }),
  "DataLifecycleService.EraseUser": async ({ lifecycle }) => ({
    of: ["Removal"],
    call: () => lifecycle.eraseUser({ userId: "nobody", confirmUserId: "nobody" }),
  }),
  "DataLifecycleService.CancelRemoval": async ({ backups, lifecycle }) => {
    await keepBusy(backups);
    const removalId = (await lifecycle.purgeDeleted({ afterDays: 3000 })).removal?.removalId ?? "";
    return { of: ["Removal", removalId], call: () => lifecycle.cancelRemoval({ removalId }) };
  },

  "DatabaseAdminService.CreateCollection": async ({ admin, db }) => {
    const collection = uniqueName();
    const name = `${db.databaseName}.${collection}`;
    return { of: ["Collection", name], call: () => admin.createCollection({ collection }) };
  },
  "DatabaseAdminService.DropCollection": ofCollection(({ admin }, collection) =>
    admin.dropCollection({ collection, confirmCollection: collection }),
  ),
  "DatabaseAdminService.RenameCollection": ofCollection(({ admin }, collection) =>
    admin.renameCollection({ collection, newCollection: uniqueName() }),
  ),
  "DatabaseAdminService.EnsureCollections": async ({ admin }) => ({
    of: ["Collection", "users,wallets"],
    call: () => admin.ensureCollections({ collections: ["users", "wallets"] }),
  }),
  "DatabaseAdminService.CreateIndex": ofCollection(
    ({ admin }, collection) => admin.createIndex({ collection, definition: { keys: [oneKey] } }),
    "IndexBuild",
  ),
  "DatabaseAdminService.UpdateIndex": ofCollectionIndex(({ admin }, collection) =>
    admin.updateIndex({ collection, index: "a_1", expireAfterSeconds: 5 }),
  ),
  "DatabaseAdminService.DropIndex": ofCollectionIndex(({ admin }, collection) =>
    admin.dropIndex({ collection, index: "a_1", confirmIndex: "a_1" }),
  ),
  "DatabaseAdminService.EnsureIndexes": async ({ admin, db }) => {
    await db.collection("work_proofs").drop();
    return { of: ["IndexBuild"], call: () => admin.ensureIndexes({ collections: ["work_proofs"] }) };
  },
  "DatabaseAdminService.CancelIndexBuild": async ({ admin, backups }) => {
    await keepBusy(backups);
    const collection = uniqueName();
    await admin.createCollection({ collection });
    const made = await admin.createIndex({ collection, definition: { keys: [oneKey] } });
    const buildId = made.build?.buildId ?? "";
    return { of: ["IndexBuild", buildId], call: () => admin.cancelIndexBuild({ buildId }) };
  },

  "SearchIndexService.CreateIndex": async ({ indices }) => {
    const index = indexName();
    return { of: ["Index", index], call: () => indices.createIndex({ index }) };
  },
  "SearchIndexService.UpdateMapping": ofIndex(({ indices }, index) =>
    indices.updateMapping({ index, mapping: { fields: { a: { type: IndexFieldType.KEYWORD } } } }),
  ),
  "SearchIndexService.DeleteIndex": ofIndex(({ indices }, index) =>
    indices.deleteIndex({ index, confirmIndex: index }),
  ),
  "SearchIndexService.EnsureIndices": async ({ indices }) => ({
    of: ["Index", "blocks,users"],
    call: () => indices.ensureIndices({ indices: ["users", "blocks"] }),
  }),
  "SearchIndexService.IndexDocument": ofIndexed("other", ({ indices }, index) =>
    indices.indexDocument({ index, documentId: "other", document: {} }),
  ),
  "SearchIndexService.UpdateDocument": ofIndexed("one", ({ indices }, index) =>
    indices.updateDocument({ index, documentId: "one", fields: { a: 1 } }),
  ),
  "SearchIndexService.DeleteDocument": ofIndexed("one", ({ indices }, index) =>
    indices.deleteDocument({ index, documentId: "one" }),
  ),
  "SearchIndexService.BulkIndex": ofIndex(({ indices }, index) =>
    indices.bulkIndex(once({ index, operations: [{ document: {} }] })),
  ),
  "SearchIndexService.Reindex": async (clients) => {
    const request = { sourceIndex: await newIndex(clients), index: await newIndex(clients) };
    return { of: ["IndexJob"], call: () => clients.indices.reindex(request) };
  },
  "SearchIndexService.RebuildIndex": async ({ indices }) => {
    await indices.ensureIndices({ indices: ["blocks"] });
    return { of: ["IndexJob"], call: () => indices.rebuildIndex({ index: "blocks" }) };
  },
  "SearchIndexService.RollbackIndex": async ({ indices }) => {
    await indices.ensureIndices({ indices: ["manifests"] });
    const { job } = await indices.rebuildIndex({ index: "manifests" });
    await endOf({ indices }, job?.jobId ?? "");
    const request = { index: "manifests", confirmIndex: "manifests" };
    return { of: ["IndexJob"], call: () => indices.rollbackIndex(request) };
  },
  "SearchIndexService.CancelIndexJob": async (clients) => {
    await keepBusy(clients.backups);
    const request = { sourceIndex: await newIndex(clients), index: await newIndex(clients) };
    const jobId = (await clients.indices.reindex(request)).job?.jobId ?? "";
    return { of: ["IndexJob", jobId], call: () => clients.indices.cancelIndexJob({ jobId }) };
  },

  "CacheService.SetKey": ofKey(({ cache }, key) =>
    cache.setKey({ name: { case: "key", value: key }, value: { case: "text", value: "1" }, ttl: { seconds: 60n } }),
  ),
  "CacheService.DeleteKeys": ofKey(({ cache }, key) => cache.deleteKeys({ keys: [key] })),
  "CacheService.ClearRateLimit": async ({ cache }) => {
    const name = uniqueName("limited");
    return { of: ["RateLimit", name], call: () => cache.clearRateLimit({ name, window: { seconds: 1n } }) };
  },
  "DocumentCacheService.DeleteCachedSession": async ({ copies, sessions }) => {
    const { sessionId } = await newSession(sessions);
    return { of: ["CachedSession", sessionId], call: () => copies.deleteCachedSession({ sessionId }) };
  },
  "DocumentCacheService.ClearCachedSessions": async ({ copies }) => {
    const userId = randomUUID();
    return { of: ["CachedSession", `user ${userId}`], call: () => copies.clearCachedSessions({ userId }) };
  },
  "CacheService.FlushKeys": ofKey(({ cache }, key) =>
    Array.fromAsync(cache.flushKeys({ pattern: key, confirmPattern: key })),
  ),
};

function ofVolume(call: Call) {
  return of("Volume", (clients) => newVolume(clients), call);
}
/** A volume that nothing works on: a restore of whatever a backup holds may be one of volumes, until it has ended. */
async function newVolume({ backups, volumes }: Clients): Promise<string> {
  const areOver = async () => {
    const { restores } = await backups.listRestores({ pageSize: 1000 });
    expect(restores.filter(({ state }) => state < JobState.SUCCEEDED)).toEqual([]);
  };
  await vi.waitFor(areOver, { timeout: 150_000, interval: 100 });
  const name = `a${randomUUID()}`;
  await volumes.createVolume({ volume: volumeInit(name) });
  return name;
}
function volumeInit(name: string) {
  return { name, type: VolumeType.LOGS, declaredBytes: 1000n };
}
/**
 * Changes that the local MongoDB does not have the commands for. Where it does, they need an entry above; their records are looked
 * at in `test/admin/database/sharding.test.ts` and `sharded-indexes.test.ts`, which have a server of their own.
 */
export const lacking: Readonly<Record<string, (clients: Clients) => Promise<object>>> = {
  "DatabaseAdminService.ReindexCollection": async ({ admin }) => {
    const collection = uniqueName();
    await admin.createCollection({ collection });
    return admin.reindexCollection({ collection, confirmCollection: collection });
  },
  "DatabaseAdminService.EnableSharding": ({ admin }) => admin.enableSharding({}),
  "DatabaseAdminService.ShardCollection": ({ admin }) => admin.shardCollection({ collection: "users", key: [oneKey] }),
  "DatabaseAdminService.StartBalancer": ({ admin }) => admin.startBalancer({}),
  "DatabaseAdminService.StopBalancer": ({ admin }) => admin.stopBalancer({}),
};

const oneKey = { field: "a", type: IndexKeyType.ASCENDING };

/** What is changed is a collection of an operator's, or a job about it. */
function ofCollection(call: Call, type = "Collection") {
  return async (clients: Clients): Promise<Entry> => {
    const collection = uniqueName();
    await clients.admin.createCollection({ collection });
    const name = `${clients.db.databaseName}.${collection}`;
    return { of: type === "Collection" ? [type, name] : [type], call: () => call(clients, collection) };
  };
}

/** What is changed is an index of such a collection. */
function ofCollectionIndex(call: Call) {
  return async (clients: Clients): Promise<Entry> => {
    const collection = uniqueName();
    await clients.db.collection(collection).createIndex({ a: 1 }, { expireAfterSeconds: 9 });
    const name = `${clients.db.databaseName}.${collection}/a_1`;
    return { of: ["CollectionIndex", name], call: () => call(clients, collection) };
  };
}

function ofKey(call: Call) {
  return of("CacheKey", async () => uniqueName("audited"), call);
}

function ofIndex(call: Call) {
  return of("Index", (clients) => newIndex(clients), call);
}
/** What is changed is a document of an index that has one already. */
function ofIndexed(documentId: string, call: Call) {
  return async (clients: Clients): Promise<Entry> => {
    const index = await newIndex(clients);
    await clients.indices.indexDocument({ index, documentId: "one", document: {} });
    return { of: ["IndexedDocument", `${index}/${documentId}`], call: () => call(clients, index) };
  };
}

/** One key of Redis: what is in a backup is of no matter here. */
export const prefix = `${uniqueName("audit")}:`;
const small = { selection: { stores: [Store.REDIS], redisKeyPatterns: [`${prefix}*`] } };

async function takeBackup(backups: Clients["backups"]): Promise<string> {
  const backupId = (await backups.createBackup(small)).backup?.backupId ?? "";
  const last = (await eventsOf(backups.watchBackup({ backupId }))).at(-1);
  if (last?.state !== JobState.SUCCEEDED) throw new Error(`The backup ended: ${last?.error?.reason}`);
  return backupId;
}

/** Gives the one job that runs at a time others to wait for, so that the next is there to be cancelled. */
async function keepBusy(backups: Clients["backups"]): Promise<void> {
  await Promise.all(upTo(4).map(() => backups.createBackup(small)));
}

/** A backup that is there throughout. */
const kept = new WeakMap<Clients["backups"], Promise<string>>();
async function keptBackup(backups: Clients["backups"]): Promise<string> {
  const backup = kept.get(backups) ?? takeBackup(backups);
  kept.set(backups, backup);
  return backup;
}

const elsewhere = () => [{ store: Store.REDIS, from: prefix, to: `restored-${prefix}` }];

/** As if some process had begun to keep the index of users, since here none does. */
async function begun({ system, searchPrefix }: Clients): Promise<void> {
  const _id = `${searchPrefix}users` as never;
  await system.collection("search_sync").updateOne({ _id }, { $setOnInsert: { phase: "new" } }, { upsert: true });
}

/** A document whose copy was refused. */
async function letter(clients: Clients): Promise<string> {
  await begun(clients);
  const _id = `${clients.searchPrefix}users/${uniqueName()}`;
  const letters = clients.system.collection<{ _id: string }>("search_dead_letters");
  const now = new Date();
  const about = {
    index: "users",
    document_id: "",
    source_id: _id,
    revision: 1n,
    error_type: "",
    cause_type: "",
    field: "",
  };
  const rest = { attempts: 1, first_time: now, last_time: now, discarded: false };
  await letters.insertOne({ _id, ...about, ...rest });
  return _id;
}
