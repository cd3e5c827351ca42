import { afterAll, beforeAll, expect, test } from "vitest";

import { UserStatus } from "../../../gen/lucid/repository/v1/user_pb.ts";
import { WatchEventType } from "../../../gen/lucid/repository/v1/watch_pb.ts";
import { newUser, type UsersApp, usersApp } from "../support.ts";
import { isCheckpoint, short, watching } from "./support.ts";

let service: UsersApp;
beforeAll(async () => {
  service = await usersApp();
});
afterAll(() => service[Symbol.asyncDispose]());

test.for(["users", "overHttp"] as const)(
  "tells what is there, then each change, in their order (%s)",
  async (listener) => {
    await service.db.collection("users").deleteMany({});
    const { users } = service;
    const [one, two, gone] = [await newUser(users), await newUser(users), await newUser(users)];
    await users.deleteUser({ userId: gone.userId });
    using watch = watching((options) => service[listener].watchUsers({}, options));
    await watch.until(isCheckpoint);
    expect(watch.events.map(short)).toEqual([`EXISTING ${one.userId} 1`, `EXISTING ${two.userId} 1`, "CHECKPOINT"]);
    expect(watch.events[0]?.user).toEqual(one);

    const three = await newUser(users);
    const changed = await users.updateUser({ user: { userId: one.userId, status: UserStatus.ACTIVE } });
    await watch.until(({ userId, revision }) => userId === one.userId && revision === 2n);
    await users.deleteUser({ userId: two.userId });
    await users.undeleteUser({ userId: two.userId });
    await watch.until(({ userId, revision }) => userId === two.userId && revision === 3n);
    const told = watch.events.slice(3);
    expect(told.map(short)).toEqual([
      `CREATED ${three.userId} 1`,
      `CHANGED ${one.userId} 2`,
      `REMOVED ${two.userId} 2`,
      `CHANGED ${two.userId} 3`,
    ]);
    expect(told[0]?.user).toEqual(three);
    expect(told[1]?.user).toEqual(changed.user);
    expect(
      watch.events.filter(({ type }) => type !== WatchEventType.EXISTING).every((event) => event.resumeToken !== ""),
    ).toBe(true);
  },
);

test("what another program has stored under a name that the driver takes for its own is told, and can be changed", async () => {
  const { users, db } = service;
  const { userId } = await newUser(users);
  using watch = watching((options) => users.watchUsers({ changesOnly: true }, options));
  await watch.until(isCheckpoint);
  const metadata = { a: [{ _bsontype: "Long" }] };
  const stored = new Map([["a", [new Map([["_bsontype", "Long"]])]]]);
  await db.collection("users").updateOne({ user_id: userId }, { $set: { metadata: stored }, $inc: { revision: 1n } });
  const { user } = await users.updateUser({ user: { userId, emailVerified: true } });
  expect(user).toMatchObject({ revision: 3n, metadata });
  const told = await watch.until(({ revision }) => revision === 3n);
  expect(told.at(-1)?.user).toEqual(user);
});
