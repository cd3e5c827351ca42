import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Client } from "@connectrpc/connect";
import * as fc from "fast-check";
import { afterAll, beforeAll, expect, test } from "vitest";

import { type User, UserRole, UserStatus } from "../../../gen/lucid/repository/v1/user_pb.ts";
import {
  type UserFilterSchema,
  UserService,
  type WatchUsersResponse,
} from "../../../gen/lucid/repository/v1/user_service_pb.ts";
import { type TestApp, testApp } from "../../support/app.ts";
import { uniqueName } from "../../support/stores.ts";
import { newUser } from "../support.ts";
import { isCheckpoint, Model, short, watching } from "./support.ts";

const statuses = [UserStatus.ACTIVE, UserStatus.SUSPENDED, UserStatus.BANNED];
const roles = [UserRole.USER, UserRole.ADMIN];

const filters: readonly MessageInitShape<typeof UserFilterSchema>[] = [
  {},
  { status: UserStatus.ACTIVE },
  { role: UserRole.ADMIN },
  { role: UserRole.ADMIN, status: UserStatus.SUSPENDED },
];

/** Two replicas of the service. */
let replicas: readonly [TestApp, TestApp];
let users: Client<typeof UserService>;
let stack: AsyncDisposableStack;
const database = { LUCID_MONGODB_DATABASE: uniqueName("watch"), LUCID_MONGODB_SYSTEM_DATABASE: uniqueName("watch") };
beforeAll(async () => {
  stack = new AsyncDisposableStack();
  const one = stack.use(await testApp(database));
  const two = stack.use(await testApp(database));
  stack.defer(async () => {
    for (const name of Object.values(database)) await one.mongodb.db(name).dropDatabase();
  });
  replicas = [one, two];
  users = one.client(UserService);
  await newUser(users);
});
afterAll(() => stack.disposeAsync());

const change = fc.record({
  which: fc.nat(3),
  what: fc.oneof(
    fc.record({ status: fc.constantFrom(...statuses) }),
    fc.record({ role: fc.constantFrom(...roles) }),
    fc.record({ status: fc.constantFrom(...statuses), role: fc.constantFrom(...roles) }),
    fc.constant({ emailVerified: true }),
    fc.constant("delete" as const),
    fc.constant("undelete" as const),
    fc.constant("login" as const),
  ),
});
type Change = typeof change extends fc.Arbitrary<infer T> ? T : never;

async function apply({ which, what }: Change, made: readonly User[]): Promise<void> {
  const { userId = "" } = made[which % made.length] ?? {};
  // A user that is deleted, or is not, refuses some of it.
  const call =
    what === "delete"
      ? users.deleteUser({ userId })
      : what === "undelete"
        ? users.undeleteUser({ userId })
        : what === "login"
          ? users.incrementSessionCount({ userId })
          : users.updateUser({ user: { userId, ...what } });
  await call.catch(() => undefined);
}

async function stored(filter: MessageInitShape<typeof UserFilterSchema>): Promise<Map<string, User>> {
  const found = new Map<string, User>();
  let pageToken = "";
  do {
    const page = await users.listUsers({ filter, pageSize: 1000, pageToken });
    for (const user of page.users) found.set(user.userId, user);
    pageToken = page.nextPageToken;
  } while (pageToken !== "");
  return found;
}

/** Changes a user that each watch is told of at revision 2: all that happened before has been told then. */
async function sentinel(): Promise<string> {
  const { userId } = await newUser(users, { role: UserRole.ADMIN, status: UserStatus.SUSPENDED });
  await users.updateUser({ user: { userId, status: UserStatus.ACTIVE } });
  return userId;
}

async function applyAll(changes: readonly Change[], made: readonly User[]): Promise<void> {
  for (const one of changes) await apply(one, made);
}

type Filter = (typeof filters)[number];

function means({ role, status }: Filter, user: User): boolean {
  return (role === undefined || user.role === role) && (status === undefined || user.status === status);
}

