import { setTimeout as pause } from "node:timers/promises";
import { parseArgs } from "node:util";

import { createClient } from "@connectrpc/connect";
import { type Collection, MongoClient, type ObjectId } from "mongodb";

import { JobState } from "../gen/lucid/admin/v1/backup_service_pb.ts";
import {
  IndexJobPhase,
  SearchIndexService,
  type WatchIndexJobResponse,
} from "../gen/lucid/search/v1/search_index_service_pb.ts";
import { SearchSyncService, SyncPhase } from "../gen/lucid/search/v1/search_sync_service_pb.ts";
import { Complaint, runCommand, say } from "../local/project.ts";
import { collections } from "../local/seed/documents.ts";
import { namedStores, startStores, storeEnvironment, type Stores } from "../local/stores.ts";
import { openSearch } from "../src/stores/search.ts";
import { cpuMicros } from "./support/load.ts";
import { startService } from "./support/service-process.ts";
import { printTable } from "./support/table.ts";
import { throwawayDatabases, throwawayIndices } from "./support/throwaway.ts";

const database = "bench_rebuild";
const systemDatabase = "bench_rebuild_system";
const prefix = "bench-rebuild-";
const megabyte = 1_000_000;
/** Wait between two writes while the index is rebuilt, in milliseconds. */
const writeMs = 20;

const partNames: ReadonlyMap<IndexJobPhase, string> = new Map([
  [IndexJobPhase.COPYING, "copying"],
  [IndexJobPhase.COMPARING, "comparing"],
  [IndexJobPhase.SWAPPING, "swapping"],
]);

/**
 * A rebuild of an index of sessions while they are written: how long it takes, which process works on each part of it, where the
 * stores are started here, and what memory the service needs above what it has when it only keeps the index up to date. Option:
 * `--documents 20000`.
 */
await runCommand(async () => {
  const { values } = parseArgs({ options: { documents: { type: "string", default: "20000" } } });
  const count = Number(values.documents);
  if (!(count >= 1)) throw new Complaint("The number of documents must be above 0");
  await using stores = await startStores({ named: namedStores(process.env) });
  await using mongodb = await MongoClient.connect(stores.mongodbUri);
  await using search = openSearch({ uri: stores.searchUri });
  await using stack = new AsyncDisposableStack();
  stack.use(await throwawayDatabases(mongodb, [database, systemDatabase]));
  stack.use(await throwawayIndices(search, prefix));
  const environment = {
    ...storeEnvironment(stores),
    // A machine that is busy answers late, and its MongoDB is not to be taken for one that is away.
    LUCID_MONGODB_URI: `${stores.mongodbUri}${stores.mongodbUri.includes("?") ? "&" : "/?"}connectTimeoutMS=60000`,
    LUCID_JOB_LEASE_MS: "60000",
    LUCID_MONGODB_DATABASE: database,
    LUCID_MONGODB_SYSTEM_DATABASE: systemDatabase,
    LUCID_SEARCH_PREFIX: prefix,
    LUCID_SEARCH_COMPARE_EVERY_HOURS: "0",
  };
  const sessions = mongodb.db(database).collection("sessions");
  const ids = await insert(sessions, count);
  {
    // The first fill is done by a process that is not measured.
    await using filling = await startService(environment);
    await followed(createClient(SearchSyncService, filling.transport));
  }
  await using service = await startService(environment);
  await followed(createClient(SearchSyncService, service.transport));
  await pause(5000);
  const idleBytes = service.residentBytes();
  service.forgetPeak();
  const indices = createClient(SearchIndexService, service.transport);
  const ending = new AbortController();
  const writing = write(sessions, ids, ending.signal);
  const { job } = await indices.rebuildIndex({ index: "sessions" });
  const parts = await measured(indices.watchIndexJob({ jobId: job?.jobId ?? "" }), workers(stores, service.pid));
  const seconds = parts.reduce((sum, part) => sum + part.seconds, 0);
  ending.abort();
  const writes = await writing;
  const above = (service.peakBytes() - idleBytes) / megabyte;
  printTable("A rebuild while sessions are written", [
    ["documents", "seconds", "documents/s", "writes meanwhile", "MB idle", "MB above idle at most"],
    [
      count,
      seconds.toFixed(1),
      (count / seconds).toFixed(0),
      writes,
      (idleBytes / megabyte).toFixed(0),
      above.toFixed(0),
    ].map(String),
  ]);
  printTable("What its parts take, of each process in µs of a processor for each document", [
    ["", "seconds", "service", "MongoDB", "search"],
    ...parts.map((part) => [
      partNames.get(part.phase) ?? "",
      part.seconds.toFixed(1),
      ...part.cpuMicros.map((micros) => (micros === undefined ? "?" : (micros / count).toFixed(0))),
    ]),
  ]);
});

