import { randomUUID } from "node:crypto";
import { readdir, rm, stat, writeFile } from "node:fs/promises";
import { availableParallelism, loadavg } from "node:os";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { parseArgs } from "node:util";

import { create, toBinary } from "@bufbuild/protobuf";
import { createClient } from "@connectrpc/connect";
import { type Db, MongoClient } from "mongodb";

import {
  BackupService,
  CreateBackupRequestSchema,
  SelectionSchema,
  type JobEvent,
  JobState,
} from "../gen/lucid/admin/v1/backup_service_pb.ts";
import { Store } from "../gen/lucid/admin/v1/common_pb.ts";
import { StreamSchema } from "../gen/lucid/backup/v1/manifest_pb.ts";
import { startMongodb } from "../local/mongodb.ts";
import { Complaint, runCommand, say } from "../local/project.ts";
import { namedStores } from "../local/stores.ts";
import type { RecordSink, Source } from "../src/backup/contracts.ts";
import { takeBackup } from "../src/backup/engine.ts";
import { mongodbSource } from "../src/backup/mongodb/source.ts";
import { type BackupRepository, openRepository, type RepositoryOptions } from "../src/backup/repository/repository.ts";
import { each } from "../src/backup/together.ts";
import type { JobRecord } from "../src/jobs/record.ts";
import type { JobContext } from "../src/jobs/runner.ts";
import { addDocuments, changeDocuments, collectionNames } from "./support/documents.ts";
import { type ServiceProcess, startService } from "./support/service-process.ts";
import { median, printTable } from "./support/table.ts";
import { throwawayDatabases, throwawayFolder } from "./support/throwaway.ts";

const parallelism = 4; // what LUCID_BACKUP_PARALLELISM is by default
const megabyte = 1_000_000;
const databaseName = "bench_backup";
const restoredName = "bench_backup_restored";
const systemName = "bench_backup_system";
/** Nobody listens there: the stores that this is not about are away. */
const nowhere = "127.0.0.1:1";

/** Where a repository stands and what unlocks it. */
type RepositoryPlace = Pick<Required<RepositoryOptions>, "dir" | "keyFile">;

/** Documents, and their bytes as BSON. */
interface Data {
  readonly db: Db;
  readonly uri: string;
  /** In each collection. */
  documents: number;
  bytes: number;
}

await runCommand(async () => {
  const { values } = parseArgs({
    options: {
      megabytes: { type: "string", default: "200" },
      gigabytes: { type: "string", default: "1" },
      rounds: { type: "string", default: "5" },
    },
  });
  const [megabytes, gigabytes] = [Number(values.megabytes), Number(values.gigabytes)];
  const rounds = Number(values.rounds);
  if (!(megabytes > 0) || !(gigabytes > 0) || !(rounds >= 1))
    throw new Complaint("Sizes and rounds must be numbers above 0");
  const named = namedStores(process.env).mongodbUri;
  await using server = named === undefined ? await startMongodb() : undefined;
  const uri = named ?? server?.uri ?? "";
  await using client = await MongoClient.connect(uri);
  await using stack = new AsyncDisposableStack();
  const { path: dir } = stack.use(await throwawayFolder("bench-backup"));
  stack.use(await throwawayDatabases(client, [databaseName, restoredName, systemName]));
  const keyFile = join(dir, "key");
  await writeFile(keyFile, "a key that is long enough for a benchmark");

  const data: Data = { db: client.db(databaseName), uri, documents: 0, bytes: 0 };
  await growTo(data, megabytes * megabyte);
  await compareWithScan(data, { dir, keyFile, rounds });
  await measureGrowth(data, { dir: join(dir, "growth"), keyFile });
  await addCollections(data, gigabytes * 1000 * megabyte);
  await measureMemory(data, { dir: join(dir, "memory"), keyFile });
});

async function growTo(data: Data, bytes: number): Promise<void> {
  while (data.bytes < bytes * 0.99) {
    const average = data.documents === 0 ? 1000 : data.bytes / data.documents / collectionNames.length;
    // A first handful tells how large documents are.
    const wanted = data.documents === 0 ? 1000 : Math.ceil(bytes / average / collectionNames.length);
    say(`Writing up to ${wanted} documents into each of ${collectionNames.length} collections …`);
    data.bytes += await addDocuments(data.db, { first: data.documents, end: wanted });
    data.documents = wanted;
  }
}

/** Adds collections like those that there are: SecantusDB reads a collection as a whole before it answers, and one of a gigabyte takes a minute. */
async function addCollections(data: Data, bytes: number): Promise<void> {
  for (let copy = 1; data.bytes < bytes * 0.99; copy++) {
    say(`Writing ${data.documents} documents into each of ${collectionNames.length} more collections …`);
    const [first, end] = [copy * data.documents, (copy + 1) * data.documents];
    data.bytes += await addDocuments(data.db, { first, end, suffix: `_${copy + 1}` });
  }
}

