import type { BigIntStats } from "node:fs";
import { stat } from "node:fs/promises";

import type { Logger } from "pino";
import { collectDefaultMetrics, Registry } from "prom-client";

import { Health } from "../gen/grpc/health/v1/health_pb.ts";
import { BackupService } from "../gen/lucid/admin/v1/backup_service_pb.ts";
import { CacheService } from "../gen/lucid/admin/v1/cache_service_pb.ts";
import { DatabaseAdminService } from "../gen/lucid/admin/v1/database_admin_service_pb.ts";
import { MonitoringService } from "../gen/lucid/admin/v1/monitoring_service_pb.ts";
import { VolumeService } from "../gen/lucid/admin/v1/volume_service_pb.ts";
import { AuditLogService } from "../gen/lucid/repository/v1/audit_log_service_pb.ts";
import { AuditRecordSchema } from "../gen/lucid/repository/v1/audit_record_pb.ts";
import { BlockService } from "../gen/lucid/repository/v1/block_service_pb.ts";
import { DataLifecycleService } from "../gen/lucid/repository/v1/data_lifecycle_service_pb.ts";
import { DocumentCacheService } from "../gen/lucid/repository/v1/document_cache_service_pb.ts";
import { ManifestService } from "../gen/lucid/repository/v1/manifest_service_pb.ts";
import { SessionSchema } from "../gen/lucid/repository/v1/session_pb.ts";
import { SessionService } from "../gen/lucid/repository/v1/session_service_pb.ts";
import { TransactionService } from "../gen/lucid/repository/v1/transaction_service_pb.ts";
import { TrustPolicyService } from "../gen/lucid/repository/v1/trust_policy_service_pb.ts";
import { UserSchema } from "../gen/lucid/repository/v1/user_pb.ts";
import { UserService } from "../gen/lucid/repository/v1/user_service_pb.ts";
import { WalletService } from "../gen/lucid/repository/v1/wallet_service_pb.ts";
import { SearchIndexService } from "../gen/lucid/search/v1/search_index_service_pb.ts";
import { SearchService } from "../gen/lucid/search/v1/search_service_pb.ts";
import { SearchSyncService } from "../gen/lucid/search/v1/search_sync_service_pb.ts";
import { cachedDocuments } from "./admin/cache/cached-documents.ts";
import { isOwnCopy } from "./admin/cache/keys.ts";
import { cacheService } from "./admin/cache/service.ts";
import { databaseAdminService } from "./admin/database/service.ts";
import { monitoringService } from "./admin/monitoring.ts";
import { volumeKeeper } from "./admin/volume/keeper.ts";
import { openMeasures } from "./admin/volume/measures.ts";
import { migratesVolume, volumeJobKind, volumeJobs } from "./admin/volume/migration-jobs.ts";
import { inUse } from "./admin/volume/refusals.ts";
import { volumeService } from "./admin/volume/service.ts";
import { backupJobs } from "./backup/backup-jobs.ts";
import { isDeleted } from "./backup/catalog.ts";
import { lazyRepository } from "./backup/lazy-repository.ts";
import { backupKind, restoreKind } from "./backup/messages.ts";
import { mongodbSource } from "./backup/mongodb/source.ts";
import { mongodbTarget } from "./backup/mongodb/target.ts";
import { redisSource } from "./backup/redis/source.ts";
import { redisTarget } from "./backup/redis/target.ts";
import { searchSource } from "./backup/search/source.ts";
import { searchTarget } from "./backup/search/target.ts";
import { backupService } from "./backup/service.ts";
import { mayUseVolume } from "./backup/volumes/in-use.ts";
import { volumeSource } from "./backup/volumes/source.ts";
import { volumeTarget } from "./backup/volumes/target.ts";
import type { Config } from "./config.ts";
import { type Jobs, openJobs } from "./jobs/jobs.ts";
import { activeStates, type JobRecord } from "./jobs/record.ts";
import { openAudit } from "./repository/audit/audit.ts";
import { auditLogService } from "./repository/audit/service.ts";
import { blockService } from "./repository/block.ts";
import { countedStates, domainCollections, standardCollections, storedMessages } from "./repository/collections.ts";
import { foundDocuments } from "./repository/found-documents.ts";
import { copies } from "./repository/lifecycle/copies.ts";
import { purgeSchedule, removalJobs } from "./repository/lifecycle/jobs.ts";
import { dataLifecycleService } from "./repository/lifecycle/service.ts";
import { manifestService } from "./repository/manifest.ts";
import { sessionService } from "./repository/session.ts";
import { transactionService } from "./repository/transaction.ts";
import { trustPolicyService } from "./repository/trust-policy.ts";
import { userService } from "./repository/user.ts";
import { walletService } from "./repository/wallet.ts";
import { watchesOf } from "./repository/watch/watches.ts";
import { collectionOf, holdsSecrets } from "./schema/collection.ts";
import { pageTokens, sharedPageTokens } from "./schema/page-tokens.ts";
import { indexCatalog } from "./search/index-catalog.ts";
import { indexJobs } from "./search/index-jobs.ts";
import { searchIndexService } from "./search/index-service.ts";
import { searchIndices } from "./search/indices.ts";
import { searchService } from "./search/service.ts";
import { syncAccess } from "./search/sync/access.ts";
import { comparisonJobs, comparisonSchedules } from "./search/sync/comparison-jobs.ts";
import { syncMonitor } from "./search/sync/monitor.ts";
import { searchSyncService } from "./search/sync/service.ts";
import { statesCollection } from "./search/sync/state.ts";
import { searchSync } from "./search/sync/sync.ts";
import { grpcListener } from "./server/grpc.ts";
import { healthService } from "./server/health.ts";
import { httpListener } from "./server/http.ts";
import { auditInterceptor } from "./server/interceptors/audit.ts";
import { errorInterceptor } from "./server/interceptors/errors.ts";
import { measurementInterceptor } from "./server/interceptors/measurement.ts";
import { runningCalls } from "./server/interceptors/running.ts";
import { validationInterceptor } from "./server/interceptors/validation.ts";
import type { Listener } from "./server/listener.ts";
import { reflection } from "./server/reflection.ts";
import { serve } from "./server/registration.ts";
import { requestRefusals } from "./server/request-refusals.ts";
import { translateStoreError } from "./stores/errors.ts";
import { healthMonitor } from "./stores/health-monitor.ts";
import { checkStores, problemOf } from "./stores/health.ts";
import { latencyRecorder } from "./stores/latency.ts";
import { openMongodb } from "./stores/mongodb.ts";
import { redisSubscriptions } from "./stores/redis-subscriptions.ts";
import { openRedis } from "./stores/redis.ts";
import { openSearch } from "./stores/search.ts";
import { openVolumes } from "./stores/volumes/volumes.ts";

