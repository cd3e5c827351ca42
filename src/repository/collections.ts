import type { DescMessage } from "@bufbuild/protobuf";
import type { Db } from "mongodb";

import { ApiKeySchema } from "../../gen/lucid/repository/v1/api_key_pb.ts";
import { AuthTokenSchema } from "../../gen/lucid/repository/v1/auth_token_pb.ts";
import { BlockInternalsSchema } from "../../gen/lucid/repository/v1/block_internals_pb.ts";
import { BlockSchema } from "../../gen/lucid/repository/v1/block_pb.ts";
import { ChunkSchema } from "../../gen/lucid/repository/v1/chunk_pb.ts";
import { HardwareDeviceSchema } from "../../gen/lucid/repository/v1/hardware_device_pb.ts";
import { ManifestSchema } from "../../gen/lucid/repository/v1/manifest_pb.ts";
import { NotificationSchema } from "../../gen/lucid/repository/v1/notification_pb.ts";
import { PolicyViolationSchema } from "../../gen/lucid/repository/v1/policy_violation_pb.ts";
import { SessionEncryptionKeySchema } from "../../gen/lucid/repository/v1/session_encryption_key_pb.ts";
import { SessionSchema } from "../../gen/lucid/repository/v1/session_pb.ts";
import { SystemConfigSchema } from "../../gen/lucid/repository/v1/system_config_pb.ts";
import { TransactionInternalsSchema } from "../../gen/lucid/repository/v1/transaction_internals_pb.ts";
import { TransactionSchema } from "../../gen/lucid/repository/v1/transaction_pb.ts";
import {
  TrustPolicyActivitySchema,
  TrustPolicySchema,
  TrustPolicyVersionSchema,
} from "../../gen/lucid/repository/v1/trust_policy_pb.ts";
import { TrustRelationshipSchema } from "../../gen/lucid/repository/v1/trust_relationship_pb.ts";
import { UserCredentialsSchema } from "../../gen/lucid/repository/v1/user_credentials_pb.ts";
import { UserSchema } from "../../gen/lucid/repository/v1/user_pb.ts";
import { WalletBalanceSchema, WalletSchema, WalletTransactionSchema } from "../../gen/lucid/repository/v1/wallet_pb.ts";
import { WalletSecretsSchema } from "../../gen/lucid/repository/v1/wallet_secrets_pb.ts";
import { WorkProofSchema } from "../../gen/lucid/repository/v1/work_proof_pb.ts";
import { type WantedCollection, wantedCollection } from "../schema/collection-keeper.ts";
import type { PageTokens } from "../schema/page-tokens.ts";
import { carrierIndex } from "./audit/carriers.ts";
import { type CollectionReport, type KeptCollections, keptCollections, type KeptOptions } from "./kept-collections.ts";

/** The messages that this room stores. */
export const storedMessages: readonly DescMessage[] = [
  UserSchema,
  UserCredentialsSchema,
  SessionSchema,
  SessionEncryptionKeySchema,
  ChunkSchema,
  ManifestSchema,
  WalletSchema,
  WalletSecretsSchema,
  WalletBalanceSchema,
  WalletTransactionSchema,
  HardwareDeviceSchema,
  TransactionSchema,
  TransactionInternalsSchema,
  BlockSchema,
  BlockInternalsSchema,
  TrustPolicySchema,
  TrustPolicyVersionSchema,
  TrustPolicyActivitySchema,
  PolicyViolationSchema,
  TrustRelationshipSchema,
  ApiKeySchema,
  AuthTokenSchema,
  NotificationSchema,
  SystemConfigSchema,
  WorkProofSchema,
];

/** What every service of this room needs. */
export interface Repositories {
  readonly db: Db;
  readonly collections: {
    /** Waits until writes to the collection of a message are safe. */
    readonly ready: (schema: DescMessage) => Promise<void>;
  };
  readonly pageTokens: () => Promise<PageTokens>;
}

/** What the collections of the domain must have. */
export function standardCollections(): WantedCollection[] {
  return storedMessages.map((schema) => wantedCollection(schema, [carrierIndex]));
}

/** The collections of the domain. `tell` gets what conflicts with something that is there. */
export function domainCollections(
  db: Db,
  tell: KeptOptions["conflict"],
  options: Omit<KeptOptions, "conflict"> = {},
): KeptCollections {
  return keptCollections(db, standardCollections(), { ...options, conflict: tell });
}

/** How many validators and indexes there are in each state. */
export function countedStates(report: readonly CollectionReport[]): Readonly<Record<string, number>> {
  const counts: Record<string, number> = {};
  for (const { state } of report.flatMap(({ things }) => things)) counts[state] = (counts[state] ?? 0) + 1;
  return counts;
}
