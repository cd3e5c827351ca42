import { createClient, createRouterTransport } from "@connectrpc/connect";
import { type Db, type Document, MongoClient } from "mongodb";
import { afterAll, beforeAll, expect, test } from "vitest";

import { UserRole, UserStatus } from "../../gen/lucid/repository/v1/user_pb.ts";
import { UserSearchMode, UserService } from "../../gen/lucid/repository/v1/user_service_pb.ts";
import { domainCollections } from "../../src/repository/collections.ts";
import { userService } from "../../src/repository/user.ts";
import { pageTokens } from "../../src/schema/page-tokens.ts";
import { storeAddresses, uniqueName } from "../support/stores.ts";
import { newUser, userInit } from "./support.ts";

/** What a handler asked the store for. */
interface Asked {
  readonly filter: Document;
  readonly options: Document;
}

let client: MongoClient;
let db: Db;
const asked: Asked[] = [];

beforeAll(async () => {
  client = await MongoClient.connect(storeAddresses().mongodbUri);
  db = client.db(uniqueName("plans"), { useBigInt64: true });
});
afterAll(async () => {
  await db.dropDatabase();
  await client.close();
});

/** The handlers on a real store, which is asked through a collection that writes down the filters. */
function users() {
  const watched = client.db(db.databaseName, { useBigInt64: true });
  const open = watched.collection.bind(watched);
  watched.collection = ((name: string) => {
    const collection = open(name);
    const find = collection.find.bind(collection) as (filter: Document, options: Document) => unknown;
    const recorded = (filter: Document, options: Document) => {
      asked.push({ filter, options });
      return find(filter, options);
    };
    return Object.defineProperty(collection, "find", { value: recorded });
  }) as Db["collection"];
  const tokens = pageTokens("");
  const handlers = userService({
    db: watched,
    collections: domainCollections(db, ({ name }) => expect.unreachable(name)),
    pageTokens: async () => tokens,
    settings: { lockAfterFailures: 3, lockMinutes: 1 },
  });
  return createClient(
    UserService,
    createRouterTransport(({ service }) => {
      service(UserService, handlers);
    }),
  );
}

/** MongoDB looks a unique key up by its index and filters what it finds; the planner of the local server does not. */
async function usesIndexBesideFilter(): Promise<boolean> {
  const probe = db.collection("probe");
  await probe.createIndex({ key: 1 }, { unique: true });
  await probe.insertMany(Array.from({ length: 100 }, (_, key) => ({ key })));
  const plan = (await probe.find({ key: 1, other: null }).explain("queryPlanner")) as { queryPlanner: Document };
  return !stagesOf(plan.queryPlanner["winningPlan"]).includes("COLLSCAN");
}

function stagesOf(plan: unknown): string[] {
  if (typeof plan !== "object" || plan === null) return [];
  const { stage } = plan as { stage?: unknown };
  return [...(typeof stage === "string" ? [stage] : []), ...Object.values(plan).flatMap(stagesOf)];
}

const at = { seconds: 1_700_000_000n };

test("no read of users scans the collection, on any page of any order and filter", async ({ skip }) => {
  if (!(await usesIndexBesideFilter())) skip("this server scans where a filter names a field outside the index");
  const service = users();
  const made = await Promise.all(
    [1, 2, 3, 4].map(() => newUser(service, { username: userInit().email?.slice(0, 12) ?? "" })),
  );
  const [one] = made;
  if (one === undefined) throw new Error("No user was made");
  await service.getUser({ userId: one.userId });
  await service.getUserByEmail({ email: one.email });
  await service.getUserByUsername({ username: one.username ?? "" });
  await service.getUserByTronAddress({ tronAddress: one.tronAddress });
  await service.batchGetUsers({ userIds: made.map(({ userId }) => userId) });
  const filters = [
    {},
    { role: UserRole.USER },
    { status: UserStatus.PENDING_VERIFICATION },
    { role: UserRole.USER, status: UserStatus.PENDING_VERIFICATION },
  ];
  const requests = filters.flatMap((filter) => [
    ...["", "created_at", "email", "email desc"].map((orderBy) => ({ orderBy, filter })),
    { orderBy: "created_at", filter: { ...filter, createdFrom: at } },
  ]);
  for (const request of requests.flatMap((each) => [each, { ...each, showDeleted: true }])) {
    const { nextPageToken: pageToken } = await service.listUsers({ ...request, pageSize: 2 });
    expect(pageToken).not.toBe("");
    await service.listUsers({ ...request, pageSize: 2, pageToken });
  }
  for (const mode of [UserSearchMode.PREFIX, UserSearchMode.SUBSTRING]) {
    const { nextPageToken: pageToken } = await service.searchUsers({ query: "example", mode, pageSize: 1 });
    await service.searchUsers({ query: "example", mode, pageSize: 1, pageToken });
  }

  // A large collection, so that the server has a reason to choose.
  await db.collection("users").insertMany(
    Array.from({ length: 2000 }, (_, index) => ({
      ...(userInit() as { email: string }),
      user_id: `filler${index}`,
      tron_address: `T${index}`,
      role: "ADMIN",
      status: "ACTIVE",
      created_at: new Date(index),
    })),
  );
  expect(asked.length).toBe(89);
  for (const { filter, options } of asked) {
    const { sort, limit } = options as { sort?: Document; limit?: number };
    const cursor = db.collection("users").find(filter, { ...(sort && { sort }), limit: limit ?? 3 });
    const plan = (await cursor.explain("queryPlanner")) as { queryPlanner: { winningPlan: unknown } };
    const stages = stagesOf(plan.queryPlanner.winningPlan);
    expect(stages, JSON.stringify([filter, options, plan.queryPlanner])).not.toContain("COLLSCAN");
    expect(stages.length).toBeGreaterThan(0);
  }
});
