import { randomUUID } from "node:crypto";

import type { DescMethod } from "@bufbuild/protobuf";
import type { Client } from "@connectrpc/connect";
import { Redis } from "ioredis";
import type { Db } from "mongodb";
import { afterAll, beforeAll, expect, test } from "vitest";

import { BackupService, JobState } from "../../../gen/lucid/admin/v1/backup_service_pb.ts";
import { CacheService } from "../../../gen/lucid/admin/v1/cache_service_pb.ts";
import { IndexKeyType } from "../../../gen/lucid/admin/v1/collection_index_pb.ts";
import { Store } from "../../../gen/lucid/admin/v1/common_pb.ts";
import { DatabaseAdminService } from "../../../gen/lucid/admin/v1/database_admin_service_pb.ts";
import { VolumeType } from "../../../gen/lucid/admin/v1/volume_pb.ts";
import { MigrationMode, VolumeService } from "../../../gen/lucid/admin/v1/volume_service_pb.ts";
import { AuditLogService } from "../../../gen/lucid/repository/v1/audit_log_service_pb.ts";
import { AuditEffect } from "../../../gen/lucid/repository/v1/audit_record_pb.ts";
import { type Block, BlockStatus } from "../../../gen/lucid/repository/v1/block_pb.ts";
import { BlockService } from "../../../gen/lucid/repository/v1/block_service_pb.ts";
import { ChunkStatus } from "../../../gen/lucid/repository/v1/chunk_pb.ts";
import { DataLifecycleService } from "../../../gen/lucid/repository/v1/data_lifecycle_service_pb.ts";
import { DocumentCacheService } from "../../../gen/lucid/repository/v1/document_cache_service_pb.ts";
import { ManifestService } from "../../../gen/lucid/repository/v1/manifest_service_pb.ts";
import { SessionStatus } from "../../../gen/lucid/repository/v1/session_pb.ts";
import { SessionService } from "../../../gen/lucid/repository/v1/session_service_pb.ts";
import { TransactionStatus } from "../../../gen/lucid/repository/v1/transaction_pb.ts";
import { TransactionService } from "../../../gen/lucid/repository/v1/transaction_service_pb.ts";
import { TrustPolicyStatus } from "../../../gen/lucid/repository/v1/trust_policy_pb.ts";
import { TrustPolicyService } from "../../../gen/lucid/repository/v1/trust_policy_service_pb.ts";
import { UserService } from "../../../gen/lucid/repository/v1/user_service_pb.ts";
import { WalletStatus } from "../../../gen/lucid/repository/v1/wallet_pb.ts";
import { WalletService } from "../../../gen/lucid/repository/v1/wallet_service_pb.ts";
import { IndexFieldType } from "../../../gen/lucid/search/v1/search_index_pb.ts";
import { SearchIndexService } from "../../../gen/lucid/search/v1/search_index_service_pb.ts";
import { SearchSyncService } from "../../../gen/lucid/search/v1/search_sync_service_pb.ts";
import { isAudited } from "../../../src/server/interceptors/audit.ts";
import { eventsOf } from "../../backup/support.ts";
import { endOf, indexName, newIndex, once } from "../../search/index-support.ts";
import { searchPart } from "../../search/support.ts";
import { temporaryFolder } from "../../stores/volumes/support.ts";
import { type TestApp, testApp } from "../../support/app.ts";
import { platformServices } from "../../support/requests.ts";
import { storeAddresses, uniqueName } from "../../support/stores.ts";
import { blockInit, newBlock } from "../block-support.ts";
import { manifestInit, newManifest, newSession as newSessionChunks, upTo } from "../manifest-support.ts";
import { chunkInit, newSession, pipeline, sessionIn, someTree } from "../session-support.ts";
import { newUser, refusalOf, tronAddress, userInit } from "../support.ts";
import { hash, newTransaction, transactionInit } from "../transaction-support.ts";
import { newPolicy, policyInit, relationshipInit, violationInit } from "../trust-policy-support.ts";
import { deviceInit, newWallet } from "../wallet-support.ts";