/** Interleaved rounds: whatever else the machine does meets all of them alike. */
async function compareWithScan(
  { db, bytes, documents }: Data,
  { dir, keyFile, rounds }: RepositoryPlace & { rounds: number },
) {
  await using opened = new AsyncDisposableStack();
  // A service opens its repository once. An empty one for each round, so that every backup stores everything.
  const repositories: BackupRepository[] = [];
  for (let round = 0; round <= rounds; round++) {
    repositories.push(opened.use(await openRepository({ dir: join(dir, String(round)), keyFile })));
  }
  const measured = [
    { name: "plain raw cursor scan", run: () => scan(db) },
    { name: "what a backup reads, kept nowhere", run: () => readAll(db) },
    { name: "backup, encrypted", run: (round: number) => backUp(db, repositories[round]) },
    { name: "of that, counting the documents", run: () => countAll(db) },
  ].map((one) => ({ ...one, seconds: [] as number[], cpuSeconds: [] as number[] }));
  for (let round = 0; round <= rounds; round++) {
    // The order turns, so that none always comes after the same other one.
    const turn = round % measured.length;
    for (const { run, seconds, cpuSeconds } of [...measured.slice(turn), ...measured.slice(0, turn)]) {
      const [began, cpuBefore] = [performance.now(), process.cpuUsage()];
      await run(round);
      if (round === 0) continue; // it warms up the server's cache and the compiler
      const cpu = process.cpuUsage(cpuBefore);
      seconds.push((performance.now() - began) / 1000);
      cpuSeconds.push((cpu.user + cpu.system) / 1e6);
    }
    await rm(join(dir, String(round)), { recursive: true });
  }

  const [base] = measured;
  const rows = measured.map(({ name, seconds, cpuSeconds }) => {
    const ratios = seconds.map((value, round) => value / (base?.seconds[round] ?? Number.NaN));
    return [
      name,
      median(seconds).toFixed(2),
      (bytes / megabyte / median(seconds)).toFixed(0),
      median(cpuSeconds).toFixed(2),
      median(ratios).toFixed(2),
      `${Math.min(...ratios).toFixed(2)}–${Math.max(...ratios).toFixed(2)}`,
    ];
  });
  rows[2]?.push("≤ 1.25");
  const count = documents * collectionNames.length;
  printTable(
    `A backup of MongoDB against a scan: ${count} documents of ${Math.round(bytes / count)} bytes, ${parallelism} collections at once, medians of ${rounds} rounds (${machine()})`,
    [["", "seconds", "MB/s", "own CPU s", "time ×", "least–most", "target"], ...rows],
  );
}

/** What the driver does when it is asked for everything, without a promise for each document. */
async function scan(db: Db): Promise<void> {
  await each(collectionNames, { atOnce: parallelism, stop: new AbortController() }, async (name) => {
    await using cursor = db.collection(name).find({}, { raw: true });
    while ((await cursor.next()) !== null) cursor.readBufferedDocuments();
  });
}

/**
 * What a backup asks before it reads, for its progress. A MongoDB has that at hand; SecantusDB goes through the collection, which
 * takes a quarter of what a scan takes.
 */
async function countAll(db: Db): Promise<void> {
  await each(collectionNames, { atOnce: parallelism, stop: new AbortController() }, async (name) => {
    await db.collection(name).estimatedDocumentCount();
  });
}

/** A backup's reading and its capture of changes alone. */
async function readAll(db: Db): Promise<void> {
  const sink: RecordSink = {
    open: () => ({
      write: () => Promise.resolve(),
      seal: () => Promise.resolve(create(StreamSchema)),
      [Symbol.asyncDispose]: () => Promise.resolve(),
    }),
  };
  const meter = { plan: () => {}, add: () => {}, phase: () => {} };
  const work = { meter, signal: new AbortController().signal, parallelism };
  await using run = await sourceOf(db).begin(create(SelectionSchema, selectionOf(db)), sink, work);
  await run.read();
  await run.cut();
  await run.finish();
}

/** A backup as the service takes it, without the job around it. */
async function backUp(db: Db, repository: BackupRepository | undefined): Promise<void> {
  if (repository === undefined) throw new Error("There is no repository");
  const request = create(CreateBackupRequestSchema, { selection: selectionOf(db) });
  const job: JobRecord = {
    jobId: randomUUID(),
    kind: "backup",
    state: "RUNNING",
    spec: toBinary(CreateBackupRequestSchema, request),
    requestId: undefined,
    principal: undefined,
    createTime: new Date(),
    startTime: new Date(),
    endTime: undefined,
    attempt: 1,
    handOvers: 0,
    sequence: 0,
    progress: undefined,
    result: undefined,
    error: undefined,
  };
  const context: JobContext = {
    signal: new AbortController().signal,
    attempt: 1,
    report: () => {},
    keep: () => {},
    prove: () => Promise.resolve(),
  };
  const repositoryGiven = () => Promise.resolve(repository);
  await takeBackup(job, context, { repository: repositoryGiven, sources: [sourceOf(db)], parallelism });
}

function sourceOf(db: Db): Source {
  return mongodbSource({ client: db.client, systemDatabase: systemName });
}