/** The running service. Disposing it closes everything at once; `drain` lets what runs come to an end before. */
export interface App extends AsyncDisposable {
  readonly grpc: Pick<Listener, "host" | "port">;
  readonly http: Pick<Listener, "host" | "port">;
  drain(graceMs: number): Promise<void>;
}

/** Puts the parts together and serves. Does not wait for a store: what needs one that is away says so. */
export async function start(config: Config, log: Logger): Promise<App> {
  await using parts = new AsyncDisposableStack();
  const draining = new AbortController();

  const latency = latencyRecorder();
  const mongodb = parts.use(openMongodb(config.mongodb, { latency }));
  const redis = parts.use(openRedis(config.redis, { latency, log }));
  const search = parts.use(openSearch(config.search, { latency }));
  const metrics = new Registry();
  collectDefaultMetrics({ register: metrics });
  const indices = searchIndices({ search, prefix: config.search.prefix });
  const access = syncAccess({
    search,
    indices,
    // Documents are read as their bytes are, whatever the options of the domain's collections.
    domain: mongodb.client.db(config.mongodb.database),
    system: mongodb.system,
  });
  const lagWarningMs = config.search.lagWarningSeconds * 1000;
  const lag = parts.use(syncMonitor({ access, metrics, lagWarningMs }));
  const stores = { mongodb, redis, search, searchConcern: () => lag.concern() };
  const monitor = parts.use(healthMonitor({ check: (signal) => checkStores(stores, signal) }));
  const systemDatabase = config.mongodb.systemDatabase;
  const repository = parts.use(lazyRepository(config.backup, log));
  const callMs = config.server.defaultDeadlineMs;
  const jobs = parts.use(openJobs({ db: mongodb.system, ...config.jobs, callMs, log, translate: translateStoreError }));
  const volumes = openVolumes(config.volumes);
  const measures = parts.use(openMeasures(volumes));
  const backups = {
    jobs,
    repository: () => repository.open(),
    sources: [
      mongodbSource({ client: mongodb.client, systemDatabase }),
      redisSource({ redis, isDerived: isOwnCopy }),
      searchSource({ search, isDerived: (index) => indices.has(index) }),
      volumeSource({ volumes, repository: () => statOf(config.backup.dir) }),
    ],
    targets: [
      mongodbTarget({ client: mongodb.client, systemDatabase }),
      redisTarget({ redis }),
      searchTarget({ search }),
      volumeTarget({ volumes }),
    ],
    parallelism: config.backup.parallelism,
  };
  backupJobs(backups);
  volumeJobs({ jobs, volumes });

  const tokens = sharedPageTokens(config.server.pageTokenSecret, mongodb.system);
  // For unique indexes: who waits for them is to be told before its time is over.
  const waitMs = (callMs * 2) / 3;
  const repositories = {
    db: mongodb.domain,
    collections: parts.use(
      domainCollections(mongodb.domain, (conflict) => log.warn(conflict, "A collection is not as it should be"), {
        failed: (err) => log.warn({ err }, "The collections could not be seen to yet"),
        done: (report) => log.info(countedStates(report), "The collections were seen to"),
        waitMs,
      }),
    ),
    pageTokens: tokens,
  };

  const isRestoring = async () => (await jobs.list(restoreKind, { states: activeStates, limit: 1 })).length > 0;
  const audit = parts.use(
    openAudit({
      system: mongodb.system,
      carriers: storedMessages.map((schema) => mongodb.domain.collection(collectionOf(schema).name)),
      systemCarriers: [statesCollection],
      outcomes: {
        [`${BackupService.typeName}/${BackupService.method.deleteBackup.name}`]: async (backupId) =>
          isDeleted(await repository.open(), backupId, AbortSignal.timeout(10_000)),
      },
      isHeldUp: isRestoring,
      ...config.audit,
      waitMs,
      logger: log,
    }),
  );

  const kept = [...storedMessages, AuditRecordSchema];
  removalJobs({
    jobs,
    db: mongodb.domain,
    copies: copies({ ...stores, alias: (name) => indices.alias(name) }),
    messages: kept,
    isHeldUp: isRestoring,
  });

  const searching = {
    search,
    catalog: indexCatalog({ search, prefix: config.search.prefix }),
    indices,
    jobs,
  };
  const sync = parts.use(
    searchSync({ access, leaseMs: config.jobs.leaseMs, log, problemOf: (error) => problemOf("search", error) }),
  );
  comparisonJobs({ jobs, access });
  indexJobs({ ...searching, access, leaseMs: config.jobs.leaseMs });

  const watches = parts.use(
    watchesOf({ db: mongodb.domain, settings: config.watches, pageTokens: tokens, draining: draining.signal }),
  );

  const found = foundDocuments({ ...repositories, auditRecords: audit.log.records });
  const cached = parts.use(
    cachedDocuments({
      redis,
      pageTokens: tokens,
      carryOut: audit.carryOut,
      documents: found,
      changesOf: {
        sessions: (signal) => watches.of({ schema: SessionSchema, id: "session_id" }).follow(signal),
        users: (signal) => watches.of({ schema: UserSchema, id: "user_id" }).follow(signal),
      },
    }),
  );
  // What needs no MongoDB, the data of record, tells how things are without it.
  const serves = async (service: string, signal: AbortSignal): Promise<boolean> =>
    service === MonitoringService.typeName || (await monitor.known(signal)).status !== "unhealthy";
  const domain = [
    serve(
      BackupService,
      backupService({
        ...backups,
        pageTokens: pageTokens(config.server.pageTokenSecret),
        systemDatabase,
        translate: translateStoreError,
        carryOut: audit.carryOut,
      }),
    ),
    serve(
      MonitoringService,
      monitoringService({
        stores,
        monitor,
        latency,
        collections: repositories.collections,
        draining: draining.signal,
      }),
    ),
    serve(
      DatabaseAdminService,
      databaseAdminService({
        client: mongodb.client,
        features: (signal) => mongodb.features(signal),
        domain: mongodb.domain,
        system: mongodb.system,
        standard: standardCollections(),
        secretive: new Set(storedMessages.filter(holdsSecrets).map((schema) => collectionOf(schema).name)),
        jobs,
        pageTokens: tokens,
        carryOut: audit.carryOut,
      }),
    ),
    serve(
      CacheService,
      cacheService({
        redis,
        subscriptions: parts.use(redisSubscriptions(redis.client)),
        pageTokens: tokens,
        carryOut: audit.carryOut,
        draining: draining.signal,
      }),
    ),
    serve(
      VolumeService,
      volumeService({
        volumes,
        measures,
        pageTokens: pageTokens(config.server.pageTokenSecret),
        carryOut: audit.carryOut,
        jobs,
        requireUnused: (name, signal) => requireUnusedVolume(jobs, name, signal),
      }),
    ),
    serve(DocumentCacheService, cached.handlers),
    serve(SessionService, sessionService({ ...repositories, watches })),
    serve(AuditLogService, auditLogService({ ...audit, pageTokens: repositories.pageTokens })),
    serve(UserService, userService({ ...repositories, settings: config.users, watches })),
    serve(WalletService, walletService(repositories)),
    serve(
      DataLifecycleService,
      dataLifecycleService({
        jobs,
        db: mongodb.domain,
        messages: kept,
        purgeAfterDays: config.lifecycle.purgeAfterDays,
        pageTokens: repositories.pageTokens,
      }),
    ),
    serve(TransactionService, transactionService({ ...repositories, watches })),
    serve(ManifestService, manifestService(repositories)),
    serve(BlockService, blockService({ ...repositories, watches })),
    serve(TrustPolicyService, trustPolicyService(repositories)),
    serve(
      SearchService,
      searchService({
        ...searching,
        documents: found,
        pageTokens: repositories.pageTokens,
      }),
    ),
    serve(
      SearchIndexService,
      searchIndexService({ ...searching, access, pageTokens: repositories.pageTokens, carryOut: audit.carryOut }),
    ),
    serve(
      SearchSyncService,
      searchSyncService({ access, jobs, pageTokens: tokens, carryOut: audit.carryOut, draining: draining.signal }),
    ),
  ];
  const services = domain.map(({ service }) => service.typeName);
  const status = { services: new Set(["", ...services]), serves, draining: draining.signal };
  const registrations = [
    ...domain,
    serve(Health, healthService(status)),
    ...reflection([...services, Health.typeName]),
  ];
  // Ends after the listeners, so that callers are told at once, and before all that handlers use.
  const running = parts.use(runningCalls({ waitMs: config.server.drainMs, log }));
  const interceptors = [
    running.interceptor,
    measurementInterceptor((rpc, elapsedMs, failed) => latency.record("requests", rpc, elapsedMs, failed)),
    auditInterceptor({ ended: (call) => audit.relay.ended(call) }),
    errorInterceptor({ translate: translateStoreError, log }),
    validationInterceptor(),
  ];

  const pages = {
    ready: async () => !draining.signal.aborted && (await serves("", AbortSignal.timeout(5000))),
    metrics: async () => ({ type: metrics.contentType, text: await metrics.metrics() }),
  };
  const { maxMessageBytes, maxConnectionAgeMs, defaultDeadlineMs } = config.server;
  const refusals = requestRefusals(maxMessageBytes);
  const common = { registrations, interceptors, maxMessageBytes, refusals, defaultDeadlineMs, log };
  const grpc = parts.use(await grpcListener({ ...common, ...config.grpc, maxConnectionAgeMs }));
  const http = parts.use(await httpListener({ ...common, ...config.http, pages }));
  jobs.start();
  const { purgeEveryHours: everyHours, purgeAfterDays: afterDays } = config.lifecycle;
  parts.use(purgeSchedule({ jobs, everyHours, afterDays, log }));
  if (config.volumes.dir !== "") {
    parts.use(volumeKeeper({ volumes, measures, everyMinutes: config.volumes.measureMinutes, log }));
  }
  if (config.search.sync === "on") {
    sync.start();
    lag.start();
    parts.use(comparisonSchedules({ jobs, search, everyHours: config.search.compareEveryHours, log }));
  }
  audit.start();
  void repositories.collections.refresh();
  log.info({ grpc: `${grpc.host}:${grpc.port}`, http: `${http.host}:${http.port}` }, "Serving");

  const open = parts.move();
  return {
    grpc,
    http,
    async drain(graceMs) {
      draining.abort();
      await Promise.all([jobs.drain(graceMs), grpc.drain(graceMs), http.drain(graceMs)]);
    },
    [Symbol.asyncDispose]: () => open.disposeAsync(),
  };
}

/** Jobs that are looked through; hardly any run at once. */
const mostActive = 1000;

/** Fails with `VOLUME_IN_USE` where a job of any kind may work on the volume. */
async function requireUnusedVolume(jobs: Pick<Jobs, "list">, name: string, signal: AbortSignal): Promise<void> {
  const uses = new Map<string, (job: JobRecord) => boolean>([
    [backupKind, (job) => mayUseVolume(job, name)],
    [restoreKind, (job) => mayUseVolume(job, name)],
    [volumeJobKind, (job) => migratesVolume(job, name)],
  ]);
  for (const [kind, isUsedBy] of uses) {
    const active = await jobs.list(kind, { states: activeStates, limit: mostActive }, signal);
    const user = active.find(isUsedBy);
    if (user !== undefined) throw inUse(name, user);
  }
}

/** What a folder is; undefined where it is not there. */
async function statOf(dir: string): Promise<BigIntStats | undefined> {
  return dir === "" ? undefined : await stat(dir, { bigint: true }).catch(() => undefined);
}
