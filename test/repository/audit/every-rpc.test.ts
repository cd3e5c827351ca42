import type { DescMethod } from "@bufbuild/protobuf";
import { Redis } from "ioredis";
import { afterAll, beforeAll, expect, test } from "vitest";

import { BackupService } from "../../../gen/lucid/admin/v1/backup_service_pb.ts";
import { CacheService } from "../../../gen/lucid/admin/v1/cache_service_pb.ts";
import { DatabaseAdminService } from "../../../gen/lucid/admin/v1/database_admin_service_pb.ts";
import { VolumeService } from "../../../gen/lucid/admin/v1/volume_service_pb.ts";
import { AuditLogService } from "../../../gen/lucid/repository/v1/audit_log_service_pb.ts";
import { AuditEffect } from "../../../gen/lucid/repository/v1/audit_record_pb.ts";
import { BlockService } from "../../../gen/lucid/repository/v1/block_service_pb.ts";
import { DataLifecycleService } from "../../../gen/lucid/repository/v1/data_lifecycle_service_pb.ts";
import { DocumentCacheService } from "../../../gen/lucid/repository/v1/document_cache_service_pb.ts";
import { ManifestService } from "../../../gen/lucid/repository/v1/manifest_service_pb.ts";
import { SessionService } from "../../../gen/lucid/repository/v1/session_service_pb.ts";
import { TransactionService } from "../../../gen/lucid/repository/v1/transaction_service_pb.ts";
import { TrustPolicyService } from "../../../gen/lucid/repository/v1/trust_policy_service_pb.ts";
import { UserService } from "../../../gen/lucid/repository/v1/user_service_pb.ts";
import { WalletService } from "../../../gen/lucid/repository/v1/wallet_service_pb.ts";
import { SearchIndexService } from "../../../gen/lucid/search/v1/search_index_service_pb.ts";
import { SearchSyncService } from "../../../gen/lucid/search/v1/search_sync_service_pb.ts";
import { isAudited } from "../../../src/server/interceptors/audit.ts";
import { searchPart } from "../../search/support.ts";
import { temporaryFolder } from "../../stores/volumes/support.ts";
import { type TestApp, testApp } from "../../support/app.ts";
import { platformServices } from "../../support/requests.ts";
import { storeAddresses } from "../../support/stores.ts";
import { refusalOf } from "../support.ts";
import { entriesOfDomain } from "./rpc-entries-of-domain.ts";
import { entriesOfStores, lacking, prefix } from "./rpc-entries-of-stores.ts";
import type { Clients, Prepare } from "./rpc-entries.ts";

const redis = new Redis(storeAddresses().redisUri, { lazyConnect: true });

const part = searchPart(storeAddresses().searchUri);

let folder: Awaited<ReturnType<typeof temporaryFolder>>;
let app: TestApp;
let clients: Clients;
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
    searchPrefix: app.config.search.prefix,
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

/** One entry for each rpc that may change something. It makes what the call needs, and gives the call. */
const entries = { ...entriesOfDomain, ...entriesOfStores };

const mutating = platformServices()
  .flatMap(({ methods }) => methods)
  .filter(isAudited);

test("every rpc that may change something has an entry here", () => {
  const missing = mutating
    .map(({ parent, name }) => `${parent.name}.${name}`)
    .filter((name) => !(name in entries || name in lacking));
  const advice =
    "Add an entry to one of the tables beside that makes what the rpc needs and calls it once. " +
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
    const prepare = (entries as Readonly<Record<string, Prepare>>)[name];
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
