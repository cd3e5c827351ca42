import { readFileSync } from "node:fs";
import { join } from "node:path";

import { createFileRegistry, fromBinary, getOption } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { type Db, type Document, MongoClient } from "mongodb";
import { afterAll, beforeAll, expect, test } from "vitest";

import { EnsuredState, MonitoringService } from "../../gen/lucid/admin/v1/monitoring_service_pb.ts";
import { collection as collectionOption } from "../../gen/lucid/options/v1/options_pb.ts";
import { AuditRecordSchema } from "../../gen/lucid/repository/v1/audit_record_pb.ts";
import { UserSchema } from "../../gen/lucid/repository/v1/user_pb.ts";
import { UserService } from "../../gen/lucid/repository/v1/user_service_pb.ts";
import { WalletSchema } from "../../gen/lucid/repository/v1/wallet_pb.ts";
import { projectFolder } from "../../local/project.ts";
import { domainCollections, storedMessages } from "../../src/repository/collections.ts";
import type { KeptCollections } from "../../src/repository/kept-collections.ts";
import { collectionOf } from "../../src/schema/collection.ts";
import { testApp } from "../support/app.ts";
import { storeAddresses, uniqueName } from "../support/stores.ts";
import { newUser, patientCollections, refusalOf, tronAddress, userInit } from "./support.ts";

let client: MongoClient;
const databases: string[] = [];
beforeAll(async () => {
  client = await MongoClient.connect(storeAddresses().mongodbUri);
});
afterAll(async () => {
  for (const name of databases) await client.db(name).dropDatabase();
  await client.close();
});

function newDatabase(): Db {
  const name = uniqueName("collections");
  databases.push(name);
  return client.db(name);
}

/** Looks again and again until something is so. */
async function until(isSo: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await isSo())) await new Promise((resolve) => setTimeout(resolve, 20));
}

const declared = storedMessages.map((schema) => collectionOf(schema));
const states = (collections: KeptCollections, name: string): Record<string, string> =>
  Object.fromEntries(
    (collections.report().find(({ collection }) => collection === name)?.things ?? []).map((thing) => [
      thing.name,
      thing.state,
    ]),
  );

test("every message that says where it is stored is seen to, each in a collection of its own", () => {
  const bytes = readFileSync(join(projectFolder, "gen", "descriptors.binpb"));
  const registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, bytes));
  const stored = [...registry].filter(
    (type) => type.kind === "message" && getOption(type, collectionOption).name !== "",
  );
  // The audit log sees to its own.
  const seenTo = [...storedMessages, AuditRecordSchema].map(({ typeName }) => typeName);
  expect(stored.map(({ typeName }) => typeName).toSorted()).toEqual(seenTo.toSorted());
  expect(new Set(declared.map(({ name }) => name)).size).toBe(declared.length);
});

/** The standard collections of the platform. */
const standard = [
  ...["users", "sessions", "chunks", "manifests", "blocks", "transactions", "trust_policies", "trust_relationships"],
  ...["policy_violations", "wallets", "hardware_wallets", "authentication", "auth_tokens", "encryption_keys"],
  ...["work_proofs", "audit_logs", "api_keys", "notifications", "system_config"],
];

test("every standard collection is described by a message", () => {
  const names = [...declared, collectionOf(AuditRecordSchema)].map(({ name }) => name);
  expect(standard.filter((name) => !names.includes(name))).toEqual([]);
});

test("at least 60 indexes are declared, with the standard ones among them", () => {
  expect(declared.reduce((sum, { indexes }) => sum + indexes.length, 0)).toBeGreaterThanOrEqual(60);
  const index = (collection: string, name: string) =>
    declared.find((each) => each.name === collection)?.indexes.find((each) => each.name === name);
  expect(index("work_proofs", "node_id_1_slot_1_proof_type_1")).toMatchObject({ unique: true });
  for (const name of ["auth_tokens", "encryption_keys"])
    expect(index(name, "expires_at_1")).toMatchObject({ expireAfterSeconds: 0, unique: false });
  const starts = (collection: string, ...fields: string[]) =>
    declared
      .find((each) => each.name === collection)
      ?.indexes.some(({ key }) => [...key.keys()].slice(0, fields.length).join() === fields.join());
  expect(starts("sessions", "user_id", "status", "created_at")).toBe(true);
  for (const side of ["from_address", "to_address"]) expect(starts("transactions", side, "status")).toBe(true);
  for (const { name, indexes } of declared) expect([name, indexes.length > 0]).toEqual([name, true]);
});

