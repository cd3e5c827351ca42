import { createClient, createRouterTransport } from "@connectrpc/connect";
import { afterAll, beforeAll, expect, test } from "vitest";

import { UserRole, UserStatus } from "../../gen/lucid/repository/v1/user_pb.ts";
import { UserSearchMode, UserService } from "../../gen/lucid/repository/v1/user_service_pb.ts";
import { WatchEventType } from "../../gen/lucid/repository/v1/watch_pb.ts";
import { domainCollections } from "../../src/repository/collections.ts";
import { userService } from "../../src/repository/user.ts";
import { watchesOf } from "../../src/repository/watch/watches.ts";
import { pageTokens } from "../../src/schema/page-tokens.ts";
import { expectIndexed, usesIndexBesideFilter, type WatchedDb, watchedDb } from "./plans.ts";
import { newUser, userInit } from "./support.ts";

let plans: WatchedDb;
const stack = new AsyncDisposableStack();
beforeAll(async () => {
  plans = await watchedDb();
  stack.use(plans);
});
afterAll(() => stack.disposeAsync());

/** The handlers on a real store, which is asked through collections that write down the filters. */
function users() {
  const { watched, db } = plans;
  const tokens = pageTokens("");
  const watches = watchesOf({
    db: watched,
    settings: { bufferedChanges: 100, bufferedBytes: 100_000 },
    pageTokens: async () => tokens,
    draining: new AbortController().signal,
  });
  stack.use(watches);
  const handlers = userService({
    db: watched,
    collections: domainCollections(db, ({ name }) => expect.unreachable(name)),
    pageTokens: async () => tokens,
    settings: { lockAfterFailures: 3, lockMinutes: 1 },
    watches,
  });
  return createClient(
    UserService,
    createRouterTransport(({ service }) => {
      service(UserService, handlers);
    }),
  );
}

const at = { seconds: 1_700_000_000n };

test("no read of users scans the collection, on any page of any order and filter", async ({ skip }) => {
  const { db, asked } = plans;
  if (!(await usesIndexBesideFilter(db))) skip("this server scans where a filter names a field outside the index");
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
  for (const filter of [...filters, { createdFrom: at }, { role: UserRole.USER, createdFrom: at }]) {
    for await (const { type } of service.watchUsers({ filter })) if (type === WatchEventType.CHECKPOINT) break;
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
  expect(asked.length).toBe(95);
  for (const each of asked) await expectIndexed(db, each);
});
