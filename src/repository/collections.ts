import type { DescMessage } from "@bufbuild/protobuf";
import type { Db } from "mongodb";

import { BlockInternalsSchema } from "../../gen/lucid/repository/v1/block_internals_pb.ts";
import { BlockSchema } from "../../gen/lucid/repository/v1/block_pb.ts";
import { HardwareDeviceSchema } from "../../gen/lucid/repository/v1/hardware_device_pb.ts";
import { ManifestSchema } from "../../gen/lucid/repository/v1/manifest_pb.ts";
import { SessionSchema } from "../../gen/lucid/repository/v1/session_pb.ts";
import { TransactionInternalsSchema } from "../../gen/lucid/repository/v1/transaction_internals_pb.ts";
import { TransactionSchema } from "../../gen/lucid/repository/v1/transaction_pb.ts";
import {
  TrustPolicyActivitySchema,
  TrustPolicySchema,
  TrustPolicyVersionSchema,
} from "../../gen/lucid/repository/v1/trust_policy_pb.ts";
import { UserCredentialsSchema } from "../../gen/lucid/repository/v1/user_credentials_pb.ts";
import { UserSchema } from "../../gen/lucid/repository/v1/user_pb.ts";
import { WalletBalanceSchema, WalletSchema, WalletTransactionSchema } from "../../gen/lucid/repository/v1/wallet_pb.ts";
import { WalletSecretsSchema } from "../../gen/lucid/repository/v1/wallet_secrets_pb.ts";
import { collectionOf, type Ensured, ensureCollection, ensureIndexes, type StoredIndex } from "../schema/collection.ts";
import type { PageTokens } from "../schema/page-tokens.ts";

/** The messages that this room stores. */
export const storedMessages: readonly DescMessage[] = [
  UserSchema,
  UserCredentialsSchema,
  SessionSchema,
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
];

/** Indexes of collections that are described by no message yet, and that statistics of users read. */
const otherIndexes: Readonly<Record<string, readonly StoredIndex[]>> = {
  chunks: [index({ session_id: 1, chunk_index: 1 }, true)],
};

function index(key: Readonly<Record<string, 1 | -1>>, unique = false): StoredIndex {
  const entries = Object.entries(key);
  return { name: entries.map((part) => part.join("_")).join("_"), key: new Map(entries), unique };
}

/** Sees to all collections of the domain; may be repeated. Returns what was found or done, by collection. */
export async function ensureCollections(db: Db): Promise<Readonly<Record<string, readonly Ensured[]>>> {
  const report: Record<string, readonly Ensured[]> = {};
  for (const schema of storedMessages) report[collectionOf(schema).name] = await ensureCollection(db, schema);
  for (const [name, indexes] of Object.entries(otherIndexes)) {
    report[name] = await ensureIndexes(db.collection(name), indexes);
  }
  return report;
}

/** The collections of the domain, seen to when they are needed. */
export interface DomainCollections {
  /**
   * Sees to the collections once. A writer awaits this: without its index a key is not unique. A try that fails, as it does
   * while MongoDB is away, fails those that wait for it, and the next one to come tries again.
   */
  ready(): Promise<void>;
  /**
   * The same where there is one of the collections already, so that a new version brings its indexes. In an empty database it
   * makes nothing: who restores a backup into it finds it empty.
   */
  refresh(): Promise<void>;
}

/** What every service of this room needs. */
export interface Repositories {
  readonly db: Db;
  readonly collections: Pick<DomainCollections, "ready">;
  readonly pageTokens: () => Promise<PageTokens>;
}

/** `tell` gets what conflicts with something that is there. */
export function domainCollections(
  db: Db,
  tell: (conflict: Ensured & { readonly collection: string }) => void,
): DomainCollections {
  let ensured: Promise<void> | undefined;
  const ensure = async (): Promise<void> => {
    for (const [collection, found] of Object.entries(await ensureCollections(db))) {
      for (const one of found) if (one.state === "conflicting") tell({ ...one, collection });
    }
  };
  const ready = (): Promise<void> => {
    ensured ??= ensure().catch((error: unknown) => {
      ensured = undefined;
      throw error;
    });
    return ensured;
  };
  return {
    ready,
    async refresh() {
      const names = storedMessages.map((schema) => collectionOf(schema).name);
      const [found] = await db.listCollections({ name: { $in: names } }, { nameOnly: true }).toArray();
      if (found !== undefined) await ready();
    },
  };
}