/** What an entry works with. */
interface Clients {
  readonly users: Client<typeof UserService>;
  readonly sessions: Client<typeof SessionService>;
  readonly wallets: Client<typeof WalletService>;
  readonly manifests: Client<typeof ManifestService>;
  readonly transactions: Client<typeof TransactionService>;
  readonly blocks: Client<typeof BlockService>;
  readonly policies: Client<typeof TrustPolicyService>;
  readonly backups: Client<typeof BackupService>;
  readonly lifecycle: Client<typeof DataLifecycleService>;
  readonly indices: Client<typeof SearchIndexService>;
  readonly sync: Client<typeof SearchSyncService>;
  readonly admin: Client<typeof DatabaseAdminService>;
  readonly cache: Client<typeof CacheService>;
  readonly copies: Client<typeof DocumentCacheService>;
  readonly volumes: Client<typeof VolumeService>;
  readonly system: Db;
  readonly db: Db;
}

/** What is changed by the one call that is looked at: its type, its id where it is known before, and the call. */
interface Entry {
  readonly of: readonly [type: string, id?: string];
  readonly call: () => Promise<object>;
  /** Records, where the call changes more resources than one. */
  readonly records?: number;
}

const secrets = { encryptedPrivateKey: Buffer.from("x") };

/** One entry for each rpc that may change something. It makes what the call needs, and gives the call. */
const entries: Readonly<Record<string, (clients: Clients) => Promise<Entry>>> = {
  "UserService.CreateUser": async ({ users }) => ({
    of: ["User"],
    call: () => users.createUser({ user: userInit(), credentials: { salt: Buffer.from("s") } }),
  }),
  "UserService.UpdateUser": ofUser(({ users }, userId) => users.updateUser({ user: { userId, emailVerified: true } })),
  "UserService.SetUserCredentials": ofUser(({ users }, userId) =>
    users.setUserCredentials({ userId, credentials: {} }),
  ),
  "UserService.DeleteUser": ofUser(({ users }, userId) => users.deleteUser({ userId })),
  "UserService.UndeleteUser": async ({ users }) => {
    const { userId } = await newUser(users);
    await users.deleteUser({ userId });
    return { of: ["User", userId], call: () => users.undeleteUser({ userId }) };
  },
  "UserService.RecordLoginSuccess": ofUser(({ users }, userId) => users.recordLoginSuccess({ userId })),
  "UserService.RecordLoginFailure": ofUser(({ users }, userId) => users.recordLoginFailure({ userId })),
  "UserService.IncrementSessionCount": ofUser(({ users }, userId) => users.incrementSessionCount({ userId })),
  "UserService.AdjustStorageUsed": ofUser(({ users }, userId) => users.adjustStorageUsed({ userId, deltaBytes: 1n })),

  "SessionService.CreateSession": async ({ sessions }) => ({
    of: ["Session"],
    call: () => sessions.createSession({ session: { userId: randomUUID() } }),
  }),
  "SessionService.UpdateSession": ofSession(({ sessions }, sessionId) =>
    sessions.updateSession({ session: { sessionId, description: "d" } }),
  ),
  "SessionService.UpdateSessionStatus": ofSession(({ sessions }, sessionId) =>
    sessions.updateSessionStatus({ sessionId, status: SessionStatus.RECORDING }),
  ),
  "SessionService.DeleteSession": ofSession(({ sessions }, sessionId) => sessions.deleteSession({ sessionId })),
  "SessionService.UndeleteSession": async ({ sessions }) => {
    const { sessionId } = await newSession(sessions);
    await sessions.deleteSession({ sessionId });
    return { of: ["Session", sessionId], call: () => sessions.undeleteSession({ sessionId }) };
  },

  "SessionService.SetSessionEncryptionKey": ofSession(({ sessions }, sessionId) =>
    sessions.setSessionEncryptionKey({ sessionId, encryptionKey: { encryptionKey: Buffer.alloc(32, 1) } }),
  ),
  "SessionService.AddChunk": ofSession(({ sessions }, sessionId) =>
    sessions.addChunk({ sessionId, chunk: chunkInit(0) }),
  ),
  "SessionService.AddChunks": ofSession(({ sessions }, sessionId) =>
    sessions.addChunks(
      (async function* () {
        yield { sessionId, chunks: upTo(3).map((index) => chunkInit(index)) };
        yield { chunks: upTo(6).map((index) => chunkInit(index)) };
      })(),
    ),
  ),
  "SessionService.UpdateChunkStatus": async ({ sessions }) => {
    const { sessionId } = await newSession(sessions);
    const chunkId = (await sessions.addChunk({ sessionId, chunk: chunkInit(0) })).chunk?.chunkId ?? "";
    const call = () => sessions.updateChunkStatus({ chunkId, status: ChunkStatus.UPLOADED });
    return { of: ["Chunk", chunkId], call };
  },
  "SessionService.BuildMerkleTree": async ({ sessions }) => {
    const { sessionId } = await newSession(sessions);
    await sessions.addChunk({ sessionId, chunk: chunkInit(0) });
    await goTo(sessions, sessionId, SessionStatus.MERKLE_BUILDING);
    return { of: ["Session", sessionId], call: () => sessions.buildMerkleTree({ sessionId }) };
  },
  "SessionService.SetMerkleTree": async ({ sessions }) => {
    const { sessionId } = await sessionIn(sessions, SessionStatus.MERKLE_BUILDING);
    const call = () => sessions.setMerkleTree({ sessionId, merkleTree: someTree });
    return { of: ["Session", sessionId], call };
  },
  "SessionService.SetBlockchainAnchor": async ({ sessions }) => {
    const { sessionId } = await sessionIn(sessions, SessionStatus.ANCHORING);
    const blockchainAnchor = { merkleRoot: someTree.rootHash };
    return { of: ["Session", sessionId], call: () => sessions.setBlockchainAnchor({ sessionId, blockchainAnchor }) };
  },

  "WalletService.CreateWallet": async ({ users, wallets }) => {
    const { userId } = await newUser(users);
    return {
      of: ["Wallet"],
      call: () => wallets.createWallet({ userId, wallet: { tronAddress: tronAddress() }, secrets }),
    };
  },
  "WalletService.UpdateWallet": ofWallet(({ wallets }, walletId) =>
    wallets.updateWallet({ wallet: { walletId, nickname: "n" } }),
  ),
  "WalletService.UpdateWalletStatus": ofWallet(({ wallets }, walletId) =>
    wallets.updateWalletStatus({ walletId, status: WalletStatus.LOCKED }),
  ),
  "WalletService.SetPrimaryWallet": async (clients) => {
    const { walletId: before, userId } = await newWallet(clients);
    await clients.wallets.setPrimaryWallet({ walletId: before });
    const { walletId } = await newWallet(clients, {}, userId);
    // The one that was primary is changed as well.
    return { of: ["Wallet", walletId], call: () => clients.wallets.setPrimaryWallet({ walletId }), records: 2 };
  },
  "WalletService.MarkWalletVerified": async (clients) => {
    const { walletId, tronAddress: address } = await newWallet(clients);
    const call = () => clients.wallets.markWalletVerified({ walletId, tronAddress: address });
    return { of: ["Wallet", walletId], call };
  },
  "WalletService.RecordWalletUse": ofWallet(({ wallets }, walletId) => wallets.recordWalletUse({ walletId })),
  "WalletService.SetWalletSecrets": ofWallet(({ wallets }, walletId) =>
    wallets.setWalletSecrets({ walletId, secrets }),
  ),
  "WalletService.DeleteWallet": ofWallet(({ wallets }, walletId) => wallets.deleteWallet({ walletId })),
  "WalletService.UndeleteWallet": async (clients) => {
    const { walletId } = await newWallet(clients);
    await clients.wallets.deleteWallet({ walletId });
    return { of: ["Wallet", walletId], call: () => clients.wallets.undeleteWallet({ walletId }) };
  },
  "WalletService.RegisterHardwareDevice": async ({ wallets }) => ({
    of: ["HardwareDevice"],
    call: () => wallets.registerHardwareDevice({ device: deviceInit() }),
  }),
  "WalletService.UpdateHardwareDevice": ofDevice(({ wallets }, deviceId) =>
    wallets.updateHardwareDevice({ device: { deviceId, appVersion: "2" } }),
  ),
  "WalletService.DeleteHardwareDevice": ofDevice(({ wallets }, deviceId) => wallets.deleteHardwareDevice({ deviceId })),
  "WalletService.UndeleteHardwareDevice": async ({ wallets }) => {
    const deviceId = await newDevice(wallets);
    await wallets.deleteHardwareDevice({ deviceId });
    return { of: ["HardwareDevice", deviceId], call: () => wallets.undeleteHardwareDevice({ deviceId }) };
  },

  "ManifestService.CreateManifest": async ({ manifests }) => ({
    of: ["Manifest"],
    call: () => manifests.createManifest({ manifest: manifestInit() }),
  }),
  "ManifestService.UpdateManifest": ofManifest(({ manifests }, manifestId) =>
    manifests.updateManifest({ manifest: { manifestId, metadata: { a: 1 } } }),
  ),
  "ManifestService.RecordManifestAnchor": ofManifest(({ manifests }, manifestId) =>
    manifests.recordManifestAnchor({ manifestId, blockchainTransactionId: hash() }),
  ),
  "ManifestService.ValidateManifest": async ({ manifests, db }) => {
    const sessionId = await newSessionChunks(db, upTo(3));
    const { manifestId } = await newManifest(manifests, manifestInit({ sessionId }));
    return { of: ["Manifest", manifestId], call: () => manifests.validateManifest({ manifestId }) };
  },
  "ManifestService.DeleteManifest": ofManifest(({ manifests }, manifestId) => manifests.deleteManifest({ manifestId })),
  "ManifestService.UndeleteManifest": async ({ manifests }) => {
    const { manifestId } = await newManifest(manifests);
    await manifests.deleteManifest({ manifestId });
    return { of: ["Manifest", manifestId], call: () => manifests.undeleteManifest({ manifestId }) };
  },

  "TransactionService.CreateTransaction": async ({ transactions }) => ({
    of: ["Transaction"],
    call: () => transactions.createTransaction({ transaction: transactionInit() }),
  }),
  "TransactionService.BatchCreateTransactions": async ({ transactions }) => ({
    of: ["Transaction"],
    call: () =>
      transactions.batchCreateTransactions({ requests: upTo(3).map(() => ({ transaction: transactionInit() })) }),
    records: 3,
  }),
  "TransactionService.UpdateTransactionStatus": ofTransaction(({ transactions }, transactionId) =>
    transactions.updateTransactionStatus({ transactionId, status: TransactionStatus.IN_MEMPOOL }),
  ),
  "TransactionService.AssignTransactionToBlock": async ({ transactions, blocks, db }) => {
    const { transactionId } = await newTransaction(transactions);
    const { blockId } = await lastBlock(blocks, db);
    const call = () => transactions.assignTransactionToBlock({ transactionId, blockId, transactionIndex: 0 });
    return { of: ["Transaction", transactionId], call };
  },
  "TransactionService.UpdateTransactionConfirmations": async ({ transactions, blocks, db }) => {
    const { transactionId } = await newTransaction(transactions);
    const { blockId } = await lastBlock(blocks, db);
    await transactions.assignTransactionToBlock({ transactionId, blockId, transactionIndex: 0 });
    const call = () => transactions.updateTransactionConfirmations({ transactionId, blockId, confirmations: 2n });
    return { of: ["Transaction", transactionId], call };
  },
  "TransactionService.SetTransactionInternals": ofTransaction(({ transactions }, transactionId) =>
    transactions.setTransactionInternals({ transactionId, internals: { rawTransaction: Buffer.from("r") } }),
  ),

  "BlockService.CreateBlock": async ({ blocks, db }) => {
    const last = await lastBlock(blocks, db);
    return { of: ["Block"], call: () => blocks.createBlock({ block: blockInit(last) }) };
  },
  "BlockService.UpdateConfirmations": ofBlock(({ blocks }, blockId) =>
    blocks.updateConfirmations({ blockId, confirmations: 3n }),
  ),
  "BlockService.UpdateBlockStatus": ofBlock(({ blocks }, blockId) =>
    blocks.updateBlockStatus({ blockId, status: BlockStatus.VALIDATING }),
  ),
  "BlockService.FinalizeBlock": async ({ blocks, db }) => {
    const { blockId } = await lastBlock(blocks, db);
    await blocks.updateBlockStatus({ blockId, status: BlockStatus.VALIDATING });
    await blocks.updateBlockStatus({ blockId, status: BlockStatus.CONFIRMED });
    return { of: ["Block", blockId], call: () => blocks.finalizeBlock({ blockId }) };
  },
  "BlockService.MarkBlockOrphaned": async ({ blocks, db }) => {
    const { blockId } = await newBlock(blocks, await lastBlock(blocks, db));
    return { of: ["Block", blockId], call: () => blocks.markBlockOrphaned({ blockId }) };
  },

  "TrustPolicyService.CreateTrustPolicy": async ({ policies }) => ({
    of: ["TrustPolicy"],
    call: () => policies.createTrustPolicy({ trustPolicy: policyInit() }),
  }),
  "TrustPolicyService.UpdateTrustPolicy": ofPolicy(({ policies }, policyId) =>
    policies.updateTrustPolicy({ trustPolicy: { policyId, description: "d" } }),
  ),
  "TrustPolicyService.SetTrustPolicyStatus": ofPolicy(({ policies }, policyId) =>
    policies.setTrustPolicyStatus({ policyId, status: TrustPolicyStatus.ACTIVE }),
  ),
  "TrustPolicyService.DeleteTrustPolicy": ofPolicy(({ policies }, policyId) =>
    policies.deleteTrustPolicy({ policyId }),
  ),
  "TrustPolicyService.UndeleteTrustPolicy": async ({ policies }) => {
    const { policyId } = await newPolicy(policies);
    await policies.deleteTrustPolicy({ policyId });
    return { of: ["TrustPolicy", policyId], call: () => policies.undeleteTrustPolicy({ policyId }) };
  },
  "TrustPolicyService.RecordPolicyApplication": ofPolicy(({ policies }, policyId) =>
    policies.recordPolicyApplication({ policyId }),
  ),
  "TrustPolicyService.RecordPolicyViolation": async ({ policies }) => {
    const policyViolation = violationInit((await newPolicy(policies)).policyId);
    return { of: ["PolicyViolation"], call: () => policies.recordPolicyViolation({ policyViolation }) };
  },
  "TrustPolicyService.ResolvePolicyViolation": of(
    "PolicyViolation",
    async ({ policies }) => {
      const { policyId } = await newPolicy(policies);
      const { policyViolation } = await policies.recordPolicyViolation({ policyViolation: violationInit(policyId) });
      return policyViolation?.violationId ?? "";
    },
    ({ policies }, violationId) => policies.resolvePolicyViolation({ violationId }),
  ),
  "TrustPolicyService.EstablishTrustRelationship": async ({ policies }) => ({
    of: ["TrustRelationship"],
    call: () => policies.establishTrustRelationship({ trustRelationship: relationshipInit() }),
  }),
  "TrustPolicyService.VerifyTrustRelationship": ofRelationship(({ policies }, relationshipId) =>
    policies.verifyTrustRelationship({ relationshipId }),
  ),
  "TrustPolicyService.RevokeTrustRelationship": ofRelationship(({ policies }, relationshipId) =>
    policies.revokeTrustRelationship({ relationshipId }),
  ),

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
  "SearchSyncService.ResyncIndex": async ({ sync, system }) => {
    await begun(system);
    return { of: ["Index", "users"], call: () => sync.resyncIndex({ index: "users" }) };
  },
  "SearchSyncService.RetryDeadLetters": async ({ sync, system }) => {
    const id = await letter(system);
    return { of: ["DeadLetter", id], call: () => sync.retryDeadLetters({ deadLetterIds: [id] }) };
  },
  "SearchSyncService.DiscardDeadLetter": async ({ sync, system }) => {
    const id = await letter(system);
    return { of: ["DeadLetter", id], call: () => sync.discardDeadLetter({ deadLetterId: id }) };
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
  "VolumeService.MigrateVolume": async ({ volumes }) => {
    const request = { name: await newVolume(volumes), targetName: `a${randomUUID()}`, mode: MigrationMode.COPY };
    return { of: ["VolumeJob"], call: () => volumes.migrateVolume(request) };
  },
  "VolumeService.CancelVolumeJob": async ({ backups, volumes }) => {
    await keepBusy(backups);
    const request = { name: await newVolume(volumes), targetName: `a${randomUUID()}`, mode: MigrationMode.COPY };
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

type Call = (clients: Clients, id: string) => Promise<object>;

function ofVolume(call: Call) {
  return of("Volume", ({ volumes }) => newVolume(volumes), call);
}
async function newVolume(volumes: Clients["volumes"], name = `a${randomUUID()}`): Promise<string> {
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
const lacking: Readonly<Record<string, (clients: Clients) => Promise<object>>> = {
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

function ofUser(call: Call) {
  return of("User", async ({ users }) => (await newUser(users)).userId, call);
}
function ofSession(call: Call) {
  return of("Session", async ({ sessions }) => (await newSession(sessions)).sessionId, call);
}
function ofWallet(call: Call) {
  return of("Wallet", async (clients) => (await newWallet(clients)).walletId, call);
}
function ofDevice(call: Call) {
  return of("HardwareDevice", ({ wallets }) => newDevice(wallets), call);
}
function ofManifest(call: Call) {
  return of("Manifest", async ({ manifests }) => (await newManifest(manifests)).manifestId, call);
}
function ofTransaction(call: Call) {
  return of("Transaction", async ({ transactions }) => (await newTransaction(transactions)).transactionId, call);
}
function ofBlock(call: Call) {
  return of("Block", async ({ blocks, db }) => (await lastBlock(blocks, db)).blockId, call);
}
function ofRelationship(call: Call) {
  const make = async ({ policies }: Clients) => {
    const trustRelationship = relationshipInit();
    const made = await policies.establishTrustRelationship({ trustRelationship });
    return made.trustRelationship?.relationshipId ?? "";
  };
  return of("TrustRelationship", make, call);
}

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

function ofPolicy(call: Call) {
  return of("TrustPolicy", async ({ policies }) => (await newPolicy(policies)).policyId, call);
}

/** An entry whose call changes something that was just made. */
function of(type: string, make: (clients: Clients) => Promise<string>, call: Call) {
  return async (clients: Clients): Promise<Entry> => {
    const id = await make(clients);
    return { of: [type, id], call: () => call(clients, id) };
  };
}

async function newDevice(wallets: Clients["wallets"]): Promise<string> {
  return (await wallets.registerHardwareDevice({ device: deviceInit() })).device?.deviceId ?? "";
}

async function goTo(sessions: Clients["sessions"], sessionId: string, last: SessionStatus): Promise<void> {
  const way = pipeline.slice(1, pipeline.findIndex((state) => state === last) + 1);
  for (const status of way) await sessions.updateSessionStatus({ sessionId, status });
}

/** The only block of a new chain. */
async function lastBlock(blocks: Clients["blocks"], db: Db): Promise<Block> {
  await db.collection("blocks").deleteMany({});
  return newBlock(blocks);
}

/** One key of Redis: what is in a backup is of no matter here. */
const prefix = `${uniqueName("audit")}:`;
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
let kept: Promise<string> | undefined;
async function keptBackup(backups: Clients["backups"]): Promise<string> {
  kept ??= takeBackup(backups);
  return kept;
}

const elsewhere = () => [{ store: Store.REDIS, from: prefix, to: `restored-${prefix}` }];

const redis = new Redis(storeAddresses().redisUri, { lazyConnect: true });

const part = searchPart(storeAddresses().searchUri);

let folder: Awaited<ReturnType<typeof temporaryFolder>>;
let app: TestApp;
let clients: Clients;
/** As if some process had begun to keep the index of users, since here none does. */
async function begun(system: Db): Promise<void> {
  const _id = `${app.config.search.prefix}users` as never;
  await system.collection("search_sync").updateOne({ _id }, { $setOnInsert: { phase: "new" } }, { upsert: true });
}

/** A document whose copy was refused. */
async function letter(system: Db): Promise<string> {
  await begun(system);
  const _id = `${app.config.search.prefix}users/${uniqueName()}`;
  const letters = system.collection<{ _id: string }>("search_dead_letters");
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

beforeAll(async () => {
  folder = await temporaryFolder();
  app = await testApp({
    LUCID_JOB_CONCURRENCY: "1",
    LUCID_SEARCH_PREFIX: part.prefix,
    LUCID_VOLUME_DIR: folder.path,
  });
  await redis.set(`${prefix}key`, "value");
  const { database } = app.config.mongodb;
  const db = app.mongodb.db(database, { useBigInt64: true });
  clients = {
    users: app.client(UserService),
    sessions: app.client(SessionService),
    wallets: app.client(WalletService),
    manifests: app.client(ManifestService),
    transactions: app.client(TransactionService),
    blocks: app.client(BlockService),
    policies: app.client(TrustPolicyService),
    backups: app.client(BackupService),
    lifecycle: app.client(DataLifecycleService),
    indices: app.client(SearchIndexService),
    sync: app.client(SearchSyncService),
    admin: app.client(DatabaseAdminService),
    cache: app.client(CacheService),
    copies: app.client(DocumentCacheService),
    volumes: app.client(VolumeService),
    system: app.mongodb.db(app.config.mongodb.systemDatabase),
    db,
  };
});
afterAll(async () => {
  await redis.del(`${prefix}key`, `restored-${prefix}key`);
  redis.disconnect();
  await app[Symbol.asyncDispose]();
  await part[Symbol.asyncDispose]();
  await folder[Symbol.asyncDispose]();
});

const mutating = platformServices()
  .flatMap(({ methods }) => methods)
  .filter(isAudited);

test("every rpc that may change something has an entry here", () => {
  const missing = mutating
    .map(({ parent, name }) => `${parent.name}.${name}`)
    .filter((name) => !(name in entries || name in lacking));
  const advice =
    "Add an entry to the table above that makes what the rpc needs and calls it once. " +
    "An rpc that changes nothing is marked `idempotency_level = NO_SIDE_EFFECTS` in its proto instead";
  expect(missing, advice).toEqual([]);
});

test.for(mutating.map((method): [string, DescMethod] => [`${method.parent.name}.${method.name}`, method]))(
  "%s leaves one record for each resource that it changes",
  async ([name, method], context) => {
    const lacks = lacking[name];
    if (lacks !== undefined) {
      const { code, reason } = await refusalOf(lacks(clients));
      expect(code).toBe("FailedPrecondition");
      context.skip(`this MongoDB does not have it: ${reason}`);
    }
    const prepare = entries[name];
    if (prepare === undefined) throw new Error(`There is no entry for ${name}`);
    const {
      of: [type, id],
      call,
      records: expected = 1,
    } = await prepare(clients);
    const audit = app.client(AuditLogService);
    const { head } = await audit.getAuditHead({});
    const said = JSON.stringify(await call(), (_, value: unknown) =>
      typeof value === "bigint" ? String(value) : value,
    );
    const rpc = `${method.parent.typeName}/${method.name}`;
    const { records } = await audit.listAuditRecords({ filter: { rpc }, pageSize: 100 });
    const found = records.filter(({ sequence }) => sequence > (head?.sequence ?? 0n));
    const shown = found.map(({ resource }) => `${resource?.type} ${resource?.name}`);
    expect(shown, "a write that bypasses `entity` must carry the record of `auditRecord`").toHaveLength(expected);
    expect(new Set(shown).size).toBe(expected);
    for (const record of found) {
      expect(record).toMatchObject({ outcome: "OK", effect: AuditEffect.CHANGED, actor: { id: "anonymous" } });
      expect(record.resource?.type).toBe(type);
      expect(record.actor?.sourceAddress).toBe("127.0.0.1");
    }
    const names = found.map(({ resource }) => resource?.name ?? "");
    if (id !== undefined) expect(names).toContain(id);
    else for (const each of names) expect(said).toContain(each);
    // Nothing else is left to be moved.
    expect((await audit.getAuditHead({})).head?.sequence).toBe((head?.sequence ?? 0n) + BigInt(expected));
  },
);

test("all of this is one chain", async () => {
  const steps = await Array.fromAsync(app.client(AuditLogService).verifyAuditLog({}));
  expect(steps.at(-1)?.result).toMatchObject({ whole: true });
});