test("an empty database gets everything with the first write, and a second replica finds it", async () => {
  const db = newDatabase();
  using first = patientCollections(db);
  await first.refresh();
  expect(await db.listCollections().toArray()).toEqual([]);
  await first.ready(UserSchema);
  expect(new Set(Object.values(states(first, "users")))).toEqual(new Set(["created"]));
  const all = () => first.report().flatMap(({ things }) => things.map(({ state }) => state));
  await until(() => all().every((state) => state === "created"));
  for (const { name, indexes } of declared) {
    const made = await db.collection(name).indexes();
    expect(made.map((each) => each.name)).toEqual(expect.arrayContaining(indexes.map((each) => each.name)));
    const [info] = await db.listCollections({ name }, { nameOnly: false }).toArray();
    expect(info?.options?.["validator"]).toHaveProperty("$jsonSchema");
  }
  using second = patientCollections(db);
  await second.refresh();
  const found = second.report().flatMap(({ collection, things }) => things.map((thing) => ({ collection, ...thing })));
  expect(found.filter(({ state }) => state !== "existing")).toEqual([]);
});

test("replicas that see to the same empty database at once all succeed", async () => {
  const db = newDatabase();
  const replicas = [1, 2, 3].map(() => patientCollections(db));
  await Promise.all(replicas.map((replica) => replica.ready()));
  for (const replica of replicas) {
    expect(new Set(Object.values(states(replica, "users")))).not.toContain("conflicting");
    replica[Symbol.dispose]();
  }
});

test("documents that break a new unique index stop nothing, and the conflict is named", async () => {
  const db = newDatabase();
  const twice = {
    email: "twice@example.com",
    tron_address: tronAddress(),
    role: "USER",
    status: "ACTIVE",
    created_at: new Date(),
  };
  await db.collection("users").insertMany([
    { ...twice, user_id: "1" },
    { ...twice, user_id: "2", tron_address: tronAddress() },
  ]);
  // As an operator may have made it, by hand.
  await db.collection("users").createIndex({ status: -1 }, { name: "created_at_1_user_id_1" });
  await using app = await testApp({ LUCID_MONGODB_DATABASE: db.databaseName });
  const users = app.client(UserService);
  const made = await newUser(users);
  expect((await users.getUserByEmail({ email: made.email })).user).toStrictEqual(made);
  const monitoring = app.http(MonitoringService);
  const conflicting = { states: [EnsuredState.CONFLICTING] };
  expect((await monitoring.getCollections(conflicting)).collections).toMatchObject([
    {
      collection: "users",
      things: [
        { name: "email_1", state: EnsuredState.CONFLICTING, problem: "Documents hold the same values" },
        { name: "created_at_1_user_id_1", problem: "Index created_at_1_user_id_1 has other keys or options" },
      ],
    },
  ]);
  // What the documents allow is held.
  expect(await refusalOf(users.createUser({ user: userInit({ tronAddress: made.tronAddress }) }))).toMatchObject({
    reason: "USER_ALREADY_EXISTS",
  });
  await until(async () => {
    const open = await monitoring.getCollections({ states: [EnsuredState.WAITING, EnsuredState.BUILDING] });
    return open.collections.length === 0;
  });
});

