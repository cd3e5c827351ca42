import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";

import { Binary, Long, ObjectId } from "bson";
import { type Db, type Document, MongoClient } from "mongodb";

import { searchCopier } from "../../../src/schema/search-copy.ts";
import { removedField, type SearchedMessage } from "../../../src/schema/search-mapping.ts";
import { messageOf, searchIndices, type SearchIndices } from "../../../src/search/indices.ts";
import { syncAccess, type SyncAccess } from "../../../src/search/sync/access.ts";
import { searchSync, type SearchSync, type SearchSyncOptions } from "../../../src/search/sync/sync.ts";
import type { SearchStore } from "../../../src/stores/search.ts";
import { storeAddresses, uniqueName } from "../../support/stores.ts";
import { searchPart } from "../support.ts";

/** Databases and indices of their own, and what keeps them equal. */
export interface SyncBed extends AsyncDisposable {
  readonly domain: Db;
  readonly system: Db;
  readonly search: SearchStore;
  readonly prefix: string;
  readonly indices: SearchIndices;
  readonly access: SyncAccess;
  /** Starts a replica in this process, which ends with the bed. */
  start(options?: Partial<SearchSyncOptions>): SearchSync;
  /** What keeps the index from being equal to the collection; empty where nothing does. */
  differences(name: string): Promise<string[]>;
  /** Waits until there is none; fails where nothing has got on for so long. */
  settled(name: string, ms?: number): Promise<void>;
}

export async function syncBed(
  uri: string,
  leaseMs = 20_000,
  { mongodbUri }: { readonly mongodbUri: string } = storeAddresses(),
): Promise<SyncBed> {
  await using stack = new AsyncDisposableStack();
  const { search, prefix } = stack.use(searchPart(uri));
  const client = await MongoClient.connect(mongodbUri);
  stack.defer(() => client.close());
  const [domain, system] = [client.db(uniqueName("sync")), client.db(uniqueName("sync_system"))];
  stack.defer(async () => {
    await domain.dropDatabase();
    await system.dropDatabase();
  });
  const indices = searchIndices({ search, prefix });
  const log = { info: () => undefined, warn: () => undefined };
  const running = stack.use(new AsyncDisposableStack());
  const access = syncAccess({ search, indices, domain, system });
  const bed = {
    domain,
    system,
    search,
    prefix,
    indices,
    access,
    start(options: Partial<SearchSyncOptions> = {}) {
      const all = { access, leaseMs, log, problemOf: String };
      const sync = running.use(searchSync({ ...all, ...options }));
      sync.start();
      return sync;
    },
    async differences(name: string) {
      const message = messageOf(name);
      const { db, collection } = access.sourceOf(name);
      const [wanted, there] = [await wantedOf(db, collection, message), await contents(search, indices.alias(name))];
      const different: string[] = [];
      for (const id of new Set([...wanted.keys(), ...there.keys()])) {
        const [want, have] = [wanted.get(id) ?? "nothing", there.get(id) ?? "nothing"];
        if (want !== have) different.push(`${id}: wanted ${want}, there is ${have}`);
      }
      return different;
    },
    async settled(name: string, ms = 60_000) {
      let [seen, sinceMs] = ["", performance.now()];
      for (;;) {
        const beganMs = performance.now();
        const different = await bed.differences(name).catch((error: unknown) => [String(error)]);
        if (different.length === 0) return;
        const state = await access.states.find(indices.alias(name)).catch(() => undefined);
        // Checkpoints move on by themselves, and what fails says so again and again.
        const moving = { token: undefined, token_time: undefined, problem_time: undefined };
        const now = JSON.stringify([different, { ...state, ...moving }]);
        if (now !== seen) [seen, sinceMs] = [now, performance.now()];
        if (performance.now() - sinceMs > ms) {
          throw new Error(
            `${different.length} differ in ${name}: ${different.slice(0, 3).join("; ")}\n${JSON.stringify(state)}`,
          );
        }
        // To look is work, which on a busy machine those lack who are looked at.
        await pause(Math.max(100, performance.now() - beganMs));
      }
    },
  };
  const all = stack.move();
  return { ...bed, [Symbol.asyncDispose]: () => all.disposeAsync() };
}

async function wantedOf(db: Db, collection: string, message: SearchedMessage): Promise<Map<string, string>> {
  const copier = searchCopier(message);
  const documents = await db.collection(collection).find<Uint8Array>({}, { raw: true }).toArray();
  return new Map(
    documents.map((document) => {
      const { id, json } = copier.fromBson(document);
      return [id, canonical(JSON.parse(json))];
    }),
  );
}

/** All that an index holds, without tombstones. */
export async function contents(search: SearchStore, alias: string): Promise<Map<string, string>> {
  const found = new Map<string, string>();
  await search.client.indices.refresh({ index: alias });
  const query = { bool: { must_not: [{ term: { [removedField]: true } }] } };
  const first = await search.client.search<object>({ index: alias, query, size: 10_000 });
  for (const { _id = "", _source } of first.hits.hits) found.set(_id, canonical(_source));
  if (found.size === 10_000) throw new Error("There are too many to look at");
  return found;
}

function canonical(value: unknown): string {
  return JSON.stringify(value, (_, inner: unknown) =>
    typeof inner === "object" && inner !== null && !Array.isArray(inner)
      ? Object.fromEntries(Object.entries(inner).toSorted(([a], [b]) => (a < b ? -1 : 1)))
      : inner,
  );
}

/** Starts a process of its own that keeps indices. */
export async function startReplica(
  { domain, system, prefix }: SyncBed,
  {
    searchUri,
    names,
    leaseMs,
  }: { readonly searchUri: string; readonly names: readonly string[]; readonly leaseMs: number },
): Promise<ChildProcess> {
  const { mongodbUri } = storeAddresses();
  const databases = [domain.databaseName, system.databaseName];
  const of = [mongodbUri, searchUri, ...databases, prefix, names.join(","), String(leaseMs)];
  const child = spawn(process.execPath, [join(import.meta.dirname, "replica.ts"), ...of], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  await once(child.stdout, "data");
  // Nobody reads what it says after that.
  child.stdout.resume();
  return child;
}

/** Kills a process as nothing can catch it. */
export async function kill(child: ChildProcess | undefined): Promise<void> {
  if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
  child.kill("SIGKILL");
  await once(child, "exit");
}

let made = 0;

/** A user as the service stores it. */
export function newUser(more: Document = {}): Document {
  made += 1;
  const id = `user-${process.pid}-${String(made).padStart(6, "0")}`;
  return {
    user_id: id,
    email: `${id}@example.com`,
    username: id,
    role: "USER",
    status: "ACTIVE",
    profile: { display_name: `Display ${made}`, bio: "is not searched" },
    total_sessions: Long.fromNumber(made),
    created_at: new Date(),
    revision: Long.fromNumber(1),
    _audit: [{ audit_id: "x", digest: new Binary(Buffer.from("y")) }],
    ...more,
  };
}

/** A session as the service stores it. */
export function newSession(more: Document = {}): Document {
  made += 1;
  return {
    _id: new ObjectId(),
    session_id: `session-${process.pid}-${String(made).padStart(6, "0")}`,
    user_id: "u",
    session_name: `Session ${made}`,
    status: "PENDING",
    metadata: { any: { thing: made } },
    created_at: new Date(),
    revision: Long.fromNumber(1),
    ...more,
  };
}

/** Changes one as the service does. */
export async function change(db: Db, collection: string, filter: Document, set: Document): Promise<void> {
  await db.collection(collection).updateMany(filter, [{ $set: { ...set, revision: { $add: ["$revision", 1n] } } }]);
}
