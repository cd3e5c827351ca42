import type { ServiceImpl } from "@connectrpc/connect";
import type { Db, MongoClient } from "mongodb";

import type { DatabaseAdminService } from "../../../gen/lucid/admin/v1/database_admin_service_pb.ts";
import type { Jobs } from "../../jobs/jobs.ts";
import type { CarryOut } from "../../schema/audited-call.ts";
import type { WantedCollection } from "../../schema/collection-keeper.ts";
import type { PageTokens } from "../../schema/page-tokens.ts";
import type { MongodbFeatures } from "../../stores/mongodb.ts";
import { buildAdmin } from "./build-admin.ts";
import { collectionAdmin } from "./collections.ts";
import { indexBuilds } from "./index-builds.ts";
import { indexAdmin } from "./indexes.ts";
import { namesOf } from "./names.ts";
import { shardingAdmin } from "./sharding.ts";
import { standardAdmin } from "./standard.ts";

/** What the handlers need. */
export interface DatabaseAdminOptions {
  readonly client: MongoClient;
  /** Asks the server what it is. */
  readonly features: (signal: AbortSignal) => Promise<MongodbFeatures>;
  /** The domain's database. */
  readonly domain: Db;
  /** The service's own. */
  readonly system: Db;
  /** What the collections of the domain must have. */
  readonly standard: readonly WantedCollection[];
  /** Names of those whose documents hold what nobody may read, there and in copies elsewhere. */
  readonly secretive: ReadonlySet<string>;
  readonly jobs: Jobs;
  readonly pageTokens: () => Promise<PageTokens>;
  /** Tells the audit log of a change. */
  readonly carryOut: CarryOut;
}

/** The handlers of `DatabaseAdminService`. Has this process take up jobs that build indexes. */
export function databaseAdminService(options: DatabaseAdminOptions): ServiceImpl<typeof DatabaseAdminService> {
  const { client, domain, system, standard, jobs } = options;
  const names = namesOf({
    client,
    domainDatabase: domain.databaseName,
    systemDatabase: system.databaseName,
    standard: new Set(standard.map(({ name }) => name)),
  });
  indexBuilds({ jobs, names, standard });
  const builds = buildAdmin(options);
  return {
    ...collectionAdmin({ ...options, names }),
    ...standardAdmin({ ...options, names }),
    ...indexAdmin({ ...options, names, builds }),
    ...builds.handlers,
    ...shardingAdmin({ ...options, names }),
  };
}
