import type { Client } from "@connectrpc/connect";
import type { Db } from "mongodb";

import type { BackupService } from "../../../gen/lucid/admin/v1/backup_service_pb.ts";
import type { CacheService } from "../../../gen/lucid/admin/v1/cache_service_pb.ts";
import type { DatabaseAdminService } from "../../../gen/lucid/admin/v1/database_admin_service_pb.ts";
import type { VolumeService } from "../../../gen/lucid/admin/v1/volume_service_pb.ts";
import type { BlockService } from "../../../gen/lucid/repository/v1/block_service_pb.ts";
import type { DataLifecycleService } from "../../../gen/lucid/repository/v1/data_lifecycle_service_pb.ts";
import type { DocumentCacheService } from "../../../gen/lucid/repository/v1/document_cache_service_pb.ts";
import type { ManifestService } from "../../../gen/lucid/repository/v1/manifest_service_pb.ts";
import type { SessionService } from "../../../gen/lucid/repository/v1/session_service_pb.ts";
import type { TransactionService } from "../../../gen/lucid/repository/v1/transaction_service_pb.ts";
import type { TrustPolicyService } from "../../../gen/lucid/repository/v1/trust_policy_service_pb.ts";
import type { UserService } from "../../../gen/lucid/repository/v1/user_service_pb.ts";
import type { WalletService } from "../../../gen/lucid/repository/v1/wallet_service_pb.ts";
import type { SearchIndexService } from "../../../gen/lucid/search/v1/search_index_service_pb.ts";
import type { SearchSyncService } from "../../../gen/lucid/search/v1/search_sync_service_pb.ts";

/** What an entry works with. */
export interface Clients {
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
  /** What names of the search indices begin with. */
  readonly searchPrefix: string;
  readonly db: Db;
}

/** What is changed by the one call that is looked at: its type, its id where it is known before, and the call. */
export interface Entry {
  readonly of: readonly [type: string, id?: string];
  readonly call: () => Promise<object>;
  /** Records, where the call changes more resources than one. */
  readonly records?: number;
}

/** Makes what a call needs, and gives the call. */
export type Prepare = (clients: Clients) => Promise<Entry>;

export type Call = (clients: Clients, id: string) => Promise<object>;

/** An entry whose call changes something that was just made. */
export function of(type: string, make: (clients: Clients) => Promise<string>, call: Call) {
  return async (clients: Clients): Promise<Entry> => {
    const id = await make(clients);
    return { of: [type, id], call: () => call(clients, id) };
  };
}