/** Processes that work on a rebuild; undefined where one is not of this machine. */
type Workers = readonly (number | undefined)[];

function workers({ mongodb, search }: Stores, service: number | undefined): Workers {
  return [service, mongodb?.pid, search?.pid];
}

/** A part of a rebuild. */
interface Part {
  readonly phase: IndexJobPhase;
  readonly seconds: number;
  /** Of each process. */
  readonly cpuMicros: readonly (number | undefined)[];
}

/** Waits for the end of a rebuild; what each part of it took. */
async function measured(events: AsyncIterable<WatchIndexJobResponse>, processes: Workers): Promise<Part[]> {
  const now = () => ({ ms: performance.now(), micros: processes.map((pid) => pid && cpuMicros(pid)) });
  const parts: Part[] = [];
  let phase: IndexJobPhase = IndexJobPhase.COPYING;
  let began = now();
  const end = () => {
    const ended = now();
    const cpu = ended.micros.map((micros, at) => micros && micros - (began.micros[at] ?? 0));
    parts.push({ phase, seconds: (ended.ms - began.ms) / 1000, cpuMicros: cpu });
    began = ended;
  };
  for await (const { state, error, progress } of events) {
    if (state === JobState.FAILED) throw new Error(`The rebuild failed: ${error?.reason}`);
    const next: IndexJobPhase = progress?.phase ?? phase;
    if (next === phase || next === IndexJobPhase.UNSPECIFIED) continue;
    end();
    phase = next;
  }
  end();
  return parts;
}

/** Makes so many; `_id`s of the first ones. */
async function insert(sessions: Collection, count: number): Promise<unknown[]> {
  const sample = collections(1, 100_000).find(({ name }) => name === "sessions");
  const scale = Math.ceil((100_000 * count) / (sample?.count ?? 1));
  const made = collections(1, scale).find(({ name }) => name === "sessions");
  let first: unknown[] | undefined;
  for (let from = 0; from < count; from += 5000) {
    const size = Math.min(5000, count - from);
    const documents = Array.from({ length: size }, (_, place) => made?.document(from + place) ?? {});
    const { insertedIds } = await sessions.insertMany(documents);
    first ??= Object.values(insertedIds).slice(0, 1000);
  }
  say(`${count} sessions are there`);
  return first ?? [];
}

/** Waits until the index has everything. */
async function followed(sync: ReturnType<typeof createClient<typeof SearchSyncService>>): Promise<void> {
  const limits = { timeoutMs: 600_000 };
  for (;;) {
    // A MongoDB that is busy with the first fill may be away for a moment.
    const { indices } = await sync.getSyncStatus({ indices: ["sessions"] }, limits).catch(() => ({ indices: [] }));
    const [status] = indices;
    if (status?.phase === SyncPhase.FOLLOWING && status.lagDocuments === 0n) return;
    await pause(2000);
  }
}

/** Writes all the time, as the service does; how often. */
async function write(sessions: Collection, ids: readonly unknown[], signal: AbortSignal): Promise<number> {
  let writes = 0;
  while (!signal.aborted) {
    // By their ids: to look for one would have one of the servers that speak this protocol read the whole collection.
    const _id = ids[(writes * 97) % ids.length] as ObjectId;
    const change = { session_name: `renamed ${writes}`, revision: { $add: [{ $ifNull: ["$revision", 1n] }, 1n] } };
    await sessions.updateOne({ _id }, [{ $set: change }]);
    writes++;
    await pause(writeMs);
  }
  return writes;
}
