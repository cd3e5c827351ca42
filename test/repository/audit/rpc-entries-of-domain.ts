import { randomUUID } from "node:crypto";

import type { Db } from "mongodb";

import { type Block, BlockStatus } from "../../../gen/lucid/repository/v1/block_pb.ts";
import { ChunkStatus } from "../../../gen/lucid/repository/v1/chunk_pb.ts";
import { SessionStatus } from "../../../gen/lucid/repository/v1/session_pb.ts";
import { TransactionStatus } from "../../../gen/lucid/repository/v1/transaction_pb.ts";
import { TrustPolicyStatus } from "../../../gen/lucid/repository/v1/trust_policy_pb.ts";
import { WalletStatus } from "../../../gen/lucid/repository/v1/wallet_pb.ts";
import { blockInit, newBlock } from "../block-support.ts";
import { manifestInit, newManifest, newSession as newSessionChunks, upTo } from "../manifest-support.ts";
import { chunkInit, newSession, pipeline, sessionIn, someTree } from "../session-support.ts";
import { newUser, tronAddress, userInit } from "../support.ts";
import { hash, newTransaction, transactionInit } from "../transaction-support.ts";
import { newPolicy, policyInit, relationshipInit, violationInit } from "../trust-policy-support.ts";
import { deviceInit, newWallet } from "../wallet-support.ts";
import { type Call, type Clients, of, type Prepare } from "./rpc-entries.ts";

const secrets = { encryptedPrivateKey: Buffer.from("x") };

/** Entries of the services of the domain. */
export const entriesOfDomain: Readonly<Record<string, Prepare>> = {
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

function ofPolicy(call: Call) {
  return of("TrustPolicy", async ({ policies }) => (await newPolicy(policies)).policyId, call);
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
