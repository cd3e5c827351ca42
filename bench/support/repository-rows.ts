import { createHash, randomBytes } from "node:crypto";

import type { DescMessage, DescService, JsonObject } from "@bufbuild/protobuf";
import { Binary, BSON, type Db, type Document, type MongoClient } from "mongodb";

import { AuditLogService } from "../../gen/lucid/repository/v1/audit_log_service_pb.ts";
import { AuditRecordSchema } from "../../gen/lucid/repository/v1/audit_record_pb.ts";
import { BlockSchema } from "../../gen/lucid/repository/v1/block_pb.ts";
import { BlockService } from "../../gen/lucid/repository/v1/block_service_pb.ts";
import { ManifestSchema } from "../../gen/lucid/repository/v1/manifest_pb.ts";
import { ManifestService } from "../../gen/lucid/repository/v1/manifest_service_pb.ts";
import { SessionSchema } from "../../gen/lucid/repository/v1/session_pb.ts";
import { SessionService } from "../../gen/lucid/repository/v1/session_service_pb.ts";
import { TransactionSchema } from "../../gen/lucid/repository/v1/transaction_pb.ts";
import { TransactionService } from "../../gen/lucid/repository/v1/transaction_service_pb.ts";
import { TrustPolicySchema } from "../../gen/lucid/repository/v1/trust_policy_pb.ts";
import { TrustPolicyService } from "../../gen/lucid/repository/v1/trust_policy_service_pb.ts";
import { UserSchema } from "../../gen/lucid/repository/v1/user_pb.ts";
import { UserService } from "../../gen/lucid/repository/v1/user_service_pb.ts";
import { WalletSchema } from "../../gen/lucid/repository/v1/wallet_pb.ts";
import { WalletService } from "../../gen/lucid/repository/v1/wallet_service_pb.ts";
import { tronAddress } from "../../local/seed/tron.ts";

/** One service that keeps something, with the driver calls that its Get, List and Create make. */
export interface RepositoryRow {
  readonly service: DescService;
  /** What it keeps, which the rpcs are called after. */
  readonly entity: DescMessage;
  /** Stored name of the field that identifies one. */
  readonly id: string;
  readonly plural: string;
  /** What reads add to the filter of a Get, and what a List without one finds. */
  readonly live: Document;
  readonly listed: Document;
  /** The order of a List. */
  readonly sort: Readonly<Record<string, -1>>;
  /** What is sent to create the one with a number. `lastId` tells the last one of another entity. */
  readonly made?: (number: number, lastId: (entity: DescMessage) => string) => JsonObject;
  /** What a Get and a List call the driver for besides the documents with these ids. */
  readonly beside?: (db: Db, ids: readonly string[]) => Promise<unknown>;
  /** What a Create calls the driver for besides the insert. */
  readonly before?: (db: Db, document: Document) => Promise<unknown>;
  readonly after?: (db: Db, document: Document) => Promise<unknown>;
  /** Whether it is in the database that the service has for itself. */
  readonly isSystem?: boolean;
  /** Creates that go on at once, where 16 cannot. */
  readonly inFlight?: number;
}

/** A deadline as the calls of the service have it, in each statement. */
export const bounded = { maxTimeMS: 30_000 } as const;

/** Where the service keeps what is measured, and its log of it. */
export const database = "bench_repositories";
export const systemDatabase = "bench_repositories_system";

export function databaseOf({ isSystem = false }: RepositoryRow, client: MongoClient): Db {
  return client.db(isSystem ? systemDatabase : database);
}

const live = { deleted_at: null };
const kept = { live, listed: live };