test("an index that no list can use is not taken for the one that is needed", async () => {
  const db = newDatabase();
  const users = db.collection("users");
  const [byTime, byStatus, byRole] = [
    { created_at: 1, user_id: 1 },
    { status: 1, created_at: 1, user_id: 1 },
    { role: 1, created_at: 1, user_id: 1 },
  ] as const;
  await users.createIndex(byTime, { hidden: true });
  await users.createIndex(byStatus, { sparse: true });
  await users.createIndex(byRole, { collation: { locale: "en", strength: 2 }, name: "role_in_any_case" });
  const conflicts: string[] = [];
  using collections = domainCollections(db, ({ collection, name }) => void conflicts.push(`${collection} ${name}`), {
    waitMs: 200_000,
  });
  await collections.ready(UserSchema);
  expect(conflicts.toSorted()).toEqual(["users created_at_1_user_id_1", "users status_1_created_at_1_user_id_1"]);
  // It has room beside one that compares text by other rules.
  const names = (await users.indexes()).map(({ name }) => name);
  expect(names).toEqual(expect.arrayContaining(["role_in_any_case", "role_1_created_at_1_user_id_1"]));
});

/** The database, whose server takes its time to make indexes of one collection: until they are let go. */
function slow(db: Db, of: string, isHeld: (specs: readonly Document[]) => boolean) {
  const { promise, resolve } = Promise.withResolvers<void>();
  const watched = client.db(db.databaseName);
  const open = watched.collection.bind(watched);
  watched.collection = ((name: string) => {
    const collection = open(name);
    const make = collection.createIndexes.bind(collection) as (...args: unknown[]) => Promise<unknown>;
    const value = async (specs: Document[], options: unknown) => {
      if (name === of && isHeld(specs)) await promise;
      return make(specs, options);
    };
    return Object.defineProperty(collection, "createIndexes", { value });
  }) as Db["collection"];
  return { db: watched, letGo: resolve };
}

/** Of more documents than `small` allows. */
async function largeCollection(): Promise<Db> {
  const db = newDatabase();
  const wallets = Array.from({ length: 20 }, (_, index) => ({
    wallet_id: `${index}`,
    user_id: `${index}`,
    tron_address: `T${index}`,
    status: "ACTIVE",
    created_at: new Date(index),
  }));
  await db.collection("wallets").insertMany(wallets);
  return db;
}
const small = { smallDocuments: 10, waitMs: 200_000 };

test("no write waits for an index of a large collection that keeps nothing unique", async () => {
  const held = slow(await largeCollection(), "wallets", (specs) => specs.some(({ unique }) => unique !== true));
  using collections = domainCollections(held.db, ({ name }) => expect.unreachable(name), small);
  await collections.ready(WalletSchema);
  expect(states(collections, "wallets")).toMatchObject({ wallet_id_1: "created", user_id_1: "created" });
  await until(() => states(collections, "wallets")["created_at_1_wallet_id_1"] === "building");
  await collections.ready(); // of all others too
  held.letGo();
  await until(() => Object.values(states(collections, "wallets")).every((state) => state === "created"));
});

test("a write waits for what keeps its own collection's keys unique, and for no other", async () => {
  const held = slow(await largeCollection(), "wallets", () => true);
  using collections = domainCollections(held.db, ({ name }) => expect.unreachable(name), small);
  let isReady = false;
  const wallets = collections.ready(WalletSchema).then(() => (isReady = true));
  await collections.ready(UserSchema);
  expect(isReady).toBe(false);
  held.letGo();
  await wallets;
  expect(states(collections, "wallets")).toMatchObject({ tron_address_1: "created" });
});

test("seeing to the collections is tried again until the store is there", async () => {
  const db = newDatabase();
  await db.createCollection("users");
  let failures = 2;
  const watched = client.db(db.databaseName);
  const list = watched.listCollections.bind<Db["listCollections"]>(watched);
  watched.listCollections = (...args: Parameters<typeof list>) => {
    if (failures-- > 0) throw new Error("The store is away");
    return list(...args);
  };
  const problems: unknown[] = [];
  using collections = domainCollections(watched, ({ name }) => expect.unreachable(name), {
    failed: (error) => problems.push(error),
  });
  await collections.refresh();
  expect(problems).toHaveLength(2);
  expect(new Set(Object.values(states(collections, "users")))).toEqual(new Set(["created"]));
});
