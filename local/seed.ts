import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs, parseEnv } from "node:util";

import { Redis } from "ioredis";
import { MongoClient, type Db } from "mongodb";

import { Complaint, localFolder, runCommand, say } from "./project.ts";
import { AUTHOR, collections, planFor, type Collection } from "./seed/documents.ts";
import { indices, SearchClient, type Index } from "./seed/indices.ts";
import { deleteKeys, writeKeys } from "./seed/keys.ts";
import { namedStores, type StoreAddresses } from "./stores.ts";

const BATCH = 500;
const RECORD = "lucid:seed";

/** What to write. The same numbers give the same data: documents and their ids, keys, values. */
export interface Seed {
  readonly seed: number;
  readonly documents: number;
  readonly keys: number;
  readonly searchDocuments: number;
}

/** Where it goes. */
export interface Names {
  readonly database: string;
  /** What the aliases of the indices start with. */
  readonly indexPrefix: string;
}

const usualNames: Names = { database: "lucid", indexPrefix: "lucid-sample-" };

/** Fills the three stores. What an earlier seed wrote is deleted first; documents, keys and entries of others stay.
 * Gives what was written. */
export async function writeSeed(addresses: StoreAddresses, seed: Seed, names: Names = usualNames): Promise<Seed> {
  await using client = new MongoClient(addresses.mongodbUri, {
    appName: "lucid-seed",
    serverSelectionTimeoutMS: 10_000,
  });
  const redis = new Redis(addresses.redisUri, { maxRetriesPerRequest: 3 });
  redis.on("error", () => {}); // the command that fails says it
  const search = new SearchClient(addresses.searchUri);
  try {
    const db = client.db(names.database);
    const all = collections(seed.seed, seed.documents);
    await removeEarlier(db, redis, search, names);
    // Noted before the first write, so that a seed that is cut off is cleared too.
    await redis.hset(RECORD, { ...seed });
    for (const collection of all) await writeCollection(db, collection);
    await inBatches("Redis keys", seed.keys, (first, end) =>
      writeKeys(redis, planFor(seed.seed, seed.documents), first, end),
    );
    const filled = indices(all, seed.searchDocuments, names.indexPrefix);
    for (const index of filled) await writeIndex(search, index);
    return { ...seed, searchDocuments: filled.reduce((sum, { count }) => sum + count, 0) };
  } finally {
    redis.disconnect();
  }
}

async function removeEarlier(db: Db, redis: Redis, search: SearchClient, names: Names): Promise<void> {
  const record = await redis.hgetall(RECORD);
  for (const { name } of collections(0, 0)) await db.collection(name).deleteMany({ created_by: AUTHOR });
  if (record["seed"] === undefined) return;
  const [seed, documents] = [Number(record["seed"]), Number(record["documents"])];
  say(`Deleting what the seed ${seed} wrote earlier`);
  const plan = planFor(seed, documents);
  await inBatches(undefined, Number(record["keys"]), (first, end) => deleteKeys(redis, plan, first, end));
  for (const index of indices(collections(seed, documents), Number(record["searchDocuments"]), names.indexPrefix)) {
    await inBatches(undefined, index.count, (first, end) => search.remove(index, first, end));
  }
}

async function writeCollection(db: Db, { name, count, document }: Collection): Promise<void> {
  const collection = db.collection(name);
  await inBatches(`MongoDB ${name}`, count, async (first, end) => {
    const batch = Array.from({ length: end - first }, (_, offset) => document(first + offset));
    await collection.insertMany(batch, { ordered: false });
  });
}

async function writeIndex(search: SearchClient, index: Index): Promise<void> {
  await search.ensureIndex(index);
  await inBatches(`Search ${index.alias}`, index.count, (first, end) => search.write(index, first, end));
  await search.refresh(index);
}

/** Works through `count` things in batches, one after the other: memory stays small whatever the size. */
async function inBatches(
  what: string | undefined,
  count: number,
  work: (first: number, end: number) => Promise<void>,
): Promise<void> {
  const began = performance.now();
  let toldAt = began;
  for (let first = 0; first < count; first += BATCH) {
    const end = Math.min(first + BATCH, count);
    await work(first, end);
    if (what !== undefined && performance.now() - toldAt > 5000) {
      say(`  ${what}: ${end} of ${count} …`);
      toldAt = performance.now();
    }
  }
  const seconds = ((performance.now() - began) / 1000).toFixed(1);
  if (what !== undefined) say(`  ${what}: ${count} in ${seconds} s`);
}

function readOptions(): Seed {
  const { values } = parseArgs({
    options: {
      seed: { type: "string", default: "1" },
      documents: { type: "string", default: "20000" },
      keys: { type: "string", default: "20000" },
      "search-documents": { type: "string", default: "5000" },
    },
  });
  const whole = (name: keyof typeof values) => {
    const number = Number(values[name]);
    if (!/^\d{1,9}$/.test(values[name])) throw new Complaint(`--${name} must be a whole number`);
    return number;
  };
  return {
    seed: whole("seed"),
    documents: whole("documents"),
    keys: whole("keys"),
    searchDocuments: whole("search-documents"),
  };
}

/** The stores that the environment names, else those of the running quick start. */
function findStores(): StoreAddresses {
  const file = join(localFolder, "start", "env");
  const started = existsSync(file) ? namedStores(parseEnv(readFileSync(file, "utf8"))) : {};
  const { mongodbUri, redisUri, searchUri } = { ...started, ...namedStores(process.env) };
  if (mongodbUri === undefined || redisUri === undefined || searchUri === undefined) {
    throw new Complaint(
      "No stores to fill: run npm start in another terminal, or set LUCID_MONGODB_URI, LUCID_REDIS_URI and LUCID_SEARCH_URI.",
    );
  }
  return { mongodbUri, redisUri, searchUri };
}

if (import.meta.main) {
  await runCommand(async () => {
    const seed = readOptions();
    const began = performance.now();
    const database = process.env["LUCID_MONGODB_DATABASE"] ?? usualNames.database;
    const written = await writeSeed(findStores(), seed, { ...usualNames, database });
    const seconds = ((performance.now() - began) / 1000).toFixed(1);
    process.stdout.write(
      `Seed ${written.seed}: ${written.documents} documents, ${written.keys} keys and ${written.searchDocuments} search documents in ${seconds} s\n`,
    );
  });
}