/** In this order, since some need others to be there. */
export const rows: readonly RepositoryRow[] = [
  {
    service: UserService,
    entity: UserSchema,
    id: "user_id",
    plural: "Users",
    ...kept,
    sort: { created_at: -1, user_id: -1 },
    made: (number) => ({
      user: {
        email: `user${number}@example.com`,
        username: `user-${number}`,
        tronAddress: tronAddress(randomBytes(20)),
        profile: { displayName: `User number ${number}`, bio: "Observes sessions and runs a node." },
      },
    }),
  },
  {
    service: SessionService,
    entity: SessionSchema,
    id: "session_id",
    plural: "Sessions",
    ...kept,
    sort: { created_at: -1, session_id: -1 },
    made: (number) => ({
      session: { userId: `user-${number % 7}`, sessionName: `Review ${number}`, description: "What was seen." },
    }),
  },
  {
    service: ManifestService,
    entity: ManifestSchema,
    id: "manifest_id",
    plural: "Manifests",
    ...kept,
    sort: { created_at: -1, manifest_id: -1 },
    made: (number) => ({
      manifest: {
        sessionId: `session-${number}`,
        merkleRoot: hashOf("root"),
        chunkCount: "3",
        totalSize: String(3 * 2 ** 20),
      },
    }),
  },
  {
    service: BlockService,
    entity: BlockSchema,
    id: "block_id",
    plural: "Blocks",
    live: {},
    listed: { orphaned_at: null },
    sort: { height: -1, block_id: -1 },
    made: (number) => ({
      block: {
        blockId: hashOf(`block ${number}`),
        height: String(number),
        previousHash: number === 0 ? "0".repeat(64) : hashOf(`block ${number - 1}`),
        merkleRoot: hashOf("transactions"),
        timestamp: new Date(Date.UTC(2026, 0, 1) + number * 1000).toISOString(),
      },
    }),
    // Looks at its places, tidies up behind the block before and takes the place after it, with the whole of itself; that block
    // forgets it once it is stored.
    async before(db, document) {
      const { block_id, height, previous_hash } = document;
      const blocks = db.collection("blocks");
      const projection = { block_id: 1, height: 1, previous_hash: 1, status: 1, next_block_hash: 1, _next: 1 };
      const inChain = { orphaned_at: null };
      for (const place of [{ block_id }, { height, ...inChain }, { height: height - 1n, ...inChain }]) {
        await blocks.findOne(place, { projection, ...bounded });
      }
      await blocks.updateOne(
        { block_id: previous_hash, "_next._id": document["_id"] },
        { $unset: { _next: "" } },
        bounded,
      );
      const _next = { _id: document["_id"], document: new Binary(BSON.serialize(document)) };
      await blocks.updateOne(
        { block_id: previous_hash, height: height - 1n, ...inChain, next_block_hash: null },
        { $set: { next_block_hash: block_id, _next, updated_at: new Date() }, $inc: { revision: 1n } },
        bounded,
      );
    },
    after: (db, { _id, previous_hash }) =>
      db
        .collection("blocks")
        .updateOne({ block_id: previous_hash, "_next._id": _id }, { $unset: { _next: "" } }, bounded),
    inFlight: 1,
  },
  {
    service: TransactionService,
    entity: TransactionSchema,
    id: "transaction_id",
    plural: "Transactions",
    ...kept,
    sort: { created_at: -1, transaction_id: -1 },
    made: () => ({
      transaction: {
        transactionId: randomBytes(32).toString("hex"),
        transactionType: "TRANSACTION_TYPE_SESSION_ANCHOR",
        fromAddress: "node-1",
        toAddress: "lucid-anchors",
        sessionAnchor: {
          sessionId: "session-1",
          userId: "user-1",
          merkleRoot: hashOf("root"),
          chunkCount: "30",
          totalSizeBytes: "31457280",
          sessionCreatedAt: "2026-01-01T00:00:00Z",
          manifestHash: hashOf("manifest"),
        },
        sizeBytes: "400",
        signature: "ab".repeat(64),
      },
    }),
  },
  {
    service: TrustPolicyService,
    entity: TrustPolicySchema,
    id: "policy_id",
    plural: "TrustPolicies",
    ...kept,
    // Counts applications and violations.
    beside: (db, ids) =>
      Promise.all([
        db
          .collection("trust_policy_activity")
          .find(
            { policy_id: { $in: ids } },
            { projection: { _id: 0, policy_id: 1, applications_count: 1, last_applied: 1 }, ...bounded },
          )
          .toArray(),
        db
          .collection("policy_violations")
          .aggregate(
            [{ $match: { policy_id: { $in: ids } } }, { $group: { _id: "$policy_id", count: { $sum: 1n } } }],
            bounded,
          )
          .toArray(),
      ]),
    sort: { created_at: -1, policy_id: -1 },
    made: (number) => ({
      trustPolicy: {
        policyName: `Policy ${number}`,
        policyType: "TRUST_POLICY_TYPE_USER_TRUST",
        trustLevel: "TRUST_LEVEL_LOW",
        ownerId: "owner-1",
        tags: ["bench"],
      },
    }),
  },
  {
    service: WalletService,
    entity: WalletSchema,
    id: "wallet_id",
    plural: "Wallets",
    ...kept,
    sort: { created_at: -1, wallet_id: -1 },
    made: (number, lastId) => ({
      userId: lastId(UserSchema),
      wallet: { tronAddress: tronAddress(randomBytes(20)), nickname: `Wallet ${number}` },
    }),
    before: (db, { user_id }) =>
      db.collection("users").findOne({ user_id, ...live }, { projection: { _id: 1 }, ...bounded }),
  },
  {
    // Whatever the others have done is in it.
    service: AuditLogService,
    entity: AuditRecordSchema,
    id: "audit_id",
    isSystem: true,
    plural: "AuditRecords",
    live: {},
    listed: {},
    sort: { timestamp: -1, sequence: -1 },
  },
];

function hashOf(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}
