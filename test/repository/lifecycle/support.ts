import { randomUUID } from "node:crypto";

import type { Client as SearchClient } from "@elastic/elasticsearch";
import type { Document } from "bson";
import { Redis } from "ioredis";
import { type Db, MongoClient } from "mongodb";
import { expect } from "vitest";

import { Erasure } from "../../../gen/lucid/options/v1/options_pb.ts";
import { storedMessages } from "../../../src/repository/collections.ts";
import { type Copies, copies } from "../../../src/repository/lifecycle/copies.ts";
import { storedKinds } from "../../../src/repository/lifecycle/stored-kinds.ts";
import { openSearch } from "../../../src/stores/search.ts";
import { storeAddresses, uniqueName } from "../../support/stores.ts";

/** Real stores, to fill and to look into. */
export interface Stores extends AsyncDisposable {
  readonly db: Db;
  readonly redis: Redis;
  readonly search: SearchClient;
  readonly copies: Copies;
}

export async function openStores(db?: Db): Promise<Stores> {
  const { mongodbUri, redisUri, searchUri } = storeAddresses();
  const client = await MongoClient.connect(mongodbUri);
  const redis = new Redis(redisUri);
  const search = openSearch({ uri: searchUri });
  const own = db ?? client.db(uniqueName("lifecycle"));
  return {
    db: own,
    redis,
    search: search.client,
    copies: copies({ redis: { client: redis }, search, alias: (name) => `erased-${name}` }),
    async [Symbol.asyncDispose]() {
      await own.dropDatabase();
      await client.close();
      redis.disconnect();
      await search[Symbol.asyncDispose]();
    },
  };
}

export const kinds = storedKinds(storedMessages);

/** Whether documents of a collection go with their user. */
export function goes(name: string): boolean {
  const erasure = kinds.find((kind) => kind.name === name)?.lifecycle.erasure;
  return erasure === Erasure.REMOVE || erasure === Erasure.AS_PART;
}

/** What belongs to a user everywhere, by collection; only of collections that are there. `of` names whose it is. */
export function belongings(userId: string, of: string): Record<string, Document[]> {
  const sessions = [1, 2].map(() => randomUUID());
  const wallet = { wallet_id: randomUUID(), user_id: userId };
  const policy = { policy_id: randomUUID() };
  const party = { type: "user", id: userId };
  const node = { type: "node", id: randomUUID() };
  const all: Record<string, Document[]> = {
    users: [{ user_id: userId, email: `${randomUUID()}@example.com` }],
    authentication: [{ user_id: userId }],
    sessions: sessions.map((session_id) => ({ session_id, user_id: userId })),
    chunks: sessions.flatMap((session_id) => [0, 1, 2].map((chunk_index) => ({ session_id, chunk_index }))),
    encryption_keys: sessions.map((session_id) => ({ session_id })),
    manifests: sessions.map((session_id) => ({ manifest_id: randomUUID(), session_id })),
    wallets: [wallet],
    wallet_secrets: [wallet],
    wallet_balances: [{ ...wallet, asset: "TRX" }],
    wallet_transactions: [{ ...wallet, wallet_transaction_id: randomUUID() }],
    hardware_wallets: [{ device_id: randomUUID(), user_id: userId }],
    api_keys: [{ key_id: randomUUID(), user_id: userId }],
    auth_tokens: [{ token_id: randomUUID(), user_id: userId }],
    notifications: [{ notification_id: randomUUID(), user_id: userId }],
    trust_policies: [{ ...policy, owner_id: userId, revision: 1n }],
    trust_policy_versions: [{ ...policy, version: 1n, policy: { ...policy, owner_id: userId } }],
    trust_policy_activity: [policy],
    trust_relationships: [
      { relationship_id: randomUUID(), subject: party, target: node },
      { relationship_id: randomUUID(), subject: node, target: party },
    ],
    policy_violations: [{ violation_id: randomUUID(), violator: party, violation_data: { name: of }, revision: 1n }],
    blocks: [{ block_id: randomUUID(), session_anchors: [{ user_id: userId }] }],
    transactions: [{ transaction_id: randomUUID(), session_anchor: { user_id: userId } }],
  };
  const there = new Set(kinds.map(({ name }) => name));
  return Object.fromEntries(
    Object.entries(all)
      .filter(([name]) => there.has(name))
      .map(([name, documents]) => [name, documents.map((document) => ({ ...document, of }))]),
  );
}