test("whoever applies what it is told has what is stored, whatever many writers do at once", async () => {
  const watches = filters.map((filter) => {
    const watch = stack.use(watching((options) => users.watchUsers({ filter }, options)));
    return { filter, model: new Model(), taken: 0, watch };
  });
  await Promise.all(watches.map(({ watch }) => watch.until(isCheckpoint)));
  let steps = 0;
  const endMs = performance.now() + 40_000;
  await fc.assert(
    fc.asyncProperty(fc.array(change, { minLength: 4, maxLength: 24 }), async (changes) => {
      if (performance.now() > endMs) return;
      const made = await Promise.all([newUser(users), newUser(users, { role: UserRole.ADMIN })]);
      // Four writers, each with its part.
      const parts = [0, 1, 2, 3].map((writer) => changes.filter((_, index) => index % 4 === writer));
      await Promise.all(parts.map((part) => applyAll(part, made)));
      const last = await sentinel();
      const all = [...(await stored({})).values()];
      for (const one of watches) {
        await one.watch.until(({ userId, revision }) => userId === last && revision === 2n);
        for (; one.taken < one.watch.events.length; one.taken++) {
          const event = one.watch.events[one.taken];
          if (event !== undefined) one.model.apply(event);
        }
        const meant = new Map(all.filter((user) => means(one.filter, user)).map((user) => [user.userId, user]));
        expect(one.model.users, JSON.stringify(one.filter)).toEqual(meant);
      }
      steps += changes.length;
    }),
    { numRuns: 60 },
  );
  for (const { filter, model } of watches) expect(model.users).toEqual(await stored(filter));
  expect(steps).toBeGreaterThan(30);
});

test.for<Filter>([{}, { status: UserStatus.ACTIVE }])(
  "a watch that breaks off anywhere goes on there, on either replica: %o",
  async (filter) => {
    const made = await Promise.all([1, 2, 3, 4].map(() => newUser(users)));
    const changes = fc.sample(change, { numRuns: 90, seed: 7 });
    const parts = [0, 1, 2].map((writer) => changes.filter((_, index) => index % 3 === writer));
    let last = "";
    const written = Promise.all(parts.map((part) => applyAll(part, made))).then(async () => {
      last = await sentinel();
    });
    const model = new Model();
    // It is created, and changed once.
    const isOver = () => last !== "" && model.users.get(last)?.revision === 2n;
    let breaks = 0;
    for (let turn = 0; !isOver(); turn++) {
      const leaving = new AbortController();
      const replica = replicas[turn % 2 === 0 ? 0 : 1].client(UserService);
      let left = 1 + ((turn * 7) % 5);
      for await (const event of replica.watchUsers(
        { filter, resumeToken: model.token, checkpointInterval: { seconds: 1n } },
        { signal: leaving.signal },
      )) {
        model.apply(event);
        // A break before the first token would only begin anew.
        if (model.token === "") continue;
        left -= 1;
        if (left === 0 || isOver()) break;
      }
      leaving.abort();
      breaks += 1;
    }
    await written;
    expect(model.users).toEqual(await stored(filter));
    expect(breaks).toBeGreaterThan(5);
  },
);

test("a change that had moved on when it was read is told by the next, and its removal by itself", async () => {
  // Large enough that the server tells what has changed, and not the whole.
  const metadata = { text: "x".repeat(20_000) };
  const { userId } = await newUser(users, { status: UserStatus.ACTIVE, metadata });
  const tokens: string[] = [];
  for (const filter of [{}, { status: UserStatus.ACTIVE }]) {
    for await (const event of users.watchUsers({ filter, changesOnly: true })) {
      tokens.push(event.resumeToken);
      break;
    }
  }
  await users.updateUser({ user: { userId, emailVerified: true } });
  await users.updateUser({ user: { userId, status: UserStatus.BANNED } });
  await users.updateUser({ user: { userId, tronVerified: true } });
  const { user } = await users.incrementSessionCount({ userId });
  const last = await sentinel();
  // A replica that watches nothing yet has to read it all again, and looks the user up only now.
  await using late = await testApp(database);
  const toldOf = async (filter: Filter, resumeToken: string) => {
    const told: WatchUsersResponse[] = [];
    for await (const event of late.client(UserService).watchUsers({ filter, changesOnly: true, resumeToken })) {
      if (event.userId === last && event.revision === 2n) return told.filter((one) => one.userId === userId);
      told.push(event);
    }
    return told;
  };
  const [all, active] = [
    await toldOf({}, tokens[0] ?? ""),
    await toldOf({ status: UserStatus.ACTIVE }, tokens[1] ?? ""),
  ];
  expect(all.map(short)).toEqual([`CHANGED ${userId} 5`]);
  expect(all[0]?.user).toEqual(user);
  expect(active.map(short)).toEqual([`REMOVED ${userId} 3`]);
  expect(active[0]?.user).toBeUndefined();
});
