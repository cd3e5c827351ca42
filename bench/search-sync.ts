import { setTimeout as pause } from "node:timers/promises";
import { parseArgs } from "node:util";

import { Long, ObjectId, serialize } from "bson";
import { type Db, MongoClient } from "mongodb";

import { runCommand } from "../local/project.ts";
import { random } from "../local/seed/random.ts";
import { namedStores, startStores, type Stores } from "../local/stores.ts";
import { type SearchCopy, searchCopier } from "../src/schema/search-copy.ts";
import { messageOf, searchIndices } from "../src/search/indices.ts";
import { syncAccess } from "../src/search/sync/access.ts";
import { searchSync } from "../src/search/sync/sync.ts";
import { openSearch, type SearchStore } from "../src/stores/search.ts";
import { bulk } from "../src/stores/search/bulk.ts";
import { cpuMicros } from "./support/load.ts";
import { keepApart } from "./support/processors.ts";
import { median, printTable } from "./support/table.ts";

const name = "sessions";
const ways = ["alone", "fill", "follow"] as const;
/** What the synchronisation sends at once, and how much of that is on its way. */
const [batch, atOnce] = [1000, 3];
/** Wait between two looks whether it is done, in milliseconds: a look takes time from the servers. */
const lookMs = 100;

/**
 * Documents a second that the synchronisation brings from MongoDB into an index, filling it and following changes, against those
 * that the search server takes of the same copies, made before, in bulks of the same size, versions and number, into an index of
 * the same mapping and settings. Where the stores are started here and there are two processors, the search server has one half of
 * them to itself, all the time, as a server of its own has: its limit is not to be what MongoDB and this process leave of it.
 * `--shared` leaves that to the kernel. Other options: `--documents 20000`, `--rounds 3`.
 */
await runCommand(async () => {
  const { values } = parseArgs({
    options: {
      documents: { type: "string", default: "20000" },
      rounds: { type: "string", default: "3" },
      shared: { type: "boolean", default: false },
    },
  });
  const count = Number(values.documents);
  await using stores = await startStores({ named: namedStores(process.env) });
  const isApart = !values.shared && keepSearchApart(stores);
  await using client = await MongoClient.connect(stores.mongodbUri);
  await using search = openSearch({ uri: stores.searchUri });
  const documents = Array.from({ length: count }, (_, at) => session(at));
  const copier = searchCopier(messageOf(name));
  const copies = documents.map((document) => copier.fromBson(serialize(document)));
  const bytes = copies.reduce((sum, { json }) => sum + json.length, 0);
  const figures: Record<(typeof ways)[number], Took>[] = [];
  const took = (work: () => Promise<number>) => measured(stores, work);
  // The first one is not counted: the servers' virtual machines, and this one, compile what they run then.
  for (let round = 0; round <= Number(values.rounds); round++) {
    const prefix = `bench-${process.pid}-${round}-`;
    const [domain, system] = [client.db(`bench_sync_${round}`), client.db(`bench_sync_system_${round}`)];
    try {
      const figure = {
        alone: await took(() => alone(search, `${prefix}alone-`, copies)),
        fill: await filled({ search, domain, system, prefix: `${prefix}fill-` }, documents, took),
        follow: await followed({ search, domain, system, prefix: `${prefix}follow-` }, documents, took),
      };
      if (round > 0) figures.push(figure);
    } finally {
      await domain.dropDatabase();
      await system.dropDatabase();
      // Elasticsearch deletes nothing by a pattern.
      const found = await search.client.indices.get({ index: `${prefix}*` });
      for (const index of Object.keys(found)) await search.client.indices.delete({ index });
    }
  }
  const middle = (valueOf: (figure: (typeof figures)[number]) => number) => median(figures.map(valueOf));
  const each = (micros: number) => (Number.isNaN(micros) ? "?" : (micros / count).toFixed(0));
  const row = (title: string, way: (typeof ways)[number]) => [
    title,
    middle((figure) => count / (figure[way].ms / 1000)).toFixed(0),
    middle((figure) => figure.alone.ms / figure[way].ms).toFixed(2),
    each(middle((figure) => figure[way].searchMicros)),
    each(middle((figure) => figure[way].mongodbMicros)),
    each(middle((figure) => figure[way].ownMicros)),
  ];
  const where = isApart ? "the search server on processors of its own" : "all on the same processors";
  printTable(`${count} documents, ${Math.round(bytes / count)} bytes each in search; ${where}`, [
    ["", "documents/s", "of the server's own", "µs of search", "of MongoDB", "of this process, for each"],
    row("bulk alone", "alone"),
    row("filling", "fill"),
    row("following changes", "follow"),
  ]);
  return 0;
});

/** How long something took, and what of their processors the servers, where they are of this machine, and this process. */
interface Took {
  readonly ms: number;
  readonly searchMicros: number;
  readonly mongodbMicros: number;
  readonly ownMicros: number;
}

