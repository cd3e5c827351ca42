import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

import { create } from "@bufbuild/protobuf";
import type { HandlerContext } from "@connectrpc/connect";
import { MongoClient } from "mongodb";
import { afterAll, beforeAll, expect, test } from "vitest";

import { UserSchema, UserStatus } from "../../../gen/lucid/repository/v1/user_pb.ts";
import { UserService, WatchUsersRequestSchema } from "../../../gen/lucid/repository/v1/user_service_pb.ts";
import { WatchEventType } from "../../../gen/lucid/repository/v1/watch_pb.ts";
import { reasonOf } from "../../../src/errors.ts";
import { type ToldEvent, watchesOf } from "../../../src/repository/watch/watches.ts";
import { pageTokens } from "../../../src/schema/page-tokens.ts";
import { testApp } from "../../support/app.ts";
import { storeAddresses, uniqueName } from "../../support/stores.ts";
import { newUser, refusalOf, type UsersApp, usersApp } from "../support.ts";
import { isCheckpoint, Model, watching } from "./support.ts";

let service: UsersApp;
beforeAll(async () => {
  service = await usersApp({ LUCID_WATCH_BUFFERED_BYTES: String(1024 * 1024) });
  await newUser(service.users);
});
afterAll(() => service[Symbol.asyncDispose]());

test("one that takes nothing is cut off, goes on with its token, and holds up nobody", async () => {
  const { users } = service;
  const { userId } = await newUser(users);
  using fast = watching((options) => users.watchUsers({}, options));
  await fast.until(isCheckpoint);
  const leaving = new AbortController();
  const slow = users.watchUsers({}, { signal: leaving.signal })[Symbol.asyncIterator]();
  const model = new Model();
  const take = async () => {
    const { value, done } = await slow.next();
    if (done === true) throw new Error("The watch ended without an error");
    model.apply(value);
    return value;
  };
  while (!isCheckpoint(await take()));
  // More than fits into what is kept and what is on the way.
  for (let revision = 2n; revision <= 30n; revision++) {
    await users.updateUser({ user: { userId, metadata: { text: String(revision).repeat(100_000) } } });
    await fast.until((event) => event.userId === userId && event.revision === revision);
  }
  let taken = 0;
  const failure = await refusalOf(
    (async () => {
      for (;;) {
        await take();
        taken += 1;
      }
    })(),
  );
  expect(failure).toMatchObject({
    code: "Aborted",
    reason: "WATCH_TOO_SLOW",
    metadata: { resume_token: model.token },
  });
  expect(taken).toBeLessThan(29);

  for await (const event of users.watchUsers({ resumeToken: model.token })) {
    model.apply(event);
    if (event.userId === userId && event.revision === 30n) break;
  }
  expect(model.users.get(userId)).toEqual((await users.getUser({ userId })).user);
  expect(fast.events.some(({ revision }) => revision === 15n)).toBe(true);
});

test("while nothing happens, a checkpoint comes in each interval and with it a newer token", async () => {
  const { users, db } = service;
  using watch = watching((options) =>
    users.watchUsers({ changesOnly: true, checkpointInterval: { seconds: 1n } }, options),
  );
  await watch.until(isCheckpoint);
  await db.collection("others").insertOne({});
  let seen = 0;
  await watch.until((event) => isCheckpoint(event) && ++seen > 3);
  const tokens = watch.events.map(({ resumeToken }) => resumeToken);
  expect(watch.events.every(isCheckpoint)).toBe(true);
  expect(tokens.at(-1)).not.toBe(tokens[0]);
  // Events that the filter leaves out do not stand in for it.
  using nobody = watching((options) =>
    users.watchUsers({ filter: { createdBefore: { seconds: 1n } }, checkpointInterval: { seconds: 1n } }, options),
  );
  const { userId } = await newUser(users);
  let more = 0;
  await nobody.until((event) => isCheckpoint(event) && ++more > 2);
  expect(nobody.events.every(isCheckpoint)).toBe(true);
  await watch.until((event) => event.userId === userId);
});

test("a token is good for the watch that it is of only", async () => {
  const { users, overHttp } = service;
  const filter = { status: UserStatus.ACTIVE };
  const tokenOf = async (request: object): Promise<string> => {
    for await (const event of users.watchUsers({ changesOnly: true, ...request })) return event.resumeToken;
    return "";
  };
  const [whole, part] = [await tokenOf({}), await tokenOf({ filter })];
  const list = await users.listUsers({ pageSize: 1 });
  const changed = `${part.slice(0, -2)}${part.endsWith("AA") ? "BB" : "AA"}`;
  for (const resumeToken of [whole, changed, `${part}A`, "abc", list.nextPageToken]) {
    const request = { changesOnly: true, filter, resumeToken };
    for (const client of [users, overHttp]) {
      expect(await refusalOf(Array.fromAsync(client.watchUsers(request)))).toMatchObject({
        code: "InvalidArgument",
        reason: "WATCH_TOKEN_INVALID",
        fields: ["resume_token"],
      });
    }
  }
  using watch = watching((options) =>
    overHttp.watchUsers({ changesOnly: true, filter, resumeToken: part, checkpointInterval: { seconds: 1n } }, options),
  );
  const { userId } = await newUser(users, { status: UserStatus.ACTIVE });
  await watch.until((event) => event.userId === userId);
});