/** Stores what belongs to a user, also in the cache and the search indices. Returns the keys of the cache. */
export async function fill(stores: Stores, userId: string, of: string): Promise<string[]> {
  const { db, redis, search } = stores;
  const documents = belongings(userId, of);
  for (const [name, list] of Object.entries(documents)) await db.collection(name).insertMany(list);
  const sessions = (documents["sessions"] ?? []).map(({ session_id }) => session_id as string);
  const keys = [
    `lucid:user:${userId}`,
    `lucid:user:${userId}:sessions:1`,
    ...sessions.map((session) => `lucid:session:${session}`),
  ];
  for (const key of keys) await redis.set(key, of, "EX", 600);
  const operations = [
    [{ index: { _index: "erased-users", _id: userId } }, { user_id: userId, of }],
    ...sessions.map((session_id) => [
      { index: { _index: "erased-sessions", _id: session_id } },
      { session_id, user_id: userId, of },
    ]),
    // Of a session that MongoDB has lost.
    [{ index: { _index: "erased-sessions", _id: randomUUID() } }, { user_id: userId, of }],
  ].flat();
  await search.bulk({ operations, refresh: true });
  return keys;
}

/** Everything that is stored of somebody, in a form that can be compared. */
export async function everythingOf(stores: Stores, of: string): Promise<Record<string, Document[]>> {
  const found: Record<string, Document[]> = {};
  for (const { name } of kinds) {
    found[name] = await stores.db
      .collection(name)
      .find({ of }, { sort: { _id: 1 } })
      .toArray();
  }
  return found;
}

export async function searchHits({ search }: Stores, userId: string): Promise<number> {
  const index = "erased-users,erased-sessions";
  await search.indices.refresh({ index });
  const should = [{ term: { user_id: userId } }, { term: { "user_id.keyword": userId } }];
  const { count } = await search.count({ index, query: { bool: { should } } });
  return count;
}

/** Two users, of whom the first is to be erased, and what there is of the second. */
export async function twoUsers(stores: Stores) {
  const [userId, otherId] = [randomUUID(), randomUUID()];
  const [of, other] = [randomUUID(), randomUUID()];
  const keys = await fill(stores, userId, of);
  const otherKeys = await fill(stores, otherId, other);
  return { userId, otherId, of, other, keys, otherKeys, before: await everythingOf(stores, other) };
}

/** Whatever happened on the way: the user is nowhere but on the chain, and the other one is as before. */
export async function expectErased(
  stores: Stores,
  { userId, otherId, of, other, keys, otherKeys, before }: Awaited<ReturnType<typeof twoUsers>>,
) {
  const left = await everythingOf(stores, of);
  for (const [name, documents] of Object.entries(left)) {
    if (goes(name)) expect([name, documents]).toEqual([name, []]);
    else expect([name, documents.length]).toEqual([name, belongings(userId, of)[name]?.length ?? 0]);
    if (name === "blocks" || name === "transactions") continue;
    expect([name, JSON.stringify(documents, (_, value: unknown) => String(value) === userId)]).not.toContain("true");
  }
  expect(left["trust_policies"]).toMatchObject([{ owner_id: "erased" }]);
  expect(left["trust_policy_versions"]).toMatchObject([{ policy: { owner_id: "erased" } }]);
  expect(await stores.redis.exists(...keys)).toBe(0);
  expect(await searchHits(stores, userId)).toBe(0);
  expect(await everythingOf(stores, other)).toEqual(before);
  expect(await stores.redis.exists(...otherKeys)).toBe(otherKeys.length);
  expect(await searchHits(stores, otherId)).toBe(4);
}
