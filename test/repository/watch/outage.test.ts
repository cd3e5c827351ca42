import { create } from "@bufbuild/protobuf";
import type { HandlerContext } from "@connectrpc/connect";
import { MongoClient } from "mongodb";
import { expect, test, vi } from "vitest";

import { UserSchema } from "../../../gen/lucid/repository/v1/user_pb.ts";
import {
  UserService,
  WatchUsersRequestSchema,
  type WatchUsersResponse,
} from "../../../gen/lucid/repository/v1/user_service_pb.ts";
import { WatchEventType } from "../../../gen/lucid/repository/v1/watch_pb.ts";
import { startMongodb } from "../../../local/mongodb.ts";
import { reasonOf } from "../../../src/errors.ts";
import { type ToldEvent, watchesOf } from "../../../src/repository/watch/watches.ts";
import { pageTokens } from "../../../src/schema/page-tokens.ts";
import { cuttable } from "../../jobs/proxy.ts";
import { patient, testApp } from "../../support/app.ts";
import { impatientClient, storeAddresses, uniqueName } from "../../support/stores.ts";
import { newUser, refusalOf, usersApp } from "../support.ts";
import { isCheckpoint, short, watching } from "./support.ts";

const soon = { timeout: 60_000, interval: 100 };

test.concurrent("watches do not notice that the store is killed and comes back", async () => {
  await using server = await startMongodb({ durable: true });
  await using app = await testApp({ LUCID_MONGODB_URI: patient(server.uri) });
  const users = app.client(UserService);
  const before = await newUser(users);
  using watch = watching((options) => users.watchUsers({}, options));
  await watch.until(isCheckpoint);
  const first = await newUser(users);
  await watch.until(({ userId }) => userId === first.userId);
  // Stopped first: the local server does not always start again after a kill soon after it has made collections.
  for (const way of ["stop", "kill"] as const) {
    await server[way]();
    await server.start();
    await vi.waitFor(() => newUser(users), soon);
    const user = await newUser(users);
    await watch.until(({ userId }) => userId === user.userId);
  }
  const told = watch.events.filter((event) => !isCheckpoint(event)).map(short);
  const stored = (await users.listUsers({ orderBy: "created_at" })).users.map(({ userId }) => userId);
  expect(told).toEqual([
    `EXISTING ${before.userId} 1`,
    ...stored.filter((userId) => userId !== before.userId).map((userId) => `CREATED ${userId} 1`),
  ]);
});

test.concurrent("a token that has left the history says so, and one of an idle watch does not leave it", async () => {
  await using server = await startMongodb({ history: 50 });
  const database = { LUCID_MONGODB_DATABASE: "watched", LUCID_MONGODB_SYSTEM_DATABASE: uniqueName("watch") };
  const environment = { ...database, LUCID_MONGODB_URI: patient(server.uri) };
  await using one = await testApp(environment);
  await using two = await testApp(environment);
  await using client = await MongoClient.connect(server.uri);
  const [users, elsewhere] = [one.client(UserService), two.client(UserService)];
  await newUser(users);
  using watch = watching((options) => users.watchUsers({ checkpointInterval: { seconds: 1n } }, options));
  const [old] = (await watch.until(isCheckpoint)).filter(isCheckpoint).map(({ resumeToken }) => resumeToken);
  if (old === undefined) throw new Error("There is no token");

  const others = client.db("watched").collection("others");
  const isOld = () => refusalOf(Array.fromAsync(elsewhere.watchUsers({ resumeToken: old }, { timeoutMs: 1000 })));
  await vi.waitFor(async () => {
    await others.insertMany(Array.from({ length: 1000 }, (_, number) => ({ number })));
    expect(await isOld()).toMatchObject({ code: "OutOfRange", reason: "WATCH_TOKEN_TOO_OLD" });
  }, soon);
  // The replica that has seen it all needs no history.
  const told = await newUser(users);
  const goesOn = async (client_: typeof users, resumeToken: string, userId: string) => {
    for await (const event of client_.watchUsers({ resumeToken })) if (event.userId === userId) return true;
    return false;
  };
  expect(await goesOn(users, old, told.userId)).toBe(true);

  // The newest token is of the history, though nothing has happened to users.
  await watch.until(({ userId }) => userId === told.userId);
  let more = 0;
  const checkpoints = (await watch.until((event) => isCheckpoint(event) && ++more > 3)).map(
    ({ resumeToken }) => resumeToken,
  );
  const later = await newUser(users);
  expect(await goesOn(elsewhere, checkpoints.at(-1) ?? "", later.userId)).toBe(true);
  // Who asks for what is gone does not disturb those who watch.
  using other = watching((options) => elsewhere.watchUsers({}, options));
  await other.until(isCheckpoint);
  await vi.waitFor(async () => expect(await isOld()).toMatchObject({ reason: "WATCH_TOKEN_TOO_OLD" }), soon);
  const last = await newUser(users);
  await other.until(({ userId }) => userId === last.userId);
});

