import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { type Client, type Code, ConnectError, createClient, createRouterTransport } from "@connectrpc/connect";
import { type Db, MongoClient } from "mongodb";

import { BadRequestSchema } from "../../gen/google/rpc/error_details_pb.ts";
import { BackupService, type JobEvent, JobState } from "../../gen/lucid/admin/v1/backup_service_pb.ts";
import { Store } from "../../gen/lucid/admin/v1/common_pb.ts";
import { backupJobs } from "../../src/backup/backup-jobs.ts";
import type { Source, Target } from "../../src/backup/contracts.ts";
import { lazyRepository } from "../../src/backup/lazy-repository.ts";
import { backupService } from "../../src/backup/service.ts";
import { reasonOf } from "../../src/errors.ts";
import { type Jobs, openJobs } from "../../src/jobs/jobs.ts";
import { pageTokens } from "../../src/schema/page-tokens.ts";
import { translateStoreError } from "../../src/stores/errors.ts";
import { longLeaseMs } from "../jobs/lease.ts";
import { storeAddresses, uniqueName } from "../support/stores.ts";

export const systemDatabase = "lucid_system";

/** One replica of the service's backups: its client, and its jobs. */
export interface Replica {
  readonly client: Client<typeof BackupService>;
  readonly jobs: Jobs;
}

/** A repository of its own in a folder, a database for jobs, and replicas on both. */
export interface BackupRig extends AsyncDisposable {
  /** Database of the jobs. */
  readonly database: string;
  /** A database that is filled with `count` documents and removed at the end. */
  filled(count: number): Promise<Db>;
  /** Name of a database that is removed at the end. */
  databaseName(): string;
  readonly dir: string;
  readonly keyFile: string;
  replica(options?: {
    readonly sources?: readonly Source[];
    readonly targets?: readonly Target[];
    /** Another repository than the rig's. */
    readonly repository?: { readonly dir: string; readonly keyFile: string };
    /** Another database than the rig's: as after a loss of MongoDB. */
    readonly database?: string;
    readonly mongodbUri?: string;
    readonly start?: boolean;
  }): Promise<Replica>;
}

export async function backupRig(): Promise<BackupRig> {
  const stack = new AsyncDisposableStack();
  const dir = await mkdtemp(join(tmpdir(), "lucid-backup-"));
  stack.defer(() => rm(dir, { recursive: true, force: true }));
  const keyFile = join(dir, "key");
  await writeFile(keyFile, "a key that is long enough for the tests");
  const ownDatabase = uniqueName("jobs");
  const databases = new Set([ownDatabase]);
  const client = await MongoClient.connect(storeAddresses().mongodbUri);
  stack.defer(() => client.close());
  stack.defer(async () => {
    for (const name of databases) await client.db(name).dropDatabase();
  });
  const own = { dir: join(dir, "repository"), keyFile };
  const databaseName = (): string => {
    const name = uniqueName("data");
    databases.add(name);
    return name;
  };
  return {
    database: ownDatabase,
    databaseName,
    async filled(count) {
      const db = client.db(databaseName());
      const documents = Array.from({ length: count }, (_, index) => ({
        number: index,
        text: `document ${index} `.repeat(20),
      }));
      await db.collection("first").insertMany(documents);
      await db.collection("second").insertOne({ alone: true });
      return db;
    },
    dir: own.dir,
    keyFile,
    async replica({
      sources = [],
      targets = [],
      repository = own,
      database = ownDatabase,
      mongodbUri,
      start = true,
    } = {}) {
      databases.add(database);
      // One that is named is away, which is soon told; a busy one is waited for.
      const connection =
        mongodbUri === undefined
          ? new MongoClient(storeAddresses().mongodbUri)
          : new MongoClient(mongodbUri, { serverSelectionTimeoutMS: 1000 });
      stack.defer(() => connection.close());
      const log = { info() {}, warn() {}, error() {} };
      const lazy = stack.use(lazyRepository({ ...repository, oldKeyFile: "" }, log));
      const jobs = openJobs({
        db: connection.db(database),
        leaseMs: longLeaseMs,
        concurrency: 4,
        log,
        translate: translateStoreError,
      });
      stack.defer(() => jobs[Symbol.asyncDispose]());
      const parts = { jobs, repository: () => lazy.open(), sources, targets, parallelism: 2 };
      backupJobs(parts);
      const service = backupService({
        ...parts,
        pageTokens: pageTokens("a secret"),
        systemDatabase,
        translate: translateStoreError,
        carryOut: (_context, _resource, run) => run(),
      });
      const transport = createRouterTransport(({ service: serve }) => serve(BackupService, service));
      if (start) jobs.start();
      return { client: createClient(BackupService, transport), jobs };
    },
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}

/** All events of a watch, without those that only say that it is alive. */
export async function eventsOf(watch: AsyncIterable<{ event?: JobEvent | undefined }>): Promise<JobEvent[]> {
  const events = (await Array.fromAsync(watch)).map(({ event }) => {
    if (event === undefined) throw new Error("no event");
    return event;
  });
  return events.filter(({ heartbeat }) => !heartbeat);
}

/** Takes a backup to its end; returns its id. */
export async function takenBackup(client: Client<typeof BackupService>): Promise<string> {
  const { backup } = await client.createBackup({ selection: { stores: [Store.MONGODB] } });
  const backupId = backup?.backupId ?? "";
  const events = await eventsOf(client.watchBackup({ backupId }));
  const last = events.at(-1);
  if (last?.state !== JobState.SUCCEEDED) throw new Error(`The backup ended: ${last?.error?.reason}`);
  return backupId;
}

/** The reason of a refusal. */
export async function reason(call: Promise<unknown>): Promise<string | undefined> {
  return (await refusal(call)).reason;
}

/** The reason of a refusal and the fields that it names. */
export async function refusal(
  call: Promise<unknown>,
): Promise<{ reason: string | undefined; code: Code; fields: string[] }> {
  const [outcome] = await Promise.allSettled([call]);
  if (outcome.status === "fulfilled") throw new Error("was not refused");
  const error = ConnectError.from(outcome.reason);
  const fields = error
    .findDetails(BadRequestSchema)
    .flatMap(({ fieldViolations }) => fieldViolations.map(({ field }) => field));
  return { reason: reasonOf(error)?.reason, code: error.code, fields };
}