test("a replica that stops ends its watches with the token to go on elsewhere", async () => {
  const database = { LUCID_MONGODB_DATABASE: uniqueName("watch"), LUCID_MONGODB_SYSTEM_DATABASE: uniqueName("watch") };
  await using one = await testApp(database);
  await using two = await testApp(database);
  try {
    const model = new Model();
    const watches = (["client", "http"] as const).map((way) =>
      watching((options) => one[way](UserService).watchUsers({}, options)),
    );
    const user = await newUser(two.client(UserService));
    for (const watch of watches) await watch.until(({ userId }) => userId === user.userId);
    const [drained, failures] = [one.drain(10_000), Promise.all(watches.map((watch) => watch.failure()))];
    for (const failure of await failures) {
      expect(reasonOf(failure)?.reason).toBe("WATCH_INTERRUPTED");
      expect(failure.code).toBe(14);
    }
    await drained;
    for (const event of watches[0]?.events ?? []) model.apply(event);
    const later = await newUser(two.client(UserService));
    const resumeToken = reasonOf(await watches[0]?.failure())?.metadata["resume_token"] ?? "";
    for await (const event of two.client(UserService).watchUsers({ resumeToken })) {
      model.apply(event);
      if (event.userId === later.userId) break;
    }
    expect([...model.users.keys()].toSorted()).toEqual([user.userId, later.userId].toSorted());
  } finally {
    for (const name of Object.values(database)) await two.mongodb.db(name).dropDatabase();
  }
});

test("a thousand idle watches share one change stream and take little memory", async () => {
  await using client = await MongoClient.connect(storeAddresses().mongodbUri, { monitorCommands: true });
  const streams: unknown[] = [];
  client.on("commandStarted", ({ commandName, command }) => {
    const [stage] = (commandName === "aggregate" && (command["pipeline"] as object[])) || [];
    if (stage !== undefined && "$changeStream" in stage) streams.push(stage);
  });
  const { users, db } = service;
  const tokens = pageTokens("");
  await using watches = watchesOf({
    db: client.db(db.databaseName, { useBigInt64: true }),
    settings: { bufferedChanges: 1000, bufferedBytes: 1024 * 1024 },
    pageTokens: async () => tokens,
    draining: new AbortController().signal,
  });
  const leaving = new AbortController();
  const entity = watches.of({ schema: UserSchema, id: "user_id" });
  const live = { deleted_at: null };
  const existing = { filter: live, order: { sort: { created_at: 1, user_id: 1 } } } as const;
  const open = (changesOnly: boolean) => {
    const request = create(WatchUsersRequestSchema, { changesOnly, checkpointInterval: { seconds: 300n } });
    const call = {
      schema: WatchUsersRequestSchema,
      request,
      filter: live,
    };
    // All that a watch looks at.
    const context = { signal: leaving.signal } as HandlerContext;
    return entity.watch({ ...call, ...(!changesOnly && { existing }) }, context);
  };
  const untilCheckpoint = async (watch: AsyncGenerator<ToldEvent>) => {
    let found = 0;
    for (;;) {
      const { value, done } = await watch.next();
      if (done === true) throw new Error("The watch ended without an error");
      if (value.type === WatchEventType.CHECKPOINT) return found;
      found += 1;
    }
  };
  expect(await untilCheckpoint(open(false))).toBeGreaterThan(0);
  const gc = collector();
  const before = gc();
  const all = Array.from({ length: 1000 }, (_, index) => open(index % 10 !== 0));
  await Promise.all(all.map(untilCheckpoint));
  // Each waits for what comes next.
  const next = all.map((watch) => watch.next());
  const each = (gc() - before) / all.length;
  expect(streams.length).toBe(1);
  const user = await newUser(users);
  for (const { value } of await Promise.all(next)) expect(value?.id).toBe(user.userId);
  expect(streams.length).toBe(1);
  // Measured: 7 KiB.
  expect(each).toBeLessThan(32 * 1024);
  leaving.abort();
  await Promise.allSettled(all.map((watch) => watch.next()));
});

/** Collects what is not used, and tells how many bytes are. */
function collector(): () => number {
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  return () => {
    collect();
    return process.memoryUsage().heapUsed;
  };
}