function selectionOf(db: Db) {
  return { stores: [Store.MONGODB], mongodbNamespaces: [db.databaseName] };
}

async function measureGrowth({ db, documents }: Data, place: RepositoryPlace): Promise<void> {
  await using repository = await openRepository(place);
  const thousandth = Math.ceil(documents / 1000);
  const steps: readonly [name: string, change: readonly number[], target: string][] = [
    ["first backup", [], ""],
    ["again, nothing changed", [], "≤ 2.00 %"],
    ["0.1 % changed, the newest documents", places(thousandth, (at) => documents - 1 - at), "≤ 2.00 %"],
    ["0.1 % changed, evenly scattered", places(thousandth, (at) => Math.floor((at * documents) / thousandth)), ""],
  ];
  const added: number[] = [];
  for (const [, change] of steps) {
    await changeDocuments(db, change);
    const before = await folderBytes(place.dir);
    await backUp(db, repository);
    added.push((await folderBytes(place.dir)) - before);
  }
  printTable("Bytes that a full backup adds to the repository", [
    ["", "bytes", "of the first", "target"],
    ...steps.map(([name, , target], step) => [
      name,
      String(added[step]),
      `${((100 * (added[step] ?? 0)) / (added[0] ?? Number.NaN)).toFixed(2)} %`,
      target,
    ]),
  ]);
}

function places(count: number, at: (index: number) => number): number[] {
  return Array.from({ length: count }, (_, index) => at(index));
}

async function measureMemory({ uri, bytes }: Data, { dir, keyFile }: RepositoryPlace): Promise<void> {
  if (process.platform !== "linux") return say("Memory is not measured: the kernel's count of its peak is Linux's");
  await using service = await startService({
    // SecantusDB answers nobody for many seconds while it opens a large cursor.
    LUCID_MONGODB_URI: `${uri}${uri.includes("?") ? "&" : "?"}connectTimeoutMS=300000`,
    LUCID_MONGODB_DATABASE: databaseName,
    LUCID_MONGODB_SYSTEM_DATABASE: systemName,
    LUCID_REDIS_URI: `redis://${nowhere}`,
    LUCID_SEARCH_URI: `http://${nowhere}`,
    LUCID_BACKUP_DIR: dir,
    LUCID_BACKUP_KEY_FILE: keyFile,
    LUCID_JOB_LEASE_MS: "300000",
  });
  const backups = createClient(BackupService, service.transport);
  await backups.listBackups({}); // it has opened what it needs
  const idle = await idleBytes(service);
  const peaks: Record<string, number> = {};
  const whilst = async (what: string, work: () => Promise<void>) => {
    service.forgetPeak();
    await work();
    peaks[what] = service.peakBytes();
    say(`Peak of the ${what}: ${((peaks[what] - idle) / 2 ** 20).toFixed(0)} MiB above idle`);
  };

  let backupId = "";
  await whilst("backup", async () => {
    const selection = { stores: [Store.MONGODB], mongodbNamespaces: [databaseName] };
    backupId = (await backups.createBackup({ selection })).backup?.backupId ?? "";
    await succeeded(backups.watchBackup({ backupId }));
  });
  await whilst("restore, compared at its end", async () => {
    const renames = [{ store: Store.MONGODB, from: databaseName, to: restoredName }];
    const restoreId = (await backups.createRestore({ backupId, renames })).restore?.restoreId ?? "";
    await succeeded(backups.watchRestore({ restoreId }));
  });
  const mebibytes = (count: number) => (count / 2 ** 20).toFixed(0);
  printTable(`Memory of the service, ${(bytes / 1e9).toFixed(2)} GB of MongoDB, in MiB of RAM (${machine()})`, [
    ["", "peak", "above idle", "target"],
    ["idle", mebibytes(idle), "", ""],
    ...Object.entries(peaks).map(([what, peak]) => [what, mebibytes(peak), mebibytes(peak - idle), "≤ 150"]),
  ]);
}

/** The least within some seconds, since starting leaves garbage behind that goes when V8 likes. */
async function idleBytes(service: ServiceProcess): Promise<number> {
  let least = service.residentBytes();
  for (let sample = 0; sample < 50; sample++) {
    await pause(100);
    least = Math.min(least, service.residentBytes());
  }
  return least;
}

async function succeeded(events: AsyncIterable<{ event?: JobEvent | undefined }>): Promise<void> {
  let last: JobEvent | undefined;
  for await (const { event } of events) last = event;
  if (last?.state === JobState.SUCCEEDED) return;
  throw new Error(`A job did not succeed: ${last?.error?.reason}, ${last?.error?.message}`);
}

async function folderBytes(folder: string): Promise<number> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  const sizes = entries.filter((entry) => entry.isFile()).map((entry) => stat(join(entry.parentPath, entry.name)));
  return (await Promise.all(sizes)).reduce((sum, { size }) => sum + size, 0);
}

function machine(): string {
  return `${availableParallelism()} cores, load ${loadavg()[0]?.toFixed(1)}, Node ${process.versions.node}`;
}
