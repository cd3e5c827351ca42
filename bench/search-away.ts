import { once } from "node:events";
import { connect, createServer, type Socket } from "node:net";
import { setTimeout as pause } from "node:timers/promises";
import { parseArgs } from "node:util";

import { createClient } from "@connectrpc/connect";
import { type Collection, MongoClient } from "mongodb";

import { SearchSyncService, SyncPhase } from "../gen/lucid/search/v1/search_sync_service_pb.ts";
import { runCommand } from "../local/project.ts";
import { collections } from "../local/seed/documents.ts";
import { namedStores, startStores, storeEnvironment } from "../local/stores.ts";
import { openSearch } from "../src/stores/search.ts";
import { startService } from "./support/service-process.ts";
import { printTable } from "./support/table.ts";

const database = "bench_away";
const systemDatabase = "bench_away_system";
const prefix = "bench-away-";
const megabyte = 1_000_000;
const patient = "connectTimeoutMS=60000&serverSelectionTimeoutMS=60000";

/**
 * What memory the service needs above what it has at rest while the search server cannot be reached and documents are written, and
 * how long it then takes to catch up, by itself. Options: `--changes 20000`, and `--seconds 20` for which search stays away after the
 * last of them.
 */
await runCommand(async () => {
  const { values } = parseArgs({
    options: { changes: { type: "string", default: "20000" }, seconds: { type: "string", default: "20" } },
  });
  const [changes, seconds] = [Number(values.changes), Number(values.seconds)];
  await using stores = await startStores({ named: namedStores(process.env) });
  await using mongodb = await MongoClient.connect(stores.mongodbUri);
  await using search = openSearch({ uri: stores.searchUri });
  await using way = await wayTo(stores.searchUri);
  const clear = async () => {
    const there = await search.client.indices.get({ index: `${prefix}*` });
    for (const name of Object.keys(there)) await search.client.indices.delete({ index: name });
    for (const name of [database, systemDatabase]) await mongodb.db(name).dropDatabase();
  };
  await clear();
  // After the service has ended, which would miss it.
  await using _ = { [Symbol.asyncDispose]: clear };
  await using service = await startService({
    ...storeEnvironment({ ...stores, searchUri: way.uri }),
    // A machine that is busy answers late, and its MongoDB is not to be taken for one that is away.
    LUCID_MONGODB_URI: `${stores.mongodbUri}${stores.mongodbUri.includes("?") ? "&" : "/?"}${patient}`,
    LUCID_JOB_LEASE_MS: "60000",
    // Without a limit, V8 lets garbage lie that nobody needs; with it, what is held in vain would end the process.
    NODE_OPTIONS: "--max-old-space-size=160",
    LUCID_MONGODB_DATABASE: database,
    LUCID_MONGODB_SYSTEM_DATABASE: systemDatabase,
    LUCID_SEARCH_PREFIX: prefix,
    LUCID_SEARCH_COMPARE_EVERY_HOURS: "0",
  });
  const sync = createClient(SearchSyncService, service.transport);
  const sessions = mongodb.db(database).collection("sessions");
  await write(sessions, 0, 1000);
  await followed(sync);
  await pause(5000);
  const idleBytes = service.residentBytes();
  service.forgetPeak();
  way.cut();
  await write(sessions, 1000, changes);
  await pause(seconds * 1000);
  const above = (service.peakBytes() - idleBytes) / megabyte;
  way.mend();
  const beganMs = performance.now();
  const { resyncs } = await followed(sync);
  const catchUpSeconds = (performance.now() - beganMs) / 1000;
  const { count } = await search.client.count({ index: `${prefix}sessions` });
  if (count !== 1000 + changes) throw new Error(`The index has ${count} of ${1000 + changes} documents`);
  if (resyncs !== 1n) throw new Error("The index was filled anew");
  const aboveAll = (service.peakBytes() - idleBytes) / megabyte;
  printTable("Changes while search is away", [
    ["changes", "MB idle", "MB above it while away", "MB above it to the end", "seconds to catch up"],
    [changes, (idleBytes / megabyte).toFixed(0), above.toFixed(0), aboveAll.toFixed(0), catchUpSeconds.toFixed(1)].map(
      String,
    ),
  ]);
});

async function write(sessions: Collection, from: number, count: number): Promise<void> {
  const made = collections(1, 10 * (from + count)).find(({ name }) => name === "sessions");
  for (let at = from; at < from + count; at += 1000) {
    const size = Math.min(1000, from + count - at);
    await sessions.insertMany(Array.from({ length: size }, (_, place) => made?.document(at + place) ?? {}));
  }
}

/** Waits until the index has everything; how it is then. */
async function followed(sync: ReturnType<typeof createClient<typeof SearchSyncService>>) {
  for (;;) {
    // A MongoDB that is busy may be away for a moment.
    const { indices } = await sync
      .getSyncStatus({ indices: ["sessions"] }, { timeoutMs: 60_000 })
      .catch(() => ({ indices: [] }));
    const [status] = indices;
    if (status?.phase === SyncPhase.FOLLOWING && status.lagDocuments === 0n) return status;
    await pause(500);
  }
}

/** A way to a server that can be cut off. */
async function wayTo(uri: string) {
  const target = new URL(uri);
  const sockets = new Set<Socket>();
  let isCut = false;
  const server = createServer((near) => {
    const far = isCut ? near : connect(Number(target.port), target.hostname);
    for (const socket of [near, far]) {
      sockets.add(socket);
      // Whoever uses the connection sees it end.
      socket.on("error", () => undefined);
      socket.on("close", () => {
        sockets.delete(socket);
        near.destroy();
        far.destroy();
      });
    }
    if (isCut) near.destroy();
    else near.pipe(far).pipe(near);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("There is no port");
  const cut = () => {
    isCut = true;
    for (const socket of sockets) socket.destroy();
  };
  return {
    uri: `http://127.0.0.1:${address.port}`,
    cut,
    mend: () => {
      isCut = false;
    },
    async [Symbol.asyncDispose]() {
      cut();
      server.close();
      await once(server, "close");
    },
  };
}