/** Measures what says itself how many milliseconds it took. */
async function measured({ search, mongodb }: Stores, work: () => Promise<number>): Promise<Took> {
  const now = () =>
    [search?.pid, mongodb?.pid, process.pid].map((pid) => (pid === undefined ? Number.NaN : cpuMicros(pid)));
  const before = now();
  const ms = await work();
  const [searchMicros = 0, mongodbMicros = 0, ownMicros = 0] = now().map((micros, at) => micros - (before[at] ?? 0));
  return { ms, searchMicros, mongodbMicros, ownMicros };
}

/** Gives the search server half of the processors to itself; whether that is possible. */
function keepSearchApart({ search, mongodb }: Stores): boolean {
  return search !== undefined && mongodb !== undefined && keepApart([search.pid], [mongodb.pid, process.pid]);
}

interface Bench {
  readonly search: SearchStore;
  readonly domain: Db;
  readonly system: Db;
  readonly prefix: string;
}

/** Milliseconds that the server takes for the copies. */
async function alone(search: SearchStore, prefix: string, copies: readonly SearchCopy[]): Promise<number> {
  const { signal } = new AbortController();
  const { alias } = await searchIndices({ search, prefix }).ensure(name, signal);
  const beganMs = performance.now();
  let next = 0;
  const send = async (): Promise<void> => {
    for (let at = next; at < copies.length; at = next) {
      next = at + batch;
      const items = copies.slice(at, next).map(({ id, json }) => ({
        action: `{"index":{"_id":"${id}","version":1,"version_type":"external_gte"}}`,
        source: Buffer.from(json),
      }));
      await bulk(search.client, alias, items, { signal, requireAlias: true });
    }
  };
  await Promise.all(Array.from({ length: atOnce }, send));
  return performance.now() - beganMs;
}

type Measure = (work: () => Promise<number>) => Promise<Took>;

/** From the start of the fill to its end. */
async function filled(bench: Bench, documents: readonly object[], took: Measure): Promise<Took> {
  await insert(bench.domain, documents);
  await using sync = synchronisation(bench);
  return await took(async () => {
    const beganMs = performance.now();
    sync.start();
    await sync.until(({ phase }) => phase === "following");
    return performance.now() - beganMs;
  });
}

/** For the changes of all documents, which were made while nobody followed. */
async function followed(bench: Bench, documents: readonly object[], took: Measure): Promise<Took> {
  await bench.domain.collection(name).deleteMany({});
  {
    await using first = synchronisation(bench);
    first.start();
    await first.until(({ phase }) => phase === "following");
  }
  await insert(bench.domain, documents);
  await using sync = synchronisation(bench);
  const { alias } = sync;
  const { client } = bench.search;
  const indexed = async (): Promise<number> => {
    const { _all } = await client.indices.stats({ index: alias, metric: "indexing" });
    return _all.primaries?.indexing?.index_total ?? 0;
  };
  return await took(async () => {
    const beganMs = performance.now();
    sync.start();
    while ((await indexed()) < documents.length) await pause(lookMs);
    return performance.now() - beganMs;
  });
}

function synchronisation({ search, domain, system, prefix }: Bench) {
  const indices = searchIndices({ search, prefix });
  const access = syncAccess({ search, indices, domain, system });
  const alias = indices.alias(name);
  const log = { info: () => undefined, warn: (facts: object) => process.stderr.write(`${JSON.stringify(facts)}\n`) };
  const sync = searchSync({ access, leaseMs: 30_000, messages: [messageOf(name)], log, problemOf: String });
  return {
    alias,
    start: () => sync.start(),
    async until(isSo: (state: { readonly phase: string }) => boolean): Promise<void> {
      for (;;) {
        const state = await access.states.find(alias);
        if (state !== undefined && isSo(state)) return;
        await pause(lookMs);
      }
    },
    [Symbol.asyncDispose]: () => sync[Symbol.asyncDispose](),
  };
}

async function insert(db: Db, documents: readonly object[]): Promise<void> {
  const collection = db.collection(name);
  for (let at = 0; at < documents.length; at += batch) {
    await collection.insertMany(documents.slice(at, at + batch).map((document) => ({ ...document })));
  }
}

/** A session as the service stores it. */
function session(at: number) {
  const some = random("session", at);
  const words = ["meeting", "interview", "demo", "support", "review", "night shift"] as const;
  return {
    _id: new ObjectId(),
    session_id: `${some.hex(8)}-${String(at).padStart(8, "0")}`,
    user_id: some.hex(16),
    session_name: `${some.pick(words)} ${at}`,
    description: `${some.pick(words)} with ${some.pick(words)} and ${some.pick(words)}, recorded for the ${some.pick(words)}`,
    status: some.pick(["PENDING", "RECORDING", "COMPLETED", "FAILED"]),
    rdp_server_id: some.hex(8),
    total_chunks: Long.fromNumber(some.whole(0, 10_000)),
    total_size_bytes: Long.fromNumber(some.whole(0, 2 ** 40)),
    merkle_tree: { root_hash: some.hex(32), tree_height: 12, leaf_count: Long.fromNumber(4000) },
    metadata: { room: some.pick(words), tags: [some.pick(words), some.pick(words)], score: some.fraction() },
    created_at: new Date(1_700_000_000_000 + at * 1000),
    updated_at: new Date(1_700_000_000_000 + at * 1000),
    revision: Long.fromNumber(1),
  };
}