test.concurrent("when the collection is dropped, all who watch it begin anew", async () => {
  await using service = await usersApp();
  const { users, db } = service;
  await newUser(users);
  using watch = watching((options) => users.watchUsers({}, options));
  await watch.until(isCheckpoint);
  const token = watch.events.at(-1)?.resumeToken ?? "";
  await db.collection("users").drop();
  expect(reasonOf(await watch.failure())?.reason).toBe("WATCH_TOKEN_TOO_OLD");
  expect(await refusalOf(Array.fromAsync(users.watchUsers({ resumeToken: token })))).toMatchObject({
    code: "OutOfRange",
    reason: "WATCH_TOKEN_TOO_OLD",
  });
  // Who begins anew beside one that asks for what came before the drop is told nothing of that.
  using late = watching((options) => users.watchUsers({ resumeToken: token }, options));
  using again = watching((options) => users.watchUsers({}, options));
  expect(reasonOf(await late.failure())?.reason).toBe("WATCH_TOKEN_TOO_OLD");
  await again.until(isCheckpoint);
  const { userId } = await newUser(users);
  expect((await again.until((event) => event.userId === userId)).map(short)).toEqual([
    "CHECKPOINT",
    `CREATED ${userId} 1`,
  ]);
});

test.concurrent("a token from after a drop goes on beside one from before it", async () => {
  const database = { LUCID_MONGODB_DATABASE: uniqueName("watch"), LUCID_MONGODB_SYSTEM_DATABASE: uniqueName("watch") };
  await using one = await testApp(database);
  await using two = await testApp(database);
  try {
    const [users, elsewhere] = [one.client(UserService), two.client(UserService)];
    const tokenOf = async (fits: (event: WatchUsersResponse) => boolean) => {
      using watch = watching((options) => users.watchUsers({}, options));
      return (await watch.until(fits)).at(-1)?.resumeToken ?? "";
    };
    await newUser(users);
    const old = await tokenOf(isCheckpoint);
    await one.mongodb.db(database.LUCID_MONGODB_DATABASE).collection("users").drop();
    // One that this replica has told is after the drop.
    await vi.waitFor(async () => {
      const again = refusalOf(Array.fromAsync(users.watchUsers({ resumeToken: old }, { timeoutMs: 10_000 })));
      expect(await again).toMatchObject({ reason: "WATCH_TOKEN_TOO_OLD" });
    }, soon);
    const first = await newUser(users);
    const token = await tokenOf(isCheckpoint);
    const second = await newUser(users);
    using late = watching((options) => elsewhere.watchUsers({ resumeToken: old }, options));
    using watch = watching((options) => elsewhere.watchUsers({ resumeToken: token }, options));
    expect(reasonOf(await late.failure())?.reason).toBe("WATCH_TOKEN_TOO_OLD");
    const told = await watch.until(({ userId }) => userId === second.userId);
    expect(told.map(({ userId }) => userId)).not.toContain(first.userId);
    const third = await newUser(users);
    await watch.until(({ userId }) => userId === third.userId);
  } finally {
    for (const name of Object.values(database)) await two.mongodb.db(name).dropDatabase();
  }
});

test.concurrent("watches that cannot reach the store for long end with the token to go on with", async () => {
  await using wire = await cuttable(storeAddresses().mongodbUri);
  await using service = await usersApp();
  const { users, db } = service;
  await newUser(users);
  const tokens = pageTokens("");
  const draining = new AbortController();
  const open = async function* (
    client: MongoClient,
    resumeToken: string,
    told: (event: ToldEvent) => void,
  ): AsyncGenerator<ToldEvent> {
    await using watches = watchesOf({
      db: client.db(db.databaseName, { useBigInt64: true }),
      settings: { bufferedChanges: 100, bufferedBytes: 1024 * 1024 },
      pageTokens: async () => tokens,
      draining: draining.signal,
      interruptionMs: 500,
    });
    const request = create(WatchUsersRequestSchema, { resumeToken });
    const call = {
      schema: WatchUsersRequestSchema,
      request,
      filter: { deleted_at: null },
    };
    const watched = watches.of({ schema: UserSchema, id: "user_id" });
    // All that a watch looks at.
    const context = { signal: AbortSignal.timeout(150_000) } as HandlerContext;
    for await (const event of watched.watch(call, context)) {
      told(event);
      yield event;
    }
  };
  await using near = await impatientClient(wire.uri);
  let token = "";
  const failure = await refusalOf(
    Array.fromAsync(
      open(near, "", ({ type, resumeToken }) => {
        if (type !== WatchEventType.CHECKPOINT) return;
        token = resumeToken;
        wire.cut();
      }),
    ),
  );
  expect(failure).toMatchObject({ code: "Unavailable", reason: "WATCH_INTERRUPTED" });
  const { userId } = await newUser(users);
  const resumeToken = failure.metadata?.["resume_token"] ?? "";
  expect([token, resumeToken]).not.toContain("");
  await using client = await MongoClient.connect(storeAddresses().mongodbUri);
  for await (const event of open(client, resumeToken, () => undefined)) {
    expect(event.id).toBe(userId);
    break;
  }
});

test.concurrent("a standalone server is told from one that can be watched", async () => {
  await using server = await startMongodb({ standalone: true });
  await using app = await testApp({ LUCID_MONGODB_URI: patient(server.uri) });
  expect(await refusalOf(Array.fromAsync(app.client(UserService).watchUsers({})))).toMatchObject({
    code: "FailedPrecondition",
    reason: "CHANGE_STREAMS_UNAVAILABLE",
    metadata: { store: "mongodb" },
  });
});
